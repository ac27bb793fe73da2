"""FGVC-Aircraft (Maji et al. 2013), its 100 variants: `data/images/`, `data/images_variant_{train,val,test}.txt`."""

from pathlib import Path

from ..files import require, require_files
from .base import ImageSet, Part, fields, number_of, read_lines, unpacked

WHAT = "FGVC-Aircraft"


def read_aircraft(root: Path) -> ImageSet:
    """The set below `root`, or below `root/fgvc-aircraft-2013b`."""
    data = require(unpacked(root, "fgvc-aircraft-2013b"), "data", what=WHAT)
    classes = read_lines(data / "variants.txt", WHAT)
    images = require(data, "images", what=WHAT)

    def part(name: str) -> Part:
        listed = data / f"images_variant_{name}.txt"
        rows = fields(listed, 2, WHAT)
        paths = require_files(images, [f"{number}.jpg" for number, _ in rows], WHAT)
        return Part(tuple(paths), number_of([variant for _, variant in rows], classes, listed))

    return ImageSet(
        root=root,
        classes=tuple(classes),
        train=part("train"),
        val=part("val"),
        test=part("test"),
    )
