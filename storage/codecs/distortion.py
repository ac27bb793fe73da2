"""How much of the tokens a codec keeps for how many bits, and what no codec could do better on Gaussian tokens.

Legend: N rows, T tokens, D dimensions.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..crc import CRC_BYTES
from ..zstd_rows import compress
from .base import Codec, Codes, Tokens, pack, stored_type

ROW_BYTES = CRC_BYTES + 16
"""Of a row's crc and its entry in the index of its shard."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the curve.

    Args:
        choice: the codec as a config names it.
        bits: on disk, a dimension; crc and index entry included, the codec's own arrays not.
        nmse: mean squared error over the variance of the tokens about their mean.
        cosine: mean over tokens.
        bound_nmse: the least NMSE of any code at these bits, were the tokens Gaussian with their measured covariance.
    """

    choice: str
    bits: float
    nmse: float
    cosine: float
    bound_nmse: float

    @property
    def snr_db(self) -> float:
        """Signal to noise, in decibels."""
        return float(-10 * np.log10(max(self.nmse, 1e-30)))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "snr_db": round(self.snr_db, 3)}


def measure(
    choice: str, codec: Codec, tokens_NTD: Tokens, covariance_DD: npt.NDArray[np.float64] | None = None
) -> Point:
    """A codec on tokens that it was not fitted on.

    Args:
        covariance_DD: what the bound is taken of; None: that of `tokens_NTD`, which says too much of fewer than D tokens.
    """
    codes = codec.encode(tokens_NTD)
    decoded = codec.decode(codes).astype(np.float64)
    exact = tokens_NTD.astype(np.float64)
    variance = channel_covariance(tokens_NTD)
    bits = bits_on_disk(codec, codes)
    nmse = float(((decoded - exact) ** 2).mean() * exact.shape[-1] / max(np.trace(variance), 1e-300))
    norms = np.linalg.norm(decoded, axis=-1) * np.linalg.norm(exact, axis=-1)
    cosine = float(((decoded * exact).sum(axis=-1) / np.maximum(norms, 1e-300)).mean())
    bound = gaussian_bound(variance if covariance_DD is None else covariance_DD, bits)
    return Point(choice, bits, nmse, cosine, bound)


def bits_on_disk(codec: Codec, codes_NTC: Codes) -> float:
    """Bits a dimension that rows of these codes take in a shard."""
    stored_NTS = pack(codec, codes_NTC)
    if stored_type(codec).compressed:
        rows = (np.ascontiguousarray(row.T) for row in stored_NTS)
        num_bytes = sum(len(compress(row.reshape(-1).view(np.uint8))) for row in rows)
    else:
        num_bytes = stored_NTS.nbytes
    num_rows, num_tokens = codes_NTC.shape[:2]
    return float(8 * (num_bytes + num_rows * ROW_BYTES) / (num_rows * num_tokens * codec.dim))


def channel_covariance(tokens_NTD: Tokens) -> npt.NDArray[np.float64]:
    """float64 [D, D], about the mean of each channel."""
    flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    covariance: npt.NDArray[np.float64] = centred.T @ centred / len(flat)
    return covariance


def gaussian_bound(covariance_DD: npt.NDArray[np.float64], bits: float) -> float:
    """Least NMSE at `bits` bits a dimension: reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3).

    Components above the water level are coded down to it, at half a log2 of their ratio to it; those below are left out.
    """
    variances = np.sort(np.clip(np.linalg.eigvalsh(covariance_DD), 0, None))[::-1]
    total = variances.sum()
    if total <= 0:
        return 0.0
    positive = variances[variances > total * 1e-15]
    logs = np.cumsum(np.log2(positive))
    kept = np.arange(1, len(positive) + 1)
    levels = 2.0 ** ((logs - 2 * bits * len(variances)) / kept)  # the level if so many components are kept
    fits = positive >= levels * (1 - 1e-12)
    last = int(np.flatnonzero(fits)[-1])
    return float((levels[last] * (last + 1) + variances[last + 1 :].sum()) / total)
