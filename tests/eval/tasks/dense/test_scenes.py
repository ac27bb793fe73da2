"""Generated scenes are always the same, and their masks and depths are true."""

import hashlib

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.eval.tasks.dense.scenes import CAMERA_M, COLOURS, FARTHEST_M, IGNORED, SceneConfig, scene


def test_a_scene_is_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for number in range(3):
        made = scene(number, SceneConfig(noise=4, border=True))
        for array in (made.image_hw3, made.mask_hw, made.depth_hw):
            digest.update(array.tobytes())
    assert digest.hexdigest() == "18bb994d6959402a96634edbc8158348ddad8db9b332f55e3e65175bdfa9273e"


def test_no_two_are_alike() -> None:
    config = SceneConfig()
    found = {scene(i, config).image_hw3.tobytes() for i in range(20)}
    assert len(found) == 20 and scene(0, SceneConfig(seed=1)).image_hw3.tobytes() not in found


def test_colour_tells_the_class_and_shade_the_depth() -> None:
    """Without noise the colour of every pixel follows from its mask and depth."""
    for number in range(5):
        made = scene(number, SceneConfig(num_classes=8, boards=6))
        shade_hw = 1 - 0.06 * made.depth_hw.astype(np.float64)
        expected = np.array(COLOURS)[made.mask_hw] * shade_hw[..., None]
        assert np.abs(made.image_hw3 - expected).max() <= 0.5001
        directions = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=1, keepdims=True)
        assert np.array_equal((made.image_hw3 @ directions.T).argmax(axis=2), made.mask_hw)


def test_the_ground_is_a_plane_and_boards_stand_on_it() -> None:
    config = SceneConfig(boards=1, height=96, width=128)
    for number in range(5):
        made = scene(number, config)
        focal = config.height / 2 * 2.0 / CAMERA_M
        ground = made.mask_hw == 1
        rows = np.nonzero(ground)[0] + 0.5 - config.height / 2
        np.testing.assert_allclose(made.depth_hw[ground] * rows / focal, CAMERA_M, rtol=1e-6)
        assert (made.depth_hw[made.mask_hw == 0] == FARTHEST_M).all()
        board = made.mask_hw >= 2
        (z,) = np.unique(made.depth_hw[board])
        foot = np.nonzero(board.any(axis=1))[0].max() + 1 - config.height / 2
        assert abs(foot * z / focal - CAMERA_M) <= z / focal  # within a pixel


def test_near_boards_hide_far_ones() -> None:
    few, many = (scene(3, SceneConfig(boards=num, height=96, width=128)).depth_hw for num in (3, 6))
    assert (many <= few).all() and (many < few).any()


def test_the_border_is_where_classes_meet() -> None:
    plain, bordered = (scene(1, SceneConfig(border=border)).mask_hw for border in (False, True))
    inner = bordered != IGNORED
    assert np.array_equal(plain[inner], bordered[inner])
    for row, column in np.ndindex(plain.shape):
        around = [
            plain[r, c]
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            if 0 <= r < plain.shape[0] and 0 <= c < plain.shape[1]
        ]
        assert inner[row, column] == all(one == plain[row, column] for one in around)


@pytest.mark.parametrize("num", [2, 9])
def test_too_few_or_too_many_classes(num: int) -> None:
    with pytest.raises(UsageError, match=f"scenes of {num} classes: there are colours for 3 to 8"):
        SceneConfig(num_classes=num)
