"""Rankings of a database by cosine, exact, and what is read off them: average precision and precision at k.

Legend: Q queries, N images of the database, D width.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .probe import FloatArray, IntArray

QUERY_ROWS = 256  # queries a product: 256 x 100,000 float64 are 205 MB


def ranking(database_ND: FloatArray, queries_QD: FloatArray) -> IntArray:
    """All rows of the database for each query, int64 [Q, N], the largest dot product first, equal ones by row.

    A float64 product of matrices orders them; where two of its sums are closer than its rounding, sums that do not depend
    on where a row stands decide. So copies of an image always rank by row, on any machine and number of threads.
    """
    ranked_QN = np.empty((len(queries_QD), len(database_ND)), np.int64)
    wide_ND = database_ND.astype(np.float64)
    longest = float(np.linalg.norm(wide_ND, axis=1).max(initial=0.0))
    for start in range(0, len(queries_QD), QUERY_ROWS):
        part_PD = queries_QD[start : start + QUERY_ROWS].astype(np.float64)
        for row, (query_D, coarse_N) in enumerate(zip(part_PD, part_PD @ wide_ND.T, strict=True), start):
            rounding = 2 * len(query_D) * 2.0**-53 * longest * float(np.linalg.norm(query_D))
            ranked_QN[row] = _ranked(wide_ND, query_D, coarse_N, rounding)
    return ranked_QN


def _ranked(
    wide_ND: NDArray[np.float64], query_D: NDArray[np.float64], coarse_N: NDArray[np.float64], rounding: float
) -> IntArray:
    """`rounding`: by how much two sums of D products may differ for the way that they were grouped."""
    order_N = np.argsort(-coarse_N, kind="stable")
    sums_N = coarse_N[order_N]
    run_N = np.concatenate([[0], np.cumsum(sums_N[:-1] - sums_N[1:] > rounding)])
    close_N = np.bincount(run_N)[run_N] > 1
    # einsum without BLAS: equal rows give equal sums wherever they stand.
    sums_N[close_N] = np.einsum("nd,d->n", wide_ND[order_N[close_N]], query_D)
    return order_N[np.lexsort((order_N, -sums_N, run_N))]


def positive_places(ranked_N: IntArray, positives: IntArray, junk: IntArray) -> IntArray:
    """Where the positives stand in a ranking from which junk was taken out, ascending, from 0."""
    judged_N = ranked_N[~np.isin(ranked_N, junk)]
    return np.flatnonzero(np.isin(judged_N, positives)).astype(np.int64)


def average_precision(places: IntArray, num_positives: int) -> float:
    """Area under precision over recall by trapezoids, as the revisited Oxford and Paris evaluation computes it.

    Each positive adds the mean of the precision just before it and at it; before the first rank precision is 1. (Radenović
    et al., CVPR 2018; the plain mean of precisions at positives is another number.)

    Args:
        places: of the positives that the ranking holds, ascending, from 0.
        num_positives: how many there are.

    Raises:
        ValueError: there is no positive.
    """
    if num_positives < 1:
        raise ValueError("a query without positives has no average precision")
    found_P = np.arange(len(places))
    before_P = np.where(places == 0, 1.0, found_P / np.maximum(places, 1))
    return float(((before_P + (found_P + 1) / (places + 1)) / 2).sum() / num_positives)


def precision_at(places: IntArray, ks: Sequence[int]) -> list[float]:
    """Share of positives among the first k, for each k; k ends at the last positive, as in the official evaluation."""
    last = int(places.max(initial=0)) + 1
    return [float((places < min(k, last)).sum() / min(k, last)) for k in ks]
