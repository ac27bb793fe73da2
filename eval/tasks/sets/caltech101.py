"""Caltech101 (Fei-Fei et al. 2004): `101_ObjectCategories/<class>/`, the background class among its 102 folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stillhouse.core.errors import MissingError

from ...probe import IntArray
from ..files import require
from .base import ImageSet, Part, class_folders

WHAT = "Caltech101"
NUM_CLASSES = 102
NUM_IMAGES = 9144
DRAWN = 30


def read_caltech101(root: Path) -> ImageSet:
    """The set below `root`. The training part is drawn; what is never drawn is the test part.

    Raises:
        MissingError: a class or an image is missing, or there are others. Copies without `BACKGROUND_Google` exist, and
            every later draw would differ.
    """
    folder = require(root, "101_ObjectCategories", what=WHAT)
    found = class_folders(folder, WHAT)
    if len(found) != NUM_CLASSES or "BACKGROUND_Google" not in found:
        lost = "" if "BACKGROUND_Google" in found else f"; {folder / 'BACKGROUND_Google'} is not there"
        raise MissingError(
            f"{folder} has {len(found)} of {NUM_CLASSES} class folders{lost}",
            hint="unpack 101_ObjectCategories.tar.gz again, and keep the background class",
        )
    pictures = [path for paths in found.values() for path in paths]
    if len(pictures) != NUM_IMAGES:
        raise MissingError(
            f"{folder} has {len(pictures):,} images, not {NUM_IMAGES:,}",
            hint="unpack 101_ObjectCategories.tar.gz again",
        )
    labels_N = np.repeat(np.arange(len(found)), [len(paths) for paths in found.values()])
    drawn = draw([len(paths) for paths in found.values()])
    rest = np.setdiff1d(np.arange(len(pictures)), drawn)

    def part(rows: IntArray) -> Part:
        return Part(tuple(pictures[row] for row in rows), labels_N[rows].astype(np.int64))

    return ImageSet(root=root, classes=tuple(found), train=part(drawn), val=None, test=part(rest))


def draw(sizes: Sequence[int]) -> IntArray:
    """Rows of the training part, 30 a class of these sizes, WITH replacement: some images are in it twice or more.

    The script of SynCLR and Proteus (eval/fine_grained/downstreams/caltech101.py, after Ericsson et al. 2021) draws with
    numpy's legacy generator, seed 0, one class after the other, and sorts within a class.
    """
    random = np.random.RandomState(0)
    starts = np.cumsum([0, *sizes])[:-1]
    rows = [np.sort(random.choice(size, DRAWN)) + start for size, start in zip(sizes, starts, strict=True)]
    return np.concatenate(rows).astype(np.int64)
