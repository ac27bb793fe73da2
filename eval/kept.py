"""What a student kept of its teacher on each probe, and whether that is worth having.

Legend: R resamplings, N test images, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .config import EvalConfig
from .judged import Judgement
from .probe import IntArray
from .report_data import Verdict
from .retention import Interval, ProbeRetention, retention

RULE = (
    "GO when, on every probe and task and for every seed, the student beats its untrained self: the lower end of the 95 % "
    "interval of the gain, from a paired bootstrap over the test images, is above 0"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One probe: scores of teacher, student and untrained student, what was kept, what was gained."""

    probe: str
    teacher: float
    teacher_low: float
    teacher_high: float
    student: float
    student_low: float
    student_high: float
    untrained: float
    share: float
    """Student over teacher, or teacher over student where lower is better."""
    gap_closed: float
    """(student - untrained) over (teacher - untrained)."""
    gain: float
    """Student minus untrained, or the other way round where lower is better; its ends from a paired bootstrap."""
    gain_low: float
    gain_high: float
    metric: str = "top1"
    percent: bool = True
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values; null where a share has no meaning (JSON has no NaN)."""
        found = asdict(self)
        return {name: None if isinstance(it, float) and math.isnan(it) else it for name, it in found.items()}


def keep(
    config: EvalConfig, labels_N: IntArray, teacher: Judgement, student: Judgement, untrained: Judgement
) -> tuple[Kept, ...]:
    """Retention on every probe of a student, by the metric of the config."""
    found = retention(
        student.predictions,
        teacher.predictions,
        untrained.predictions,
        labels_N,
        metric=config.metric,
        seed=config.seed,
        num=config.bootstrap,
    )
    return tuple(flat(row) for row in found.probes)


def flat(row: ProbeRetention) -> Kept:
    """Retention on one probe or task as one row of numbers."""
    return Kept(
        row.probe,
        *_ends(row.teacher),
        *_ends(row.student),
        row.untrained.value,
        _or_nan(row.share_of_teacher),
        _or_nan(row.gap_closed),
        *_ends(row.gain),
        row.metric,
        row.percent,
        row.higher_is_better,
    )


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def decide(kept: Sequence[Sequence[Kept]]) -> Verdict:
    """The go / no-go line over all seeds and probes."""
    rows = [(number, row) for number, probes in enumerate(kept, 1) for row in probes]
    failed = [(number, row) for number, row in rows if not row.gain_low > 0]
    if failed:
        number, row = failed[0]
        which = f", student {number}" if len(kept) > 1 else ""
        more = f"; {len(failed) - 1} more like it" if len(failed) > 1 else ""
        interval = f"95 % interval {row.gain_low:+.3f} … {row.gain_high:+.3f}, not above 0"
        line = f"{row.probe}{which}: gained {row.gain:+.3f} over the untrained student ({interval}){more}"
        return Verdict(go=False, line=line, rule=RULE)
    lowest = min(row.gain_low for _, row in rows)
    shares = [row.share for _, row in rows if not math.isnan(row.share)]
    share = f"keeps {100 * float(np.mean(shares)):.0f} % of its teacher and " if shares else ""
    line = f"the student {share}gains at least {lowest:+.3f} over its untrained self"
    return Verdict(go=True, line=line, rule=RULE)
