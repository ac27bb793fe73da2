"""The table of results as a person reads it, and the same as JSON."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from stillhouse import summary
from stillhouse.eval.formatting import MISSING
from stillhouse.eval.kept import Kept, decide
from stillhouse.judging import Judged
from stillhouse.summary import as_json, print_table


def kept(probe: str, student: float, untrained: float, teacher: float = 0.8) -> Kept:
    gain, gap = student - untrained, teacher - untrained
    share, closed = student / teacher if teacher else math.nan, gain / gap if gap > 0 else math.nan
    ends = (teacher, teacher - 0.1, teacher + 0.1, student, student - 0.1, student + 0.1)
    return Kept(probe, *ends, untrained, share, closed, gain, gain - 0.05, gain + 0.05)


def judged(*seeds: tuple[Kept, ...]) -> Judged:
    """As much of a judgement as is printed."""
    evaluation: Any = SimpleNamespace(
        config=SimpleNamespace(metric="mean_per_class"), test=SimpleNamespace(keys=["key"] * 1234)
    )
    teacher: Any = SimpleNamespace(scores={"knn": {"top1": 0.8, "mean_per_class": 0.7}})
    return Judged(teacher, (), (), seeds, decide(seeds), tuple(range(len(seeds))), evaluation)


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in line.strip("│\n").split("│")]


def test_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(judged((kept("knn", 0.6, 0.4), kept("linear", 0.4, 0.8))))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mean per class on 1,234 held-out images"
    rows = [cells(line) for line in lines if line.startswith("│")]
    assert rows == [
        ["knn", "0.800", "0.600", "0.400", "75.0 %", "50.0 %", "+0.200 (+0.150 … +0.250)"],
        ["linear", "0.800", "0.400", "0.800", "50.0 %", MISSING, "-0.400 (-0.450 … -0.350)"],
    ]
    assert lines[-1] == (
        "NO-GO: linear: gained -0.400 over the untrained student (95 % interval -0.450 … -0.350, not above 0)"
    )
    assert "gain = student - untrained (95 % interval over the images)" in lines[-2]


def test_seeds_are_a_mean_and_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 0.6 and 0.7: mean 0.65, t(0.975, 1) = 12.706 times 0.0707 / sqrt(2)."""
    print_table(judged((kept("knn", 0.6, 0.4),), (kept("knn", 0.7, 0.4),)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mean per class on 1,234 held-out images, mean of 2 seeds ± 95 % t-interval"
    (row,) = [cells(line) for line in lines if line.startswith("│")]
    assert row == ["knn", "0.800", "0.650 ± 0.635", "0.400 ± 0.000", "81.2 %", "62.5 %", "+0.250 ± 0.635"]
    assert lines[-1] == "GO: the student keeps 81 % of its teacher and gains at least +0.150 over its untrained self"


def test_rows_stay_whole_in_a_narrow_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(judged((kept("logistic-proteus", 0.6, 0.4),)))
    assert "+0.200 (+0.150 … +0.250) │" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_terminal_of_80_columns_shows_every_digit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.setattr(summary, "results_console", lambda: Console(width=80, soft_wrap=True))
    print_table(judged(*[(kept("logistic-dinov2", 0.6, 0.4), kept("knn", 0.7, 0.9))] * seeds))
    table = capsys.readouterr().out.partition("of teacher = ")[0]
    assert max(map(len, table.splitlines()[1:])) <= 80
    digits = ["+0.200", "+0.150…+0.250"] if seeds == 1 else ["+0.200 ±", "0.000"]
    for word in ("logistic-dinov2", "untrained", "0.800", "0.600", "75.0", *digits):
        assert word in table
    assert "…" not in table.replace("0…", "")


def test_json_has_no_nan() -> None:
    told = as_json(judged((kept("knn", 0.6, 0.9, teacher=0.0),)))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["probes"][0][0]["share"] is told["probes"][0][0]["gap_closed"] is None
    assert (told["metric"], told["seeds"], told["go"]) == ("mean_per_class", [0], False)
    assert told["teacher"] == {"knn": {"top1": 0.8, "mean_per_class": 0.7}}
