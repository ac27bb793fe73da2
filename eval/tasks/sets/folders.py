"""Any set as a tree `train/<class>/`, `val/<class>/`, such as ImageNet-1k's with its WordNet ids; `test/` if it has one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError, MissingError

from .base import ImageSet, Part, class_folders

WHAT = "a tree of class folders"


def read_folders(root: Path) -> ImageSet:
    """The set below `root`. Judged on `test/`, or where there is none, as ImageNet-1k has none with labels, on `val/`."""
    classes = tuple(class_folders(root / "train", WHAT))
    train = tree_part(root / "train", classes)
    judged = [name for name in ("val", "test") if (root / name).is_dir()]
    if not judged:
        raise MissingError(
            f"neither {root / 'val'} nor {root / 'test'} is there", hint="unpack the whole data set, or correct `path`"
        )
    parts = {name: tree_part(root / name, classes) for name in judged}
    val = parts["val"] if len(parts) == 2 else None
    return ImageSet(root=root, classes=classes, train=train, val=val, test=parts[judged[-1]])


def tree_part(folder: Path, classes: Sequence[str]) -> Part:
    """The images of the class folders below `folder`, by class and name.

    Raises:
        MissingError: no such folder, or an empty class.
        CorruptError: a folder that is none of the classes.
    """
    found = class_folders(folder, WHAT)
    places = {name: place for place, name in enumerate(classes)}
    unknown = [name for name in found if name not in places]
    if unknown:
        raise CorruptError(
            f"{folder / unknown[0]} is none of the {len(classes)} classes of the training images",
            hint="remove the folder, or give its class training images",
        )
    labels_N = np.repeat([places[name] for name in found], [len(paths) for paths in found.values()])
    return Part(tuple(path for paths in found.values() for path in paths), labels_N.astype(np.int64))
