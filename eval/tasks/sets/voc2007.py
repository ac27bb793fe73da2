"""PASCAL VOC2007 classification: `VOCdevkit/VOC2007/{JPEGImages,ImageSets/Main}`, 20 classes, several in one image."""

from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError

from ..files import require, require_files
from .base import ImageSet, Part, fields

WHAT = "VOC2007"
CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def read_voc2007(root: Path) -> ImageSet:
    """The set below `root`. Labels are zeros and ones [N, 20].

    The lists say 1, -1, and 0 for an image whose objects of the class are all marked difficult. SynCLR and Proteus count 0
    as a negative; the devkit's own metric leaves such images out.
    """
    lists = require(root, "VOCdevkit", "VOC2007", "ImageSets", "Main", what=WHAT)
    images = require(root, "VOCdevkit", "VOC2007", "JPEGImages", what=WHAT)

    def part(name: str) -> Part:
        found = [_labels(lists / f"{label}_{name}.txt") for label in CLASSES]
        for label, each in zip(CLASSES, found, strict=True):
            if each.keys() != found[0].keys():
                raise CorruptError(
                    f"{lists / f'{label}_{name}.txt'} lists other images than {CLASSES[0]}_{name}.txt",
                    hint="unpack both archives of VOC2007 again",
                )
        labels_NC = np.array([[each[image] == 1 for each in found] for image in found[0]], np.int64)
        return Part(tuple(require_files(images, [f"{image}.jpg" for image in found[0]], WHAT)), labels_NC)

    return ImageSet(root=root, classes=tuple(CLASSES), train=part("train"), val=part("val"), test=part("test"))


def _labels(path: Path) -> dict[str, int]:
    rows = fields(path, 2, WHAT)
    if not all(value in ("1", "0", "-1") for _, value in rows):
        raise CorruptError(f"{path} has labels other than 1, 0 and -1", hint="unpack it again")
    return {image: int(value) for image, value in rows}
