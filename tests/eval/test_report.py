"""The report page: all parts, nothing but its own bytes, untrusted strings, numbers."""

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from sample_report import full, minimal, probe

from stillhouse.eval.break_even import BreakEven
from stillhouse.eval.report import MAX_QUARANTINED, render_report
from stillhouse.eval.report_data import (
    CodecChoice,
    LossCurve,
    PictureRow,
    PictureSheet,
    ProbeResult,
    Quarantined,
    ReportData,
    Score,
    SeedScores,
    SeedTable,
    StageCost,
    Verdict,
    Watch,
    WatchCurve,
)
from stillhouse.eval.report_json import report_json

NEIGHBOURS = full().neighbours
assert NEIGHBOURS is not None
HOSTILE = "<script>alert('x')</script>\"'&\x00\ud800"


class Page(HTMLParser):
    """Tags with their attributes, the text, and the balance of open tags."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', html)


def test_a_minimal_report_has_one_section() -> None:
    html = render_report(minimal())
    page = Page(html)
    assert sections(html) == ["retention"]
    assert "UNDECIDED" in page.text and "1,600 train and 400 test images" in page.text


def test_a_full_report_has_all_sections_in_order() -> None:
    html = render_report(full())
    want = [
        "retention",
        "tasks",
        "losses",
        "seeds",
        "neighbours",
        "pictures",
        "leakage",
        "published",
        "store",
        "codecs",
    ]
    want += ["models", "costs", "environment", "config"]
    assert sections(html) == want
    assert re.findall(r'<a href="#(\w+)"', html) == want


@pytest.mark.parametrize(
    "shown",
    [
        *("93.4", "[85.1, 89.1]", "93.3\u00a0%", "87.9\u00a0%", "+45.9", "[+42.9, +48.9]", "39.2\u00a0MB"),
        *("999\u00a0bytes", "80.0", "5,526,346", "3\u00a0min 06\u00a0s", "53.6", "[74.0, 100.0]"),
        *("Paid once for the store: 3\u00a0min 06\u00a0s", "1 sample left out"),
        *("57.6", "9.9", "0.98765", "1.3", "word : word.", "word chosen"),
    ],
)
def test_numbers_read_as_a_person_writes_them(shown: str) -> None:
    assert " ".join(shown.split()) in Page(render_report(full())).text


def test_where_lower_is_better_the_page_says_so() -> None:
    html = render_report(full())
    text = Page(html).text
    assert "\u2193 lower is better" in text and "RMSE in m (lower is better)" in text
    assert "+0.500 [+0.450, +0.550]" in text and "share of teacher = teacher ÷ student" in text
    assert "lower is better" not in Page(render_report(minimal())).text


def test_right_and_wrong_neighbours_differ_in_more_than_colour() -> None:
    data = full()
    assert data.neighbours is not None
    (row,) = data.neighbours.rows
    wrong = dataclasses.replace(row.neighbours[0][0], right=False)
    row = dataclasses.replace(row, neighbours=((row.neighbours[0][0], wrong), (wrong,)))
    page = Page(render_report(dataclasses.replace(data, neighbours=dataclasses.replace(data.neighbours, rows=(row,)))))
    assert "teacher : 1 of 2 right" in page.text and "word : 0 of 1 right" in page.text
    assert "✓ word 0.900 ✗ word 0.900" in page.text
    told = [(attributes["alt"] or "").split(":")[0] for tag, attributes in page.tags if tag == "img"]
    assert (told.count("Right"), told.count("Wrong")) == (1, 2)


def test_a_warning_is_a_sentence_and_a_line_in_both_charts() -> None:
    html = render_report(full())
    assert '<p class="warning"><strong>Warning</strong> word' in html
    assert html.count('stroke-dasharray="4 3"') == 2 * (2 + 1)  # losses and probes, and break-even; in two widths
    calm = dataclasses.replace(full(), watch=None, curves=())
    assert "losses" not in sections(render_report(calm))


def test_leakage_warns_and_says_how_much_is_not_shown() -> None:
    html = render_report(full())
    text = Page(html[html.index('<section id="leakage"') : html.index('<section id="published"')]).text
    assert "Warning word" in text and "no copies" in text and "1 of 12 pairs" in text and text.count("Warning") == 1


def test_break_even() -> None:
    text = Page(render_report(full())).text
    assert "paid for itself with student 3" in text and "at 2.50 students" in text and "Not measured" not in text
    first = BreakEven(once_s=1.0, student_s=1.0, student_images=100, teacher_rate=10.0)
    assert "with the first student" in Page(render_report(dataclasses.replace(full(), break_even=first))).text
    unknown = Page(render_report(dataclasses.replace(full(), break_even="no ledger"))).text
    assert "Not measured: no ledger." in unknown and "paid for itself" not in unknown


def test_a_further_student_costs_what_one_of_several_did() -> None:
    costs = StageCost(name="extract", seconds=100, once=True), StageCost(name="distill", seconds=90)
    text = Page(render_report(dataclasses.replace(minimal(), costs=costs, num_students=3))).text
    assert "Each further student from it: 30.0\u00a0s , the mean of 3" in text.replace(" s ", "\u00a0s ")


def test_published_numbers_stand_apart() -> None:
    html = render_report(dataclasses.replace(minimal(), probes=(probe("knn", 0.7, 0.6, 0.1),)))
    assert sections(html) == ["retention", "published"]
    text = Page(html).text
    assert "on other data and by their own protocol" in text and "79.0" in text and "0.449" not in text
    assert sections(render_report(minimal())) == ["retention"]


def test_the_tables_as_json() -> None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    data = dataclasses.replace(full(HOSTILE), run_name="r", watch=Watch(curves=(), warning="w"))
    found = json.loads(json.dumps(report_json(data), allow_nan=False), parse_constant=refuse)
    assert found["run_name"] == "r" and found["probes"][0]["teacher"] == pytest.approx(
        {"value": 0.934, "low": 0.924, "high": 0.944}
    )
    assert found["tasks"][1]["rows"][0]["higher_is_better"] is False
    assert found["pictures"]["rows"][0] == {"key": found["title"], "view": 1, "maps": [], "label": found["title"]}
    assert found["neighbours"]["rows"][0]["neighbours"][0][0]["right"] is True
    assert found["break_even"]["students"] == 3 and found["break_even"]["live_s"] == 40.0
    assert {row["task"] for row in found["published"]} > {"segmentation", "knn"}
    assert report_json(minimal())["probes"][0]["student"]["value"] is None  # was not a number


@pytest.mark.parametrize(("go", "word"), [(True, "GO"), (False, "NO-GO"), (None, "UNDECIDED")])
def test_the_verdict_is_a_word_not_only_a_colour(go: bool | None, word: str) -> None:
    html = render_report(dataclasses.replace(minimal(), verdict=Verdict(go=go, line="line", rule="rule")))
    assert f"<strong>{word}</strong> line" in html and "Rule: rule" in html


@pytest.mark.parametrize("make", [minimal, full])
def test_untrusted_strings_are_text(make: Callable[[str], ReportData]) -> None:
    harmless, hostile = (render_report(make(word)) for word in ("w" * len(HOSTILE), HOSTILE))
    shapes = [[(tag, sorted(attributes)) for tag, attributes in Page(html).tags] for html in (harmless, hostile)]
    assert shapes[0] == shapes[1]
    assert "<script>alert" not in hostile and "\x00" not in hostile
    hostile.encode("utf-8")


def test_the_page_loads_nothing_and_forbids_loading() -> None:
    html = render_report(full())
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert "src" not in attributes or re.match("data:image/(png|jpeg);base64,", attributes["src"] or "")
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in html and f"script-src 'sha256-{digest}'" in html


def test_the_same_data_give_the_same_page() -> None:
    assert render_report(full()) == render_report(full())


def test_what_is_not_a_number_is_a_dash() -> None:
    hole = ProbeResult(probe="a", metric="b", teacher=Score(math.nan), student=Score(math.inf), share=math.nan)
    data = dataclasses.replace(full(), probes=(hole,), costs=(StageCost(name="eval", seconds=math.nan),))
    text = Page(render_report(data)).text
    assert not re.search(r"\b(nan|inf|None)\b", text, re.IGNORECASE)


def test_a_long_quarantine_is_cut_and_counted() -> None:
    store = full().store
    assert store is not None
    lost = tuple(Quarantined(key=f"lost-{i}", reason="truncated") for i in range(MAX_QUARANTINED + 5))
    text = Page(render_report(dataclasses.replace(full(), store=dataclasses.replace(store, quarantined=lost)))).text
    assert "lost-99 " in text and "lost-100" not in text and "and 5 more" in text


def test_a_metric_with_its_own_unit_has_its_own_chart() -> None:
    depth = ProbeResult(probe="depth", metric="RMSE in m", teacher=Score(0.41), student=Score(0.63), percent=False)
    data = dataclasses.replace(minimal(), probes=(probe("kNN", 0.9, 0.8, 0.4), depth))
    html = render_report(data)
    assert html.count("<figure>") == 2
    assert "0.410" in Page(html).text and "RMSE in m, %" not in Page(html).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curves": (LossCurve(name="total", steps=[1], values=[]),)}, "loss curve 'total': 1 steps and 0 values"),
        (
            {"codecs": (CodecChoice(teacher="t", level="cls", choice="-", why="-", curve=()),)},
            "codec of t/cls: no candidates",
        ),
        (
            {
                "seeds": SeedTable(
                    seeds=(0, 1), rows=(SeedScores(probe="kNN", encoder="s", scores=(1,), mean=Score(1)),)
                )
            },
            "seed scores of 'kNN': 1 for 2 seeds",
        ),
        (
            {
                "pictures": PictureSheet(
                    encoders=("teacher",),
                    rows=(PictureRow(key="k", view=0, pixels=np.zeros((2, 2, 3), "u1"), maps=()),),
                )
            },
            "picture 'k': 0 maps for 1 encoders",
        ),
        (
            {"watch": Watch(curves=(WatchCurve(probe="knn", steps=[1], values=[]),))},
            "watched probe 'knn': 1 steps and 0 values",
        ),
        (
            {"neighbours": dataclasses.replace(NEIGHBOURS, encoders=("a",))},
            "neighbours of 'word': those of 2 for 1 encoders",
        ),
    ],
)
def test_lengths_that_differ_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_report(dataclasses.replace(full(), **change))
