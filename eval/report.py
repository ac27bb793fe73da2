"""The report: `ReportData` in, one self-contained HTML page out. Pure: the caller writes the text.

The page loads nothing: style, script, charts and pictures are in it, and its content security policy forbids the rest.
"""

import base64
import hashlib
import math
from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import formatting
from .break_even import BreakEven
from .pictures import Pixels, data_uri_photo, data_uri_png, match_colours, shrink, upscale_nearest
from .report_charts import bar_charts, break_even_chart, rate_chart, training_charts
from .report_data import PictureSheet, ReportData, Score, StageCost
from .report_json import published_of

MAP_PX = 224
PHOTO_PX = 256  # pictures are shrunk to this on their longer side
SMALL_PX = 160  # the same for those of a row of many
MAX_QUARANTINED = 100  # rows shown; the store itself holds the whole list


def render_report(data: ReportData) -> str:
    """`data` as one HTML document that can be encoded in UTF-8.

    Raises:
        ValueError: sequences that belong together differ in length (a loss curve, a seed's scores, picture maps).
    """
    for message in _faults(data):
        raise ValueError(message)
    environment = page_environment()
    script = environment.get_template("report.js").render()
    published, family = published_of(data)
    page = environment.get_template("report.html.j2").render(
        data=data,
        style=Markup(environment.get_template("report.css").render()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bar_charts=bar_charts(data.probes),
        task_charts=[bar_charts(section.rows) for section in data.tasks],
        picture_maps=_picture_maps(data.pictures) if data.pictures else [],
        training_charts=training_charts(data.curves, data.watch),
        rate_charts=[rate_chart(choice) for choice in data.codecs],
        break_even=data.break_even if isinstance(data.break_even, BreakEven) else None,
        break_even_chart=break_even_chart(data.break_even) if isinstance(data.break_even, BreakEven) else "",
        published=published,
        family=family,
        max_quarantined=MAX_QUARANTINED,
        total_s=sum(cost.seconds for cost in data.costs),
        once_s=sum(cost.seconds for cost in data.costs if cost.once),
    )
    return formatting.printable(page)


def page_environment() -> Environment:
    """Finds the templates; their filters say numbers as people do."""
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
        "photo": _photo,
        "small": _small,
    }
    return environment


def _faults(data: ReportData) -> Iterator[str]:
    """What does not fit together."""
    for what, curves in (("loss curve", data.curves), ("watched probe", data.watch.curves if data.watch else ())):
        for curve in curves:
            if len(curve.steps) != len(curve.values):
                name = getattr(curve, "name", None) or getattr(curve, "probe", "")
                yield f"{what} {name!r}: {len(curve.steps)} steps and {len(curve.values)} values"
    for codec in data.codecs:
        if not codec.curve:
            yield f"codec of {codec.teacher}/{codec.level}: no candidates"
    for row in data.seeds.rows if data.seeds else ():
        if data.seeds and len(row.scores) != len(data.seeds.seeds):
            yield f"seed scores of {row.probe!r}: {len(row.scores)} for {len(data.seeds.seeds)} seeds"
    for picture in data.pictures.rows if data.pictures else ():
        if data.pictures and len(picture.maps) != len(data.pictures.encoders):
            yield f"picture {picture.key!r}: {len(picture.maps)} maps for {len(data.pictures.encoders)} encoders"
    for near in data.neighbours.rows if data.neighbours else ():
        if data.neighbours and len(near.neighbours) != len(data.neighbours.encoders):
            num = len(data.neighbours.encoders)
            yield f"neighbours of {near.key!r}: those of {len(near.neighbours)} for {num} encoders"


def _picture_maps(sheet: PictureSheet) -> list[tuple[Pixels, ...]]:
    """The maps of each row, those of every encoder but the first recoloured to match the first one's."""
    columns = [[row.maps[index] for row in sheet.rows] for index in range(len(sheet.encoders))]
    matched = [match_colours(maps, columns[0]) for maps in columns]
    return [tuple(maps[number] for maps in matched) for number in range(len(sheet.rows))]


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
    """A map of few cells, each of them a square of whole pixels."""
    return data_uri_png(upscale_nearest(pixels, MAP_PX))


def _photo(pixels: Pixels) -> str:
    return data_uri_photo(shrink(pixels, PHOTO_PX))


def _small(pixels: Pixels) -> str:
    return data_uri_photo(shrink(pixels, SMALL_PX))
