"""When a loss that falls is no sign that the student gets better: the rule, a pure function of what was seen.

Over the last `LOOKS` looks the loss fell by more than `FALL` of what it was before them, and either

* each of them scored below the best look before by more than `SIGMAS` times that one's noise, or
* no look at all has scored above the first by more than `SIGMAS` times the first one's noise.

So a student that has reached what it will reach, whose loss creeps on, is not warned of; one that loses what it had is, and
one that never began.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import MetricName
from .probe import IntArray

LOOKS = 3
FALL = 0.05
SIGMAS = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """One look: after which step, the mean loss since the look before (None: not known), a score and its noise."""

    step: int
    loss: float | None
    score: float
    noise: float


def noise_of(predictions_N: IntArray, labels_N: IntArray, metric: MetricName) -> float:
    """The standard deviation that a score has by the draw of its images, each a coin of its own: binomial.

    The mean over classes adds up those of the classes. A share h / n counts as (h + 1) / (n + 2), so that none has none.
    """
    hits_N = predictions_N == labels_N
    groups = [hits_N] if metric == "top1" else [hits_N[labels_N == label] for label in np.unique(labels_N)]
    variances = []
    for hits in groups:
        share = (int(hits.sum()) + 1) / (len(hits) + 2)
        variances.append(share * (1 - share) / len(hits))
    return float(np.sqrt(sum(variances)) / len(groups))


def warning(points: Sequence[Point]) -> str | None:
    """What to tell of these looks, in their order; None: nothing."""
    before, last = points[:-LOOKS], points[-LOOKS:]
    if not before:
        return None
    begin, end = before[-1], last[-1]
    if begin.loss is None or end.loss is None or not begin.loss - end.loss > FALL * abs(begin.loss):
        return None
    fell = f"the loss fell from {begin.loss:.4g} at step {begin.step:,} to {end.loss:.4g} at step {end.step:,}"
    best, top = (max(some, key=lambda point: point.score) for some in (before, last))
    if top.score < best.score - SIGMAS * best.noise:
        was = f"at step {best.step:,} it was {best.score:.3f}, with a noise of {best.noise:.3f}"
        return f"loss falls, transfer does not: {fell}, and knn was at most {top.score:.3f} meanwhile; {was}"
    first, highest = points[0], max(point.score for point in points[1:])
    if highest <= first.score + SIGMAS * first.noise:
        was = f"at step {first.step:,} it was {first.score:.3f}, with a noise of {first.noise:.3f}"
        return f"loss falls, transfer does not: {fell}, and knn has not been above {highest:.3f}; {was}"
    return None
