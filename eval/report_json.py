"""The tables of a report as plain JSON values, for machines: what the page shows but for its pictures."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .break_even import BreakEven
from .formatting import printable
from .published import published_for
from .report_data import ReportData


def report_json(data: ReportData) -> dict[str, Any]:
    """`data` without pixels; NaN and infinities are null; published numbers and the break-even point are added."""
    found: dict[str, Any] = _plain(data)
    ran, family = published_of(data)
    found["published"] = [_plain(row) for row in (*ran, *family)]
    if isinstance(data.break_even, BreakEven):
        derived = {
            "live_s": data.break_even.live_s,
            "ratio": data.break_even.ratio,
            "students": data.break_even.students,
        }
        found["break_even"] |= _plain(derived)
    return found


def published_of(data: ReportData) -> tuple[list[Any], list[Any]]:
    """The published rows that belong to a report: (of tasks that ran, others of its teachers' families)."""
    tasks = [*(probe.probe for probe in data.probes), *(section.kind for section in data.tasks)]
    return published_for(tasks, [teacher.model for teacher in data.teachers])


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(each) for name, each in fields.items() if not _is_pixels(each)}
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value if not _is_pixels(each)]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (np.ndarray, np.integer)):
        return _plain(value.tolist())
    return [_plain(each) for each in value]  # ranges and other sequences


def _is_pixels(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3
