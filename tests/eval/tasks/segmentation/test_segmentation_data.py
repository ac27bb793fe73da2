"""Readers on made-up trees in the official layouts, whole, missing and half-unpacked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.errors import DataError, MissingError
from stillhouse.eval.tasks.segmentation.config import SegmentationConfig
from stillhouse.eval.tasks.segmentation.data import DataSet, open_data


def image(path: Path, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), len(path.stem), np.uint8)).save(path)


def mask(path: Path, values: list[int], *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(np.array(values, np.uint8).reshape(4, 6))
    if palette:
        made.putpalette([7 * i % 256 for i in range(768)])
        assert made.mode == "P"
    made.save(path)


def ade(root: Path) -> Path:
    home = root / "ADEChallengeData2016"
    for part, keys in (("training", ("ADE_train_2", "ADE_train_1")), ("validation", ("ADE_val_1",))):
        for key in keys:
            image(home / "images" / part / f"{key}.jpg")
            mask(home / "annotations" / part / f"{key}.png", [0, 1, 150] + [12] * 21)
    return root


def voc(root: Path) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part, keys in (("train", ("2007_1", "2007_2")), ("val", ("2007_3",))):
        (home / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(keys) + "\n")
        for key in keys:
            image(home / "JPEGImages" / f"{key}.jpg")
            mask(home / "SegmentationClass" / f"{key}.png", [0, 20, 255] + [3] * 21, palette=True)
    image(home / "JPEGImages" / "of_detection.jpg")
    return root


def folder(root: Path) -> Path:
    for part in ("train", "val"):
        for key in ("a", "b.c"):
            image(root / "images" / part / f"{key}.png")
            mask(root / "masks" / part / f"{key}.png", [0, 2, 255] + [1] * 21)
    return root


def opened(kind: str, root: Path, **fields: Any) -> DataSet:
    extra = {"num_classes": 3, **fields} if kind == "folder" else fields
    return open_data(SegmentationConfig(set=kind, path=str(root), **extra))


def test_ade20k_counts_its_classes_from_one(tmp_path: Path) -> None:
    data = opened("ade20k", ade(tmp_path))
    assert data.num_classes == 150 and data.train.keys == ("ADE_train_1", "ADE_train_2")
    assert data.val.keys == ("ADE_val_1",)
    labelled = data.val.read(0)
    assert labelled.image_hw3.shape == (4, 6, 3)
    assert labelled.mask_hw.ravel().tolist() == [255, 0, 149] + [11] * 21


def test_voc_reads_its_lists_and_palette(tmp_path: Path) -> None:
    data = opened("voc2012", voc(tmp_path))
    assert data.num_classes == 21 and data.train.keys == ("2007_1", "2007_2") and data.val.keys == ("2007_3",)
    assert data.train.read(1).mask_hw.ravel().tolist() == [0, 20, 255] + [3] * 21


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    data = opened("folder", folder(tmp_path))
    assert data.num_classes == 3 and data.train.keys == ("a", "b.c")
    assert data.val.read(1).mask_hw.ravel().tolist() == [0, 2, 255] + [1] * 21


def test_scenes_need_no_disk_and_share_none_between_splits() -> None:
    data = open_data(SegmentationConfig(set="scenes"))
    assert len(data.train.keys) == 64 and len(data.val.keys) == 16 and data.num_classes == 5
    seen = {data.train.read(i).image_hw3.tobytes() for i in range(64)}
    assert all(data.val.read(i).image_hw3.tobytes() not in seen for i in range(16))


MAKERS = {"ade20k": ade, "voc2012": voc, "folder": folder}
PARTS = [
    ("ade20k", "ADEChallengeData2016"),
    ("ade20k", "ADEChallengeData2016/annotations"),
    ("ade20k", "ADEChallengeData2016/images/validation"),
    ("ade20k", "ADEChallengeData2016/images/training/ADE_train_1.jpg"),
    ("ade20k", "ADEChallengeData2016/annotations/training/ADE_train_1.png"),
    ("voc2012", "VOCdevkit"),
    ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
    ("voc2012", "VOCdevkit/VOC2012/JPEGImages/2007_3.jpg"),
    ("voc2012", "VOCdevkit/VOC2012/SegmentationClass/2007_1.png"),
    ("folder", "masks"),
    ("folder", "images/val/b.c.png"),
    ("folder", "masks/train/a.png"),
]


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_what_is_missing_is_named(kind: str, part: str, tmp_path: Path) -> None:
    root = MAKERS[kind](tmp_path / "data")
    (root / part).rename(tmp_path / "away")
    with pytest.raises(MissingError) as caught:
        opened(kind, root)
    assert str(root / part) in str(caught.value) and "unpack" in caught.value.hint


def test_a_part_that_is_empty(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for path in (*(root / "images" / "val").iterdir(), *(root / "masks" / "val").iterdir()):
        path.unlink()
    with pytest.raises(DataError, match=r"images/val holds no images"):
        opened("folder", root)
    listing = voc(tmp_path) / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    listing.write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt names no images"):
        opened("voc2012", root)


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    path = root / "masks" / "train" / "a.png"
    mask(path, [3] + [1] * 23)
    with pytest.raises(DataError, match=r"a\.png: class 3, and there are 0 \.\. 2; correct num_classes"):
        opened("folder", root).train.read(0)
    image(path)
    with pytest.raises(DataError, match=r"a\.png: a mask holds one number a pixel, this is an image of mode RGB"):
        opened("folder", root).train.read(0)
    mask(path, [1] * 24)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png: not a whole PNG"):
        opened("folder", root).train.read(0)
    image(root / "images" / "train" / "b.c.png", (5, 4))
    with pytest.raises(DataError, match=r"b\.c\.png: mask and image have 6 x 4 and 5 x 4 pixels"):
        opened("folder", root).train.read(1)


def test_another_set_has_another_digest(tmp_path: Path) -> None:
    before = opened("folder", folder(tmp_path)).digest
    assert opened("folder", tmp_path).digest == before
    image(tmp_path / "images" / "val" / "c.png")
    mask(tmp_path / "masks" / "val" / "c.png", [0] * 24)
    assert opened("folder", tmp_path).digest != before
    scenes = [open_data(SegmentationConfig(set="scenes", scenes={"seed": seed})).digest for seed in (0, 0, 1)]
    assert scenes[0] == scenes[1] != scenes[2]
