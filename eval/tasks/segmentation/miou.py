"""Mean intersection over union from areas per image, so that the score of any images is a sum away.

Legend: h and w rows and columns, K classes, N images.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Items
from ..dense.scenes import IGNORED


def areas(predicted_hw: NDArray[Any], truth_hw: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
    """[3 K] pixels of one image: intersection, union and label of each class. Ignored pixels count nowhere."""
    judged = truth_hw != IGNORED
    predicted, truth = predicted_hw[judged].astype(np.int64), truth_hw[judged].astype(np.int64)
    label = np.bincount(truth, minlength=num_classes)
    said = np.bincount(predicted, minlength=num_classes)
    both = np.bincount(truth[predicted == truth], minlength=num_classes)
    row_K: NDArray[np.float64] = np.concatenate([both, label + said - both, label]).astype(np.float64)
    return row_K


def class_iou(items_NK: Items) -> NDArray[np.float64]:
    """[K] over all images together; NaN for a class that is neither there nor predicted."""
    both, union, _ = _totals(items_NK)
    iou_K: NDArray[np.float64] = np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)
    return iou_K


def mean_iou(items_NK: Items) -> float:
    """Mean over the classes that are there or predicted; 0 when no pixel is judged."""
    return _mean(class_iou(items_NK))


def mean_accuracy(items_NK: Items) -> float:
    """mAcc: the share of each class' pixels that is found, averaged over the classes that are there."""
    both, _, label = _totals(items_NK)
    return _mean(np.divide(both, label, out=np.full(len(both), np.nan), where=label > 0))


def pixel_accuracy(items_NK: Items) -> float:
    """aAcc: the share of all judged pixels that is right."""
    both, _, label = _totals(items_NK)
    return float(both.sum() / label.sum()) if label.sum() > 0 else 0.0


def _totals(items_NK: Items) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    both, union, label = items_NK.sum(axis=0).reshape(3, -1)
    return both, union, label


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
