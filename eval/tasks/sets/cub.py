"""CUB-200-2011 (Wah et al. 2011): `images/`, and lists by image number."""

from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError

from ..files import require, require_files
from .base import ImageSet, Part, fields, unpacked

WHAT = "CUB-200-2011"


def read_cub(root: Path) -> ImageSet:
    """The set below `root`, or below `root/CUB_200_2011`."""
    top = unpacked(root, "CUB_200_2011")
    images = require(top, "images", what=WHAT)
    names = dict(fields(top / "images.txt", 2, WHAT))
    split = dict(fields(top / "train_test_split.txt", 2, WHAT))
    labels = dict(fields(top / "image_class_labels.txt", 2, WHAT))
    classes = [name for _, name in fields(top / "classes.txt", 2, WHAT)]
    for listed, known in (("train_test_split.txt", split), ("image_class_labels.txt", labels)):
        lost = names.keys() - known.keys()
        if lost:
            raise CorruptError(
                f"{top / listed} says nothing of {len(lost):,} images of images.txt", hint="unpack it again"
            )

    def part(used: str) -> Part:
        numbers = [number for number in names if split[number] == used]
        paths = require_files(images, [names[number] for number in numbers], WHAT)
        return Part(tuple(paths), np.array([int(labels[number]) - 1 for number in numbers], np.int64))

    return ImageSet(root=root, classes=tuple(classes), train=part("1"), val=None, test=part("0"))
