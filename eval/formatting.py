"""How numbers and untrusted text read in a report: three digits, a unit after a space that does not break."""

import math
import re

MISSING = "\u2013"
MINUS = "\u2212"
NBSP = "\u00a0"

# What neither XML 1.0 nor UTF-8 can hold: control characters and lone surrogates (undecodable file names).
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """`text` with every character that XML or UTF-8 cannot hold replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shorten(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, the last of them an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "\u2026"


def digits(value: float | None) -> str:
    """Three significant digits; whole digits are never dropped (1,234); a dash for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return MISSING
    rounded = abs(float(f"{value:.3g}"))
    if rounded == 0:
        return "0"
    if not 1e-4 <= rounded < 1e7:
        return f"{value:.2e}".replace("-", MINUS)
    decimals = max(0, 2 - math.floor(math.log10(rounded)))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def fixed(value: float | None, decimals: int) -> str:
    """So many decimals, so that a column lines up."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{decimals}f}".replace("-", MINUS)


def count(value: int | None) -> str:
    """An exact whole number with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """A fraction as per cent with one decimal, so that a column lines up: 0.931 -> 93.1 %."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{fixed(value * 100, 1)}{NBSP}%"


def score(value: float | None, *, as_percent: bool, signed: bool = False) -> str:
    """A probe's score without a unit: hundredfold with one decimal where `as_percent`, else three digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = fixed(value * 100, 1) if as_percent else digits(value)
    return f"+{text}" if signed and value >= 0 else text


def size(num_bytes: int | None) -> str:
    """A number of bytes in decimal units: 1.23 GB."""
    if num_bytes is None:
        return MISSING
    value, unit = float(num_bytes), "bytes"
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count(num_bytes) if unit == 'bytes' else digits(value)}{NBSP}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 850 ms, 12.3 s, 4 min 05 s, 3 h 12 min, 2 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{digits(seconds * 1000)}{NBSP}ms"
    if seconds < 100:
        return f"{digits(seconds)}{NBSP}s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest_s:02d}{NBSP}s"
    hours, rest_min = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}{NBSP}h {rest_min:02d}{NBSP}min"
    return f"{count(hours // 24)}{NBSP}d {hours % 24}{NBSP}h"
