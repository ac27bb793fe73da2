"""Data sets in their official layouts, made up; and what is said of one that is not all there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.errors import DataError, MissingError
from stillhouse.eval.tasks.depth.config import DepthConfig
from stillhouse.eval.tasks.depth.data import DepthData, read_depth
from stillhouse.eval.tasks.depth.layouts import open_data

SIZE = (480, 640)


def write_pair(image: Path, depth: Path, millimetres: int, size: tuple[int, int] = SIZE) -> None:
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), millimetres % 251, np.uint8)).save(image)
    codes = np.full(size, millimetres, np.uint16)
    codes[0] = 0
    Image.fromarray(codes).save(depth)


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """Two training frames, one listed without a depth, and a test frame, as BTS lists them."""
    train = ["/kitchen_0028b/rgb_00045.jpg", "/basement_0001a/rgb_00001.jpg"]
    for number, name in enumerate(train):
        image = tmp_path / name.lstrip("/")
        write_pair(image, image.with_name(image.name.replace("rgb", "sync_depth")).with_suffix(".png"), 2500 + number)
    lines = [f"{name} {name.replace('rgb', 'sync_depth').replace('.jpg', '.png')} 518.8579" for name in train]
    (tmp_path / "nyu_train.txt").write_text("\n".join([*lines, "/kitchen_0028b/rgb_00046.jpg None 518.8579", ""]))
    write_pair(tmp_path / "bathroom/rgb_00045.jpg", tmp_path / "bathroom/sync_depth_00045.png", 7123)
    (tmp_path / "nyu_test.txt").write_text("bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579\n")
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, num in (("train", 2), ("val", 1)):
        for i in range(num):
            write_pair(
                tmp_path / f"images/{split}/a/{i}.png", tmp_path / f"depths/{split}/a/{i}.png", 256 * (i + 1), (4, 6)
            )
    return tmp_path


def opened(path: Path, layout: str, **fields: Any) -> DepthData:
    return open_data(DepthConfig(path=str(path), layout=layout, **fields))


def test_nyu_as_bts_lists_it(nyu: Path) -> None:
    data = opened(nyu, "nyu")
    assert data.train.keys == ("basement_0001a/rgb_00001.jpg", "kitchen_0028b/rgb_00045.jpg")
    assert data.test.keys == ("bathroom/rgb_00045.jpg",) and data.is_nyu
    assert data.notes == {"images_without_depth": {"train": 1, "test": 0}}
    pair = data.train.read(0)
    assert pair.image_hw3.shape == (*SIZE, 3) and pair.depth_hw.dtype == np.float32
    assert pair.depth_hw[0].max() == 0 and np.allclose(pair.depth_hw[1:], 2.501)


def test_nyu_as_mmsegmentation_unpacks_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_pair(tmp_path / f"images/{split}/den_1.jpg", tmp_path / f"annotations/{split}/den_1.png", 1500)
    data = opened(tmp_path, "nyu-mmseg")
    assert data.is_nyu and data.test.read(0).depth_hw[-1, -1] == np.float32(1.5)


def test_a_folder_of_ones_own(folder: Path) -> None:
    data = opened(folder, "folder", depth_scale=256)
    assert data.train.keys == ("a/0.png", "a/1.png") and data.test.keys == ("a/0.png",) and not data.is_nyu
    assert data.train.read(1).depth_hw[-1].tolist() == [2.0] * 6


def test_what_is_missing_is_named(nyu: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere is not there: NYU Depth v2 needs .*nowhere"):
        opened(tmp_path / "nowhere", "nyu")
    (nyu / "kitchen_0028b/sync_depth_00045.png").unlink()
    with pytest.raises(
        MissingError, match=r"1 of 2 files of NYU Depth v2, depths of nyu_train.txt, .*sync_depth_00045"
    ):
        opened(nyu, "nyu")
    (nyu / "bathroom/rgb_00045.jpg").unlink()
    (nyu / "nyu_train.txt").unlink()
    with pytest.raises(MissingError, match=r"nyu_train.txt is not there"):
        opened(nyu, "nyu")


def test_a_half_unpacked_folder_is_named(folder: Path) -> None:
    (folder / "depths/train/a/1.png").unlink()
    with pytest.raises(
        MissingError, match=r"1 of 2 files of depths of .*images/train are not there.*depths/train/a/1.png"
    ):
        opened(folder, "folder")
    (folder / "images/val/a/0.png").unlink()
    (folder / "depths/train/a/1.png").write_bytes((folder / "depths/train/a/0.png").read_bytes())
    with pytest.raises(MissingError, match=r"no image below .*images/val"):
        opened(folder, "folder")
    with pytest.raises(MissingError, match=r"images/test is not there|annotations"):
        opened(folder, "nyu-mmseg")


def test_two_images_of_one_depth_are_refused(folder: Path) -> None:
    (folder / "images/train/a/0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/0\.jpg and a/0\.png would have the same depth map"):
        opened(folder, "folder")


def test_lists_that_are_none_are_refused(nyu: Path) -> None:
    (nyu / "nyu_test.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"nyu_test\.txt:1: expected `image depth focal`, found 'one'"):
        opened(nyu, "nyu")
    (nyu / "nyu_test.txt").write_text("\n")
    with pytest.raises(DataError, match="names no image with a depth"):
        opened(nyu, "nyu")


def test_all_sixteen_bits_of_a_depth_are_read(tmp_path: Path) -> None:
    codes = np.arange(0, 65536, 13, dtype=np.uint16)[:5040].reshape(70, 72)
    Image.fromarray(codes).save(tmp_path / "d.png")
    found = read_depth(tmp_path / "d.png", 1000)
    assert np.array_equal(found, (codes / 1000).astype(np.float32)) and len(np.unique(found)) == codes.size


def test_depths_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"d\.png: pixels of PIL mode L, not of 16 bits"):
        read_depth(path, 1000)
    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (64, 64), np.uint16)).save(path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"GIF89a", whole[:40]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"d\.png: "):
            read_depth(path, 1000)


def test_an_image_and_a_depth_of_other_sizes_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "depths/val/a/0.png")
    with pytest.raises(DataError, match=r"a/0\.png is 4 x 6 pixels, its depth .* 5 x 6"):
        opened(folder, "folder").test.read(0)


def test_the_identity_follows_the_files(folder: Path) -> None:
    before = opened(folder, "folder").identity
    assert opened(folder, "folder").identity == before
    write_pair(folder / "images/val/a/1.png", folder / "depths/val/a/1.png", 1, (4, 6))
    assert opened(folder, "folder").identity != before


def test_scenes_are_another_for_test() -> None:
    data = open_data(DepthConfig(layout="scenes", num_train=3, num_test=2))
    assert data.train.keys == ("scene 0", "scene 1", "scene 2") and data.test.keys == ("scene 3", "scene 4")
    assert data.test.read(0).depth_hw.min() >= 2 and not data.is_nyu
