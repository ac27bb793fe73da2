"""The curve of a codec that was chosen by measuring: from the store's record to the page."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError
from stillhouse.eval.rates import LEAST_NMSE, bound_line, codec_choices
from stillhouse.eval.report import render_report
from stillhouse.eval.report_data import JudgedData, RatePoint, ReportData, Verdict
from stillhouse.storage.codecs.auto import Budget, Chosen, choose
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape
from stillhouse.storage.writer import commit_codecs


@pytest.fixture(scope="module")
def chosen() -> dict[str, Chosen]:
    """A choice for each level of a `StoreShape`; a channel of the patches is beyond fp16."""
    random = np.random.Generator(np.random.PCG64(5))
    found = {}
    for level, spec in LEVELS.items():
        tokens = random.standard_normal((64, spec.num_tokens, spec.dim)).astype(np.float32)
        tokens[:, :, 0] *= 1e5 if level == "patch" else 1
        found[level] = choose(tokens, Budget(max_nmse=0.1))
    return found


def make_store(root: Path, chosen: dict[str, Chosen], facts: dict[str, Any]) -> Store:
    """A store with the codecs of one teacher, and `facts` in their record."""
    shape = StoreShape(teachers={"tiny": "auto"})
    store = Store.create(root, shape.spec, shape.plan)
    store.add_teacher(shape.teacher("tiny"))
    statistics = {level: {name: np.zeros(spec.dim, "f4") for name in ("mean", "std")} for level, spec in LEVELS.items()}
    codecs = {level: one.codec for level, one in chosen.items()}
    commit_codecs(store, shape.teacher("tiny"), codecs, statistics, facts)
    return store


def page(store: Store) -> str:
    verdict, judged = (
        Verdict(go=None, line="-", rule="-"),
        JudgedData(name="-", num_train=1, num_test=1, split_rule="-"),
    )
    return render_report(
        ReportData(title="-", run_name="-", verdict=verdict, judged=judged, probes=(), codecs=codec_choices(store))
    )


def test_the_page_shows_every_candidate_and_why_one_was_chosen(tmp_path: Path, chosen: dict[str, Chosen]) -> None:
    html = page(make_store(tmp_path / "s", chosen, {"chosen": {level: one.to_json() for level, one in chosen.items()}}))
    assert '<section id="codecs">' in html and '<a href="#codecs">' in html
    for part, (level, one) in zip(html.split("<h3>")[1:], chosen.items(), strict=True):
        assert f"<bdi>tiny/{level}</bdi>" in part
        assert f"<b><bdi>{one.choice}</bdi></b>: {one.why}." in part
        assert part.count(f"<title>Signal to noise over bits of each candidate codec for tiny/{level}</title>") == 2
        for point in one.curve:
            mark = "<small>chosen</small>" if point.choice == one.choice else ""
            assert f"<bdi>{point.choice}</bdi>{mark}</th>" in part
            assert part.count(f">{point.choice}</text>") == 2  # for a screen and for a telephone
            assert f'data-value="{point.bits * LEVELS[level].dim / 8!r}"' in part
        assert part.count('font-weight="bold"') == 2
    assert "fp16" in chosen["patch"].dropped and f"<bdi>{chosen['patch'].dropped['fp16']}</bdi>" in html
    assert html.count("Dropped, because") == 1


def test_the_distance_to_the_bound_is_in_decibels(tmp_path: Path, chosen: dict[str, Chosen]) -> None:
    store = make_store(tmp_path / "s", chosen, {"chosen": {"cls": chosen["cls"].to_json()}})
    (shown,) = codec_choices(store)
    assert (shown.teacher, shown.level, shown.choice) == ("tiny", "cls", chosen["cls"].choice)
    for point, measured in zip(shown.curve, chosen["cls"].curve, strict=True):
        assert point.snr_db == pytest.approx(measured.snr_db)
        bound = max(measured.bound_nmse, LEAST_NMSE)
        assert point.short_db == pytest.approx(10 * math.log10(measured.nmse / bound))


def test_a_codec_named_by_hand_has_no_curve(tmp_path: Path, chosen: dict[str, Chosen], random_store: Store) -> None:
    assert codec_choices(random_store) == () == codec_choices(make_store(tmp_path / "s", chosen, {}))
    assert "codecs" not in page(random_store).partition("</style>")[2]


@pytest.mark.parametrize(
    "change",
    [
        *({"curve": []}, {"curve": "a"}, {"why": None}, {"dropped": [1]}),
        *(
            {"curve": [{"choice": "a", "bits": bits, "nmse": 1, "cosine": 1, "bound_nmse": 1, "leading_nmse": 1}]}
            for bits in (0, -1, "b")
        ),
    ],
)
def test_what_is_no_choice_is_refused(tmp_path: Path, chosen: dict[str, Chosen], change: dict[str, Any]) -> None:
    store = make_store(tmp_path / "s", chosen, {"chosen": {"cls": chosen["cls"].to_json() | change}})
    with pytest.raises(CorruptError, match=r"record of codecs/tiny in .*: `chosen` is not a choice of codecs"):
        codec_choices(store)


def test_the_bound_is_straight_in_bits_and_exact_at_the_candidates() -> None:
    curve = [
        RatePoint(choice="-", bits=bits, bytes_per_token=1, snr_db=0, leading_db=0, cosine=0, bound_db=decibels)
        for bits, decibels in ((4.0, 24.0), (1.0, 6.0), (2.0, 12.0), (2.0, 12.0))
    ]
    bits, decibels = bound_line(curve, num_between=2)
    assert bits == [1, 1.5, 2, 3, 4] and decibels == [6, 9, 12, 18, 24]
    assert bound_line(curve[:1]) == ([4.0], [24.0])
