"""The depth metrics of NYU: each of one image; a data set's score is their mean over its images.

The mean of the images' RMSE is not the RMSE of all pixels; published tables have the first (spec/methods.md §3.6).

Legend: h and w rows and columns of pixels, N images, K metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import DataError, UsageError

Depth = NDArray[np.float32] | NDArray[np.float64]
Mask = NDArray[np.bool_]

NAMES = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")
"""Shares of pixels within a factor of 1.25, 1.25^2, 1.25^3 (higher is better), then errors. rmse in metres, sq_rel in metres."""
RMSE = NAMES.index("rmse")
FLOOR_M = 1e-3
"""What a prediction counts as, in ratios and logarithms, that is not above it."""
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)
"""The part of a 480 x 640 image of NYU that Eigen et al. judge."""
NYU_SIZE = (480, 640)


@dataclass(frozen=True, eq=False, slots=True)
class ImageScores:
    """values_K float64 in the order of `NAMES`; how many judged pixels were predicted not to be in front of the camera."""

    values_K: NDArray[np.float64]
    non_positive: int


def judged_pixels(true_hw: Depth, *, low: float, high: float, eigen: bool) -> Mask:
    """True where the truth is known and strictly between `low` and `high` metres, inside Eigen's crop if that is asked for.

    Raises:
        DataError: Eigen's crop of an image that is not 480 x 640.
    """
    judged_hw: Mask = (true_hw > low) & (true_hw < high)
    if not eigen:
        return judged_hw
    if true_hw.shape != NYU_SIZE:
        size = " x ".join(map(str, true_hw.shape))
        raise DataError(f"Eigen's crop is of depth maps of 480 x 640, this one is {size}", hint="use layout: folder")
    inside_hw = np.zeros_like(judged_hw)
    inside_hw[EIGEN_ROWS, EIGEN_COLUMNS] = True
    return judged_hw & inside_hw


def image_scores(predicted_hw: Depth, true_hw: Depth, judged_hw: Mask) -> ImageScores:
    """All metrics of one image over its judged pixels.

    A head without an output activation may predict depths of zero and below. The published code takes their logarithm (NaN)
    and finds two numbers below zero to be within a factor of each other. Here such a pixel counts as `FLOOR_M` in ratios
    and logarithms, as it is in differences, and is counted.

    Raises:
        DataError: no pixel is judged.
        UsageError: a prediction that is not finite.
    """
    if not judged_hw.any():
        raise DataError("no pixel of the image has a depth to be judged by", hint="check depth_scale and max_depth")
    predicted, true = predicted_hw[judged_hw].astype(np.float64), true_hw[judged_hw].astype(np.float64)
    if not np.isfinite(predicted).all():
        bad = int(np.count_nonzero(~np.isfinite(predicted)))
        raise UsageError(f"{bad} of {len(predicted)} predicted depths are not finite", hint="set a lower lr")
    floored = np.maximum(predicted, FLOOR_M)
    factor, logs, off = np.maximum(true / floored, floored / true), np.log(floored) - np.log(true), predicted - true
    values = (
        *(float(np.mean(factor < 1.25**power)) for power in (1, 2, 3)),
        np.mean(np.abs(off) / true),
        np.mean(off**2 / true),
        np.sqrt(np.mean(off**2)),
        np.sqrt(np.mean(logs**2)),
        np.mean(np.abs(logs)) / np.log(10),
        np.sqrt(np.mean(logs**2) - 0.5 * np.mean(logs) ** 2),
    )
    return ImageScores(np.array(values, dtype=np.float64), int(np.count_nonzero(predicted <= 0)))


def means(items_NK: NDArray[np.float64]) -> Mapping[str, float]:
    """Each metric's mean over images, by name."""
    return dict(zip(NAMES, items_NK.mean(axis=0).tolist(), strict=True))
