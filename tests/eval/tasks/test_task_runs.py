"""Tasks over subjects: judged once, again when something is another, and what a student kept of its teacher."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from stillhouse.core.errors import MissingError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.base import Context, Example, Items, Metric, TaskResult
from stillhouse.eval.tasks.kept import keep_task
from stillhouse.eval.tasks.run import TaskJudgement, TaskRuns

SUBJECT = cast(Subject, object())
ACCURACY = Metric("accuracy")


@dataclass
class Toy:
    """Each item is right or wrong."""

    items: Items
    name: str = "toy"
    metric: Metric = ACCURACY
    data: str = "data"
    num_runs: int = 0

    def identity(self) -> dict[str, Any]:
        if not self.data:
            raise MissingError("/data/toy is not there", hint="unpack it")
        return {"data": self.data}

    def score(self, items_NK: Items) -> float:
        return float(items_NK[:, 0].mean())

    def run(self, subject: Subject, context: Context) -> TaskResult:
        self.num_runs += 1
        picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        shown = Example(key="a/1", panels=(("image", picture), ("truth", picture[::-1])))
        return TaskResult(items_NK=self.items, chosen={"c": 1.0}, details={"all": [1, 2]}, examples=(shown,))


def runs(folder: Path) -> TaskRuns:
    return TaskRuns(folder, Context(Reporter(quiet=True)))


def judged(share: float, num: int = 200) -> TaskJudgement:
    items_NK = np.zeros((num, 1))
    items_NK[: round(share * num)] = 1
    return TaskJudgement("s", share, TaskResult(items_NK=items_NK))


def never() -> Subject:
    raise AssertionError("loaded, though all is known")


@pytest.fixture
def toy() -> Toy:
    return Toy(np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 4.0], [1.0, 5.0]]))


def test_a_subject_is_judged_once(tmp_path: Path, toy: Toy) -> None:
    first = runs(tmp_path)
    found = first.judge(toy, "s", "abc", lambda: SUBJECT)
    assert (found.score, first.num_judged) == (0.75, 1)
    second = runs(tmp_path)
    again = second.judge(toy, "s", "abc", never)
    assert (again.score, second.num_judged, toy.num_runs) == (0.75, 0, 1)
    assert np.array_equal(again.result.items_NK, toy.items)
    assert (again.result.chosen, again.result.details) == ({"c": 1.0}, {"all": [1, 2]})
    (one,), (other,) = found.result.examples, again.result.examples
    assert one.key == other.key and len(one.panels) == len(other.panels) == 2
    for (title, pixels), (kept_title, kept) in zip(one.panels, other.panels, strict=True):
        assert title == kept_title and np.array_equal(pixels, kept)


@pytest.mark.parametrize("change", ["weights", "data", "items", "picture", "json"])
def test_it_is_judged_again_when_something_is_another(tmp_path: Path, toy: Toy, change: str) -> None:
    runs(tmp_path).judge(toy, "s", "abc", lambda: SUBJECT)
    folder = tmp_path / "toy"
    if change == "items":
        (folder / "s.npy").unlink()
    if change == "picture":
        (folder / "s" / "000-1.png").write_bytes(b"no picture")
    if change == "json":
        (folder / "s.json").write_text((folder / "s.json").read_text().replace("abc", "abd"))
    other = replace(toy, data="other" if change == "data" else "data")
    runs(tmp_path).judge(other, "s", "abd" if change == "weights" else "abc", lambda: SUBJECT)
    assert other.num_runs == 2
    runs(tmp_path).judge(other, "s", "abd" if change == "weights" else "abc", never)


def test_what_is_missing_is_said_before_a_subject_is_loaded(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(MissingError, match="/data/toy is not there"):
        runs(tmp_path).judge(replace(toy, data=""), "s", "abc", never)


def test_a_score_that_is_no_number_is_refused(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(UsageError, match="task toy on s: its accuracy is nan"):
        runs(tmp_path).judge(replace(toy, items=np.full((3, 1), np.nan)), "s", "abc", lambda: SUBJECT)


def test_retention_where_more_is_better(toy: Toy) -> None:
    row = keep_task(toy, judged(0.8), judged(0.6), judged(0.2), num=300)
    assert (row.probe, row.metric, row.higher_is_better) == ("toy", "accuracy", True)
    assert row.share_of_teacher == pytest.approx(0.75)
    assert row.gap_closed == pytest.approx(2 / 3)
    assert row.gain.value == pytest.approx(0.4)
    assert row.gain.low > 0.3  # paired: the student is right wherever the untrained is
    assert row.student.low < 0.6 < row.student.high


def test_retention_where_less_is_better(toy: Toy) -> None:
    error = replace(toy, metric=Metric("error", percent=False, higher_is_better=False))
    row = keep_task(error, judged(0.2), judged(0.4), judged(0.8), num=300)
    assert not row.percent and not row.higher_is_better
    assert row.share_of_teacher == pytest.approx(0.5)
    assert row.gap_closed == pytest.approx(2 / 3)
    assert row.gain.value == pytest.approx(0.4) and row.gain.low > 0
    worse = keep_task(error, judged(0.2), judged(0.9), judged(0.8), num=300)
    assert worse.gain.high < 0


def test_the_teacher_against_itself_keeps_all(toy: Toy) -> None:
    row = keep_task(toy, judged(0.8), judged(0.8), judged(0.2), num=100)
    assert row.share_of_teacher == row.gap_closed == 1.0
