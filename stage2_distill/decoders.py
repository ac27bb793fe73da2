"""Codes to tokens on the training device: each codec's decode once more, in torch. The loader delivers codes.

Legend: B batch, T tokens, C codes a token, D teacher width.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.core.errors import UsageError
from stillhouse.storage.codecs import Codec

Decoder = Callable[[Tensor], Tensor]
Arrays = Mapping[str, npt.NDArray[np.float32]]


def _fp16(arrays: Arrays, device: torch.device) -> Decoder:
    return lambda codes_BTC: codes_BTC.float()


def _int8(arrays: Arrays, device: torch.device) -> Decoder:
    offset, scale = (torch.from_numpy(arrays[name].copy()).to(device) for name in ("offset", "scale"))
    return lambda codes_BTC: torch.addcmul(offset, codes_BTC.float(), scale)


DECODERS: Final[Mapping[str, Callable[[Arrays, torch.device], Decoder]]] = {"fp16": _fp16, "int8": _int8}


def build_decoder(codec: Codec, device: torch.device) -> Decoder:
    """codes [B, T, C] on `device` -> float32 tokens [B, T, D] there, equal to `codec.decode`."""
    if codec.name not in DECODERS:
        raise UsageError(f"codec {codec.name!r} has no decoder for training", hint=f"known: {', '.join(DECODERS)}")
    return DECODERS[codec.name](codec.arrays(), device)


class TargetScaling:
    """Targets as the loss sees them: raw, or centred per channel and divided by one scalar for all channels.

    One scalar keeps the directions of the features and their relative sizes; only the size of the loss changes.
    """

    def __init__(self, mean_D: npt.NDArray[np.float32], std_D: npt.NDArray[np.float32], device: torch.device) -> None:
        self._mean = torch.from_numpy(mean_D.copy()).to(device)
        self._inverse = float(1.0 / max(float(np.sqrt(np.mean(std_D.astype(np.float64) ** 2))), 1e-12))

    def __call__(self, tokens_BTD: Tensor) -> Tensor:
        return (tokens_BTD - self._mean) * self._inverse
