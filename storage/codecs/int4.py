"""`int4`: fifteen levels a dimension, channels with outliers kept apart, and zstd over what that leaves.

A CNN's features are mostly zeros behind their activation: a level for zero and entropy coding take well below a bit for
them. Most ViTs have a few channels tens of times larger than the rest; these get 255 levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError

from .affine import to_codes, to_tokens
from .base import Codes, CodeType, Tokens

LEVELS, OUTLIER_LEVELS = 7, 127
OUTLIER = 6.0
"""A channel is an outlier when its spread is so many times the median spread."""
COVERED = (0.0005, 0.9995)
"""The share of the fitted sample between the lowest and the highest level; values beyond are clipped to these."""


@dataclass(frozen=True, slots=True, eq=False)
class Int4:
    """x ~ offset + scale * code per channel, codes -7..7, or -127..127 in outlier channels; stored with zstd.

    When zero is inside a channel's range it is a level: features that are mostly zero stay exactly so.
    """

    offset_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]
    levels_D: npt.NDArray[np.float32]
    name: ClassVar[str] = "int4"

    @classmethod
    def fit(cls, tokens_NTD: Tokens) -> "Int4":
        flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
        low, high = np.quantile(flat, COVERED, axis=0)
        spread = high - low
        outlier = spread > OUTLIER * np.median(spread)
        levels = np.where(outlier, OUTLIER_LEVELS, LEVELS).astype(np.float32)
        scale = (spread / (2 * levels)).astype(np.float32)
        scale = np.where(scale > 0, scale, np.float32(1))
        offset = ((low + high) / 2).astype(np.float32)
        zero_inside = (low <= 0) & (high >= 0)
        offset = np.where(zero_inside, -scale * np.rint(-offset / scale), offset)
        return cls(offset.astype(np.float32), scale, levels)

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Int4":
        shapes = {name: array.shape for name, array in arrays.items()}
        finite = all(np.isfinite(array).all() for array in arrays.values())
        if shapes != dict.fromkeys(("offset", "scale", "levels"), (dim,)) or not finite or (arrays["scale"] <= 0).any():
            message = f"int4 has arrays {shapes}, expected finite offset, levels and positive scale of {dim} channels"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(arrays["offset"], arrays["scale"], arrays["levels"])

    @property
    def dim(self) -> int:
        return len(self.offset_D)

    @property
    def code_type(self) -> CodeType:
        return CodeType("int8", self.dim, -128, compressed=True)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """int8 [N, T, D]. DataError when a value is not finite."""
        return to_codes(tokens_NTD, self.offset_D, self.scale_D, self.levels_D)

    def decode(self, codes_NTC: Codes) -> Tokens:
        return to_tokens(codes_NTC, self.offset_D, self.scale_D)

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        return {"offset": self.offset_D, "scale": self.scale_D, "levels": self.levels_D}
