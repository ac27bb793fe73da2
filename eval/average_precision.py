"""Average precision of ranked images, interpolated at 11 points (VOC2007; Everingham et al. 2010, section 4.2).

Legend: N images, C classes, T distinct scores.
"""

import numpy as np
from numpy.typing import NDArray

from .probe import IntArray

Scores = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 11)


def eleven_point(scores_N: Scores, positives_N: NDArray[np.bool_], *, origin: bool) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or beyond it.

    Images of equal score come in together, so their order does not matter.

    Args:
        origin: begin the curve at recall 0, precision 1, as scikit-learn's does and so the scripts of SynCLR and Proteus;
            the first of the 11 terms is 1 then, whatever the ranking. The devkit's curve begins at the first image.

    Returns:
        The mean, from 0 to 1; 0 without a positive image.
    """
    order_N = np.argsort(-scores_N, kind="stable")
    ranked_N = scores_N[order_N]
    last_T = np.append(np.flatnonzero(np.diff(ranked_N)), len(ranked_N) - 1)
    found_T = np.cumsum(positives_N[order_N])[last_T]
    if found_T[-1] == 0:
        return 0.0
    precision_T, recall_T = found_T / (last_T + 1), found_T / found_T[-1]
    # From the last to the first: the best precision at each recall or beyond it. Recalls never fall.
    best_T = np.maximum.accumulate(precision_T[::-1])[::-1]
    terms = best_T[np.searchsorted(recall_T, RECALLS, side="left")]
    if origin:
        terms[0] = 1.0
    return float(np.mean(terms))


def mean_eleven_point(scores_NC: Scores, targets_NC: IntArray, *, origin: bool) -> float:
    """Mean over the classes that at least one image shows; 0 where there is none."""
    shown = np.flatnonzero(targets_NC.any(axis=0))
    found = [eleven_point(scores_NC[:, c], targets_NC[:, c] > 0, origin=origin) for c in shown]
    return float(np.mean(found)) if found else 0.0
