"""Charts as inline SVG text: pure functions, no libraries, no script.

Colours are CSS variables with a fallback (`--ink`, `--muted`, `--grid`, `--series-0` ...), so the page around a chart
decides light and dark. Without an xmlns the text is for use inside HTML, where none is needed. All names are escaped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard
from xml.sax.saxutils import escape, quoteattr

from .formatting import MINUS, MISSING, digits, printable, score, shorten
from .labels import Box, place
from .scales import HUGE, Scale, doubling_scale, linear_scale, log_scale

WIDE, NARROW = 840, 360
FONT_PX, CHAR_PX = 12, 6.4  # the width of a character is a guess for layout; nothing depends on it being right
MAX_POINTS = 300
APART_PX = 9.0  # a label farther from its dot gets a line to it
SERIES = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#00838f", "#8d6e3f", "#596273")
BARS = ("#4a5568", "#2b6cb0", "#b7c0cc")
ScaleOf = Callable[[Sequence[float], float, float], Scale]
"""Values and the ends of an axis in pixels -> the axis."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `xs` and `ys` of equal length; a NaN or infinite y is a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `low` and `high` are the ends of its error bar; a value of None or NaN is drawn as a dash."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class BarGroup:
    """The bars of one probe, in the order of the chart's `names`."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Dot:
    """One labelled dot; `hover` is what it tells of itself."""

    name: str
    x: float
    y: float
    hover: str
    marked: bool = False


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    x_range: Sequence[float] = (),
    mark: tuple[float, str] | None = None,
    width: int = WIDE,
) -> str:
    """An SVG of all series on shared axes; on a log axis values <= 0 are gaps; curves are thinned to bucket means.

    Args:
        x_range: xs that the axis must hold beside those of the series, so that two charts can share one.
        mark: (x, name) of an upright line.

    Raises:
        ValueError: a series whose xs and ys differ in length.
    """
    thinned = [_thin(one, log_y) for one in series]
    points = [(x, y) for one in thinned for x, y in zip(one.xs, one.ys, strict=True) if math.isfinite(y)]
    legend, top = _legend([one.name for one in series], [_series(i) for i in range(len(series))], width)
    height = top + (320 if width >= WIDE else 250)
    if not points:
        return _svg(title, width, height, [*legend, _text(width / 2, height / 2, "no data", anchor="middle")])
    left, right, top, bottom = 58.0, width - 14.0, top + 32.0, height - 44.0
    y_scale = (log_scale if log_y else linear_scale)([y for _, y in points], bottom, top)
    xs = [*(x for x, _ in points), *x_range, *([mark[0]] if mark else [])]
    x_scale = linear_scale(xs, left, right, snap=False, num_ticks=8 if width >= WIDE else 4)
    parts = [*legend, *_axes(x_scale, y_scale, x_label, y_label)]
    if mark is not None:
        parts += _upright(x_scale.at(mark[0]), top, bottom, mark[1], (left + right) / 2)
    parts += [_curve(one, x_scale.at, y_scale.at, _series(i), i) for i, one in enumerate(thinned)]
    return _svg(title, width, height, parts)


def bar_chart(
    title: str, names: Sequence[str], groups: Sequence[BarGroup], *, as_percent: bool = False, width: int = WIDE
) -> str:
    """An SVG of horizontal bars, one group a probe; with `as_percent` scores in [0, 1] are shown on a 0-100 axis.

    Raises:
        ValueError: a group with another number of bars than there are names.
    """
    if any(len(group.bars) != len(names) for group in groups):
        raise ValueError(f"every group needs {len(names)} bars, one for each of {list(names)}")
    legend, y = _legend(names, [_bar(i) for i in range(len(names))], width)
    left = 190.0 if width >= WIDE else 16.0
    ends = [end for group in groups for bar in group.bars for end in (bar.value, bar.low, bar.high) if _is_number(end)]
    scale = linear_scale([0.0, *([1.0] if as_percent else []), *ends], left, width - 56.0)
    top, y = y + 8, y + 16
    bars: list[str] = []
    for group in groups:
        if width >= WIDE:
            label_y = y + (len(names) * 20 - 4) / 2 + 4
            bars.append(_text(left - 14, label_y, shorten(group.label, 24), anchor="end", full=group.label))
        else:
            bars.append(_text(left + 5, y + 8, shorten(group.label, 48), full=group.label))
            y += 16
        for index, (name, bar) in enumerate(zip(names, group.bars, strict=True)):
            bars.append(_one_bar(name, group.label, bar, scale, y, _bar(index), as_percent))
            y += 20
        y += 16
    axis: list[str] = []
    for value in scale.ticks:
        x = scale.at(value)
        axis.append(_line(x, top, x, y - 4, "grid"))
        label = f"{_tick(value * 100)}\u00a0%" if as_percent else _tick(value)
        axis.append(_text(x, y + 14, label, anchor="middle", muted=True))
    return _svg(title, width, y + 22, [*legend, *axis, *bars, _line(scale.at(0), top, scale.at(0), y - 4, "muted")])


def _one_bar(name: str, group: str, bar: Bar, scale: Scale, y: float, colour: str, as_percent: bool) -> str:
    zero = scale.at(0)
    if not _is_number(bar.value):
        return _text(zero + 6, y + 12, MISSING, muted=True)
    end = scale.at(bar.value)
    shown = score(bar.value, as_percent=as_percent)
    parts = [
        f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="16" rx="2" fill="{colour}"/>'
    ]
    edge = max(zero, end)
    if _is_number(bar.low) and _is_number(bar.high):
        low, high = scale.at(bar.low), scale.at(bar.high)
        edge = max(edge, high)
        whisker = f"M{low:.1f} {y + 4}v8m0 -4H{high:.1f}m0 -4v8"
        for edge_colour, fallback, thick in (
            ("paper", "#fff", 3.5),
            ("ink", "#1c2430", 1.2),
        ):  # a halo: seen on any bar
            stroke = f"var(--{edge_colour}, {fallback})"
            parts.append(f'<path d="{whisker}" fill="none" stroke="{stroke}" stroke-width="{thick}"/>')
        shown_range = f" [{score(bar.low, as_percent=as_percent)}, {score(bar.high, as_percent=as_percent)}]"
    else:
        shown_range = ""
    parts.append(_text(edge + 6, y + 12, shown))
    hover = _escape(f"{group}, {name}: {shown}{shown_range}")
    return f"<g><title>{hover}</title>{''.join(parts)}</g>"


def dot_chart(
    title: str,
    names: tuple[str, str],
    dots: Sequence[Dot],
    line: Series | None,
    *,
    x_label: str,
    y_label: str,
    x_scale_of: ScaleOf = doubling_scale,
    width: int = WIDE,
) -> str:
    """An SVG of labelled dots, and of a thin line where it is as high as they are; `names` of dots and marked dots.

    Args:
        x_scale_of: makes the axis; over a log2 axis if nothing is said.

    Raises:
        ValueError: no dots, or one that is not a number or, over a log2 axis, not above 0 in x.
    """
    above = 0.0 if x_scale_of is doubling_scale else -math.inf
    if not dots or not all(_is_number(dot.x) and dot.x > above and _is_number(dot.y) for dot in dots):
        raise ValueError(f"{title}: every dot needs an x above 0 and a y")
    room = (max(dot.y for dot in dots) - min(dot.y for dot in dots)) / 12 or 1.0  # for labels below and above
    low, high = min(dot.y for dot in dots) - room, max(dot.y for dot in dots) + room
    drawn = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if low <= y <= high] if line else []
    line_names = [line.name if len(drawn) > 1 else f"{line.name} (off this chart)"] if line else []
    colours = [_series(0), _series(1), "var(--muted, #5c6675)"]
    legend, top = _legend([*names, *line_names], colours[: 2 + len(line_names)], width)
    height = top + (380 if width >= WIDE else 440)
    left, right, top, bottom = 58.0, width - 14.0, top + 32.0, height - 44.0
    y_scale = linear_scale([low, high], bottom, top, snap=False)
    x_scale = x_scale_of([dot.x for dot in dots], left, right)
    parts = [*legend, *_axes(x_scale, y_scale, x_label, y_label)]
    way = [(x_scale.at(x), y_scale.at(y)) for x, y in drawn]
    if len(way) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in way)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colours[2]}" stroke-width="1"/>')
    at = [(x_scale.at(dot.x), y_scale.at(dot.y)) for dot in dots]
    sizes = [
        (len(dot.name) * CHAR_PX + (16 if dot.marked else 6), FONT_PX + (10.0 if dot.marked else 2.0)) for dot in dots
    ]
    boxes = place(at, sizes, Box(left, top - 8, right, bottom - 2), way)
    marks = [_one_dot(dot, *point, box, colours[dot.marked]) for dot, point, box in zip(dots, at, boxes, strict=True)]
    return _svg(title, width, height, [*parts, *(leader for leader, _ in marks), *(mark for _, mark in marks)])


def _one_dot(dot: Dot, x: float, y: float, box: Box, colour: str) -> tuple[str, str]:
    """The line to a label that lies apart, to be drawn below all; and the dot with its label."""
    end_x, end_y = box.nearest(x, y)
    leader = _line(x, y, end_x, end_y, "muted") if math.dist((x, y), (end_x, end_y)) > APART_PX else ""
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7.5" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    parts = [
        f"<title>{_escape(dot.hover)}</title>",
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
        ring if dot.marked else "",
        _text((box.left + box.right) / 2, (box.top + box.bottom) / 2 + 4, dot.name, anchor="middle"),
    ]
    weight = ' font-weight="bold"' if dot.marked else ""
    return leader, f"<g{weight}>{''.join(parts)}</g>"


def _axes(x_scale: Scale, y_scale: Scale, x_label: str, y_label: str) -> list[str]:
    """Ticks, lines and names of both axes."""
    left, right, top, bottom = x_scale.start_px, x_scale.end_px, y_scale.end_px, y_scale.start_px
    parts = [_text(0, top - 14, y_label, muted=True)]
    for value in y_scale.ticks:
        y = y_scale.at(value)
        parts += [_line(left, y, right, y, "grid"), _text(left - 8, y + 4, _tick(value), anchor="end", muted=True)]
    parts.append(_line(left, bottom, right, bottom, "muted"))
    for value in x_scale.ticks:
        x = x_scale.at(value)
        label = _text(x, bottom + 18, _tick(value), anchor="middle", muted=True)
        parts += [_line(x, bottom, x, bottom + 4, "muted"), label]
    return [*parts, _text(right, bottom + 38, x_label, anchor="end", muted=True)]


def _upright(x: float, top: float, bottom: float, name: str, middle: float) -> list[str]:
    """A dashed line from top to bottom, with its name on the side that has more room."""
    style = 'stroke="var(--muted, #5c6675)" stroke-width="1.4" stroke-dasharray="4 3"'
    line = f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" {style}/>'
    anchor, away = ("end", -6) if x > middle else ("start", 6)
    return [line, _text(x + away, top + 14, name, anchor=anchor)]


def _curve(series: Series, x_at: Callable[[float], float], y_at: Callable[[float], float], colour: str, i: int) -> str:
    """The series as paths between gaps; a point with a gap on both sides becomes a dot."""
    dash = ' stroke-dasharray="5 3"' if i >= len(SERIES) else ""
    runs: list[list[str]] = [[]]
    last = math.nan
    for x, y in zip(series.xs, series.ys, strict=True):
        if math.isfinite(y):
            runs[-1].append(f"{x_at(x):.1f} {y_at(y):.1f}")
            last = y
        elif runs[-1]:
            runs.append([])
    lines = "".join("M" + "L".join(run) for run in runs if len(run) > 1)
    dots = [run[0].split() for run in runs if len(run) == 1]
    parts = [f"<title>{_escape(series.name)}: last {digits(last)}</title>"]
    if lines:
        style = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"{dash}'
        parts.append(f'<path d="{lines}" {style}/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in dots]
    return f"<g>{''.join(parts)}</g>"


def _thin(series: Series, log_y: bool) -> Series:
    """At most MAX_POINTS points: the mean of the drawable ys of each run of neighbours, at the middle x."""
    pairs = [(float(x), float(y)) for x, y in zip(series.xs, series.ys, strict=True) if _is_number(x)]
    pairs = [(x, y if _is_number(y) and (y > 0 or not log_y) else math.nan) for x, y in pairs]
    step = math.ceil(len(pairs) / MAX_POINTS) or 1
    xs, ys = [], []
    for start in range(0, len(pairs), step):
        run = pairs[start : start + step]
        drawable = [y for _, y in run if math.isfinite(y)]
        xs.append(run[len(run) // 2][0])
        ys.append(math.fsum(drawable) / len(drawable) if drawable else math.nan)
    return Series(series.name, xs, ys)


def _legend(names: Sequence[str], colours: Sequence[str], width: int) -> tuple[list[str], float]:
    """Swatches and names in rows from the top left; and the y where the chart may begin."""
    parts, x, y = [], 0.0, 16.0
    for name, colour in zip(names, colours, strict=True):
        shown = shorten(name, 40)
        needed = 18 + len(shown) * CHAR_PX + 18
        if x > 0 and x + needed > width + 18:
            x, y = 0.0, y + 20
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="11" height="11" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 17, y + 1, shown, full=name))
        x += needed
    return parts, y + 10


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" font-size="{FONT_PX}" role="img"'
    return f"<svg {box} aria-label={_quote(title)}><title>{_escape(title)}</title>{''.join(parts)}</svg>"


def _text(x: float, y: float, text: str, *, anchor: str = "start", muted: bool = False, full: str = "") -> str:
    colour = "var(--muted, #5c6675)" if muted else "var(--ink, #1c2430)"
    hover = f"<title>{_escape(full)}</title>" if full and full != text else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{hover}{_escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--{colour}, #889)"/>'


def _tick(value: float) -> str:
    """A round number without the dust of binary fractions."""
    return f"{value:,.10g}".replace("-", MINUS)


def _series(index: int) -> str:
    return f"var(--series-{index % len(SERIES)}, {SERIES[index % len(SERIES)]})"


def _bar(index: int) -> str:
    return f"var(--bar-{index % len(BARS)}, {BARS[index % len(BARS)]})"


def _is_number(value: float | None) -> TypeGuard[float]:
    """Whether `value` can be drawn."""
    return value is not None and abs(value) <= HUGE  # False for NaN


def _escape(text: str) -> str:
    return escape(printable(text))


def _quote(text: str) -> str:
    return quoteattr(printable(text))
