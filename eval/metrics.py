"""Scores of predicted classes, as fractions in [0, 1]."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import UsageError

from .probe import IntArray

MetricName = Literal["top1", "mean_per_class"]
Metric = Callable[[IntArray, IntArray], float]


def top1(predictions_N: IntArray, labels_N: IntArray) -> float:
    """Share of int64 predictions [N] that equal the int64 labels [N]."""
    _check_pair(predictions_N, labels_N)
    return float(np.mean(predictions_N == labels_N))


def mean_per_class(predictions_N: IntArray, labels_N: IntArray) -> float:
    """Balanced accuracy: the mean, over the classes present in the labels, of each class's share of hits."""
    _check_pair(predictions_N, labels_N)
    hits_C = np.bincount(labels_N, weights=predictions_N == labels_N)
    counts_C = np.bincount(labels_N)
    present_C = counts_C > 0
    return float(np.mean(hits_C[present_C] / counts_C[present_C]))


def top_k(scores_NC: NDArray[np.float64], labels_N: IntArray, k: int) -> float:
    """Share of rows whose label is among the k largest scores; of equal scores the lowest class comes first."""
    ranked_NK = np.argsort(-scores_NC, axis=1, kind="stable")[:, :k]
    return float(np.mean((ranked_NK == labels_N[:, None]).any(axis=1)))


METRICS: Mapping[MetricName, Metric] = {"top1": top1, "mean_per_class": mean_per_class}


def all_scores(predictions_N: IntArray, labels_N: IntArray) -> dict[str, float]:
    """Every metric of `METRICS`, by name."""
    return {name: metric(predictions_N, labels_N) for name, metric in METRICS.items()}


def _check_pair(predictions_N: IntArray, labels_N: IntArray) -> None:
    if predictions_N.shape != labels_N.shape or labels_N.ndim != 1 or not len(labels_N):
        raise UsageError(
            f"predictions {list(predictions_N.shape)} and labels {list(labels_N.shape)} must be two vectors of one "
            "length, of at least one sample",
            hint="score the predictions against the labels of the same images",
        )
