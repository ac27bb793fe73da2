"""Data sets of segmentation in their official layouts.

Legend: h and w rows and columns of pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.errors import DataError

from ..dense.scenes import IGNORED, SceneConfig, scene
from ..files import files_sha256, read_image, require, require_files
from .config import ScenesConfig, SegmentationConfig

Mask = NDArray[np.uint8]
OFFICIAL: Final = {"ade20k": (20_210, 2_000), "voc2012": (1_464, 1_449)}
"""Training and validation images of the whole set."""
IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, eq=False, slots=True)
class Labelled:
    """image_hw3 uint8; mask_hw uint8, a class or IGNORED."""

    image_hw3: NDArray[np.uint8]
    mask_hw: Mask


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """Images by name, and how the i-th of them is read."""

    keys: tuple[str, ...]
    read: Callable[[int], Labelled]


@dataclass(frozen=True, eq=False, slots=True)
class DataSet:
    """`digest` names the data: another one when a file was added, removed or cut short."""

    num_classes: int
    train: Split
    val: Split
    digest: str


def open_data(config: SegmentationConfig) -> DataSet:
    """The data set of a config.

    Raises:
        MissingError: it, or a part of it, is not where it should be; names the path.
        DataError: a listing with no image in it.
    """
    if config.set == "scenes":
        return _scenes(config.scenes)
    root = Path(config.path).expanduser()
    if config.set == "ade20k":
        home = require(root, "ADEChallengeData2016", what="ADE20K")
        splits = [
            _pairs_in(home, ("images", name), ("annotations", name), "ADE20K") for name in ("training", "validation")
        ]
        return _of_files(home, splits, 150, _minus_one)
    if config.set == "voc2012":
        home = require(root, "VOCdevkit", "VOC2012", what="VOC 2012")
        return _of_files(home, [_pairs_of_voc(home, name) for name in ("train", "val")], 21, _as_it_is)
    assert config.num_classes is not None  # the config has seen to it
    splits = [_pairs_in(root, ("images", name), ("masks", name), "the folder") for name in ("train", "val")]
    return _of_files(root, splits, config.num_classes, _as_it_is)


def read_mask(path: Path) -> Mask:
    """A PNG of class numbers, with or without a palette, as it is.

    Raises:
        DataError: it is no such file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P"):
                message = f"{path}: a mask holds one number a pixel, this is an image of mode {image.mode}"
                raise DataError(message, hint="save masks as 8-bit PNG, grey or with a palette")
            return np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a whole PNG: {error}", hint="unpack the data set again") from error


Pairs = list[tuple[Path, Path]]


def _pairs_in(root: Path, images: Sequence[str], masks: Sequence[str], what: str) -> Pairs:
    """Images and the masks of the same stem; neither may lack the other."""
    image_home, mask_home = require(root, *images, what=what), require(root, *masks, what=what)
    found = sorted(path for path in image_home.iterdir() if path.suffix.lower() in IMAGES)
    if not found:
        raise DataError(f"{image_home} holds no images", hint="unpack the whole data set, or correct `path`")
    by_stem = {path.stem for path in found}
    lonely = sorted(path.name for path in mask_home.glob("*.png") if path.stem not in by_stem)
    require_files(image_home, [Path(name).with_suffix(found[0].suffix).name for name in lonely], f"images of {what}")
    wanted = require_files(mask_home, [f"{path.stem}.png" for path in found], f"masks of {what}")
    return list(zip(found, wanted, strict=True))


def _pairs_of_voc(home: Path, name: str) -> Pairs:
    listing = require(home, "ImageSets", "Segmentation", f"{name}.txt", what="VOC 2012")
    keys = listing.read_text(encoding="utf-8").split()
    if not keys:
        raise DataError(f"{listing} names no images", hint="unpack the whole data set")
    images = require_files(home / "JPEGImages", [f"{key}.jpg" for key in keys], "images of VOC 2012")
    masks = require_files(home / "SegmentationClass", [f"{key}.png" for key in keys], "masks of VOC 2012")
    return list(zip(images, masks, strict=True))


def _as_it_is(mask_hw: Mask) -> Mask:
    return mask_hw


def _minus_one(mask_hw: Mask) -> Mask:
    """ADE20K's 0 is what nobody labelled, its classes are 1 to 150."""
    return (mask_hw - np.uint8(1)).astype(np.uint8)  # 0 becomes 255


def _of_files(home: Path, splits: Sequence[Pairs], num_classes: int, meaning: Callable[[Mask], Mask]) -> DataSet:
    def split(pairs: Pairs) -> Split:
        def read(i: int) -> Labelled:
            image_path, mask_path = pairs[i]
            image_hw3, mask_hw = np.array(read_image(image_path)), meaning(read_mask(mask_path))
            _check(image_hw3, mask_hw, num_classes, mask_path)
            return Labelled(image_hw3, mask_hw)

        return Split(tuple(image.stem for image, _ in pairs), read)

    train, val = splits
    digest = files_sha256(home, [path for pairs in splits for pair in pairs for path in pair])
    return DataSet(num_classes, split(train), split(val), digest)


def _check(image_hw3: NDArray[np.uint8], mask_hw: Mask, num_classes: int, path: Path) -> None:
    if image_hw3.shape[:2] != mask_hw.shape:
        sizes = f"{mask_hw.shape[1]} x {mask_hw.shape[0]} and {image_hw3.shape[1]} x {image_hw3.shape[0]}"
        raise DataError(f"{path}: mask and image have {sizes} pixels", hint="unpack the data set again")
    labels = np.unique(mask_hw)
    beyond = labels[(labels >= num_classes) & (labels != IGNORED)]
    if len(beyond):
        message = f"{path}: class {beyond[0]}, and there are 0 .. {num_classes - 1}"
        raise DataError(message, hint="correct num_classes, or label what is not judged as 255")


def _scenes(config: ScenesConfig) -> DataSet:
    settings = config.model_dump()
    num_train, num_val = settings.pop("train"), settings.pop("val")
    look = SceneConfig(**settings)

    def read(number: int) -> Labelled:
        made = scene(number, look)
        return Labelled(made.image_hw3, made.mask_hw)

    train = Split(tuple(f"scene-{i}" for i in range(num_train)), read)
    val = Split(tuple(f"scene-{num_train + i}" for i in range(num_val)), lambda i: read(num_train + i))
    return DataSet(look.num_classes, train, val, f"scenes of {asdict(look)}, {num_train} and {num_val}")
