"""`klt`: principal axes, a cosine transform over the grid, then entropy-coded scalar quantisation with one step for all.

At high resolution no transform code does better than principal components with one step for all of them (reverse
water-filling; Gersho and Gray, Vector Quantization and Signal Compression, section 8.6): components whose spread is below the
step come out as zeros and cost nothing. Tokens of one image are alike, so each component goes through an orthonormal cosine
transform over the grid (DCT-II; Ahmed, Natarajan and Rao, 1974), near the principal components of neighbouring samples: half
of all variance is in the mean of an image's tokens, a sixteenth of the coefficients.

Legend: N rows, T tokens, K components that are kept, D teacher dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError

from .base import Codes, CodeType, Tokens, require_finite
from .distortion import channel_covariance
from .ecsq import BITS, Ecsq, Float32, Float64, Places, grid_of, halves, quantise, search_step, zones

ENOUGH = 4
"""Components that the sample codes as zeros are left out when it has so many tokens a dimension, else it is too small to tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Klt:
    """x ~ mean + axes^T (cosines^T coefficients), with orthonormal axes and cosines; `ecsq` codes the coefficients."""

    mean_D: Float32
    axes_KD: Float32
    cosines_TT: Float32
    coefficients: Ecsq
    name: ClassVar[str] = "klt"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, bits: float = BITS, grid: tuple[int, int] | None = None) -> "Klt":
        """Fit on a sample; the step is searched so that rows not fitted on take `bits` bits a dimension."""
        num_rows, num_tokens, dim = tokens_NTD.shape
        cosines_TT = cosines(*grid_of(num_tokens, grid))
        places = Places.of(num_tokens, grid, by_frequency=True)
        fitted, held_out = halves(tokens_NTD.astype(np.float64))
        mean_D, axes_DD = principal_axes(fitted)
        seen, unseen = (cosines_TT @ ((part - mean_D) @ axes_DD.T) for part in (fitted, held_out))
        step = search_step(seen, unseen, bits, places)
        mean_D, axes_DD = principal_axes(tokens_NTD)
        found = cosines_TT @ ((tokens_NTD.astype(np.float64) - mean_D) @ axes_DD.T)
        if num_rows * num_tokens >= ENOUGH * dim:
            codes = quantise(found / step, zones(found / step))
            kept = np.flatnonzero(np.abs(codes).max(axis=(0, 1)))
            kept = kept if len(kept) else np.array([0])
            axes_DD, found = axes_DD[kept], found[..., kept]
        coefficients = Ecsq.fit_values(found, step, np.zeros(found.shape[2], np.float32), places)
        mean, axes, waves = (array.astype(np.float32) for array in (mean_D, axes_DD, cosines_TT))
        return cls(mean, axes, waves, coefficients)

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> "Klt":
        mean, axes, waves = (arrays.get(name) for name in ("mean", "axes", "cosines"))
        if mean is None or axes is None or waves is None or not _fit_together(dim, mean, axes, waves):
            message = f"klt has no finite mean, axes and cosines of {dim} dimensions"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        coefficients = Ecsq.from_arrays(len(axes), arrays)
        if len(coefficients.model.bands_T) != len(waves):
            message = f"klt has cosines of {len(waves)} tokens and bands of {len(coefficients.model.bands_T)}"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(mean, axes, waves, coefficients)

    @property
    def dim(self) -> int:
        return len(self.mean_D)

    @property
    def code_type(self) -> CodeType:
        return self.coefficients.code_type

    @property
    def stored_type(self) -> CodeType:
        return self.coefficients.stored_type

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int16 [N, T, K]; what is beyond the codes is clipped. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        centred = tokens_NTD.astype(np.float64) - self.mean_D
        found = centred @ self.axes_KD.T.astype(np.float64)
        return self.coefficients.codes_of(self.cosines_TT.astype(np.float64) @ found)

    def pack(self, codes_NTK: Codes) -> Codes:
        return self.coefficients.pack(codes_NTK)

    def unpack(self, packed_NTS: Codes) -> Codes:
        return self.coefficients.unpack(packed_NTS)

    def decode(self, codes_NTK: Codes) -> Tokens:
        return self.values(codes_NTK) @ self.axes_KD + self.mean_D

    def values(self, codes_NTK: Codes) -> Float32:
        """float32 [N, T, K]: the coordinates of each token on the axes that the codes stand for."""
        return self.cosines_TT.T @ self.coefficients.values(codes_NTK)

    def arrays(self) -> Mapping[str, Float32]:
        found = {"mean": self.mean_D, "axes": self.axes_KD, "cosines": self.cosines_TT}
        return {**found, **self.coefficients.arrays()}


def cosines(height: int, width: int) -> Float64:
    """float64 [T, T], orthonormal: row u * width + v is the wave of u half periods down and v across."""

    def line(length: int) -> Float64:
        waves = np.cos(np.pi * np.outer(np.arange(length), np.arange(length) + 0.5) / length) * np.sqrt(2 / length)
        waves[0] /= np.sqrt(2)
        return np.asarray(waves, np.float64)

    return np.asarray(np.kron(line(height), line(width)), np.float64)


def _fit_together(dim: int, mean_D: Float32, axes_KD: Float32, cosines_TT: Float32) -> bool:
    square = cosines_TT.ndim == 2 and cosines_TT.shape[0] == cosines_TT.shape[1]
    finite = all(np.isfinite(array).all() for array in (mean_D, axes_KD, cosines_TT))
    return square and finite and mean_D.shape == (dim,) and axes_KD.shape[1:] == (dim,)


def principal_axes(tokens_NTD: npt.NDArray[np.floating]) -> tuple[Float64, Float64]:
    """float64 [D] mean and [D, D] axes, a row each, the widest first, each with its largest entry positive."""
    mean_D = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(channel_covariance(tokens_NTD))
    axes_DD = axes[:, ::-1].T
    largest = axes_DD[np.arange(len(axes_DD)), np.abs(axes_DD).argmax(axis=1)]
    return mean_D, axes_DD * np.sign(largest)[:, None]
