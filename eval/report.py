"""The report: `ReportData` in, one self-contained HTML page out. Pure: the caller writes the text.

The page loads nothing: style, script, charts and pictures are in it, and its content security policy forbids the rest.
"""

import base64
import hashlib
import math
from collections.abc import Callable
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import formatting
from .charts import NARROW, WIDE, Bar, BarGroup, Dot, Series, bar_chart, dot_chart, line_chart
from .pictures import Pixels, data_uri_png, match_colours, upscale_nearest
from .rates import bound_line
from .report_data import CodecChoice, PictureSheet, ProbeResult, ReportData, Score, StageCost

PICTURE_PX = 224
MAX_QUARANTINED = 100  # rows shown; the store itself holds the whole list


def render_report(data: ReportData) -> str:
    """`data` as one HTML document that can be encoded in UTF-8.

    Raises:
        ValueError: sequences that belong together differ in length (a loss curve, a seed's scores, picture maps).
    """
    _check(data)
    environment = _environment()
    script = environment.get_template("report.js").render()
    page = environment.get_template("report.html.j2").render(
        data=data,
        style=Markup(environment.get_template("report.css").render()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bar_charts=_bar_charts(data.probes),
        picture_maps=_picture_maps(data.pictures) if data.pictures else [],
        loss_chart=_loss_chart(data) if data.curves else "",
        rate_charts=[_rate_chart(choice) for choice in data.codecs],
        max_quarantined=MAX_QUARANTINED,
        total_s=sum(cost.seconds for cost in data.costs),
        once_s=sum(cost.seconds for cost in data.costs if cost.once),
    )
    return formatting.printable(page)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stillhouse.eval", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "digits": formatting.digits,
        "fixed": formatting.fixed,
        "count": formatting.count,
        "percent": formatting.percent,
        "score": formatting.score,
        "size": formatting.size,
        "duration": formatting.duration,
        "sortkey": _sortkey,
        "interval": _interval,
        "rate": _rate,
        "png": _png,
    }
    return environment


def _check(data: ReportData) -> None:
    for curve in data.curves:
        if len(curve.steps) != len(curve.values):
            raise ValueError(f"loss curve {curve.name!r}: {len(curve.steps)} steps and {len(curve.values)} values")
    for codec in data.codecs:
        if not codec.curve:
            raise ValueError(f"codec of {codec.teacher}/{codec.level}: no candidates")
    for row in data.seeds.rows if data.seeds else ():
        if data.seeds and len(row.scores) != len(data.seeds.seeds):
            raise ValueError(f"seed scores of {row.probe!r}: {len(row.scores)} for {len(data.seeds.seeds)} seeds")
    for picture in data.pictures.rows if data.pictures else ():
        if data.pictures and len(picture.maps) != len(data.pictures.encoders):
            raise ValueError(
                f"picture {picture.key!r}: {len(picture.maps)} maps for {len(data.pictures.encoders)} encoders"
            )


def _bar_charts(probes: tuple[ProbeResult, ...]) -> list[Markup]:
    """One chart of all probes in per cent, and one for each metric that has its own unit."""
    axes: dict[str, list[ProbeResult]] = {}
    for probe in probes:
        axes.setdefault("score in per cent" if probe.percent else probe.metric, []).append(probe)
    names = ["teacher", "student", *(["untrained"] if any(probe.untrained for probe in probes) else [])]
    charts = []
    for axis, rows in axes.items():
        title = f"Scores of {', '.join(names)} for each probe: {axis}"
        groups = [BarGroup(row.probe, _bars(row)[: len(names)]) for row in rows]
        charts.append(_both_widths(partial(bar_chart, title, names, groups, as_percent=rows[0].percent)))
    return charts


def _bars(row: ProbeResult) -> list[Bar]:
    scores = (row.teacher, row.student, row.untrained)
    return [Bar(None) if one is None else Bar(one.value, one.low, one.high) for one in scores]


def _loss_chart(data: ReportData) -> Markup:
    series = [Series(curve.name, curve.steps, curve.values) for curve in data.curves]
    title = "Training loss of each objective over steps"
    return _both_widths(partial(line_chart, title, series, x_label="step", y_label="loss (log scale)", log_y=True))


def _rate_chart(codec: CodecChoice) -> Markup:
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
    return _both_widths(partial(dot_chart, title, names, dots, line, x_label=x_label, y_label="SNR in dB"))


def _picture_maps(sheet: PictureSheet) -> list[tuple[Pixels, ...]]:
    """The maps of each row, those of every encoder but the first recoloured to match the first one's."""
    columns = [[row.maps[index] for row in sheet.rows] for index in range(len(sheet.encoders))]
    matched = [match_colours(maps, columns[0]) for maps in columns]
    return [tuple(maps[number] for maps in matched) for number in range(len(sheet.rows))]


def _both_widths(draw: Callable[..., str]) -> Markup:
    """The chart drawn for a screen and for a telephone; the style shows one of them."""
    return Markup(
        f'<div class="chart wide">{draw(width=WIDE)}</div>\n<div class="chart narrow">{draw(width=NARROW)}</div>'
    )


def _interval(score: Score | None, as_percent: bool, signed: bool = False) -> str:
    """`[low, high]`, or nothing where an end is not known."""
    if score is None or score.low is None or score.high is None:
        return ""
    low, high = (formatting.score(end, as_percent=as_percent, signed=signed) for end in (score.low, score.high))
    return f"[{low}, {high}]"


def _sortkey(value: float | None) -> str:
    """What the page's script sorts by; empty sorts last."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _rate(cost: StageCost) -> float | None:
    return cost.num_images / cost.seconds if cost.num_images is not None and cost.seconds > 0 else None


def _png(pixels: Pixels) -> str:
    return data_uri_png(upscale_nearest(pixels, PICTURE_PX))
