"""`ecsq`: entropy-coded scalar quantisation, one step for all channels.

With one step everywhere the error is spread as reverse water-filling asks for, and the entropy coder pays each channel what
its spread is worth (Gish and Pierce, Asymptotically efficient quantizing, 1968: a quarter of a bit a sample from the bound
at high rate). A CNN's features are mostly zeros behind their activation, and zeros cost next to nothing.

Legend: N rows, T tokens, D dimensions, S bytes a token on disk.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, DataError

from .base import Codes, CodeType, Tokens, require_finite
from .distortion import ROW_BYTES
from .rans import MAX_VALUE, Model

BITS = 1.0
ROUNDS_UP = 0.4
"""A size rounds up from 1 - 0.4 of a step on: values are denser towards zero."""
ZONES = (0.6, 0.95)
"""Least and greatest size that is coded as zero, in steps."""
PRICE = 0.058
"""Error, in squared steps, that a bit is worth, over two: 2 ln 2 / 12 at high rate."""
SEARCH_STEPS = 14
TOLERANCE, STRIDE = 0.004, 1.0
"""Relative, of bits; in the logarithm of the step."""
SEARCH_VALUES = 1 << 24
"""That a trial of a step looks at, of the rows to fit on and of those to measure on."""
FRAME_BYTES = 22
"""Of the zstd frame around a row that zstd cannot make smaller."""
SHARE_OF_ZEROS = 0.05
"""A channel with more exact zeros keeps zero as its offset; others get their mean."""
ROOM = 1.5
"""What the longest row of the sample takes, and so much more, is a row's room."""
ARRAYS = ("offset", "step", "zone", "shift", "zero", "bytes", "classes", "bands", "frequencies", "layout")

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where tokens stand: the band of each, and how far it is to the one above."""

    bands_T: npt.NDArray[np.uint8]
    above: int

    @classmethod
    def of(cls, num_tokens: int, grid: tuple[int, int] | None, *, by_frequency: bool) -> "Places":
        """One band for all, or doubling bands of spatial frequency: 0, 1, 2 to 3, 4 to 7, ..."""
        height, width = grid_of(num_tokens, grid)
        highest = np.maximum.outer(np.arange(height), np.arange(width)).reshape(-1)
        bands = np.ceil(np.log2(highest + 1)) if by_frequency else 0 * highest
        return cls(bands.astype(np.uint8), width)


def grid_of(num_tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of tokens; without a grid a square if they make one, else a line."""
    side = math.isqrt(num_tokens)
    return grid or ((side, side) if side * side == num_tokens else (num_tokens, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Ecsq:
    """x ~ offset + step * (zero where the code is 0, else code + sign(code) * shift).

    `zero` and `shift` move what a code stands for towards the mean of the values that have it, so that the mean of a channel
    does not move (decision 0005). Values within `zone` steps of the offset are coded as 0.
    """

    offset_D: Float32
    step: Float32
    zone_D: Float32
    shift_D: Float32
    zero_D: Float32
    num_bytes: int
    model: Model
    name: ClassVar[str] = "ecsq"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, bits: float = BITS, grid: tuple[int, int] | None = None) -> "Ecsq":
        """Fit on a sample; the step is searched so that rows not fitted on take `bits` bits a dimension."""
        offset_D = np.where((tokens_NTD == 0).mean(axis=(0, 1)) > SHARE_OF_ZEROS, 0, tokens_NTD.mean(axis=(0, 1)))
        centred = tokens_NTD.astype(np.float64) - offset_D.astype(np.float32)
        places = Places.of(tokens_NTD.shape[1], grid, by_frequency=False)
        fitted, held_out = halves(centred)
        step = search_step(fitted, held_out, bits, places)
        return cls.fit_values(centred, step, offset_D.astype(np.float32), places)

    @classmethod
    def fit_values(cls, centred_NTD: Float64, step: float, offset_D: Float32, places: "Places") -> "Ecsq":
        """All parameters but the step, on a sample from which the offset is taken."""
        scaled = centred_NTD / step
        zone_D = zones(scaled)
        codes = quantise(scaled, zone_D)
        model, used = Model.fit(codes, places.bands_T, places.above), codes != 0
        beyond = np.where(used, np.abs(scaled) - np.abs(codes), 0).sum(axis=(0, 1)) / np.maximum(
            used.sum(axis=(0, 1)), 1
        )
        inside = np.where(used, 0, scaled).sum(axis=(0, 1)) / np.maximum((~used).sum(axis=(0, 1)), 1)
        num_tokens = codes.shape[1]
        longest = max(float(model.row_bits(codes).max(initial=0)), float(model.row_bits(codes[:1] * 0).max(initial=0)))
        num_bytes = -(-int(longest * ROOM / 8 + 4 * model.lanes + 8) // (2 * num_tokens)) * 2
        return cls(
            offset_D,
            np.array([step], np.float32),
            zone_D.astype(np.float32),
            np.clip(beyond, -0.5, 0.5).astype(np.float32),
            inside.astype(np.float32),
            num_bytes,
            model,
        )

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> "Ecsq":
        shapes = {name: arrays[name].shape if name in arrays else None for name in ARRAYS}
        expected = dict.fromkeys(("offset", "zone", "shift", "zero"), (dim,)) | {"step": (1,), "bytes": (1,)}
        wrong = [name for name, shape in expected.items() if shapes[name] != shape]
        wrong += [name for name in ARRAYS if name in arrays and not np.isfinite(arrays[name]).all()]
        wrong += [name for name in ARRAYS if name not in arrays]
        if not wrong and not (arrays["step"][0] > 0 and 1 <= arrays["bytes"][0] <= 8 * dim + 1024):
            wrong = [
                "step",
                "bytes",
            ]  # no code takes more than four bytes, and a store must not make a row of gigabytes
        if wrong:
            message = f"ecsq of {dim} dimensions has an array {wrong[0]!r} that is missing or of no use"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        model = Model.from_arrays(arrays, dim)
        offset, step, zone, shift, zero = (arrays[name] for name in ("offset", "step", "zone", "shift", "zero"))
        return cls(offset, step, zone, shift, zero, int(arrays["bytes"][0]), model)

    @property
    def dim(self) -> int:
        return len(self.offset_D)

    @property
    def code_type(self) -> CodeType:
        return CodeType("int16", self.dim, -(2**15))

    @property
    def stored_type(self) -> CodeType:
        return CodeType("uint8", self.num_bytes, 255, compressed=True)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int16 [N, T, D]. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        return self.codes_of(tokens_NTD.astype(np.float64) - self.offset_D)

    def codes_of(self, centred_NTD: Float64) -> Codes:
        """int16 [N, T, D] of values about the offset, of which the smallest are left out of rows that would not fit."""
        codes = quantise(centred_NTD / float(self.step[0]), self.zone_D)
        room = 8 * (self.num_bytes * codes.shape[1] - 4)
        least = 1
        too_long = np.flatnonzero(self.model.row_bits(codes) > room)
        while len(too_long):
            part = codes[too_long]
            part[np.abs(part) <= least] = 0
            codes[too_long] = part
            too_long = too_long[self.model.row_bits(part) > room]
            least *= 2
        return codes

    def pack(self, codes_NTD: Codes) -> Codes:
        """uint8 [N, T, S]: each row's stream, byte i at token i mod T, zeros behind it."""
        num_rows, num_tokens, _ = codes_NTD.shape
        packed = np.zeros((num_rows, self.num_bytes * num_tokens), np.uint8)
        for row, stream in zip(packed, self.model.encode(codes_NTD), strict=True):
            if len(stream) > len(row) - 2:  # the last bytes stay zero, so that no row is all fill value
                message = f"a row of codes takes {len(stream)} bytes, {len(row) - 2} are there for it"
                raise DataError(message, hint="encode the features with the codec that packs them")
            row[: len(stream)] = stream
        return packed.reshape(num_rows, self.num_bytes, num_tokens).swapaxes(1, 2)

    def unpack(self, packed_NTS: Codes) -> Codes:
        """int16 [N, T, D]. CorruptError when bytes are no codes."""
        num_rows, num_tokens, num_bytes = packed_NTS.shape
        streams = np.ascontiguousarray(packed_NTS.swapaxes(1, 2)).reshape(num_rows, num_bytes * num_tokens)
        return self.model.decode(streams, num_tokens)

    def decode(self, codes_NTD: Codes) -> Tokens:
        return self.values(codes_NTD) + self.offset_D

    def values(self, codes_NTD: Codes) -> Float32:
        """float32 [N, T, D]: what the codes stand for, about the offset."""
        codes = codes_NTD.astype(np.float32)
        shifted = np.where(codes == 0, self.zero_D, codes + np.sign(codes) * self.shift_D)
        return np.asarray(shifted * self.step, np.float32)

    def arrays(self) -> Mapping[str, Float32]:
        found = {"offset": self.offset_D, "step": self.step, "zone": self.zone_D, "shift": self.shift_D}
        return {**found, "zero": self.zero_D, "bytes": np.array([self.num_bytes], np.float32), **self.model.arrays()}


def halves(values_NTD: Float64) -> tuple[Float64, Float64]:
    """Rows to fit on and rows to measure on: three quarters and one, or all for both when they are few."""
    num_rows = len(values_NTD)
    if num_rows < 8:
        return values_NTD, values_NTD
    return values_NTD[: num_rows * 3 // 4], values_NTD[num_rows * 3 // 4 :]


def quantise(scaled_NTD: Float64, zone_D: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    """int16 codes of values in steps; what is beyond 16 bits is clipped."""
    size = np.abs(scaled_NTD)
    codes = np.floor(np.minimum(size, MAX_VALUE - 1) + ROUNDS_UP)
    codes[size < zone_D] = 0
    return (np.sign(scaled_NTD) * codes).astype(np.int16)


def zones(scaled_NTD: Float64) -> Float64:
    """Where zero ends in each channel: a small value is worth coding when the error that it saves is worth its bits."""
    codes = quantise(scaled_NTD, np.full(scaled_NTD.shape[2], ZONES[0]))
    number, ones = (((np.abs(codes) == size).sum(axis=(0, 1)) + 0.5) for size in (0, 1))
    extra_bits = np.log2(number / (ones / 2))
    found: Float64 = np.clip(0.5 + PRICE * extra_bits, *ZONES)
    return found


def search_step(fitted_NTD: Float64, held_out_NTD: Float64, bits: float, places: Places) -> float:
    """The step at which rows that were not fitted on take `bits` bits a dimension, all overheads in."""
    fitted_NTD, held_out_NTD = _fewer(fitted_NTD), _fewer(held_out_NTD)
    spread = float(np.abs(fitted_NTD).max(initial=0.0)) or 1.0
    typical = float(np.sqrt((fitted_NTD**2).mean())) or 1.0
    limits = float(np.log(typical / 1024)), float(np.log(max(2 * spread, typical)))

    def too_many(log_step: float) -> float:
        """Above zero when the step is too small, and nearly straight in its logarithm."""
        return float(np.log(_bits_at(fitted_NTD, held_out_NTD, float(np.exp(log_step)), places) / bits))

    return float(np.exp(_crossing(too_many, *limits, guess=float(np.log(typical)))))


def _crossing(falling: Callable[[float], float], low: float, high: float, guess: float) -> float:
    """Where a falling function is zero, to within TOLERANCE, or the end that is nearer: regula falsi (Illinois)."""
    at_low, at_high = math.inf, -math.inf
    where, ends = guess, (low, high)
    for _ in range(SEARCH_STEPS):
        found = falling(where)
        if abs(found) <= TOLERANCE or where == ends[found > 0]:
            return where
        if found > 0:
            low, at_low, at_high = where, found, at_high / 2
        else:
            high, at_high, at_low = where, found, at_low / 2
        if math.isinf(at_low) or math.isinf(at_high):  # one side is not known yet: a stride towards it
            where = min(low + STRIDE, high) if math.isinf(at_high) else max(high - STRIDE, low)
        else:
            where = low + (high - low) * at_low / (at_low - at_high)
    return where


def _fewer(values_NTD: Float64) -> Float64:
    return values_NTD[:: -(-values_NTD.size // SEARCH_VALUES) or 1]


def _bits_at(fitted_NTD: Float64, held_out_NTD: Float64, step: float, places: Places) -> float:
    scaled = fitted_NTD / step
    zone_D = zones(scaled)
    model = Model.fit(quantise(scaled, zone_D), places.bands_T, places.above)
    codes = quantise(held_out_NTD / step, zone_D)
    return float((model.row_bits(codes) + 8 * (ROW_BYTES + FRAME_BYTES)).sum() / codes.size)
