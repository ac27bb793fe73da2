"""Oxford Flowers 102 (Nilsback and Zisserman 2008): `jpg/image_00001.jpg` and on, `imagelabels.mat`, `setid.mat`."""

from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError

from ..files import require, require_files
from .base import ImageSet, Part, unpacked
from .matlab import read_matrix

WHAT = "Flowers102"


def read_flowers102(root: Path) -> ImageSet:
    """The set below `root`, or below `root/flowers-102`. Its classes have numbers and no official names."""
    top = unpacked(root, "flowers-102")
    images = require(top, "jpg", what=WHAT)
    labels_N = np.atleast_1d(read_matrix(top / "imagelabels.mat", "labels", WHAT)).astype(np.int64) - 1
    if labels_N.min() < 0:
        raise CorruptError(
            f"{top / 'imagelabels.mat'} has class {labels_N.min() + 1}; they count from 1", hint="download it again"
        )

    def part(name: str) -> Part:
        numbers_N = np.atleast_1d(read_matrix(top / "setid.mat", name, WHAT)).astype(np.int64)
        if numbers_N.min() < 1 or numbers_N.max() > len(labels_N):
            raise CorruptError(
                f"{top / 'setid.mat'}: {name} names images outside of 1..{len(labels_N):,}", hint="download it again"
            )
        paths = require_files(images, [f"image_{number:05d}.jpg" for number in numbers_N], WHAT)
        return Part(tuple(paths), labels_N[numbers_N - 1])

    return ImageSet(
        root=root,
        classes=tuple(str(number) for number in range(1, int(labels_N.max()) + 2)),
        train=part("trnid"),
        val=part("valid"),
        test=part("tstid"),
    )
