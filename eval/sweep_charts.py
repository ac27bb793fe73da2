"""The charts of a sweep: the score over every value that was varied, and the looks at students as they were trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from .charts import Bar, BarGroup, Dot, Series, bar_chart, dot_chart, line_chart
from .formatting import score
from .report_charts import both_widths
from .scales import Scale, linear_scale, log_scale

MAX_CURVES = 8
MAX_BARS = 24
WIDE_RATIO = 8.0
"""An axis is logarithmic from so many times its least value on."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key that was varied: for each trial its value, as a number where it is one, and as shown; score in [0, 1]; rank."""

    name: str
    values: Sequence[float | None]
    shown: Sequence[str]
    scores: Sequence[float]
    ranks: Sequence[str]


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A student and its looks (step, score)."""

    name: str
    looks: Sequence[tuple[int, float]]


def axis_charts(axes: Sequence[Axis], y_label: str, teacher: float | None) -> list[tuple[str, Markup]]:
    """(caption, chart) of each key with two values or more: a dot a trial over numbers, else a bar a value."""
    charts = []
    for axis in axes:
        kinds = dict.fromkeys(axis.shown)
        numbers = [value for value in axis.values if value is not None]
        if len(kinds) > 1 and len(numbers) == len(axis.values):
            charts.append((f"{axis.name}: a dot a trial, by its rank", _dots(axis, numbers, y_label, teacher)))
        elif 1 < len(kinds) <= MAX_BARS:
            charts.append((f"{axis.name}: the mean of its trials, and from the worst to the best", _bars(axis, kinds)))
    return charts


def _dots(axis: Axis, numbers: Sequence[float], y_label: str, teacher: float | None) -> Markup:
    dots = [
        Dot(rank, x, 100 * y, f"rank {rank}: {axis.name} {shown}, {score(y, as_percent=True)}", marked=rank == "1")
        for x, y, shown, rank in zip(numbers, axis.scores, axis.shown, axis.ranks, strict=True)
    ]
    low, high = min(numbers), max(numbers)
    line = None if teacher is None else Series("teacher", [low, high], [100 * teacher] * 2)
    title = f"Score of every trial over {axis.name}"
    scale = _log_scale if low > 0 and high / low >= WIDE_RATIO else _linear_scale
    draw = partial(dot_chart, title, ("trial", "best"), dots, line, x_label=axis.name, y_label=y_label)
    return both_widths(partial(draw, x_scale_of=scale))


def _log_scale(values: Sequence[float], start_px: float, end_px: float) -> Scale:
    """With room for a dot beside the axis."""
    return log_scale([min(values) / 1.3, max(values) * 1.3], start_px, end_px)


def _linear_scale(values: Sequence[float], start_px: float, end_px: float) -> Scale:
    room = (max(values) - min(values)) / 12
    return linear_scale([min(values) - room, max(values) + room], start_px, end_px, snap=False)


def _bars(axis: Axis, kinds: Iterable[str]) -> Markup:
    groups = []
    for kind in kinds:
        scores = [one for one, shown in zip(axis.scores, axis.shown, strict=True) if shown == kind]
        bar = Bar(sum(scores) / len(scores), min(scores), max(scores))
        groups.append(BarGroup(kind, [bar]))
    title = f"Mean score over the trials of each {axis.name}"
    return both_widths(partial(bar_chart, title, ["mean"], groups, as_percent=True))


def looks_chart(students: Sequence[LookedAt]) -> Markup | None:
    """Looks over steps, of the first few that were looked at; None: nobody was."""
    looked = [one for one in students if one.looks][:MAX_CURVES]
    if not looked:
        return None
    series = [
        Series(one.name, [step for step, _ in one.looks], [100 * value for _, value in one.looks]) for one in looked
    ]
    title = "Looks at the students as they were trained"
    return both_widths(partial(line_chart, title, series, x_label="step", y_label="kNN of the look in per cent"))
