"""What is done to training images: always to image and depth alike, by keyed draws."""

from typing import Any

import numpy as np
import pytest

from stillhouse.core.rng import Draws, seed_bytes
from stillhouse.eval.tasks.depth.augment import augment, mix, rotate
from stillhouse.eval.tasks.depth.data import Pair
from stillhouse.eval.tasks.depth.presets import PRESETS
from stillhouse.eval.tasks.depth.protocol import Protocol


def draws(visit: int) -> Draws:
    return Draws(seed_bytes(0), "a", visit)


def pair(height: int = 48, width: int = 64) -> Pair:
    """An image whose green is its depth in decimetres: a pixel and its depth stay recognisable together."""
    decimetres = np.random.default_rng(0).integers(1, 100, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    image = np.zeros((*decimetres.shape, 3), np.uint8)
    image[..., 1] = decimetres
    return Pair(image, (decimetres / 10).astype(np.float32))


def protocol(**fields: Any) -> Protocol:
    plain = {"side": 48, "train_side": 48, "crop": (40, 40), "border": False, "colour": "none", "rotate": 0.0}
    return Protocol(**{**PRESETS["dinov2_lin1"], **plain, **fields})


def test_image_and_depth_move_together() -> None:
    seen = set()
    for visit in range(20):
        pixels, depth = augment(pair(), protocol(rotate=0.0), draws(visit), is_nyu=False)
        assert pixels.shape == (40, 40, 3) and np.array_equal(pixels[..., 1], np.rint(depth * 10))
        seen.add(depth.tobytes())
    assert len(seen) > 10


def test_the_same_visit_is_the_same() -> None:
    proteus = protocol(mix=1.0, rotate=2.5, ratio=(0.8, 1.5), colour="albu")
    one, other, next_one = (augment(pair(), proteus, draws(visit), is_nyu=False) for visit in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert one[0].shape != next_one[0].shape or not np.array_equal(one[0], next_one[0])


def test_rotation_turns_both_and_what_comes_in_is_unknown() -> None:
    whole = pair()
    image, depth = rotate(whole.image_hw3, whole.depth_hw, 10.0)
    assert (depth == 0).any() and not image[depth == 0][..., 1].max() > whole.image_hw3.max()
    inner = (slice(12, 36), slice(12, 52))
    same = image[inner][..., 1] == np.rint(depth[inner] * 10)
    assert 0.6 < same.mean() < 1  # all but the borders of two depths, which are blended in the image
    assert set(np.unique(depth)) <= {0.0, *np.unique(whole.depth_hw).tolist()}


def test_a_larger_image_has_the_same_metres() -> None:
    _, depth = augment(pair(), protocol(ratio=(1.5, 1.5), crop=(72, 96)), draws(0), is_nyu=False)
    assert depth.shape == (72, 96)
    assert set(np.unique(depth)) == set(np.unique(pair().depth_hw))


def test_a_strip_of_depth_in_millimetres_of_eight_bits() -> None:
    whole = pair()
    mixed = mix(whole.image_hw3, whole.depth_hw, draws(1))
    columns = (mixed != whole.image_hw3).any(axis=(0, 2))
    assert 0 < columns.sum() < 64 and mixed is not whole.image_hw3
    strip = slice(int(columns.argmax()), int(64 - columns[::-1].argmax()))
    wanted = (np.rint(whole.depth_hw[:, strip] * 1000).astype(int) % 256)[..., None].repeat(3, 2)
    assert np.array_equal(mixed[:, strip], wanted)


def test_the_border_of_nyu_is_cut() -> None:
    frame = Pair(np.full((480, 640, 3), 255, np.uint8), np.ones((480, 640), np.float32))
    frame.image_hw3[45:472, 43:608] = 7
    wide = protocol(side=480, train_side=480, crop=(427, 565), border=True)
    pixels, _ = augment(frame, wide, draws(0), is_nyu=True)
    assert pixels.shape == (427, 565, 3) and (pixels == 7).all()
    assert (augment(frame, wide, draws(0), is_nyu=False)[0] == 255).any()


@pytest.mark.parametrize("kind", ["toolbox", "albu"])
def test_colours_change_and_stay_grey_levels(kind: str) -> None:
    plain, coloured = (
        [augment(pair(), protocol(colour=each), draws(visit), is_nyu=False) for visit in range(12)]
        for each in ("none", kind)
    )
    same = [np.array_equal(a[0], b[0]) for a, b in zip(plain, coloured, strict=True)]
    assert 0 < sum(same) < 12
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(plain, coloured, strict=True))
    assert all(0 <= pixels.min() and pixels.max() <= 255 for pixels, _ in coloured)
