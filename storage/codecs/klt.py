"""`klt`: principal axes, one uniform step for all of them, and zstd over what is left.

At high resolution no transform code does better than principal components with one step for all of them (reverse
water-filling; Gersho and Gray, Vector Quantization and Signal Compression, section 8.6): components whose spread is below the
step come out as zeros and cost nothing.

Legend: K components that are kept, D teacher dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from stillhouse.core.errors import CorruptError

from ..layout import ZSTD_LEVEL
from .base import Codes, CodeType, Tokens, require_finite

DEAD_ZONE = 0.4
"""A value rounds up from 1 - 0.4 of a step on, so zeros reach 0.6 either way: cheaper than 0.5 at equal error."""
BITS = 1.0
SEARCH_STEPS = 14
MAX_CODE = 32000


@dataclass(frozen=True, slots=True, eq=False)
class Klt:
    """x ~ mean + axes^T (step * (code + sign(code) * shift)), with orthonormal axes; stored with zstd.

    `shift` moves what a code stands for to the mean of the values that have it: the expected gradient of a squared error
    is then that of the values themselves.
    """

    mean_D: npt.NDArray[np.float32]
    axes_KD: npt.NDArray[np.float32]
    step: npt.NDArray[np.float32]
    shift_K: npt.NDArray[np.float32]
    wide: bool
    name: ClassVar[str] = "klt"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, bits: float = BITS) -> "Klt":
        """Fit on a sample; the step is searched so that zstd leaves `bits` bits a dimension."""
        num_rows, num_tokens, dim = tokens_NTD.shape
        flat = tokens_NTD.reshape(-1, dim).astype(np.float64)
        mean = flat.mean(axis=0)
        _, axes = np.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        axes_DD = axes[:, ::-1].T
        signs = np.sign(
            axes_DD[np.arange(dim), np.abs(axes_DD).argmax(axis=1)]
        )  # eigenvectors have no sign of their own
        axes_DD = axes_DD * signs[:, None]
        found_ND = (flat - mean) @ axes_DD.T
        spread = float(np.abs(found_ND).max(initial=0.0)) or 1.0
        low, high = np.log(spread / MAX_CODE), np.log(2 * spread)
        for _ in range(SEARCH_STEPS):
            middle = (low + high) / 2
            codes = _round(found_ND / np.exp(middle)).reshape(num_rows, num_tokens, dim)
            too_many = _stored_bits(codes) > bits
            low, high = (middle, high) if too_many else (low, middle)
        step = np.exp(high)
        codes_ND = _round(found_ND / step)
        kept = np.flatnonzero(np.abs(codes_ND).max(axis=0, initial=0))
        kept = kept if len(kept) else np.array([0])
        codes_NK, scaled_NK = codes_ND[:, kept], found_ND[:, kept] / step
        used = codes_NK != 0
        beyond = np.where(used, np.abs(scaled_NK) - np.abs(codes_NK), 0.0).sum(axis=0)
        shift = beyond / np.maximum(used.sum(axis=0), 1)
        wide = bool(np.abs(codes_NK).max(initial=0) > 63)  # with room for what the sample did not show
        mean_D, axes_KD, one, shift_K = (
            np.asarray(array, np.float32) for array in (mean, axes_DD[kept], np.array([step]), shift)
        )
        return cls(mean_D, axes_KD, one, shift_K, wide)

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Klt":
        shapes = {name: array.shape for name, array in arrays.items()}
        kept = len(arrays["axes"]) if "axes" in arrays else 0
        wanted = {"mean": (dim,), "axes": (kept, dim), "step": (1,), "shift": (kept,), "wide": (1,)}
        if shapes != wanted or not all(np.isfinite(array).all() for array in arrays.values()) or arrays["step"] <= 0:
            message = f"klt has arrays {shapes}, expected finite {wanted} and a positive step"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(arrays["mean"], arrays["axes"], arrays["step"], arrays["shift"], bool(arrays["wide"][0]))

    @property
    def dim(self) -> int:
        return len(self.mean_D)

    @property
    def code_type(self) -> CodeType:
        if self.wide:
            return CodeType("int16", len(self.axes_KD), -(2**15), compressed=True)
        return CodeType("int8", len(self.axes_KD), -(2**7), compressed=True)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int8 or int16 [N, T, K]; what is beyond the codes is clipped. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        most = MAX_CODE if self.wide else 127
        with np.errstate(over="ignore", invalid="ignore"):
            centred = tokens_NTD.astype(np.float64) - self.mean_D
            scaled = centred @ self.axes_KD.T.astype(np.float64) / float(self.step[0])
        codes: Codes = np.clip(_round(scaled), -most, most).astype(self.code_type.dtype)
        return codes

    def decode(self, codes_NTC: Codes) -> Tokens:
        return self.values(codes_NTC) @ self.axes_KD + self.mean_D

    def values(self, codes_NTC: Codes) -> npt.NDArray[np.float32]:
        """float32 [N, T, K]: the coordinates on the axes that the codes stand for."""
        codes = codes_NTC.astype(np.float32)
        found: npt.NDArray[np.float32] = ((codes + np.sign(codes) * self.shift_K) * self.step).astype(np.float32)
        return found

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        wide = np.array([float(self.wide)], np.float32)
        return {"mean": self.mean_D, "axes": self.axes_KD, "step": self.step, "shift": self.shift_K, "wide": wide}


def _round(scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rounded: npt.NDArray[np.float64] = np.sign(scaled) * np.floor(np.abs(scaled) + DEAD_ZONE)
    return rounded


def _stored_bits(codes_NTD: npt.NDArray[np.float64]) -> float:
    """Bits a dimension that these codes take on disk, crc and index entry included."""
    narrow = np.abs(codes_NTD).max(initial=0) <= 127
    rows = codes_NTD.swapaxes(1, 2).astype(np.int8 if narrow else np.int16)
    stored = sum(len(Zstd(ZSTD_LEVEL).encode(np.ascontiguousarray(row))) + 20 for row in rows[:PROBE_ROWS])
    return 8 * stored / codes_NTD[:PROBE_ROWS].size


PROBE_ROWS = 64
"""Rows that a trial of a step is measured on."""
