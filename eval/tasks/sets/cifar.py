"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the official binary version, or a tree `train/<label>/`, `test/<label>/`.

The Python version is a pickle, which runs code when it is read, so it is not read here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError, MissingError, UsageError

from ...probe import IntArray
from .base import ImageSet, Part, Record, read_lines, unpacked
from .folders import read_folders

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class _Version:
    """Names in the binary version of one of the two sets; the last of a record's label bytes is its class."""

    title: str
    folder: str
    pickled: str
    classes: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int


CIFAR10 = _Version(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    classes="batches.meta.txt",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    label_bytes=1,
)
CIFAR100 = _Version(
    title="CIFAR-100",
    folder="cifar-100-binary",
    pickled="cifar-100-python",
    classes="fine_label_names.txt",
    train=("train.bin",),
    test=("test.bin",),
    label_bytes=2,
)


def read_cifar10(root: Path) -> ImageSet:
    """The set in `root/cifar-10-batches-bin`, in `root` itself, or as a tree."""
    return _read(root, CIFAR10)


def read_cifar100(root: Path) -> ImageSet:
    """The set in `root/cifar-100-binary`, in `root` itself, or as a tree; its 100 fine labels."""
    return _read(root, CIFAR100)


def _read(root: Path, version: _Version) -> ImageSet:
    if (root / "train").is_dir():
        return read_folders(root)
    folder = unpacked(root, version.folder)
    if not (folder / version.classes).exists() and (root / version.pickled).exists():
        raise UsageError(
            f"{root / version.pickled} is a pickle, which runs code when it is read",
            hint=f"download the binary version of {version.title} and unpack {root / version.folder}",
        )
    classes = tuple(read_lines(folder / version.classes, version.title))

    def part(names: tuple[str, ...]) -> Part:
        found = [_records(folder / name, version, len(classes)) for name in names]
        return Part(tuple(record for records, _ in found for record in records), np.concatenate([y for _, y in found]))

    return ImageSet(root=root, classes=classes, train=part(version.train), val=None, test=part(version.test))


def _records(path: Path, version: _Version, num_classes: int) -> tuple[list[Record], IntArray]:
    """The images of one file, and their classes."""
    if not path.is_file():
        raise MissingError(f"{path} is not there: {version.title} needs it", hint="unpack the whole archive")
    each = version.label_bytes + PIXELS
    size = path.stat().st_size
    if size == 0 or size % each:
        raise CorruptError(
            f"{path} has {size:,} bytes, no multiple of {each:,}", hint="it is cut short: unpack it again"
        )
    labels_N = np.memmap(path, np.uint8, mode="r").reshape(-1, each)[:, version.label_bytes - 1].astype(np.int64)
    if labels_N.max() >= num_classes:
        raise CorruptError(f"{path} has class {labels_N.max()} of {num_classes}", hint="unpack it again")
    return [Record(path, row * each + version.label_bytes, SHAPE) for row in range(len(labels_N))], labels_N
