"""Test images that are training images: the same file, the same pixels, or the same picture a little changed.

What "a little changed" is, is measured on features, by two rules of which one is enough:

* a cosine of at least `cosine`. DINOv2 (TMLR 2024, appendix A) uses 0.6 within a set and 0.45 between sets, for embeddings
  trained to find copies (SSCD). Encoders of other kinds have their own scales: of one CNN the nearest pictures of different
  cloth have 0.95, of another data set true copies have 0.90. So the default finds no more than faithful copies.
* a distance of at most `ratio` of the distance to the training image at place `neighbours`: the nearest stands out from the
  rest, as in Lowe's test for matching keypoints (IJCV 2004). It has no scale, and it is what finds the changed ones. It is
  blind where a picture is there `neighbours` times. docs/evaluations/leakage.md has the measurements.

Legend: Q test images, N train images, K neighbours, D width.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .knn import nearest, unit_rows
from .probe import FloatArray

Kind = Literal["file", "pixels", "near"]
ROUNDING = 1e-6  # of a cosine of float32 rows


@dataclass(frozen=True, slots=True)
class Pair:
    """Rows of a test and a training image, what they share, and their cosine if it was computed."""

    test: int
    train: int
    kind: Kind
    cosine: float | None = None


def same(train: Sequence[Hashable], test: Sequence[Hashable], kind: Kind) -> Iterator[Pair]:
    """A pair for each test image whose hash a training image has, with the first that has it."""
    first: dict[Hashable, int] = {}
    for row, value in enumerate(train):
        first.setdefault(value, row)
    return (Pair(row, first[value], kind) for row, value in enumerate(test) if value in first)


@dataclass(frozen=True, slots=True)
class Near:
    """Near duplicates by test image, nearest first."""

    pairs: tuple[Pair, ...]
    alike: bool
    """Half of the test images or more have every neighbour at the cosine asked for, as an untrained encoder sees them. Such a
    cosine says nothing, and did not count."""


def near(train_ND: FloatArray, test_QD: FloatArray, *, cosine: float, ratio: float | None, neighbours: int) -> Near:
    """Pairs by either rule among the `neighbours` nearest training images of each test image.

    Features of any length; the search is exact. With fewer training images than `neighbours` only the cosine counts.

    Raises:
        ResourceError: faiss is not installed.
    """
    k = min(neighbours, len(train_ND))
    rows_QK, cosines_QK = nearest(unit_rows(train_ND), unit_rows(test_QD), k)
    close_QK = cosines_QK >= cosine - ROUNDING
    alike = k > 1 and bool(close_QK.all(axis=1).mean() >= 0.5)
    if alike:
        close_QK[:] = False
    if ratio is not None and k == neighbours and k > 1:
        close_QK |= 1 - cosines_QK <= ratio * (1 - cosines_QK[:, -1:]) - ROUNDING
    found = (
        Pair(test, int(rows_QK[test, place]), "near", float(cosines_QK[test, place]))
        for test, place in np.argwhere(close_QK).tolist()
    )
    return Near(tuple(found), alike)


def merged(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """One pair for the same two images: the first kind of those given, with the cosine of any; by test and train row."""
    found: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        known = found.get((pair.test, pair.train), pair)
        cosine = pair.cosine if known.cosine is None else known.cosine
        found[pair.test, pair.train] = Pair(pair.test, pair.train, known.kind, cosine)
    return tuple(found[key] for key in sorted(found))
