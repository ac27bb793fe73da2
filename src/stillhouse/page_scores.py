"""The score tables of a report: probes, tasks, seeds."""

from collections.abc import Sequence

import numpy as np

from stillhouse.eval.kept import Kept
from stillhouse.eval.report_data import ProbeResult, Score, SeedScores, SeedTable, TaskSection
from stillhouse.eval.report_sheets import example_sheet
from stillhouse.eval.retention import seed_interval

from .judging import Judged, JudgedTask

NUM_EXAMPLES = 4
"""Examples of a task that are shown."""


def score_row(rows: Sequence[Kept]) -> ProbeResult:
    """One probe or task in a table of scores; over several seeds the means, with t-intervals."""
    first = rows[0]
    if len(rows) == 1:
        student = Score(first.student, first.student_low, first.student_high)
        untrained = Score(first.untrained)
        gain = Score(first.gain, first.gain_low, first.gain_high)
    else:
        student, untrained, gain = (
            _over_seeds([getattr(kept, name) for kept in rows]) for name in ("student", "untrained", "gain")
        )
    return ProbeResult(
        probe=first.probe,
        metric=first.metric.replace("_", " "),
        teacher=Score(first.teacher, first.teacher_low, first.teacher_high),
        student=student,
        untrained=untrained,
        share=float(np.mean([kept.share for kept in rows])),
        gap_closed=float(np.mean([kept.gap_closed for kept in rows])),
        gain=gain,
        percent=first.percent,
        higher_is_better=first.higher_is_better,
    )


def task_sections(tasks: Sequence[JudgedTask]) -> tuple[TaskSection, ...]:
    """A section a kind of task, in the order of the config."""
    kinds = dict.fromkeys(task.kind for task in tasks)
    return tuple(_section(kind, [task for task in tasks if task.kind == kind]) for kind in kinds)


def _section(kind: str, tasks: Sequence[JudgedTask]) -> TaskSection:
    sheets = [
        example_sheet(task.name, {who: one.result.examples[:NUM_EXAMPLES] for who, one in task.shown.items()})
        for task in tasks
    ]
    rows = tuple(score_row(task.kept) for task in tasks)
    return TaskSection(kind=kind, rows=rows, sheets=tuple(sheet for sheet in sheets if sheet.rows))


def seed_table(judged: Judged) -> SeedTable:
    """The scores of every seed."""
    rows = []
    for kept in [*zip(*judged.kept, strict=True), *(task.kept for task in judged.tasks)]:
        for encoder in ("student", "untrained"):
            scores = tuple(getattr(one, encoder) for one in kept)
            mean = _over_seeds(scores)
            rows.append(
                SeedScores(probe=kept[0].probe, encoder=encoder, scores=scores, mean=mean, percent=kept[0].percent)
            )
    return SeedTable(seeds=judged.seeds, rows=tuple(rows))


def _over_seeds(values: Sequence[float]) -> Score:
    over = seed_interval(values)
    return Score(over.value, over.low, over.high)
