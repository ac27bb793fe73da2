"""`fp16`: half precision, two bytes a dimension, nothing to fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import DataError

from .base import Codes, CodeType, Tokens

FP16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class Fp16:
    """IEEE half precision: relative error at most 2^-11 between 6.1e-5 and 65504."""

    dim: int
    name: ClassVar[str] = "fp16"

    @classmethod
    def fit(cls, tokens_NTD: Tokens) -> "Fp16":
        return cls(tokens_NTD.shape[-1])

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Fp16":
        return cls(dim)

    @property
    def code_type(self) -> CodeType:
        return CodeType("float16", self.dim, "NaN")

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """float16 [N, T, D]. DataError when a value does not fit or is NaN, rather than either on disk."""
        largest = float(np.abs(tokens_NTD).max(initial=0.0))
        if not largest <= FP16_MAX:  # NaN is not either
            hint = "use codec: int8" if np.isfinite(largest) else "look for the image that makes it"
            raise DataError(f"a feature of {largest:.4g} does not fit fp16 (at most {FP16_MAX})", hint=hint)
        return tokens_NTD.astype(np.float16)

    def decode(self, codes_NTC: Codes) -> Tokens:
        return codes_NTC.astype(np.float32)

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        return {}
