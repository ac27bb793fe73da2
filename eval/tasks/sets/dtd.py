"""Describable Textures (Cimpoi et al. 2014), split 1 of 10: `images/<class>/`, `labels/{train,val,test}1.txt`."""

from pathlib import Path

from ..files import require, require_files
from .base import ImageSet, Part, number_of, read_lines, unpacked

WHAT = "DTD"
SPLIT = 1


def read_dtd(root: Path) -> ImageSet:
    """The set below `root`, or below `root/dtd`."""
    top = unpacked(root, "dtd")
    images, lists = require(top, "images", what=WHAT), require(top, "labels", what=WHAT)
    names = {part: read_lines(lists / f"{part}{SPLIT}.txt", WHAT) for part in ("train", "val", "test")}
    classes = sorted({name.split("/")[0] for name in names["train"]})

    def part(name: str) -> Part:
        labels = [listed.split("/")[0] for listed in names[name]]
        paths = require_files(images, names[name], WHAT)
        return Part(tuple(paths), number_of(labels, classes, lists / f"{name}{SPLIT}.txt"))

    return ImageSet(root=root, classes=tuple(classes), train=part("train"), val=part("val"), test=part("test"))
