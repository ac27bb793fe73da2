"""Oxford-IIIT Pets (Parkhi et al. 2012): `images/`, `annotations/{trainval,test}.txt`."""

from pathlib import Path

import numpy as np

from ..files import require, require_files
from .base import ImageSet, Part, fields, unpacked

WHAT = "Oxford Pets"


def read_pets(root: Path) -> ImageSet:
    """The set below `root`, or below `root/oxford-iiit-pet`. A class is named by its images: `Abyssinian_100` is one."""
    top = unpacked(root, "oxford-iiit-pet")
    images, lists = require(top, "images", what=WHAT), require(top, "annotations", what=WHAT)
    rows = {name: fields(lists / f"{name}.txt", 4, WHAT) for name in ("trainval", "test")}
    breeds = {int(label): image.rsplit("_", 1)[0] for image, label, _, _ in rows["trainval"] + rows["test"]}

    def part(name: str) -> Part:
        paths = require_files(images, [f"{image}.jpg" for image, *_ in rows[name]], WHAT)
        return Part(tuple(paths), np.array([int(label) - 1 for _, label, _, _ in rows[name]], np.int64))

    return ImageSet(
        root=root,
        classes=tuple(breeds.get(number, str(number)) for number in range(1, max(breeds) + 1)),
        train=part("trainval"),
        val=None,
        test=part("test"),
    )
