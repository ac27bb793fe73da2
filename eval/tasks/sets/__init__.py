"""The sets of images with classes: one reader a file, all of official layouts on disk.

`SETS[name].read(path)` reads lists and labels and checks that every file is there; images are opened later, one by one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .aircraft import read_aircraft
from .base import ImageSet
from .caltech101 import read_caltech101
from .cars import read_cars
from .cifar import read_cifar10, read_cifar100
from .cub import read_cub
from .dtd import read_dtd
from .flowers102 import read_flowers102
from .folders import read_folders
from .food101 import read_food101
from .pets import read_pets
from .sun397 import read_sun397
from .voc2007 import read_voc2007

SetName = Literal[
    "aircraft",
    "caltech101",
    "cars",
    "cifar10",
    "cifar100",
    "dtd",
    "flowers102",
    "food101",
    "pets",
    "sun397",
    "voc2007",
    "cub",
    "folders",
]

SetMetric = Literal["top1", "mean_per_class", "map11"]
"""What a set reports. `map11`: mean over the classes of VOC2007's 11-point interpolated average precision."""


@dataclass(frozen=True, slots=True)
class SetKind:
    """How a set is read, and the metric it reports."""

    read: Callable[[Path], ImageSet]
    metric: SetMetric


SETS: Mapping[SetName, SetKind] = {
    "aircraft": SetKind(read_aircraft, "mean_per_class"),
    "caltech101": SetKind(read_caltech101, "mean_per_class"),
    "cars": SetKind(read_cars, "top1"),
    "cifar10": SetKind(read_cifar10, "top1"),
    "cifar100": SetKind(read_cifar100, "top1"),
    "dtd": SetKind(read_dtd, "top1"),
    "flowers102": SetKind(read_flowers102, "mean_per_class"),
    "food101": SetKind(read_food101, "top1"),
    "pets": SetKind(read_pets, "mean_per_class"),
    "sun397": SetKind(read_sun397, "top1"),
    "voc2007": SetKind(read_voc2007, "map11"),
    "cub": SetKind(read_cub, "top1"),
    "folders": SetKind(read_folders, "top1"),
}
"""The twelve of the fine-grained protocol, and any folder of class folders, such as ImageNet's."""
