"""x ~ offset + scale * code per channel: what `int8` and `int4` have in common.

Legend: N rows, T tokens, D dimensions.
"""

import numpy as np
import numpy.typing as npt

from .base import Codes, Tokens, require_finite


def to_codes(
    tokens_NTD: Tokens,
    offset_D: npt.NDArray[np.float32],
    scale_D: npt.NDArray[np.float32],
    most: float | npt.NDArray[np.float32],
) -> Codes:
    """int8 [N, T, D], the nearest code of -most..most. DataError when a value is not finite."""
    require_finite(tokens_NTD)
    with np.errstate(over="ignore"):  # far outside the fitted range: clipped below
        scaled = (tokens_NTD - offset_D) / scale_D
    codes: Codes = np.clip(np.rint(scaled), -most, most).astype(np.int8)
    return codes


def to_tokens(codes_NTD: Codes, offset_D: npt.NDArray[np.float32], scale_D: npt.NDArray[np.float32]) -> Tokens:
    """float32 [N, T, D]."""
    decoded: Tokens = codes_NTD.astype(np.float32) * scale_D + offset_D
    return decoded
