"""The report page: all parts, nothing but its own bytes, untrusted strings, numbers."""

import base64
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from stillhouse.eval.pictures import pca_rgb
from stillhouse.eval.report import MAX_QUARANTINED, render_report
from stillhouse.eval.report_data import (
    CodecChoice,
    ColumnFacts,
    JudgedData,
    LossCurve,
    PictureRow,
    PictureSheet,
    ProbeResult,
    Quarantined,
    RatePoint,
    ReportData,
    Score,
    SeedScores,
    SeedTable,
    StageCost,
    StoreFacts,
    StudentFacts,
    TeacherFacts,
    Verdict,
)

HOSTILE = "<script>alert('x')</script>\"'&\x00\ud800"


def probe(name: str, teacher: float, student: float, untrained: float) -> ProbeResult:
    return ProbeResult(
        probe=name,
        metric="mean per class",
        teacher=Score(teacher, teacher - 0.01, teacher + 0.01),
        student=Score(student, student - 0.02, student + 0.02),
        untrained=Score(untrained),
        share=student / teacher,
        gap_closed=(student - untrained) / (teacher - untrained),
        gain=Score(student - untrained, student - untrained - 0.03, student - untrained + 0.03),
    )


def minimal(word: str = "word") -> ReportData:
    return ReportData(
        title=word,
        run_name=word,
        verdict=Verdict(go=None, line=word, rule=word),
        judged=JudgedData(name=word, num_train=1600, num_test=400, split_rule=word),
        probes=(ProbeResult(probe=word, metric=word, teacher=Score(0.9), student=Score(math.nan)),),
    )


def full(word: str = "word") -> ReportData:
    """Every part filled, with `word` wherever a string goes."""
    rng = np.random.default_rng(0)
    maps = pca_rgb([rng.normal(size=(16, 8)) for _ in range(2)], [(4, 4)] * 2)
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return dataclasses.replace(
        minimal(word),
        verdict=Verdict(go=True, line=word, rule=word),
        probes=(probe(word, 0.934, 0.871, 0.412), probe("linear", 0.962, 0.918, 0.533), probe("10", 0.5, 0.99, 0.1)),
        curves=(LossCurve(name=word, steps=[0, 10], values=[2.0, 1.0]), LossCurve(name="x", steps=[], values=[])),
        seeds=SeedTable(
            seeds=(0, 1), rows=(SeedScores(probe=word, encoder=word, scores=(0.86, 0.88), mean=Score(0.87, 0.74, 1)),)
        ),
        pictures=PictureSheet(
            encoders=("teacher", word),
            rows=tuple(PictureRow(key=word, view=1, pixels=pixels, maps=(one, one), label=word) for one in maps),
        ),
        store=StoreFacts(
            path=word,
            store_id=word,
            format_version=word,
            num_samples=2000,
            num_blocks=16,
            num_views=5,
            content_digest=word,
            columns=(
                ColumnFacts(name=word, num_bytes=39_200_768, bytes_per_token=80.0, codec=word),
                ColumnFacts(name="images", num_bytes=999),
            ),
            quarantined=(Quarantined(key=word, reason=word),),
        ),
        codecs=(
            CodecChoice(
                teacher=word,
                level=word,
                choice=word,
                why=word,
                curve=(
                    RatePoint(
                        choice=word,
                        bits=1.2,
                        bytes_per_token=57.6,
                        snr_db=9.87,
                        leading_db=13.21,
                        cosine=0.98765,
                        bound_db=11.21,
                    ),
                    RatePoint(
                        choice="x", bits=16.1, bytes_per_token=772.8, snr_db=71, leading_db=72, cosine=1, bound_db=99
                    ),
                ),
                dropped={word: word},
            ),
        ),
        teachers=(TeacherFacts(name=word, model=word, weights_hash=word, preprocessing=word, licence=word),),
        student=StudentFacts(
            model=word, num_params=5_526_346, num_steps=6000, images_per_s=412.3, checkpoint_digest=word
        ),
        costs=(
            StageCost(name=word, seconds=186.4, num_images=10_000, once=True, note=word),
            StageCost(name="eval", seconds=0.0),
        ),
        environment={word: word},
        config_text=word,
        created=word,
    )


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
    want = ["retention", "losses", "seeds", "pictures", "store", "codecs", "models", "costs", "environment", "config"]
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
        assert "src" not in attributes or (attributes["src"] or "").startswith("data:image/png;base64,")
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
    ],
)
def test_lengths_that_differ_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_report(dataclasses.replace(full(), **change))
