"""PCA maps: shape, determinism, what cannot be mapped; colour matching; PNG."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stillhouse.eval.pictures import (
    MID_GREY,
    Pixels,
    data_uri_photo,
    data_uri_png,
    match_colours,
    pca_rgb,
    shrink,
    upscale_nearest,
)


def tokens(num: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    spread = np.geomspace(5, 0.1, dim)
    return (np.random.default_rng(seed).normal(size=(num, dim)) * spread).astype(np.float32)


@pytest.mark.parametrize("dim", [8, 200])
def test_maps_have_their_grids_shapes_and_use_the_whole_range(dim: int) -> None:
    maps = pca_rgb([tokens(12, dim, 0), tokens(35, dim, 1)], [(3, 4), (5, 7)])
    assert [one.shape for one in maps] == [(3, 4, 3), (5, 7, 3)]
    assert all(one.dtype == np.uint8 for one in maps)
    every = np.concatenate([one.reshape(-1, 3) for one in maps])
    assert every.min(axis=0).tolist() == [0, 0, 0] and every.max(axis=0).tolist() == [255, 255, 255]


def test_the_same_tokens_give_the_same_colours() -> None:
    given = [tokens(16, 8), tokens(16, 8, 1)]
    first, again = (pca_rgb([one.copy() for one in given], [(4, 4)] * 2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_one_pca_is_shared() -> None:
    """A view that comes twice looks the same twice, whatever else was given."""
    maps = pca_rgb([tokens(16, 8), tokens(16, 8, 1), tokens(16, 8)], [(4, 4)] * 3)
    assert np.array_equal(maps[0], maps[2]) and not np.array_equal(maps[0], maps[1])


def test_red_is_the_direction_of_most_variance() -> None:
    ramp = np.zeros((16, 5))
    ramp[:, 3] = np.arange(16)
    (found,) = pca_rgb([ramp], [(4, 4)])
    red = found.reshape(-1, 3)[:, 0].astype(int)
    assert (np.diff(red) >= 0).all() and red[0] == 0 and red[-1] == 255
    assert (found[:, :, 1:] == MID_GREY).all()


def test_the_two_gram_matrices_give_one_answer() -> None:
    """More dimensions than tokens takes the other Gram matrix; zeros appended to the dimensions change nothing."""
    given = tokens(16, 12)
    padded = np.concatenate([given, np.zeros((16, 20), np.float32)], axis=1)
    (narrow,), (wide,) = pca_rgb([given], [(4, 4)]), pca_rgb([padded], [(4, 4)])
    assert np.abs(narrow.astype(int) - wide.astype(int)).max() <= 1


@pytest.mark.parametrize("value", [0.0, 3.7, -1e30])
def test_constant_tokens_are_grey(value: float) -> None:
    (found,) = pca_rgb([np.full((6, 4), value)], [(2, 3)])
    assert (found == MID_GREY).all()


def test_tokens_that_are_not_finite_are_black_and_spoil_no_other() -> None:
    clean = tokens(16, 8)
    dirty = np.concatenate([clean, np.full((2, 8), np.nan, np.float32), np.full((2, 8), np.inf, np.float32)])
    (want,), (got,) = pca_rgb([clean], [(4, 4)]), pca_rgb([dirty], [(5, 4)])
    assert np.array_equal(got[:4], want) and not got[4].any()
    (nothing,) = pca_rgb([np.full((4, 8), np.nan)], [(2, 2)])
    assert not nothing.any()


def test_few_dimensions_half_precision_and_huge_values() -> None:
    (two,) = pca_rgb([tokens(9, 2).astype(np.float16)], [(3, 3)])
    assert (two[:, :, 2] == MID_GREY).all() and len(np.unique(two[:, :, 0])) > 4
    (huge,) = pca_rgb([tokens(9, 4).astype(np.float64) * 1e305], [(3, 3)])
    assert len(np.unique(huge[:, :, 0])) > 4


def test_no_views_give_no_maps() -> None:
    assert pca_rgb([], []) == []
    assert match_colours([], []) == []


@pytest.mark.parametrize(
    ("given", "grids", "message"),
    [
        ([tokens(4, 3)], [(2, 3)], r"tokens 0: shape \(4, 3\) is not \(2 \* 3, 3\)"),
        ([tokens(4, 3), tokens(4, 5)], [(2, 2)] * 2, r"tokens 1: shape \(4, 5\) is not \(2 \* 2, 3\)"),
        ([tokens(4, 3)], [], "1 token arrays and 0 grids"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    given: list[NDArray[Any]], grids: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pca_rgb(given, grids)


def test_matching_undoes_any_order_and_inversion() -> None:
    reference = pca_rgb([tokens(16, 8), tokens(16, 8, 1)], [(4, 4)] * 2)
    shuffled: list[Pixels] = [np.stack([one[:, :, 2], 255 - one[:, :, 0], one[:, :, 1]], axis=2) for one in reference]
    matched = match_colours(shuffled, reference)
    assert all(np.array_equal(a, b) for a, b in zip(matched, reference, strict=True))


def test_matching_works_across_grid_sizes_and_changes_no_size() -> None:
    reference = pca_rgb([tokens(4, 8)], [(2, 2)])
    larger = [upscale_nearest(255 - reference[0], 6)]
    (matched,) = match_colours(larger, reference)
    assert np.array_equal(matched, upscale_nearest(reference[0], 6))
    with pytest.raises(ValueError, match="1 maps and 2 references"):
        match_colours(larger, reference * 2)


def test_upscaling_repeats_pixels_a_whole_number_of_times() -> None:
    (small,) = pca_rgb([tokens(6, 8)], [(2, 3)])
    large = upscale_nearest(small, 224)
    assert large.shape == (150, 225, 3)
    assert np.array_equal(large[::75, ::75], small)
    assert np.array_equal(upscale_nearest(large, 100), large)


def test_a_png_data_uri_holds_the_pixels() -> None:
    (pixels,) = pca_rgb([tokens(6, 8)], [(2, 3)])
    kind, _, payload = data_uri_png(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(payload))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def decoded(uri: str) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_a_small_picture_stays_exact_and_a_large_one_nearly() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (side, side, 3), np.uint8) for side in (32, 200))
    assert data_uri_photo(small) == data_uri_png(small)
    smooth = np.stack([np.add.outer(np.arange(200), np.arange(200)) // 2] * 3, axis=-1).astype(np.uint8)
    grained = smooth // 2 + large[:, :, :1] // 8
    assert data_uri_photo(grained).startswith("data:image/jpeg;base64,")
    assert len(data_uri_photo(grained)) < len(data_uri_png(grained))
    assert np.abs(decoded(data_uri_photo(grained)).astype(int) - grained).mean() < 4


def test_shrinking_averages_and_keeps_the_shape() -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 1::2] = 200
    assert np.array_equal(shrink(pixels, 4), np.full((2, 4, 3), 100, np.uint8))
    assert shrink(pixels, 8) is pixels
    assert shrink(np.zeros((1, 900, 3), np.uint8), 300).shape == (1, 300, 3)
