"""Data sets with depths as they lie on disk, and generated ones.

nyu         `nyu_train.txt` and `nyu_test.txt` beside the scenes' folders, as BTS and DINOv2's toolbox read NYU Depth v2: one
            line `image depth focal` each, names relative to the folder, depths 16-bit PNG in millimetres
nyu-mmseg   `images/{train,test}` and `annotations/{train,test}`, as Proteus reads the same frames
folder      `images/{train,val}` and `depths/{train,val}`, one PNG for each image, by the same name
scenes      nothing on disk: generated rooms of which each depth is known
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillhouse.core.errors import DataError, MissingError

from ..dense.scenes import SceneConfig, scene
from ..files import require, require_files
from .data import DepthData, Pair, Part, identity_of_files, part_of_files

if TYPE_CHECKING:
    from .config import DepthConfig

Layout = Literal["nyu", "nyu-mmseg", "folder", "scenes"]
MILLIMETRES = 1000.0
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_DEPTH = "None"


def open_data(config: "DepthConfig") -> DepthData:
    """The data set of a config.

    Raises:
        MissingError: a folder, a list or a file that a list names is not there.
        DataError: a list that is none, or a part without an image.
    """
    return _OPEN[config.layout](config)


def _nyu(config: "DepthConfig") -> DepthData:
    root = require(Path(config.path), what="NYU Depth v2")
    parts, files, without = {}, {}, {}
    for split in ("train", "test"):
        listing = require(root, f"nyu_{split}.txt", what="NYU Depth v2")
        lines, without[split] = _read_list(listing)
        images = require_files(root, [image for image, _ in lines], f"NYU Depth v2, {listing.name},")
        depths = require_files(root, [depth for _, depth in lines], f"NYU Depth v2, depths of {listing.name},")
        files[split] = [*images, *depths]
        parts[split] = part_of_files([image for image, _ in lines], images, depths, MILLIMETRES)
    notes = {"images_without_depth": without}
    return DepthData(parts["train"], parts["test"], identity_of_files(root, files), is_nyu=True, notes=notes)


def _read_list(path: Path) -> tuple[list[tuple[str, str]], int]:
    """(image, depth) of each line, sorted by image as the toolbox does; how many lines have no depth, which it leaves out."""
    pairs, without = [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (2, 3):
            raise DataError(f"{path}:{number}: expected `image depth focal`, found {line[:80]!r}")
        if words[1] == NO_DEPTH:
            without += 1
        else:
            pairs.append((words[0].lstrip("/"), words[1].lstrip("/")))
    if not pairs:
        raise DataError(f"{path} names no image with a depth", hint="copy the list again")
    return sorted(pairs), without


def _nyu_mmseg(config: "DepthConfig") -> DepthData:
    root = require(Path(config.path), what="NYU Depth v2")
    return _folders(root, ("images", "annotations"), "test", MILLIMETRES, is_nyu=True)


def _folder(config: "DepthConfig") -> DepthData:
    root = require(Path(config.path), what="the data set")
    return _folders(root, ("images", "depths"), "val", config.depth_scale, is_nyu=False)


def _folders(root: Path, names: tuple[str, str], test: str, depth_scale: float, *, is_nyu: bool) -> DepthData:
    parts, files = {}, {}
    for split in ("train", test):
        folder = require(root, names[0], split, what="the data set")
        targets = require(root, names[1], split, what="the data set")
        images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not images:
            raise MissingError(f"no image below {folder}", hint="unpack the whole data set, or correct `path`")
        keys = [path.relative_to(folder).as_posix() for path in images]
        _one_name_each(keys, folder)
        wanted = [path.relative_to(folder).with_suffix(".png").as_posix() for path in images]
        depths = require_files(targets, wanted, f"depths of {folder}")
        files[split] = [*images, *depths]
        parts[split] = part_of_files(keys, images, depths, depth_scale)
    return DepthData(parts["train"], parts[test], identity_of_files(root, files), is_nyu=is_nyu)


def _one_name_each(keys: Sequence[str], folder: Path) -> None:
    seen: dict[str, str] = {}
    for key in keys:
        stem = key.rpartition(".")[0]
        if stem in seen:
            raise DataError(f"{folder}: {seen[stem]} and {key} would have the same depth map", hint="rename one")
        seen[stem] = key


def _scenes(config: "DepthConfig") -> DepthData:
    train = _generated(config.scene, 0, config.num_train)
    test = _generated(config.scene, config.num_train, config.num_test)
    identity = {"scenes": asdict(config.scene), "train": config.num_train, "test": config.num_test}
    return DepthData(train, test, identity)


def _generated(config: SceneConfig, first: int, num: int) -> Part:
    def read(i: int) -> Pair:
        made = scene(first + i, config)
        return Pair(made.image_hw3, made.depth_hw)

    return Part(tuple(f"scene {first + i}" for i in range(num)), read)


_OPEN: dict[Layout, Callable[["DepthConfig"], DepthData]] = {
    "nyu": _nyu,
    "nyu-mmseg": _nyu_mmseg,
    "folder": _folder,
    "scenes": _scenes,
}
