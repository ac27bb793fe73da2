"""Is a label, or a feature, predictable from the place of an image in the order of its data set?

The statistic is the autocorrelation at lag one of rows minus their mean: the sum of products of neighbours over the sum of
squares. It is held against all orders of the same rows, whose mean and variance are known exactly. In an order sorted by
class it comes near 1, in one where classes take turns it is below 0. Labels are rows of zeros and a one, computed from counts.

Legend: N images in their order, D width, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .probe import FloatArray, IntArray

LEAST_VALUE, LEAST_Z = 0.05, 5.0
"""An order is called biased from here: more than chance gives once in a million orders, and enough to matter: of a large set
the least trace of an order has a large z."""


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """-1 … 1, and by how many standard deviations of random orders it differs from their mean."""

    value: float
    z: float

    @property
    def biased(self) -> bool:
        return abs(self.value) >= LEAST_VALUE and abs(self.z) >= LEAST_Z


NONE = Autocorrelation(0.0, 0.0)
"""Of rows that are all alike, or fewer than four."""


def order_of_labels(labels_N: IntArray) -> Autocorrelation:
    """Of class numbers, which are at least 0."""
    num = len(labels_N)
    shares_C = np.bincount(labels_N) / max(num, 1)
    square, cube = float((shares_C**2).sum()), float((shares_C**3).sum())
    expected_N = shares_C[labels_N]
    products = (labels_N[1:] == labels_N[:-1]) - expected_N[1:] - expected_N[:-1] + square
    lengths_N = 1 - 2 * expected_N + square
    return _autocorrelation(float(products.sum()), lengths_N, num**2 * (square - 2 * cube + square**2))


def order_of_rows(rows_ND: FloatArray) -> Autocorrelation:
    """Of features, each row brought to length 1 by its user if its length shall not count."""
    num = len(rows_ND)
    centred_ND = rows_ND.astype(np.float64) - rows_ND.mean(axis=0, dtype=np.float64)
    gram = centred_ND @ centred_ND.T if rows_ND.shape[1] > num else centred_ND.T @ centred_ND  # equal sums of squares
    products = float(np.einsum("nd,nd->", centred_ND[1:], centred_ND[:-1]))
    return _autocorrelation(products, np.einsum("nd,nd->n", centred_ND, centred_ND), float((gram**2).sum()))


def _autocorrelation(products: float, lengths_N: NDArray[np.float64], gram_square: float) -> Autocorrelation:
    """From the sum of products of neighbours, the squared lengths of rows, and the sum of all squared products of two rows.

    Over random orders a term of the sum has the mean square `same`; two terms that share a row have the mean product
    `shared`, two that share none `apart`. All follow from the products of two rows, since those of one row add up to 0.
    """
    n, total, fourth = len(lengths_N), float(lengths_N.sum()), float((lengths_N**2).sum())
    if n < 4 or total <= 1e-12 * n:
        return NONE
    same = (gram_square - fourth) / (n * (n - 1))
    shared = (2 * fourth - gram_square) / (n * (n - 1) * (n - 2))
    apart = (total**2 + 2 * gram_square - 6 * fourth) / (n * (n - 1) * (n - 2) * (n - 3))
    mean = -total / n
    variance = (n - 1) * same + 2 * (n - 2) * shared + (n - 2) * (n - 3) * apart - mean**2
    z = (products - mean) / variance**0.5 if variance > 1e-12 * total**2 / n else 0.0
    return Autocorrelation(products / total, z)
