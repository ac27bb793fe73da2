"""How numbers read."""

import math

import pytest

from stillhouse.eval.formatting import count, digits, duration, fixed, percent, printable, score, shorten, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1, "1.00"),
        (0.012345, "0.0123"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.6, "1,235"),
        (9_994_000, "9,994,000"),
        (1.5e9, "1.50e+09"),
        (0.00002, "2.00e\u221205"),
        (-0.5, "\u22120.500"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (-math.inf, "\u2013"),
    ],
)
def test_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0421, "42.1 ms"),
        (14.24, "14.2 s"),
        (186.4, "3 min 06 s"),
        (3599.6, "1 h 00 min"),
        (100_000, "27 h 46 min"),
        (400_000, "4 d 15 h"),
        (math.nan, "\u2013"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 KB"), (39_200_768, "39.2 MB"), (None, "\u2013")],
)
def test_size(num_bytes: int | None, text: str) -> None:
    assert size(num_bytes).replace("\u00a0", " ") == text


def test_shares_and_scores() -> None:
    assert fixed(-1.25, 1) == "\u22121.2" and fixed(3, 2) == "3.00" and fixed(None, 1) == fixed(math.inf, 1) == "\u2013"
    assert percent(0.9314) == "93.1\u00a0%" and percent(None) == "\u2013"
    assert score(0.9314, as_percent=True) == "93.1" and score(0.4123, as_percent=False) == "0.412"
    assert score(0.0314, as_percent=True, signed=True) == "+3.1" and score(-0.1, as_percent=True) == "\u221210.0"
    assert score(math.nan, as_percent=True) == "\u2013"
    assert count(5_526_346) == "5,526,346" and count(None) == "\u2013"


def test_text_that_no_page_can_hold() -> None:
    assert printable("a\x00b\ud800c\tn\n\U0001f600") == "a\ufffdb\ufffdc\tn\n\U0001f600"
    assert shorten("short", 5) == "short" and shorten("too long", 5) == "too\u2026"
