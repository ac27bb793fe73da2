"""`int8`: one affine byte a dimension, offset and scale fitted per channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError

from .affine import to_codes, to_tokens
from .base import Codes, CodeType, Tokens

LEVELS = 127
"""Codes are -127..127; -128 is reserved for rows that do not exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """x ~ offset + scale * code per channel; values beyond the fitted range are clipped to it.

    Inside the range the error is at most scale / 2 = (max - min) / 508 of that channel, and float32 rounding.
    """

    offset_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]
    name: ClassVar[str] = "int8"

    @classmethod
    def fit(cls, tokens_NTD: Tokens) -> "Int8":
        flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1])
        low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
        scale = ((high - low) / (2 * LEVELS)).astype(np.float32)
        return cls(((low + high) / 2).astype(np.float32), np.where(scale > 0, scale, np.float32(1)))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Int8":
        shapes = {name: array.shape for name, array in arrays.items()}
        whole = shapes == {"offset": (dim,), "scale": (dim,)} and all(
            np.isfinite(array).all() for array in arrays.values()
        )
        if not whole or not (arrays["scale"] > 0).all():
            message = f"int8 has arrays {shapes}, expected a finite offset and a positive scale of {dim} channels"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(arrays["offset"], arrays["scale"])

    @property
    def dim(self) -> int:
        return len(self.offset_D)

    @property
    def code_type(self) -> CodeType:
        return CodeType("int8", self.dim, -128)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int8 [N, T, D]. DataError when a value is not finite."""
        return to_codes(tokens_NTD, self.offset_D, self.scale_D, LEVELS)

    def decode(self, codes_NTC: Codes) -> Tokens:
        return to_tokens(codes_NTC, self.offset_D, self.scale_D)

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        return {"offset": self.offset_D, "scale": self.scale_D}
