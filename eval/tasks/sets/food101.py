"""Food-101 (Bossard et al. 2014): `images/<class>/`, `meta/{train,test}.json`, `meta/classes.txt`.

`meta/train.txt` lists the same images in another order; the published 80/20 split is of the order of the JSON file.
"""

import json
from pathlib import Path

from stillhouse.core.errors import CorruptError, MissingError

from ..files import require, require_files
from .base import ImageSet, Part, number_of, read_lines, unpacked

WHAT = "Food-101"


def read_food101(root: Path) -> ImageSet:
    """The set below `root`, or below `root/food-101`."""
    top = unpacked(root, "food-101")
    images = require(top, "images", what=WHAT)
    classes = read_lines(require(top, "meta", what=WHAT) / "classes.txt", WHAT)

    def part(name: str) -> Part:
        listed = top / "meta" / f"{name}.json"
        pairs = [(label, image) for label, names in _read_json(listed).items() for image in names]
        paths = require_files(images, [f"{image}.jpg" for _, image in pairs], WHAT)
        return Part(tuple(paths), number_of([label for label, _ in pairs], classes, listed))

    return ImageSet(root=root, classes=tuple(classes), train=part("train"), val=None, test=part("test"))


def _read_json(path: Path) -> dict[str, list[str]]:
    """{class: [class/image number]} in the order of the file."""
    if not path.is_file():
        raise MissingError(f"{path} is not there: {WHAT} needs it", hint="unpack the whole data set, or correct `path`")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path} is not JSON: {error}", hint="unpack it again") from error
    if not isinstance(found, dict) or not all(isinstance(names, list) for names in found.values()):
        raise CorruptError(f"{path} is not a list of images a class", hint="unpack it again")
    return {str(label): [str(name) for name in names] for label, names in found.items()}
