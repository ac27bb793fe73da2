"""What a reader of a data set gives: which images, which labels and which classes.

Legend: N images, C classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.errors import CorruptError, MissingError

from ...probe import IntArray
from ..files import files_sha256, read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Record:
    """An image within a file of raw images: `shape` (channels, rows, columns) of bytes, plane after plane."""

    path: Path
    offset: int
    shape: tuple[int, int, int]

    def read(self) -> Image.Image:
        """The image as RGB."""
        channels, rows, columns = self.shape
        num = channels * rows * columns
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(num)
        if len(data) != num:
            raise CorruptError(f"{self.path} ends within the image at byte {self.offset}", hint="unpack it again")
        return Image.fromarray(np.frombuffer(data, np.uint8).reshape(self.shape).transpose(1, 2, 0))


Picture = Path | Record


def read_picture(picture: Picture) -> Image.Image:
    """An image of a set, as RGB."""
    return picture.read() if isinstance(picture, Record) else read_image(picture)


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """N images; int64 class numbers [N], or zeros and ones [N, C] where an image may show several classes."""

    pictures: tuple[Picture, ...]
    labels: IntArray

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ImageSet:
    """A data set in its parts. `val` is the official validation part; None where the set has none."""

    root: Path
    classes: tuple[str, ...]
    train: Part
    val: Part | None
    test: Part

    @property
    def trainval(self) -> Part:
        """All that a final classifier is fitted on: train, then val."""
        if self.val is None:
            return self.train
        labels = np.concatenate([self.train.labels, self.val.labels])
        return Part(self.train.pictures + self.val.pictures, labels)

    def sha256(self) -> str:
        """A digest of classes, labels, parts, and the names and sizes of the files."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for part in (self.train, self.val, self.test):
            pictures = () if part is None else part.pictures
            files = [picture.path if isinstance(picture, Record) else picture for picture in pictures]
            digest.update(files_sha256(self.root, dict.fromkeys(files)).encode())
            digest.update(b"" if part is None else f"{len(part)}\n".encode() + part.labels.tobytes())
        return digest.hexdigest()


def unpacked(root: Path, folder: str) -> Path:
    """`root/folder` if it is there, else `root`: a set is named by its archive's folder or by the one around it."""
    return root / folder if (root / folder).exists() else root


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a list that came with a set, without those that are empty.

    Raises:
        MissingError: no such file, or nothing in it.
        CorruptError: it is not text.
    """
    if not path.is_file():
        raise MissingError(f"{path} is not there: {what} needs it", hint="unpack the whole data set, or correct `path`")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path} is not text (byte {error.start})", hint="unpack it again") from error
    if not lines:
        raise MissingError(f"{path} is empty", hint="unpack it again")
    return lines


def fields(path: Path, num: int, what: str) -> list[list[str]]:
    """The lines of a list, cut at spaces into at most `num` fields; the last one may hold spaces.

    Raises:
        CorruptError: a line with fewer.
    """
    found = [line.split(maxsplit=num - 1) for line in read_lines(path, what)]
    for number, parts in enumerate(found, 1):
        if len(parts) != num:
            raise CorruptError(
                f"{path}, entry {number}: {len(parts)} of {num} fields: {' '.join(parts)!r}", hint="unpack it again"
            )
    return found


def number_of(labels: Sequence[str], classes: Sequence[str], where: Path) -> NDArray[np.int64]:
    """The place of each label among the classes.

    Raises:
        CorruptError: a label that is no class.
    """
    places = {name: place for place, name in enumerate(classes)}
    unknown = sorted(set(labels) - places.keys())
    if unknown:
        raise CorruptError(
            f"{where} has {unknown[0]!r}, which is none of the {len(classes)} classes", hint="unpack it again"
        )
    return np.array([places[label] for label in labels], np.int64)


def class_folders(root: Path, what: str) -> dict[str, list[Path]]:
    """The images of each class folder below `root`, classes and files in the order of their names.

    Raises:
        MissingError: no such folder, no class folder in it, or one without an image.
    """
    if not root.is_dir():
        raise MissingError(f"{root} is not there: {what} needs it", hint="unpack the whole data set, or correct `path`")
    found: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise MissingError(f"class folder {folder} has no image", hint="unpack it again, or remove the folder")
        found[folder.name] = images
    if not found:
        raise MissingError(f"{root} has no class folder", hint=f"{what} has one folder a class in it")
    return found
