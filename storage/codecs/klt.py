"""`klt`: principal axes, then entropy-coded scalar quantisation with one step for all of them.

At high resolution no transform code does better than principal components with one step for all of them (reverse
water-filling; Gersho and Gray, Vector Quantization and Signal Compression, section 8.6): components whose spread is below the
step come out as zeros and cost nothing.

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
from .ecsq import BITS, Ecsq, Float32, Float64, halves, quantise, search_step, zones

ENOUGH = 4
"""Components that the sample codes as zeros are left out when it has so many tokens a dimension, else it is too small to tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Klt:
    """x ~ mean + axes^T coordinates, with orthonormal axes and coordinates that `ecsq` codes."""

    mean_D: Float32
    axes_KD: Float32
    coordinates: Ecsq
    name: ClassVar[str] = "klt"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, bits: float = BITS) -> "Klt":
        """Fit on a sample; the step is searched so that rows not fitted on take `bits` bits a dimension."""
        num_rows, num_tokens, dim = tokens_NTD.shape
        fitted, held_out = halves(tokens_NTD.astype(np.float64))
        mean_D, axes_DD = principal_axes(fitted)
        step = search_step((fitted - mean_D) @ axes_DD.T, (held_out - mean_D) @ axes_DD.T, bits)
        mean_D, axes_DD = principal_axes(tokens_NTD)
        found = (tokens_NTD.astype(np.float64) - mean_D) @ axes_DD.T
        if num_rows * num_tokens >= ENOUGH * dim:
            codes = quantise(found / step, zones(found / step))
            kept = np.flatnonzero(np.abs(codes).max(axis=(0, 1)))
            kept = kept if len(kept) else np.array([0])
            axes_DD, found = axes_DD[kept], found[..., kept]
        none = np.zeros(found.shape[2], np.float32)
        return cls(mean_D.astype(np.float32), axes_DD.astype(np.float32), Ecsq.fit_values(found, step, none))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> "Klt":
        mean, axes = arrays.get("mean"), arrays.get("axes")
        whole = mean is not None and axes is not None and mean.shape == (dim,) and axes.shape[1:] == (dim,)
        if mean is None or axes is None or not whole or not (np.isfinite(mean).all() and np.isfinite(axes).all()):
            message = f"klt has no finite mean and axes of {dim} dimensions"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(mean, axes, Ecsq.from_arrays(len(axes), arrays))

    @property
    def dim(self) -> int:
        return len(self.mean_D)

    @property
    def code_type(self) -> CodeType:
        return self.coordinates.code_type

    @property
    def stored_type(self) -> CodeType:
        return self.coordinates.stored_type

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int16 [N, T, K]; what is beyond the codes is clipped. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        centred = tokens_NTD.astype(np.float64) - self.mean_D
        return self.coordinates.codes_of(centred @ self.axes_KD.T.astype(np.float64))

    def pack(self, codes_NTK: Codes) -> Codes:
        return self.coordinates.pack(codes_NTK)

    def unpack(self, packed_NTS: Codes) -> Codes:
        return self.coordinates.unpack(packed_NTS)

    def decode(self, codes_NTK: Codes) -> Tokens:
        return self.values(codes_NTK) @ self.axes_KD + self.mean_D

    def values(self, codes_NTK: Codes) -> Float32:
        """float32 [N, T, K]: the coordinates on the axes that the codes stand for."""
        return self.coordinates.values(codes_NTK)

    def arrays(self) -> Mapping[str, Float32]:
        return {"mean": self.mean_D, "axes": self.axes_KD, **self.coordinates.arrays()}


def principal_axes(tokens_NTD: npt.NDArray[np.floating]) -> tuple[Float64, Float64]:
    """float64 [D] mean and [D, D] axes, a row each, the widest first, each with its largest entry positive."""
    mean_D = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(channel_covariance(tokens_NTD))
    axes_DD = axes[:, ::-1].T
    largest = axes_DD[np.arange(len(axes_DD)), np.abs(axes_DD).argmax(axis=1)]
    return mean_D, axes_DD * np.sign(largest)[:, None]
