"""SUN397 (Xiao et al. 2010), partition 1 of 10: `SUN397/a/abbey/`, `Partitions/{Training,Testing}_01.txt`."""

from pathlib import Path

from ..files import require, require_files
from .base import ImageSet, Part, number_of, read_lines, unpacked

WHAT = "SUN397"


def read_sun397(root: Path) -> ImageSet:
    """The set below `root`: images in `root/SUN397` or in `root`, lists in `root/Partitions`."""
    images = unpacked(root, "SUN397")
    lists = require(root, "Partitions", what=WHAT)
    listed_classes = read_lines(lists / "ClassName.txt", WHAT)
    classes = sorted(name[3:] for name in listed_classes)  # "/a/abbey"; some names have a slash within

    def part(name: str) -> Part:
        listed = lists / f"{name}_01.txt"
        names = [line.lstrip("/") for line in read_lines(listed, WHAT)]
        paths = require_files(images, names, WHAT)
        return Part(tuple(paths), number_of([each[2:].rpartition("/")[0] for each in names], classes, listed))

    return ImageSet(root=root, classes=tuple(classes), train=part("Training"), val=None, test=part("Testing"))
