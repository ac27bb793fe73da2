"""What is said of a student: scores, shares, gains, and GO or NO-GO."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.judged import Judgement
from stillhouse.eval.kept import Kept, decide, keep

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0] * 6, np.int64)


def judged(name: str, **rights: int) -> Judgement:
    """A judgement that gets the first `rights` images of each probe right and says class 9 for the others."""
    predictions = {probe: np.where(np.arange(60) < num, LABELS, 9) for probe, num in rights.items()}
    scores = {probe: {"top1": num / 60} for probe, num in rights.items()}
    return Judgement(name, scores, {}, predictions)


def kept(probe: str = "knn", gain: float = 0.2, low: float = 0.1, share: float = 0.9) -> Kept:
    return Kept(probe, 0.8, 0.7, 0.9, 0.7, 0.6, 0.8, 0.5, share, 0.6, gain, low, gain + 0.1)


def test_scores_shares_and_gains() -> None:
    config = EvalConfig(bootstrap=400)
    both = keep(config, LABELS, judged("t", a=60, b=48), judged("s", a=45, b=36), judged("u", a=30, b=12))
    assert [row.probe for row in both] == ["a", "b"]
    first, second = both
    assert (first.teacher, first.student, first.untrained) == (1.0, 0.75, 0.5)
    assert (first.share, first.gap_closed, first.gain) == (0.75, 0.5, 0.25)
    assert [second.share, second.gap_closed] == pytest.approx([0.75, 2 / 3])
    assert first.teacher_low == first.teacher_high == 1.0
    assert first.student_low < 0.75 < first.student_high and 0 < first.gain_low < 0.25 < first.gain_high


def test_the_metric_is_that_of_the_config() -> None:
    """Class 1 of 2 right in 9 of 10 images that are class 0."""
    labels = np.array([0] * 9 + [1], np.int64)
    blind = Judgement("x", {"knn": {}}, {}, {"knn": np.zeros(10, np.int64)})
    for metric, score in (("top1", 0.9), ("mean_per_class", 0.5)):
        config = EvalConfig.model_validate({"metric": metric, "bootstrap": 100})
        (row,) = keep(config, labels, blind, blind, blind)
        assert row.teacher == score and row.gain == 0


def test_the_same_images_are_drawn_for_both() -> None:
    """An encoder against itself gains exactly nothing, in every redrawing."""
    same = judged("s", knn=40)
    (row,) = keep(EvalConfig(bootstrap=100), LABELS, same, same, same)
    assert (row.gain, row.gain_low, row.gain_high) == (0, 0, 0)


def test_other_probes_are_refused() -> None:
    with pytest.raises(UsageError, match="need the same probes"):
        keep(EvalConfig(), LABELS, judged("t", a=1), judged("s", a=1, b=1), judged("u", a=1))


def test_shares_without_a_meaning_are_null_in_json() -> None:
    (row,) = keep(EvalConfig(bootstrap=100), LABELS, judged("t", knn=0), judged("s", knn=9), judged("u", knn=3))
    assert math.isnan(row.share) and math.isnan(row.gap_closed)
    told = row.to_json()
    assert told["share"] is told["gap_closed"] is None and told["student"] == 0.15
    assert json.loads(json.dumps(told, allow_nan=False)) == told


GO = [
    (
        [[kept(), kept("linear", low=0.05, share=0.8)]],
        "the student keeps 85 % of its teacher and gains at least +0.050",
    ),
    ([[kept(share=math.nan)]], "the student gains at least +0.100 over its untrained self"),
    ([[kept()], [kept(low=0.02, share=1.1)]], "the student keeps 100 % of its teacher and gains at least +0.020"),
]
NO_GO = [
    ([[kept(), kept("linear", gain=0.1, low=0.0)]], "linear: gained +0.100 over the untrained student (95 % interval"),
    (
        [[kept(low=-0.25, gain=-0.1)]],
        "knn: gained -0.100 over the untrained student (95 % interval -0.250 … +0.000, not",
    ),
    ([[kept()], [kept("linear", low=-1)]], "linear, student 2: gained"),
    ([[kept(low=math.nan)]], "knn: gained"),
]


@pytest.mark.parametrize(("rows", "line"), [*GO, *NO_GO])
def test_the_verdict(rows: Sequence[Sequence[Kept]], line: str) -> None:
    verdict = decide(rows)
    assert verdict.go == ((rows, line) in GO)
    assert verdict.line.startswith(line)
    assert verdict.rule.startswith(
        "GO when, on every probe and task and for every seed, the student beats its untrained self"
    )


def test_one_failure_is_told_and_the_others_counted() -> None:
    verdict = decide([[kept("a", low=0), kept("b"), kept("c", low=0)]] * 2)
    assert verdict.line.startswith("a, student 1: ") and verdict.line.endswith("; 3 more like it")
