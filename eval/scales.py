"""Axis scales for charts: where a value lies in pixels, and which round values get a tick."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TINY = 1e-300  # smaller differences underflow on the way to a tick
HUGE = 1e300  # larger values overflow


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from [low, high] to [start_px, end_px], in logarithms where `log`."""

    low: float
    high: float
    start_px: float
    end_px: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of `value`; values outside the scale are put on its nearer end."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, self._clip(value)))
        return self.start_px + (value - low) / (high - low) * (self.end_px - self.start_px)

    def _clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def linear_scale(
    values: Sequence[float], start_px: float, end_px: float, *, snap: bool = True, num_ticks: int = 5
) -> Scale:
    """A scale over `values` (at least one, each within +-HUGE); with `snap` it begins and ends on a tick."""
    low, high = min(values), max(values)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), TINY):
        pad = abs(low) / 10 or 0.5
        low, high = low - pad, high + pad
    step = _round_step((high - low) / num_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * index for index in range(first, last + 1)]
    if snap:
        return Scale(ticks[0], ticks[-1], start_px, end_px, tuple(ticks))
    slack = 1e-9 * (high - low)
    return Scale(low, high, start_px, end_px, tuple(t for t in ticks if low - slack <= t <= high + slack))


def log_scale(values: Sequence[float], start_px: float, end_px: float, *, num_ticks: int = 7) -> Scale:
    """A scale over positive `values` (at least one, none above HUGE) from and to 1, 2 or 5 times a power of ten."""
    first = _ladder_index(max(min(values), TINY), up=False)
    last = _ladder_index(max(*values, TINY), up=True)
    last = max(last, first + 1)
    rungs = list(range(first, last + 1))
    if len(rungs) > num_ticks:  # only powers of ten, and of those as few as needed
        decades = [rung for rung in rungs if rung % 3 == 0]
        rungs = decades[:: math.ceil(len(decades) / num_ticks)]
    return Scale(_rung(first), _rung(last), start_px, end_px, tuple(_rung(rung) for rung in rungs), log=True)


def doubling_scale(values: Sequence[float], start_px: float, end_px: float, *, num_ticks: int = 9) -> Scale:
    """A scale over positive `values` (at least one, none above HUGE), half an octave wider, ticks at powers of two."""
    low, high = max(min(values), TINY) / math.sqrt(2), max(*values, TINY) * math.sqrt(2)
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = tuple(2.0**power for power in powers[:: math.ceil(len(powers) / num_ticks)])
    return Scale(low, high, start_px, end_px, ticks, log=True)


def _round_step(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 2.5, 5, 10) if times * power >= step * (1 - 1e-9))


def _rung(index: int) -> float:
    return float(f"{(1, 2, 5)[index % 3]}e{index // 3}")


def _ladder_index(value: float, *, up: bool) -> int:
    """The nearest rung of 1, 2, 5, 10, 20 ... not above `value`, or with `up` not below it."""
    index = 3 * math.floor(math.log10(value))
    while _rung(index + 1) <= value * (1 + 1e-12):
        index += 1
    return index + 1 if up and _rung(index) < value * (1 - 1e-12) else index
