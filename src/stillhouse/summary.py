"""What a finished run says on stdout: the retention table, or JSON for machines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from stillhouse.core.events import results_console
from stillhouse.eval.formatting import percent
from stillhouse.eval.kept import Kept
from stillhouse.eval.retention import seed_interval
from stillhouse.eval.stored import StoredScores

from .judging import Judged

NARROW = 106
"""Columns of a terminal below which the table is set without lines, headings and intervals in two rows."""


def as_json(judged: Judged) -> dict[str, Any]:
    """Scores, retention and verdict as plain values."""
    return {
        "metric": judged.evaluation.config.metric,
        "seeds": list(judged.seeds),
        "teacher": {probe: dict(scores) for probe, scores in judged.teacher.scores.items()},
        "probes": [[kept.to_json() for kept in probes] for probes in judged.kept],
        "tasks": [[task.kept[n].to_json() for task in judged.tasks] for n in range(len(judged.seeds))],
        "leakage": None if judged.leakage is None else dict(judged.leakage.facts),
        "go": judged.verdict.go,
        "verdict": judged.verdict.line,
        **({} if judged.stored is None else {"stored": stored_as_json(judged.stored)}),
    }


def stored_as_json(stored: StoredScores) -> dict[str, Any]:
    """Scores of the teachers by their stored features, and of which images, as plain values."""
    return {
        **stored.config.model_dump(mode="json"),
        "num_fitted": stored.num_fitted,
        "num_judged": stored.num_judged,
        "teachers": {
            one.name: {probe: dict(scores) for probe, scores in one.scores.items()} for one in stored.teachers
        },
    }


def print_stored(stored: StoredScores, metric: str) -> None:
    """A line a teacher on stdout."""
    console, view = results_console(), stored.config.view
    images = f"view {view} of {stored.num_judged:,} training images, the probes fitted on {stored.num_fitted:,} others"
    for teacher in stored.teachers:
        scores = ", ".join(f"{probe} {found[metric]:.3f}" for probe, found in teacher.scores.items())
        console.print(f"teacher {teacher.name} from the store: {scores} ({_words(metric)}; {images})")


def print_table(judged: Judged) -> None:
    """The retention tables on stdout, of probes and of tasks: the mean over seeds, with 95 % intervals."""
    console, several = results_console(), len(judged.seeds) > 1
    over = f", mean of {len(judged.seeds)} seeds ± 95 % t-interval" if several else ""
    metric = judged.evaluation.config.metric
    interval = "" if several else " (95 % interval over the images)"
    if any(judged.kept):
        title = f"{_words(metric)} on {len(judged.evaluation.test.keys):,} held-out images{over}"
        caption = (
            "of teacher = student / teacher, gap closed = (student - untrained) / (teacher - untrained),\n"
            f"gain = student - untrained{interval}"
        )
        rows = [(found[0].probe, _cells(found)) for found in zip(*judged.kept, strict=True)]
        _print_rows(console, "probe", rows, title, caption)
    if judged.tasks:
        falls = [task.name for task in judged.tasks if not task.kept[0].higher_is_better]
        caption = f"of {', '.join(falls)} less is better: of teacher = teacher / student, gain = untrained - student"
        rows = [
            (f"{task.name}\n{_words(task.kept[0].metric)}", [_folded(cell) for cell in _cells(task.kept)])
            for task in judged.tasks
        ]
        _print_rows(
            console, "task", rows, f"Tasks{over}{interval if not any(judged.kept) else ''}", caption if falls else None
        )
    console.print(f"{'GO' if judged.verdict.go else 'NO-GO'}: {judged.verdict.line}")
    if judged.stored is not None:
        print_stored(judged.stored, metric)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _print_rows(
    console: Console, kind: str, rows: Sequence[tuple[str, Sequence[str]]], title: str, caption: str | None
) -> None:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    narrow = console.width < NARROW
    if narrow:
        table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    for column in (kind, "teacher", "student", "untrained", "of teacher", "gap closed", "gain"):
        heading = column.replace(" ", "\n") if narrow else column
        table.add_column(
            heading, justify="left" if column == kind else "right", no_wrap=column != kind, overflow="fold"
        )
    for name, cells in rows:
        table.add_row(name, *(_folded(cell) if narrow else cell for cell in cells))
    console.print(table)


def _cells(rows: Sequence[Kept]) -> list[str]:
    """One probe's cells: over seeds the mean and its interval, of one seed the paired bootstrap interval."""
    if len(rows) == 1:
        kept = rows[0]
        scores = [f"{value:.3f}" for value in (kept.teacher, kept.student, kept.untrained)]
        gain = f"{kept.gain:+.3f} ({kept.gain_low:+.3f} … {kept.gain_high:+.3f})"
    else:
        scores = [f"{rows[0].teacher:.3f}"]
        scores += [_mean([getattr(kept, name) for kept in rows]) for name in ("student", "untrained")]
        gain = _mean([kept.gain for kept in rows], sign="+")
    share, closed = (float(np.mean([getattr(kept, name) for kept in rows])) for name in ("share", "gap_closed"))
    return [*scores, percent(share), percent(closed), gain]


def _folded(cell: str) -> str:
    """A cell with its interval in a second row."""
    return cell.replace(" (", "\n(").replace(" … ", "…").replace("± ", "±\n")


def _mean(values: list[float], sign: str = "") -> str:
    over = seed_interval(values)
    return f"{over.value:{sign}.3f} ± {over.value - over.low:.3f}"
