"""Charts: always well-formed XML, nothing outside the picture, names escaped."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.eval.charts import (
    MAX_POINTS,
    NARROW,
    WIDE,
    Bar,
    BarGroup,
    Dot,
    Series,
    bar_chart,
    dot_chart,
    line_chart,
)
from stillhouse.eval.scales import HUGE, doubling_scale, linear_scale, log_scale

HOSTILE = "<script>alert(1)</script>\" ' & \x00\ud800"


def parse(svg: str) -> ElementTree.Element:
    """The parsed chart, after checking that no number in it is nan or infinite."""
    assert not re.search(r"\b(nan|inf)\b", re.sub(r">[^<]*<", "><", svg))
    return ElementTree.fromstring(svg)


def lines(series: list[Series], *, log_y: bool = False, width: int = WIDE) -> ElementTree.Element:
    return parse(line_chart("losses", series, x_label="step", y_label="loss", log_y=log_y, width=width))


def texts(root: ElementTree.Element) -> list[str]:
    return [found.text or "" for found in root.iter("text")]


def test_a_line_chart_names_its_series_and_axes() -> None:
    root = lines([Series("token", [0, 50, 100], [3.0, 2.0, 1.0]), Series("patch", [0, 100], [1.0, 0.5])])
    assert root[0].tag == "title" and root[0].text == "losses"
    assert root.get("role") == "img" and root.get("aria-label") == "losses"
    assert {"token", "patch", "step", "loss", "0", "100", "0.5", "3"} <= set(texts(root))
    assert len(list(root.iter("path"))) == 2
    assert "token: last 1.00" in [found.text for found in root.iter("title")]


def test_a_log_axis_ticks_at_one_two_five() -> None:
    shown = texts(lines([Series("total", [0, 1, 2], [4.0, 0.3, 0.11])], log_y=True))
    assert {"5", "2", "1", "0.5", "0.2", "0.1"} <= set(shown)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("log_y", [False, True])
def test_one_point_is_a_dot(width: int, log_y: bool) -> None:
    root = lines([Series("total", [7], [0.25])], log_y=log_y, width=width)
    assert len(list(root.iter("circle"))) == 1 and not list(root.iter("path"))
    assert root.get("viewBox", "").startswith(f"0 0 {width} ")


@pytest.mark.parametrize("ys", [[], [math.nan, math.inf, -math.inf]])
def test_nothing_to_draw_says_so(ys: list[float]) -> None:
    assert "no data" in texts(lines([Series("total", range(len(ys)), ys)]))
    assert "no data" in texts(lines([]))


def test_gaps_break_the_line_and_log_has_no_zero() -> None:
    series = [Series("total", range(7), [1.0, 2.0, math.nan, 3.0, 4.0, 0.0, 5.0])]
    (path,) = lines(series).iter("path")
    assert path.get("d", "").count("M") == 2
    (path,) = lines(series, log_y=True).iter("path")
    assert path.get("d", "").count("M") == 2  # and the last point is alone behind the zero
    assert len(list(lines(series, log_y=True).iter("circle"))) == 1


def test_a_constant_curve_is_in_the_middle() -> None:
    (path,) = lines([Series("total", [0, 1], [2.0, 2.0])]).iter("path")
    heights = {float(point.split()[1]) for point in path.get("d", "")[1:].split("L")}
    assert len(heights) == 1


def test_long_curves_become_bucket_means() -> None:
    num = 10 * MAX_POINTS
    (path,) = lines([Series("total", range(num), [1.0, 3.0] * (num // 2))]).iter("path")
    points = path.get("d", "")[1:].split("L")
    assert len(points) == MAX_POINTS
    assert len({point.split()[1] for point in points}) == 1


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        lines([Series("total", [0, 1], [1.0])])


def test_two_charts_share_an_axis_and_a_mark() -> None:
    def chart(xs: list[float], mark_x: float) -> tuple[set[str], str]:
        svg = line_chart(
            "t", [Series("a", xs, [1.0, 2.0])], x_label="step", y_label="y", x_range=(0, 1000), mark=(mark_x, "here")
        )
        root = parse(svg)
        (dashed,) = [line for line in root.iter("line") if line.get("stroke-dasharray")]
        assert "here" in texts(root)
        return {"0", "1,000"} & set(texts(root)), dashed.get("x1", "")

    (first, at), (second, same) = chart([0, 1000], 700), chart([100, 500], 700)
    assert first == second == {"0", "1,000"} and at == same
    assert chart([0, 1000], 2000)[1] != at  # a mark beyond the curves widens the axis


def test_names_are_escaped() -> None:
    for root in (
        parse(line_chart(HOSTILE, [Series(HOSTILE, [0, 1], [1, 2])], x_label=HOSTILE, y_label=HOSTILE)),
        parse(bar_chart(HOSTILE, [HOSTILE], [BarGroup(HOSTILE, [Bar(0.5, 0.4, 0.6)])])),
        dots([Dot(HOSTILE, 1, 1, HOSTILE, marked=True)], title=HOSTILE),
    ):
        assert not list(root.iter("script"))
        assert root[0].text == HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


def dots(
    found: list[Dot], bound: Series | None = None, *, title: str = "rates", width: int = WIDE
) -> ElementTree.Element:
    line = bound or Series("bound", [], [])
    names = ("candidate", "chosen")
    return parse(dot_chart(title, names, found, line, x_label="bits", y_label="dB", width=width))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_dot_chart_labels_every_dot_and_marks_one(width: int) -> None:
    found = [Dot(f"pq:{n}", 2.0 ** (n / 2), 3.0 * n, f"hover {n}", marked=n == 3) for n in range(6)]
    root = dots(found, Series("bound", [1, 2, 4], [5, 10, 99]), width=width)
    assert {"pq:0", "pq:5", "candidate", "chosen", "bound", "bits", "dB", "1", "2", "4"} <= set(texts(root))
    assert {f"hover {n}" for n in range(6)} <= {title.text for title in root.iter("title")}
    (marked,) = [group for group in root.iter("g") if group.get("font-weight") == "bold"]
    assert len(list(marked.iter("circle"))) == 2 and len(list(root.iter("circle"))) == 7
    (path,) = root.iter("path")
    assert path.get("d", "").count("L") == 1  # 99 dB is above the dots
    middle = [float(circle.get("cx", "")) for circle in root.iter("circle")]
    assert middle[2] - middle[0] == pytest.approx(middle[-1] - middle[-3], abs=0.2)  # an octave each


def test_a_line_off_the_dots_is_named_so() -> None:
    root = dots([Dot("a", 1, 1, ""), Dot("b", 2, 3, "")], Series("bound", [1, 2], [50, 60]))
    assert "bound (off this chart)" in texts(root) and not list(root.iter("path"))


@pytest.mark.parametrize("found", [[], [Dot("a", 0, 1, "")], [Dot("a", 1, math.nan, "")]])
def test_dots_without_a_place_are_refused(found: list[Dot]) -> None:
    with pytest.raises(ValueError, match="rates: every dot needs an x above 0 and a y"):
        dots(found)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(-300, 300)), min_size=1, max_size=5))
def test_dots_and_labels_are_in_the_picture(points: list[tuple[float, float]]) -> None:
    root = dots([Dot(str(n), *point, "", marked=n == 0) for n, point in enumerate(points)], width=NARROW)
    width, height = (float(number) for number in root.get("viewBox", "").split()[2:])
    for found, x, y in [("circle", "cx", "cy"), ("text", "x", "y"), ("line", "x1", "y1"), ("line", "x2", "y2")]:
        for one in root.iter(found):
            assert 0 <= float(one.get(x, "")) <= width and 0 <= float(one.get(y, "")) <= height


NAMES = ["teacher", "student", "untrained"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_bar_chart_shows_values_and_error_bars(width: int) -> None:
    group = BarGroup("kNN", [Bar(0.934, 0.92, 0.95), Bar(0.871), Bar(None)])
    root = parse(bar_chart("scores", NAMES, [group], as_percent=True, width=width))
    assert {*NAMES, "kNN", "93.4", "87.1", "\u2013", "0\u00a0%", "100\u00a0%"} <= set(texts(root))
    assert len(list(root.iter("path"))) == 2  # one whisker and its halo
    assert "kNN, teacher: 93.4 [92.0, 95.0]" in [found.text for found in root.iter("title")]
    teacher, student = [found for found in root.iter("rect") if found.get("height") == "16"]
    assert float(teacher.get("width", "")) / float(student.get("width", "")) == pytest.approx(0.934 / 0.871, rel=1e-3)


def test_bars_below_zero_go_left() -> None:
    group = BarGroup("R2", [Bar(0.5), Bar(-0.5), Bar(math.nan)])
    root = parse(bar_chart("scores", NAMES, [group]))
    teacher, student = [found for found in root.iter("rect") if found.get("height") == "16"]
    assert float(student.get("x", "")) + float(student.get("width", "")) == pytest.approx(float(teacher.get("x", "")))


def test_no_bars_and_the_wrong_number_of_bars() -> None:
    parse(bar_chart("scores", NAMES, []))
    with pytest.raises(ValueError, match="needs 3 bars"):
        bar_chart("scores", NAMES, [BarGroup("kNN", [Bar(1.0)])])


@given(st.lists(st.floats(), max_size=8), st.booleans())
def test_any_numbers_make_a_picture_within_its_box(ys: list[float], log_y: bool) -> None:
    root = lines([Series("total", range(len(ys)), ys)], log_y=log_y)
    width, height = (float(number) for number in root.get("viewBox", "").split()[2:])
    for path in root.iter("path"):
        for point in re.split("[ML]", path.get("d", ""))[1:]:
            x, y = (float(number) for number in point.split())
            assert 0 <= x <= width and 0 <= y <= height
    parse(bar_chart("scores", ["total"], [BarGroup(str(y), [Bar(y, y, y)]) for y in ys]))


@given(st.lists(st.floats(-HUGE, HUGE), min_size=1, max_size=5))
def test_a_linear_scale_holds_its_values_and_has_few_round_ticks(values: list[float]) -> None:
    scale = linear_scale(values, 0, 100)
    slack = max(1e-6 * (scale.high - scale.low), 1e-290)
    assert scale.low - slack <= min(values) and max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 9
    assert all(-1e-6 <= scale.at(value) <= 100 + 1e-6 for value in values)


@given(st.lists(st.floats(1e-300, HUGE), min_size=1, max_size=5))
def test_a_log_scale_holds_its_values_and_has_few_round_ticks(values: list[float]) -> None:
    scale = log_scale(values, 0, 100)
    assert scale.low <= min(values) * (1 + 1e-9) and max(values) <= scale.high * (1 + 1e-9)
    assert 1 <= len(scale.ticks) <= 7
    assert all(re.fullmatch(r"[125](\.0)?(e[+-]?\d+)?|[125]0*(\.0)?|0\.0*[125]", repr(tick)) for tick in scale.ticks)


@given(st.lists(st.floats(1e-300, HUGE), min_size=1, max_size=5))
def test_a_doubling_scale_holds_its_values_and_has_few_ticks(values: list[float]) -> None:
    scale = doubling_scale(values, 0, 100)
    assert scale.low < min(values) and max(values) < scale.high
    assert 1 <= len(scale.ticks) <= 9
    assert all(math.log2(tick).is_integer() and scale.low <= tick <= scale.high for tick in scale.ticks)
