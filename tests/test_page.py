"""From what is known of a run to what its page shows: rows of scores, tasks with their examples."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.duplicates import Pair
from stillhouse.eval.kept import Kept
from stillhouse.eval.leakage import LeakageReport
from stillhouse.eval.report_data import Score
from stillhouse.eval.run import Evaluation
from stillhouse.eval.tasks.base import Example, TaskResult
from stillhouse.eval.tasks.run import TaskJudgement
from stillhouse.judging import JudgedTask
from stillhouse.page_pictures import leakage_sheet
from stillhouse.page_scores import NUM_EXAMPLES, score_row, task_sections
from stillhouse.storage.store import Store

RMSE = Kept("nyu", 0.3, 0.29, 0.31, 0.4, 0.38, 0.42, 0.9, 0.75, 5 / 6, 0.5, 0.4, 0.6, "rmse_in_m", False, False)


def test_a_row_of_one_seed_and_of_several() -> None:
    one = score_row([RMSE])
    assert (one.probe, one.metric, one.percent, one.higher_is_better) == ("nyu", "rmse in m", False, False)
    assert (one.teacher, one.student, one.untrained) == (Score(0.3, 0.29, 0.31), Score(0.4, 0.38, 0.42), Score(0.9))
    assert (one.share, one.gain) == (0.75, Score(0.5, 0.4, 0.6))
    two = score_row([RMSE, dataclasses.replace(RMSE, student=0.5, share=0.6, gain=0.4)])
    assert two.student.value == pytest.approx(0.45) and two.share == pytest.approx(0.675)
    assert two.gain is not None and two.gain.low is not None and two.gain.low < two.gain.value == pytest.approx(0.45)
    assert two.teacher == one.teacher and not two.higher_is_better


def judged(who: str, value: int) -> TaskJudgement:
    pixels = np.full((2, 2, 3), value, np.uint8)
    image = ("image", np.zeros((2, 2, 3), np.uint8))
    examples = tuple(Example(key=str(n), panels=(image, ("depth", pixels))) for n in range(NUM_EXAMPLES + 3))
    return TaskJudgement(who, 0.5, TaskResult(items_NK=np.zeros((1, 1)), examples=examples))


def test_a_section_a_kind_of_task() -> None:
    shown = {"teacher": judged("t", 1), "student": judged("s", 2)}
    nyu = JudgedTask("nyu", "depth", (RMSE,), shown)
    empty = {"teacher": TaskJudgement("t", 0.5, TaskResult(items_NK=np.zeros((1, 1))))}
    kitti = JudgedTask("kitti", "depth", (RMSE, RMSE), empty)
    other, section = task_sections([JudgedTask("oxford", "retrieval", (RMSE,), empty), nyu, kitti])
    assert (other.kind, len(other.rows), other.sheets) == ("retrieval", 1, ())
    assert section.kind == "depth" and [row.probe for row in section.rows] == ["nyu", "nyu"]
    (sheet,) = section.sheets  # kitti has no examples
    assert sheet.task == "nyu" and len(sheet.rows) == NUM_EXAMPLES
    ((_, panels),) = sheet.rows[0].strips
    assert [panel.title for panel in panels] == ["image", "teacher: depth", "student: depth"]


def test_pairs_that_leaked_are_shown_with_what_they_share(finished: Path) -> None:
    config = EvalConfig(pictures=2, threads=1)
    evaluation = Evaluation(Store.open(finished / "store"), config, finished / "eval", Reporter(quiet=True))
    pairs = Pair(1, 0, "pixels"), Pair(0, 2, "near", 0.9912), Pair(2, 2, "file")
    report = LeakageReport(
        lines=("a", "b"), warnings=("b",), pairs=pairs, touched_Q=np.ones(3, np.bool_), facts={"touched": 3}
    )
    found = leakage_sheet(report, evaluation, config)
    assert (found.lines, found.warnings, found.num_pairs) == (("a", "b"), ("b",), 3)
    assert [pair.how for pair in found.pairs] == ["the same pixels", "a near copy, cosine 0.991"]
    first = found.pairs[0]
    assert (first.test_key, first.train_key) == (evaluation.test.keys[1], evaluation.train.keys[0])
    assert first.test.shape == first.train.shape == (32, 32, 3) and not np.array_equal(first.test, first.train)
    nothing = dataclasses.replace(report, pairs=(), warnings=())
    assert leakage_sheet(nothing, evaluation, config).pairs == ()
