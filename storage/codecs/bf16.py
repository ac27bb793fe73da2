"""`bf16`: the upper half of float32, two bytes a dimension, nothing to fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .base import Codes, CodeType, Tokens, require_finite

NAN = 0x7FC0
"""The bits of a NaN: reserved for rows that do not exist."""


@dataclass(frozen=True, slots=True)
class Bf16:
    """bfloat16 as uint16 bits, which every Zarr reader knows: relative error at most 2^-8, the range of float32."""

    dim: int
    name: ClassVar[str] = "bf16"

    @classmethod
    def fit(cls, tokens_NTD: Tokens) -> "Bf16":
        return cls(tokens_NTD.shape[-1])

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Bf16":
        return cls(dim)

    @property
    def code_type(self) -> CodeType:
        return CodeType("uint16", self.dim, NAN)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """uint16 [N, T, D], rounded to the nearest even. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        bits = np.ascontiguousarray(tokens_NTD, np.float32).view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        infinite = (rounded & 0x7F80) == 0x7F80  # beyond the largest bfloat16: the largest
        codes: Codes = np.where(infinite, (rounded & 0x8000) | 0x7F7F, rounded).astype(np.uint16)
        return codes

    def decode(self, codes_NTC: Codes) -> Tokens:
        decoded: Tokens = (codes_NTC.astype(np.uint32) << 16).view(np.float32)
        return decoded

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        return {}
