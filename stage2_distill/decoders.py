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


def _bf16(arrays: Arrays, device: torch.device) -> Decoder:
    return lambda codes_BTC: codes_BTC.view(torch.bfloat16).float()


def _klt(arrays: Arrays, device: torch.device) -> Decoder:
    mean, axes, step, shift = (torch.from_numpy(arrays[n].copy()).to(device) for n in ("mean", "axes", "step", "shift"))

    def decode(codes_BTK: Tensor) -> Tensor:
        codes = codes_BTK.float()
        values_BTK = (codes + torch.sign(codes) * shift) * step
        return values_BTK @ axes + mean

    return decode


def _pq(arrays: Arrays, device: torch.device) -> Decoder:
    books_MLP = torch.from_numpy(arrays["books"].copy()).to(device)
    num_parts, num_centroids, part = books_MLP.shape
    flat = books_MLP.reshape(num_parts * num_centroids, part)
    first_M = torch.arange(num_parts, device=device) * num_centroids

    def decode(codes_BTM: Tensor) -> Tensor:
        found = flat.index_select(0, (codes_BTM.long() + first_M).reshape(-1))
        return found.reshape(*codes_BTM.shape[:2], num_parts * part)

    return decode


def _opq(arrays: Arrays, device: torch.device) -> Decoder:
    rotation, decode_pq = torch.from_numpy(arrays["rotation"].copy()).to(device), _pq(arrays, device)
    return lambda codes_BTM: decode_pq(codes_BTM) @ rotation


def _rq(arrays: Arrays, device: torch.device) -> Decoder:
    books_MLD = torch.from_numpy(arrays["books"].copy()).to(device)
    num_books, num_centroids, dim = books_MLD.shape
    flat = books_MLD.reshape(num_books * num_centroids, dim)
    first_M = torch.arange(num_books, device=device) * num_centroids

    def decode(codes_BTM: Tensor) -> Tensor:
        names = (codes_BTM.long() + first_M).reshape(-1, num_books)
        return torch.nn.functional.embedding_bag(names, flat, mode="sum").reshape(*codes_BTM.shape[:2], dim)

    return decode


DECODERS: Final[Mapping[str, Callable[[Arrays, torch.device], Decoder]]] = {
    "fp16": _fp16,
    "bf16": _bf16,
    "int8": _int8,
    "int4": _int8,
    "klt": _klt,
    "pq": _pq,
    "opq": _opq,
    "rq": _rq,
}


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
