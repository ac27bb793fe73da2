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
        bound_nmse: the least NMSE of any code of single tokens at these bits, were they Gaussian with their measured
            covariance. A code that looks at neighbouring tokens may do better.
        leading_nmse: the same as `nmse` along the principal axes that hold the first half of all variance: codes of
            equal error differ in where they have it.
    """

    choice: str
    bits: float
    nmse: float
    cosine: float
    bound_nmse: float
    leading_nmse: float

    @property
    def snr_db(self) -> float:
        """Signal to noise, in decibels."""
        return decibels(self.nmse)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "snr_db": round(self.snr_db, 3)}


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Variances along the principal axes of tokens, largest first, and the leading axes.

    Args:
        variances_D: float64.
        leading_DM: float64, orthonormal columns: the axes that hold the first half of all variance, and at least one.
    """

    variances_D: npt.NDArray[np.float64]
    leading_DM: npt.NDArray[np.float64]

    @classmethod
    def of(cls, tokens_NTD: Tokens) -> "Spectrum":
        variances, axes = np.linalg.eigh(channel_covariance(tokens_NTD))
        variances_D = np.clip(variances[::-1], 0, None)
        half = int(np.searchsorted(np.cumsum(variances_D), variances_D.sum() / 2)) + 1
        return cls(variances_D, axes[:, ::-1][:, :half])


def decibels(nmse: float) -> float:
    """Of an error as a share of the variance; at most 300."""
    return float(-10 * np.log10(max(nmse, 1e-30)))


def measure(choice: str, codec: Codec, tokens_NTD: Tokens, spectrum: Spectrum | None = None) -> Point:
    """A codec on tokens that it was not fitted on.

    Args:
        spectrum: of more tokens of this teacher; None: of `tokens_NTD`, whose bound says too much when they are few.
    """
    codes = codec.encode(tokens_NTD)
    decoded, exact = codec.decode(codes).astype(np.float64), tokens_NTD.astype(np.float64)
    spectrum = Spectrum.of(tokens_NTD) if spectrum is None else spectrum
    bits, centred = bits_on_disk(codec, codes), exact - exact.mean(axis=(0, 1))
    norms = np.linalg.norm(decoded, axis=-1) * np.linalg.norm(exact, axis=-1)
    cosine = float(((decoded * exact).sum(axis=-1) / np.maximum(norms, 1e-300)).mean())
    return Point(
        choice,
        bits,
        _share(decoded - exact, centred),
        cosine,
        _water_filling(spectrum.variances_D, bits),
        _share((decoded - exact) @ spectrum.leading_DM, centred @ spectrum.leading_DM),
    )


def nmse(decoded_NTD: npt.NDArray[np.floating], exact_NTD: Tokens) -> float:
    """Squared error as a share of the variance about the mean token."""
    exact = exact_NTD.astype(np.float64)
    return _share(decoded_NTD.astype(np.float64) - exact, exact - exact.mean(axis=(0, 1)))


def _share(error_NTD: npt.NDArray[np.float64], centred_NTD: npt.NDArray[np.float64]) -> float:
    return float((error_NTD**2).sum() / max((centred_NTD**2).sum(), 1e-300))


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
    return _water_filling(np.clip(np.linalg.eigvalsh(covariance_DD), 0, None)[::-1], bits)


def _water_filling(variances: npt.NDArray[np.float64], bits: float) -> float:
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
