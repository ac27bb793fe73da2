import math

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.eval.metrics import MetricName, mean_per_class
from stillhouse.eval.probe import IntArray
from stillhouse.eval.retention import bootstrap_interval, paired_interval, retention, seed_interval


def guesses(labels: IntArray, right: float, seed: int) -> IntArray:
    """Predictions of which a share is right."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < right, labels, (labels + 1) % 4)


LABELS = np.arange(400, dtype=np.int64) % 4


def test_interval_matches_the_binomial() -> None:
    predictions = np.where(np.arange(400) < 320, LABELS, (LABELS + 1) % 4)
    interval = bootstrap_interval(predictions, LABELS, "top1", seed=0, num=2000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(0.8 - half, abs=0.006)
    assert interval.high == pytest.approx(0.8 + half, abs=0.006)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_intervals_are_a_function_of_the_seed(metric: MetricName) -> None:
    predictions = guesses(LABELS, 0.6, 0)
    first = bootstrap_interval(predictions, LABELS, metric, seed=1, num=200)
    assert first == bootstrap_interval(predictions, LABELS, metric, seed=1, num=200)
    assert first != bootstrap_interval(predictions, LABELS, metric, seed=2, num=200)
    assert first.low < first.value < first.high


def test_wider_level_is_wider() -> None:
    predictions = guesses(LABELS, 0.6, 0)
    narrow, wide = (bootstrap_interval(predictions, LABELS, "top1", 0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    base = guesses(LABELS, 0.7, 0)
    better = base.copy()
    better[:12] = LABELS[:12]
    gain = paired_interval(better, base, LABELS, "top1", 0)
    alone = bootstrap_interval(better, LABELS, "top1", 0)
    assert gain.high - gain.low < (alone.high - alone.low) / 3
    assert paired_interval(base, base, LABELS, "top1", 0).high == 0


def test_rare_classes_may_vanish_from_a_redrawing() -> None:
    labels = np.array([0] * 20 + [1], dtype=np.int64)
    interval = bootstrap_interval(labels, labels, "mean_per_class", 0, num=200)
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_shares_gaps_and_the_decision() -> None:
    teacher, student, untrained = (guesses(LABELS, right, 5) for right in (0.95, 0.8, 0.4))
    found = retention({"knn": student}, {"knn": teacher}, {"knn": untrained}, LABELS, metric="mean_per_class")
    (row,) = found.probes
    t, s, u = (mean_per_class(each, LABELS) for each in (teacher, student, untrained))
    assert row.share_of_teacher == pytest.approx(s / t)
    assert row.gap_closed == pytest.approx((s - u) / (t - u))
    assert row.gain.value == pytest.approx(s - u)
    assert row.gain.low > 0
    assert found.go and found.failing == ()
    assert "lower end" in found.rule


def test_one_probe_without_sure_gain_is_a_no_go() -> None:
    good, same = guesses(LABELS, 0.9, 0), guesses(LABELS, 0.4, 1)
    found = retention(
        {"knn": good, "linear": same},
        {"knn": good, "linear": good},
        {"knn": same, "linear": guesses(LABELS, 0.4, 2)},
        LABELS,
    )
    assert not found.go
    assert found.failing == ("linear",)


def test_undefined_shares_are_none_not_nan() -> None:
    right, wrong = LABELS, (LABELS + 1) % 4
    (row,) = retention({"knn": right}, {"knn": wrong}, {"knn": wrong}, LABELS, num=100).probes
    assert row.share_of_teacher is None
    assert row.gap_closed is None


def test_probes_must_match() -> None:
    with pytest.raises(UsageError, match="need the same probes"):
        retention({"knn": LABELS}, {"knn": LABELS}, {"linear": LABELS}, LABELS)
    with pytest.raises(UsageError, match="at least one"):
        retention({}, {}, {}, LABELS)
    with pytest.raises(UsageError, match="the same images"):
        retention({"knn": LABELS[:-1]}, {"knn": LABELS}, {"knn": LABELS}, LABELS)


def test_seed_interval_is_students_t() -> None:
    interval = seed_interval([0.80, 0.82, 0.84])
    assert interval.value == pytest.approx(0.82)
    assert interval.high - 0.82 == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert interval.low == pytest.approx(0.82 - (interval.high - 0.82))
    with pytest.raises(UsageError, match="needs two seeds; got 1"):
        seed_interval([0.8])
