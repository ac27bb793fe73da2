"""Disjoint parts of labelled images by a keyed hash of their keys: another image moves none of the others.

Legend: N images.
"""

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng

from .features import LabelledRows


def drawn(rows: LabelledRows, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """float64 [N], uniform in [0, 1): a keyed hash of each key, another one for each purpose."""
    key = rng.seed_bytes(seed)
    return np.array([rng.block(key, name, 0, purpose)[0] for name in rows.keys]) / 2.0**64


def taken(rows: LabelledRows, places: npt.NDArray[np.int64]) -> LabelledRows:
    """The rows at some places, in their order."""
    numbers = places.tolist()
    return LabelledRows(tuple(rows.at[i] for i in numbers), tuple(rows.keys[i] for i in numbers), rows.labels_N[places])
