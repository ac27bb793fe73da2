"""Which training images an encoder puts nearest to a few test images: what a report shows of kNN.

Legend: Q test images, K neighbours of each, N images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .probe import IntArray

NUM_SHOWN, NUM_NEAREST = 8, 5


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Rows of labelled images: some of `test`, of each the nearest of `train`, nearest first, and their cosines."""

    test: tuple[int, ...]
    train: tuple[tuple[int, ...], ...]
    similarity: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Neighbours":
        return cls(tuple(body["test"]), *(tuple(map(tuple, body[name])) for name in ("train", "similarity")))


def shown_neighbours(labels_Q: IntArray, rows_QK: IntArray, cosines_QK: NDArray[np.float64]) -> Neighbours:
    """Of the neighbours of all test images, the `NUM_NEAREST` first ones of up to `NUM_SHOWN` of them."""
    shown = labels_in_turn(labels_Q, NUM_SHOWN)
    rows, cosines = rows_QK[shown, :NUM_NEAREST].tolist(), cosines_QK[shown, :NUM_NEAREST].round(6).tolist()
    return Neighbours(tuple(shown), tuple(map(tuple, rows)), tuple(map(tuple, cosines)))


def labels_in_turn(labels_N: IntArray, num: int) -> Sequence[int]:
    """Up to `num` rows, the labels in turn, of each its first ones: a choice that looks at no encoder."""
    queues = [np.flatnonzero(labels_N == label)[:num].tolist() for label in np.unique(labels_N)]
    return [row for group in zip_longest(*queues) for row in group if row is not None][:num]
