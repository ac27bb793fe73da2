"""Stanford Cars (Krause et al. 2013): `devkit/`, `cars_train/`, `cars_test/`, `cars_test_annos_withlabels.mat`."""

from pathlib import Path

import numpy as np

from stillhouse.core.errors import CorruptError

from ..files import require, require_files
from .base import ImageSet, Part, unpacked
from .matlab import read_matrix

WHAT = "Stanford Cars"
LABELLED = "cars_test_annos_withlabels.mat"


def read_cars(root: Path) -> ImageSet:
    """The set below `root`, or below `root/stanford_cars`. The labelled test list lies in `devkit/` or beside it."""
    top = unpacked(root, "stanford_cars")
    devkit = require(top, "devkit", what=WHAT)
    classes = np.atleast_1d(read_matrix(devkit / "cars_meta.mat", "class_names", WHAT)).tolist()
    labelled = devkit / LABELLED if (devkit / LABELLED).is_file() else top / LABELLED

    def part(listed: Path, folder: str) -> Part:
        rows = np.atleast_1d(read_matrix(listed, "annotations", WHAT))
        if not {"fname", "class"} <= set(rows.dtype.names or ()):
            raise CorruptError(
                f"{listed}: annotations have no file names or no classes", hint=f"{WHAT} needs {LABELLED}"
            )
        labels_N = np.array([int(row["class"]) - 1 for row in rows], np.int64)
        if labels_N.min() < 0 or labels_N.max() >= len(classes):
            raise CorruptError(
                f"{listed}: classes span {labels_N.min() + 1}..{labels_N.max() + 1} of {len(classes)}",
                hint="unpack it again",
            )
        names = [str(row["fname"]) for row in rows]
        return Part(tuple(require_files(require(top, folder, what=WHAT), names, WHAT)), labels_N)

    return ImageSet(
        root=root,
        classes=tuple(str(name) for name in classes),
        train=part(devkit / "cars_train_annos.mat", "cars_train"),
        val=None,
        test=part(labelled, "cars_test"),
    )
