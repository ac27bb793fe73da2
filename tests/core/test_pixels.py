"""Rendered views at another size."""

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.pixels import resize_pixels


def pixels(num: int = 3, height: int = 24, width: int = 24) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (num, height, width, 3), np.uint8)


def test_the_same_size_is_the_same_array() -> None:
    given = pixels()
    assert resize_pixels(given, 24) is given


@pytest.mark.parametrize("size", [1, 16, 23, 25, 64])
def test_each_image_is_resized_by_pil(size: int) -> None:
    given = pixels()
    found = resize_pixels(given, size)
    assert found.shape == (3, size, size, 3) and found.dtype == np.uint8 and found.flags.writeable
    for one, image in zip(found, given, strict=True):
        expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(one, expected)


def test_flat_colours_stay_flat() -> None:
    flat = np.full((1, 10, 10, 3), (7, 130, 255), np.uint8)
    assert (resize_pixels(flat, 33) == (7, 130, 255)).all()


def test_shrinking_is_antialiased() -> None:
    """One bright pixel in a hundred is dimmed, not dropped or kept."""
    dots = np.zeros((1, 100, 100, 3), np.uint8)
    dots[0, ::10, ::10] = 255
    assert 0 < int(resize_pixels(dots, 10).max()) < 20


def test_oblongs_and_empty_batches() -> None:
    assert resize_pixels(pixels(2, 10, 30), 8).shape == (2, 8, 8, 3)
    assert resize_pixels(pixels(0), 8).shape == (0, 8, 8, 3)


def test_golden() -> None:
    """PIL's filter in fixed point is the same on every machine and release we know."""
    ramp = (np.arange(8 * 8 * 3) * 37 % 256).astype(np.uint8).reshape(1, 8, 8, 3)
    assert resize_pixels(ramp, 3)[0, :, :, 0].tolist() == [[143, 126, 98], [151, 102, 120], [125, 100, 163]]
