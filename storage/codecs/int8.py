"""`int8`: one affine byte a dimension, offset and scale fitted per channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .base import Codes, CodeType, Tokens

LEVELS = 127
"""Codes are -127..127; -128 is reserved for rows that do not exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """x ~ offset + scale * code per channel; values beyond the fitted range are clipped to it.

    Inside the range the error is at most scale / 2 = (max - min) / 508 of that channel.
    """

    offset_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]
    name: ClassVar[str] = "int8"

    @classmethod
    def fit(cls, tokens_NTD: Tokens) -> "Int8":
        flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1])
        low, high = flat.min(axis=0), flat.max(axis=0)
        scale = (high - low) / np.float32(2 * LEVELS)
        return cls((low + high) / np.float32(2), np.where(scale > 0, scale, np.float32(1)).astype(np.float32))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Int8":
        return cls(arrays["offset"], arrays["scale"])

    @property
    def dim(self) -> int:
        return len(self.offset_D)

    @property
    def code_type(self) -> CodeType:
        return CodeType("int8", self.dim, -128)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int8 [N, T, D]."""
        scaled = (tokens_NTD - self.offset_D) / self.scale_D
        codes: Codes = np.clip(np.rint(scaled), -LEVELS, LEVELS).astype(np.int8)
        return codes

    def decode(self, codes_NTC: Codes) -> Tokens:
        decoded: Tokens = codes_NTC.astype(np.float32) * self.scale_D + self.offset_D
        return decoded

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        return {"offset": self.offset_D, "scale": self.scale_D}
