"""The charts of a report, each drawn for a screen and for a telephone."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from markupsafe import Markup

from . import formatting
from .break_even import BreakEven
from .charts import NARROW, WIDE, Bar, BarGroup, Dot, Series, bar_chart, dot_chart, line_chart
from .rates import bound_line
from .report_data import CodecChoice, LossCurve, ProbeResult, Watch

UNITS_S = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def bar_charts(probes: Sequence[ProbeResult]) -> list[tuple[str, Markup]]:
    """(caption, chart): one of all probes in per cent, and one for each metric that has its own unit or direction."""
    charts = []
    names = ["teacher", "student", *(["untrained"] if any(probe.untrained for probe in probes) else [])]
    for axis, group in groupby(sorted(probes, key=_axis_order(probes)), key=_axis):
        rows = list(group)
        title = f"Scores of {', '.join(names)} for each probe: {axis}"
        groups = [BarGroup(row.probe, _bars(row)[: len(names)]) for row in rows]
        chart = both_widths(partial(bar_chart, title, names, groups, as_percent=rows[0].percent))
        caption = "" if rows[0].percent and rows[0].higher_is_better else axis[:1].upper() + axis[1:]
        charts.append((caption, chart))
    return charts


def _axis(row: ProbeResult) -> str:
    unit = "score in per cent" if row.percent and row.higher_is_better else row.metric
    return unit if row.higher_is_better else f"{unit} (lower is better)"


def _axis_order(probes: Sequence[ProbeResult]) -> Callable[[ProbeResult], int]:
    """Axes in the order of their first rows, rows in their own order."""
    seen = list(dict.fromkeys(map(_axis, probes)))
    return lambda row: seen.index(_axis(row))


def _bars(row: ProbeResult) -> list[Bar]:
    scores = (row.teacher, row.student, row.untrained)
    return [Bar(None) if one is None else Bar(one.value, one.low, one.high) for one in scores]


def training_charts(curves: Sequence[LossCurve], watch: Watch | None) -> list[Markup]:
    """Losses over steps, and below them the probes that were run meanwhile, over the same axis."""
    lines = [Series(curve.name, curve.steps, curve.values) for curve in curves]
    probes = [_percent_series(one.probe, one.steps, one.values, one.percent) for one in watch.curves] if watch else []
    steps = [float(step) for one in (*lines, *probes) for step in one.xs]
    mark = (float(watch.warned_at), "warning") if watch and watch.warned_at is not None else None
    ends = (min(steps), max(steps)) if steps else ()
    draw = partial(line_chart, x_label="step", x_range=ends, mark=mark)
    charts = []
    if lines:
        title = "Training loss of each objective over steps"
        charts.append(both_widths(partial(draw, title, lines, y_label="loss (log scale)", log_y=True)))
    if probes and watch:
        percent = all(one.percent for one in watch.curves)
        label = "score of the student in per cent" if percent else "score of the student"
        charts.append(both_widths(partial(draw, "Probes of the student over training steps", probes, y_label=label)))
    return charts


def _percent_series(name: str, steps: Sequence[int], values: Sequence[float], percent: bool) -> Series:
    return Series(name, steps, [100 * value for value in values] if percent else values)


def rate_chart(codec: CodecChoice) -> Markup:
    """SNR over bits of every candidate, under the bound."""
    title = f"Signal to noise over bits of each candidate codec for {codec.teacher}/{codec.level}"
    dots = [
        Dot(
            point.choice,
            point.bits,
            point.snr_db,
            f"{point.choice}: {formatting.digits(point.bits)} bits, {formatting.digits(point.snr_db)} dB",
            marked=point.choice == codec.choice,
        )
        for point in codec.curve
    ]
    line = Series("Gaussian bound", *bound_line(codec.curve))
    names, x_label = ("candidate", "chosen"), "bits a dimension on disk (log2 scale)"
    return both_widths(partial(dot_chart, title, names, dots, line, x_label=x_label, y_label="SNR in dB"))


def break_even_chart(found: BreakEven) -> Markup:
    """What k students cost on either way, well past the point where the ways cross."""
    num = max(4, math.ceil(2 * found.ratio))
    step = math.ceil(num / 200)
    num_drawn = step * math.ceil(num / step)
    store, live = found.curves(num_drawn)
    unit, seconds = next((u for u in UNITS_S if max(*store, *live) >= 2 * u[1]), UNITS_S[-1])
    ks = list(range(0, num_drawn + 1, step))
    series = [
        Series("from the store", ks, [store[k] / seconds for k in ks]),
        Series("with a live teacher (reckoned)", ks, [live[k] / seconds for k in ks]),
    ]
    mark = (found.ratio, "the store is paid for")
    title = "Time for so many students, from the store and with a live teacher"
    return both_widths(partial(line_chart, title, series, x_label="students", y_label=unit, mark=mark))


def both_widths(draw: Callable[..., str]) -> Markup:
    """The chart drawn for a screen and for a telephone; the style shows one of them."""
    return Markup(
        f'<div class="chart wide">{draw(width=WIDE)}</div>\n<div class="chart narrow">{draw(width=NARROW)}</div>'
    )
