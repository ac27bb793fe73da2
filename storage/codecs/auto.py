"""`auto`: fit every candidate on a sample, measure it on rows that it has not seen, and take the best for the budget.

There is no best codec, only a best one for a teacher: behind a CNN's activation most values are zero, and levels with zstd
beat everything; the tokens of a ViT are dense, and transforms do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.core.errors import DataError, UsageError

from . import fit_codec
from .base import Codec, Tokens
from .distortion import ROW_BYTES, Point, Spectrum, measure

EXACT = ("bf16", "fp16", "int8", "int4")
CODED = ("ecsq", "klt")
CODED_BITS = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
PQ_SHARES = (32, 16, 8, 4)
"""Dimensions of a part."""
WIDEST_ROTATION = 512
"""`opq` is tried up to so many dimensions: its rotation takes minutes to find beyond."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a choice must keep: at most so many bytes a token on disk, or at most so large an error."""

    bytes_per_token: float | None = None
    max_nmse: float | None = None

    def __str__(self) -> str:
        if self.bytes_per_token is not None:
            return f"at most {self.bytes_per_token:g} bytes a token"
        return f"an NMSE of at most {self.max_nmse:g}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A codec fitted on the whole sample, the curve that it was chosen from, and why."""

    codec: Codec
    choice: str
    why: str
    curve: tuple[Point, ...]
    dropped: Mapping[str, str]
    """Candidates that cannot hold these tokens, and what they said."""

    def to_json(self) -> dict[str, Any]:
        curve = [point.to_json() for point in self.curve]
        return {"choice": self.choice, "why": self.why, "curve": curve, "dropped": dict(self.dropped)}


def candidates(num_tokens: int, dim: int, budget: Budget) -> list[str]:
    """The choices that are worth trying."""
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    if budget.bytes_per_token is None:
        rates: tuple[float, ...] = CODED_BITS
        parts = sorted({max(m for m in divisors if m <= max(1, dim // share)) for share in PQ_SHARES})
    else:
        bits, room = 8 * budget.bytes_per_token / dim, budget.bytes_per_token - ROW_BYTES / num_tokens
        rates = tuple(round(bits * share, 4) for share in (0.97, 0.75) if bits * share < 16)
        parts = [max(m for m in divisors if m <= room)] if room >= 1 else []
    found = [*EXACT, *(f"{name}:{rate:g}" for name in CODED for rate in rates), *(f"pq:{part}" for part in parts)]
    return found + [f"opq:{part}" for part in parts if dim <= WIDEST_ROTATION]


def choose(
    tokens_NTD: Tokens,
    budget: Budget,
    grid: tuple[int, int] | None = None,
    on_measured: Callable[[str], None] = lambda choice: None,
) -> Chosen:
    """The best candidate: of those within the budget the one of least error, or of fewest bits.

    Args:
        grid: rows and columns of the tokens.
        on_measured: told of every candidate once it is measured.

    Raises:
        UsageError: none is within the budget, or the sample has fewer than four rows.
    """
    num_rows, num_tokens, dim = tokens_NTD.shape
    if num_rows < 4:
        raise UsageError(f"codec auto has {num_rows} images to choose by", hint="name a codec, or use more images")
    fitted, held_out = tokens_NTD[: num_rows * 3 // 4], tokens_NTD[num_rows * 3 // 4 :]
    spectrum = Spectrum.of(tokens_NTD)
    curve, dropped = [], {}
    for choice in candidates(num_tokens, dim, budget):
        try:
            curve.append(measure(choice, fit_codec(choice, fitted, grid), held_out, spectrum))
        except DataError as error:
            dropped[choice] = error.message
        on_measured(choice)
    curve.sort(key=lambda point: (point.bits, point.nmse))
    within = [point for point in curve if _within(point, dim, budget)]
    if not within:
        least = min(curve, key=lambda point: point.nmse if budget.bytes_per_token is None else point.bits)
        told = f"{least.choice} takes {least.bits * dim / 8:.1f} bytes a token at an NMSE of {least.nmse:.3g}"
        raise UsageError(f"no codec keeps {budget}; {told}", hint="allow more bytes or a larger error")
    if budget.bytes_per_token is None:
        best, quality = min(within, key=lambda point: (point.bits, point.nmse)), "fewest bytes"
    else:
        best, quality = min(within, key=lambda point: (point.nmse, point.bits)), "least error"
    figures = f"{best.bits * dim / 8:.1f} bytes a token, NMSE {best.nmse:.3g}, {best.snr_db:.1f} dB"
    of = f"{len(within)} candidate{'s' if len(within) > 1 else ''}"
    why = f"{quality} of {of} with {budget}: {figures}"
    return Chosen(fit_codec(best.choice, tokens_NTD, grid), best.choice, why, tuple(curve), dropped)


def _within(point: Point, dim: int, budget: Budget) -> bool:
    if budget.bytes_per_token is not None:
        return point.bits * dim / 8 <= budget.bytes_per_token
    return budget.max_nmse is None or point.nmse <= budget.max_nmse
