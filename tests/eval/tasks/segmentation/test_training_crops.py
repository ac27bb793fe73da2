"""Crops are drawn as mmsegmentation draws them, and image and mask stay together."""

import numpy as np
import pytest
import torch

from stillhouse.core.rng import Draws, seed_bytes
from stillhouse.eval.tasks.segmentation import augment
from stillhouse.eval.tasks.segmentation.augment import (
    recoloured,
    rescaled,
    resize_image,
    resize_mask,
    training_crop,
)
from stillhouse.eval.tasks.segmentation.data import Labelled


def draws(visit: int, key: str = "a") -> Draws:
    return Draws(seed_bytes(0), key, visit)


def labelled(height: int = 40, width: int = 56) -> Labelled:
    """Every pixel's class is its red, and no two lie alike: 8 x 8 squares of classes 0 .. 34."""
    mask_hw = (np.arange(height)[:, None] // 8 * 7 + np.arange(width)[None, :] // 8).astype(np.uint8)
    image_hw3 = np.repeat(mask_hw[..., None], 3, axis=2)
    return Labelled(image_hw3, mask_hw)


def test_sizes_are_the_published_ones() -> None:
    assert rescaled((480, 640), 512, 2048) == (512, 683)
    assert rescaled((200, 1200), 512, 2048) == (341, 2048)
    assert rescaled((1200, 200), 518, None) == (3108, 518)
    assert rescaled((375, 500), 256, 1024) == (256, 341)


def test_image_and_mask_are_cut_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "recoloured", lambda image_hw3, draws: image_hw3)
    corners, mirrored = set(), 0
    for visit in range(40):
        crop = training_crop(labelled(), draws(visit), 24, None, (40 / 24, 40 / 24))
        assert crop.size == (24, 24) and np.array_equal(crop.pixels_SS3[..., 0], crop.mask_SS)
        corners.add(crop.mask_SS.tobytes())
        mirrored += bool(crop.mask_SS[0, 0] > crop.mask_SS[0, -1])
    assert len(corners) > 30 and 10 < mirrored < 30


def test_a_ratio_of_sizes_is_drawn() -> None:
    sides = [training_crop(labelled(), draws(visit), 64, 256, (0.5, 2.0)).size[0] for visit in range(60)]
    assert min(sides) < 40 and max(sides) == 64 and all(side >= 32 for side in sides)


def test_what_lies_beyond_the_image_is_not_judged() -> None:
    crop = training_crop(labelled(), draws(0), 64, None, (0.5, 0.5))
    assert crop.size == (32, 45)
    assert (crop.mask_SS[32:] == 255).all() and (crop.mask_SS[:, 45:] == 255).all()
    assert (crop.pixels_SS3[32:] == 0).all() and (crop.pixels_SS3[:, 45:] == 0).all()
    assert (crop.mask_SS[:32, :45] != 255).all()


def test_crops_of_nearly_one_class_are_drawn_again() -> None:
    """A tenth of the width is class 1: a crop without it, or nearly so, is rare. Without a choice, one is taken."""
    mask_hw = np.zeros((32, 320), np.uint8)
    mask_hw[:, 144:176] = 1
    kept = 0
    for visit in range(50):
        crop = training_crop(Labelled(np.zeros((32, 320, 3), np.uint8), mask_hw), draws(visit), 32, None, (1, 1))
        kept += bool(0.25 < crop.mask_SS.mean() < 0.75)
    assert kept > 30  # a single draw finds one in 17 of 289 places
    plain = Labelled(np.zeros((32, 320, 3), np.uint8), np.zeros((32, 320), np.uint8))
    assert (training_crop(plain, draws(0), 32, None, (1, 1)).mask_SS == 0).all()


def test_a_crop_is_a_function_of_seed_image_and_visit() -> None:
    def made(visit: int, key: str) -> bytes:
        return training_crop(labelled(), draws(visit, key), 24, None, (0.5, 2)).pixels_SS3.tobytes()

    assert made(3, "a") == made(3, "a") and len({made(3, "a"), made(4, "a"), made(3, "b")}) == 3


def test_colours_move_as_far_as_they_may() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    found = np.array([recoloured(grey, draws(visit))[0, 0] for visit in range(300)], int)
    assert (found.max(axis=1) == found.min(axis=1)).all()  # grey stays grey, whatever its hue
    assert (100 - 32) // 2 <= found.min() < 60 and 180 < found.max() <= (100 + 32) * 1.5
    assert 0.15 < (found[:, 0] == 100).mean() < 0.35  # neither brightness nor contrast: one in four
    red = np.full((1, 1, 3), (200, 40, 40), np.uint8)
    turned = [recoloured(red, draws(visit))[0, 0] for visit in range(300)]
    assert all(one.argmax() == 0 for one in turned) and len({bytes(one) for one in turned}) > 200
    assert any(one[1] > one[2] + 30 for one in turned) and any(one[2] > one[1] + 30 for one in turned)


def test_resizing_takes_no_more_pixels_than_opencv() -> None:
    image_hw3 = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    small = resize_image(image_hw3, (15, 20))
    means = image_hw3.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))  # halving: the sample point is amid four pixels
    assert np.abs(small - means).max() <= 0.5
    assert resize_image(image_hw3, (30, 40)) is image_hw3
    mask_hw = image_hw3[..., 0]
    for size in ((15, 20), (45, 61), (30, 40), (7, 80)):
        expected = torch.nn.functional.interpolate(torch.from_numpy(mask_hw[None, None].copy()), size=size)
        assert np.array_equal(resize_mask(mask_hw, size), expected[0, 0].numpy())
