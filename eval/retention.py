"""What a student kept of its teacher, with intervals, and whether that is enough to go on. Pure maths.

Intervals over test images are percentile bootstraps (Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13);
differences are paired: both encoders are scored on the same redrawn images. Intervals over seeds are Student's t.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stillhouse.core.errors import UsageError
from stillhouse.core.rng import uniform_words

from .metrics import METRICS, MetricName
from .probe import IntArray

RULE = (
    "go when, on every probe, the lower end of the paired bootstrap interval of (student - untrained student) is above "
    "0; otherwise no-go"
)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval at `level`."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class ProbeRetention:
    """One probe's scores of the three encoders, and what follows from them."""

    probe: str
    metric: str
    teacher: Interval
    student: Interval
    untrained: Interval
    gain: Interval
    """Student minus untrained, paired; the other way round where lower is better."""
    percent: bool = True
    higher_is_better: bool = True

    @property
    def share_of_teacher(self) -> float | None:
        """student / teacher, or teacher / student where lower is better; None when that divides by 0."""
        above, below = self.student.value, self.teacher.value
        if not self.higher_is_better:
            above, below = below, above
        return above / below if below > 0 else None

    @property
    def gap_closed(self) -> float | None:
        """(student - untrained) / (teacher - untrained); None when the teacher is no better than the untrained."""
        sign = 1 if self.higher_is_better else -1
        gap = sign * (self.teacher.value - self.untrained.value)
        return sign * (self.student.value - self.untrained.value) / gap if gap > 0 else None


@dataclass(frozen=True)
class Retention:
    """Every probe's retention, and the decision."""

    probes: tuple[ProbeRetention, ...]

    rule: str = RULE

    @property
    def failing(self) -> tuple[str, ...]:
        """Probes on which the student is not surely better than untrained."""
        return tuple(row.probe for row in self.probes if not row.gain.low > 0)

    @property
    def go(self) -> bool:
        """The decision by `rule`."""
        return not self.failing


def retention(
    student: Mapping[str, IntArray],
    teacher: Mapping[str, IntArray],
    untrained: Mapping[str, IntArray],
    labels_N: IntArray,
    *,
    metric: MetricName = "top1",
    seed: int = 0,
    num: int = 1000,
    level: float = 0.95,
) -> Retention:
    """Compare three encoders, probe by probe.

    Args:
        student, teacher, untrained: per probe, the int64 predictions [N] of the same test images.
        num: resamplings of the test images.

    Raises:
        UsageError: no probe, probes that differ between the encoders, or predictions that do not match the labels.
    """
    if not student or not student.keys() == teacher.keys() == untrained.keys():
        names = "; ".join(f"{sorted(each)}" for each in (student, teacher, untrained))
        raise UsageError(
            f"student, teacher and untrained student need the same probes, at least one; got {names}",
            hint="judge all three with one config",
        )

    def interval(predictions_N: IntArray) -> Interval:
        return bootstrap_interval(predictions_N, labels_N, metric, seed, num=num, level=level)

    return Retention(
        tuple(
            ProbeRetention(
                probe=probe,
                metric=metric,
                teacher=interval(teacher[probe]),
                student=interval(student[probe]),
                untrained=interval(untrained[probe]),
                gain=paired_interval(student[probe], untrained[probe], labels_N, metric, seed, num=num, level=level),
            )
            for probe in student
        )
    )


def bootstrap_interval(
    predictions_N: IntArray, labels_N: IntArray, metric: MetricName, seed: int, *, num: int = 1000, level: float = 0.95
) -> Interval:
    """A score and its percentile interval over `num` redrawings of the N test images."""
    score = METRICS[metric]
    value = score(predictions_N, labels_N)
    draws = [score(predictions_N[rows], labels_N[rows]) for rows in redrawn(len(labels_N), num, seed)]
    return percentiles(value, draws, level)


def paired_interval(
    first_N: IntArray,
    second_N: IntArray,
    labels_N: IntArray,
    metric: MetricName,
    seed: int,
    *,
    num: int = 1000,
    level: float = 0.95,
) -> Interval:
    """score(first) - score(second) and its percentile interval; each redrawing scores both on the same images."""
    score = METRICS[metric]
    value = score(first_N, labels_N) - score(second_N, labels_N)
    draws = [
        score(first_N[rows], labels_N[rows]) - score(second_N[rows], labels_N[rows])
        for rows in redrawn(len(labels_N), num, seed)
    ]
    return percentiles(value, draws, level)


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over seeds and its t-interval: mean +- t(level, n - 1) * s / sqrt(n), s with n - 1 in its denominator.

    Raises:
        UsageError: fewer than two values, from which no spread can be estimated.
    """
    if len(values) < 2:
        raise UsageError(f"an interval over seeds needs two seeds; got {len(values)}", hint="train with more seeds")
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, level)


def redrawn(num_samples: int, num: int, seed: int) -> Iterator[IntArray]:
    """`num` draws of `num_samples` row numbers with replacement; the same for every probe and encoder."""
    for draw in range(num):
        words = uniform_words(seed, num_samples, "bootstrap", draw)
        # Multiply-shift of the high 32 bits: uniform below num_samples, up to num_samples / 2^32.
        yield (((words >> np.uint64(32)) * np.uint64(num_samples)) >> np.uint64(32)).astype(np.int64)


def percentiles(value: float, draws: Sequence[float], level: float) -> Interval:
    """A value with the percentile interval of its redrawings."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)
