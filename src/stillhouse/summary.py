"""What a finished run says on stdout: the retention table, or JSON for machines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from stillhouse.core.events import results_console
from stillhouse.eval.formatting import percent
from stillhouse.eval.kept import Kept
from stillhouse.eval.retention import seed_interval
from stillhouse.eval.stored import StoredScores

from .pipeline import Judged

NARROW = 106
"""Columns of a terminal below which the table is set without lines, headings and intervals in two rows."""


def as_json(judged: Judged) -> dict[str, Any]:
    """Scores, retention and verdict as plain values."""
    return {
        "metric": judged.evaluation.config.metric,
        "seeds": list(judged.seeds),
        "teacher": {probe: dict(scores) for probe, scores in judged.teacher.scores.items()},
        "probes": [[kept.to_json() for kept in probes] for probes in judged.kept],
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
        console.print(f"teacher {teacher.name} from the store: {scores} ({metric.replace('_', ' ')}; {images})")


def print_table(judged: Judged) -> None:
    """The retention table on stdout: the mean over seeds, with 95 % intervals."""
    several = len(judged.seeds) > 1
    title = (
        f"{judged.evaluation.config.metric.replace('_', ' ')} on {len(judged.evaluation.test.keys):,} held-out images"
    )
    if several:
        title += f", mean of {len(judged.seeds)} seeds ± 95 % t-interval"
    caption = (
        "of teacher = student / teacher, gap closed = (student - untrained) / (teacher - untrained),\n"
        f"gain = student - untrained{'' if several else ' (95 % interval over the images)'}"
    )
    console = results_console()
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    narrow = console.width < NARROW
    if narrow:
        table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    for column in ("probe", "teacher", "student", "untrained", "of teacher", "gap closed", "gain"):
        heading = column.replace(" ", "\n") if narrow else column
        table.add_column(heading, justify="left" if column == "probe" else "right", no_wrap=True)
    for rows in zip(*judged.kept, strict=True):
        table.add_row(rows[0].probe, *(_folded(cell) if narrow else cell for cell in _cells(rows)))
    console.print(table)
    console.print(f"{'GO' if judged.verdict.go else 'NO-GO'}: {judged.verdict.line}")
    if judged.stored is not None:
        print_stored(judged.stored, judged.evaluation.config.metric)


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
