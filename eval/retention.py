"""The arithmetic of retention: resampled scores, intervals, shares.

Legend: R resamplings, N test images, C classes.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from stillhouse.core import rng

from .metrics import MetricName
from .probe import IntArray

LEVEL = 0.95
CHUNK = 64
"""Resamplings at a time, so that a large test set does not need R x N numbers at once."""

Scores = npt.NDArray[np.float64]


def bootstrap_scores(predictions_N: IntArray, labels_N: IntArray, *, metric: MetricName, num: int, seed: int) -> Scores:
    """float64 [R]: the metric on `num` resamplings of the test images, with replacement.

    The images drawn depend on N, `num` and `seed` alone, so that scores of two encoders on the same images are paired:
    their differences have the interval of the difference. For `mean_per_class`, each class's images are resampled among
    themselves, so that no class is ever empty.
    """
    hits_N = (predictions_N == labels_N).astype(np.float64)
    groups = [labels_N == label for label in np.unique(labels_N)] if metric == "mean_per_class" else [labels_N >= 0]
    drawn = [_resampled_means(hits_N[group], num, seed, position) for position, group in enumerate(groups)]
    mean_R: Scores = np.mean(drawn, axis=0)
    return mean_R


def _resampled_means(hits_N: Scores, num: int, seed: int, group: int) -> Scores:
    size = len(hits_N)
    means = np.empty(num)
    for start in range(0, num, CHUNK):
        rows = min(CHUNK, num - start)
        words = rng.uniform_words(seed, rows * size, "bootstrap", group, start) >> np.uint64(32)
        chosen = (words * np.uint64(size) >> np.uint64(32)).astype(np.int64).reshape(rows, size)
        means[start : start + rows] = hits_N[chosen].mean(axis=1)
    return means


def interval(scores_R: Scores) -> tuple[float, float]:
    """The 95 % percentile interval of resampled scores."""
    low, high = np.quantile(scores_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def share_of(part: float, whole: float) -> float:
    """part / whole, or NaN where the whole is nothing or negative: a share of it has no meaning."""
    return part / whole if whole > 0 else math.nan


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean over seeds with its 95 % t-interval; of one value there is none (NaN)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half
