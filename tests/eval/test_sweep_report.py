"""The page of a sweep: untrusted strings, students that are not done, and a chart for every kind of value."""

import dataclasses
import re

import pytest

from stillhouse.eval.charts import dot_chart
from stillhouse.eval.report_data import Score
from stillhouse.eval.sweep_charts import Axis, LookedAt, axis_charts, looks_chart
from stillhouse.eval.sweep_report import SweepData, SweptStudent, SweptTrial, render_sweep

HOSTILE = "<script>alert('x')</script>\"'&\x00\ud800"


def trial(rank: int | None, lr: float, model: str, score: float | None, came: str = "") -> SweptTrial:
    student = SweptStudent(
        seed=0, score=score, num_steps=9, seconds=1.5, num_parameters=1000, weights_sha256="ab" * 32, folder=f"out/{lr}"
    )
    return SweptTrial(
        rank=rank,
        number=0 if rank is None else rank - 1,
        values=[lr, None],
        shown=[f"{lr:g}", model],
        score=None if score is None else Score(score, score - 0.1, score + 0.1),
        of_teacher=None if score is None else score / 0.5,
        came=came,
        overrides=f"distill.lr={lr:g} distill.student.model={model}",
        seconds=1.5,
        looks=[(0, 0.1), (3, 0.2)],
        students=[student],
    )


def swept(*trials: SweptTrial, teacher: float | None = 0.5) -> SweepData:
    return SweepData(
        title="Which student keeps most of tiny",
        run_name="a run",
        probe="knn",
        metric="top1",
        split="test",
        way="A grid, every combination",
        num_seeds=1,
        teacher="tiny",
        teacher_score=teacher,
        names=["lr", "model"],
        trials=trials,
        config_text="name: tiny\n",
        created="today",
    )


DONE = (trial(1, 1e-2, "vit", 0.4), trial(2, 1e-3, "cnn", 0.3), trial(None, 1e-1, "vit", None, "pruned at step 4 of 9"))


def test_the_page_ranks_and_says_why_one_is_not_done() -> None:
    page = render_sweep(swept(*DONE))
    assert "<bdi>lr 0.01, model vit</bdi>: 40.0" in page and "80.0\u00a0% of the teacher's 50.0" in page
    rows = re.findall(r"<tr>.*?</tr>", page[page.index('id="ranking-table"') : page.index('id="values"')], re.DOTALL)
    assert len(rows) == 4 and "[30.0, 50.0]" in rows[1] and "pruned at step 4 of 9" in rows[3]
    assert 'id="values"' in page and 'id="looks"' in page and page.count("<figure>") == 3


def test_untrusted_strings_are_escaped() -> None:
    hostile = dataclasses.replace(trial(1, 1e-2, HOSTILE, 0.4), overrides=HOSTILE, came=HOSTILE)
    data = swept(hostile, trial(2, 1e-3, "cnn", 0.3))
    data = dataclasses.replace(data, title=HOSTILE, run_name=HOSTILE, split=HOSTILE, teacher=HOSTILE)
    page = render_sweep(dataclasses.replace(data, names=["lr", HOSTILE]))
    page.encode()
    assert page.count("<script>") == 1 and "alert" in page and "\x00" not in page


def test_a_sweep_without_a_finished_student_or_a_teachers_score() -> None:
    page = render_sweep(swept(trial(None, 1e-2, "vit", None, "diverged: the loss of step 2 is nan")))
    assert "NO STUDENT YET" in page and "the loss of step 2 is nan" in page and 'id="values"' not in page
    unknown = [dataclasses.replace(one, of_teacher=None) for one in DONE]
    page = render_sweep(swept(*unknown, teacher=None))
    assert "of the teacher" not in page and ">teacher</text>" not in page


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="trial 0: 2 values for 1 names"):
        render_sweep(dataclasses.replace(swept(*DONE), names=["lr"]))


def test_each_kind_of_value_has_its_chart() -> None:
    def charts(values: list[float | None], shown: list[str]) -> list[str]:
        ranks = [str(rank) for rank in range(1, len(values) + 1)]
        return [
            str(chart) for _, chart in axis_charts([Axis("a", values, shown, [0.1] * len(values), ranks)], "score", 0.2)
        ]

    (numbers,) = charts([1e-4, 1e-1, 0.5], ["1e-4", "0.1", "0.5"])
    assert "rank 3: a 0.5" in numbers and ">0.001</text>" in numbers
    (below_zero,) = charts([-1.0, 0.0, 1.0], ["-1", "0", "1"])
    assert below_zero.count("<circle") == 2 * 4
    (names,) = charts([None, None, 1.0], ["a", "b", "1"])
    assert names.count("<rect") > 0 and "<circle" not in names
    assert charts([2.0, 2.0], ["2", "2"]) == [] and charts([None] * 30, [str(num) for num in range(30)]) == []


def test_looks_are_drawn_if_there_were_any() -> None:
    assert looks_chart([LookedAt("1", [])]) is None
    chart = looks_chart([LookedAt("1", [(0, 0.1), (3, 0.2)]), LookedAt("2", [])])
    assert chart is not None and str(chart).count("last 20") == 2


def test_a_log2_axis_begins_above_zero() -> None:
    from stillhouse.eval.charts import Dot

    with pytest.raises(ValueError, match="an x above 0"):
        dot_chart("t", ("a", "b"), [Dot("1", 0.0, 1.0, "")], None, x_label="x", y_label="y")
