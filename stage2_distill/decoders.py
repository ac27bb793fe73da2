"""Codes to tokens on the training device: each codec's decode once more, in torch. The loader delivers codes.

A codec whose last step is an orthonormal transform also hands out what stands before that step: its values.

Legend: B batch, T tokens, C codes a token, D teacher width, K values a token.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.core.errors import UsageError
from stillhouse.storage.codecs import Codec

ORTHONORMAL = 1e-3
"""How far axes @ axes^T may be from the identity, as fitted axes are in float32; a loss is then off by no more than that."""

Values = Callable[[Tensor], Tensor]
Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Basis:
    """tokens = values @ axes + mean, with orthonormal axes.

    What a token has beside the K axes is not in the store: there every decoded token is the mean (zero without one).

    Args:
        axes_KD: floats [K, D], K <= D.
        mean_D: floats [D]; None: zero.
    """

    axes_KD: Tensor
    mean_D: Tensor | None = None

    def tokens(self, values_BTK: Tensor) -> Tensor:
        """[B, T, D]."""
        turned = values_BTK @ self.axes_KD
        return turned if self.mean_D is None else turned + self.mean_D

    def values(self, tokens_D: Tensor) -> Tensor:
        """[..., K] of [..., D]: their coordinates on the axes, from the mean on."""
        return (tokens_D if self.mean_D is None else tokens_D - self.mean_D) @ self.axes_KD.T

    @property
    def is_orthonormal(self) -> bool:
        """A store may hold other axes, from which tokens can be decoded but no loss be taken."""
        axes_KD = self.axes_KD.cpu()  # where the answer is the same for every device
        return bool((axes_KD @ axes_KD.T - torch.eye(len(axes_KD))).abs().max() <= ORTHONORMAL)


@dataclass(frozen=True, slots=True)
class Decoder:
    """codes [B, T, C] -> float32 tokens [B, T, D], by way of float32 values [B, T, K].

    Without a basis the values are the tokens. They are good until the next call, which may write into the same memory;
    autograd refuses a backward pass through what was overwritten.
    """

    values: Values
    basis: Basis | None = None

    def __call__(self, codes_BTC: Tensor) -> Tensor:
        values_BTK = self.values(codes_BTC)
        return values_BTK if self.basis is None else self.basis.tokens(values_BTK)


class Memory:
    """Memory that is used anew for every batch: on a CPU, touching fresh pages costs twice what converting codes does."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def of(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor with anything in it, the same one as long as all three are the same."""
        kept = self._kept
        if kept is None or (kept.shape, kept.dtype, kept.device) != (shape, dtype, device):
            kept = self._kept = torch.empty(shape, dtype=dtype, device=device)
        return kept

    def float(self, codes: Tensor) -> Tensor:
        """float32 of `codes`."""
        return self.of(codes.shape, torch.float32, codes.device).copy_(codes)


def _fp16(arrays: Arrays, device: torch.device) -> Decoder:
    return Decoder(Memory().float)


def _int8(arrays: Arrays, device: torch.device) -> Decoder:
    offset, scale = (torch.from_numpy(arrays[name].copy()).to(device) for name in ("offset", "scale"))
    memory = Memory()

    def values(codes_BTC: Tensor) -> Tensor:
        found = memory.float(codes_BTC)
        return torch.addcmul(offset, found, scale, out=found)

    return Decoder(values)


def _bf16(arrays: Arrays, device: torch.device) -> Decoder:
    memory = Memory()
    return Decoder(lambda codes_BTC: memory.float(codes_BTC.view(torch.bfloat16)))


def _klt(arrays: Arrays, device: torch.device) -> Decoder:
    mean_D, axes_KD, waves_TT = (torch.from_numpy(arrays[n].copy()).to(device) for n in ("mean", "axes", "cosines"))
    coefficients = _ecsq_values(arrays, device)
    return Decoder(lambda codes_BTK: waves_TT.T @ coefficients(codes_BTK), Basis(axes_KD, mean_D))


def _ecsq(arrays: Arrays, device: torch.device) -> Decoder:
    values, offset_D = _ecsq_values(arrays, device), torch.from_numpy(arrays["offset"].copy()).to(device)
    return Decoder(lambda codes_BTD: values(codes_BTD) + offset_D)


def _ecsq_values(arrays: Arrays, device: torch.device) -> Values:
    """codes [B, T, K] -> values [B, T, K] about the offset."""
    step, shift_K, zero_K = (torch.from_numpy(arrays[n].copy()).to(device) for n in ("step", "shift", "zero"))

    def values(codes_BTK: Tensor) -> Tensor:
        codes = codes_BTK.float()
        return torch.where(codes == 0, zero_K, torch.addcmul(codes, torch.sign(codes), shift_K)) * step

    return values


def _pq(arrays: Arrays, device: torch.device) -> Decoder:
    return Decoder(_pq_values(arrays, device))


def _pq_values(arrays: Arrays, device: torch.device) -> Values:
    """codes [B, T, M] -> values [B, T, D], one centroid a part."""
    books_MLP = torch.from_numpy(arrays["books"].copy()).to(device)
    num_parts, num_centroids, part = books_MLP.shape
    flat = books_MLP.reshape(num_parts * num_centroids, part)
    first_M = torch.arange(num_parts, device=device) * num_centroids

    def decode(codes_BTM: Tensor) -> Tensor:
        found = flat.index_select(0, (codes_BTM.long() + first_M).reshape(-1))  # with `out=` torch takes twice as long
        return found.reshape(*codes_BTM.shape[:2], num_parts * part)

    return decode


def _opq(arrays: Arrays, device: torch.device) -> Decoder:
    return Decoder(_pq_values(arrays, device), Basis(torch.from_numpy(arrays["rotation"].copy()).to(device)))


def _rq(arrays: Arrays, device: torch.device) -> Decoder:
    books_MLD = torch.from_numpy(arrays["books"].copy()).to(device)
    num_books, num_centroids, dim = books_MLD.shape
    flat = books_MLD.reshape(num_books * num_centroids, dim)
    first_M = torch.arange(num_books, device=device) * num_centroids

    def decode(codes_BTM: Tensor) -> Tensor:
        names = (codes_BTM.long() + first_M).reshape(-1, num_books)
        return torch.nn.functional.embedding_bag(names, flat, mode="sum").reshape(*codes_BTM.shape[:2], dim)

    return Decoder(decode)


DECODERS: Final[Mapping[str, Callable[[Arrays, torch.device], Decoder]]] = {
    "fp16": _fp16,
    "bf16": _bf16,
    "int8": _int8,
    "int4": _int8,
    "ecsq": _ecsq,
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


NEAR_DEAD = 0.01
"""Of the root mean square of all deviations: a channel that varies less is divided by that much, not blown up to size 1."""


class TargetScaling:
    """Targets as the loss sees them: minus the mean of each channel, over one scalar for all channels or each channel's own.

    One scalar keeps the directions of the features and their relative sizes; only the size of the loss changes.

    Args:
        mean_D, std_D: of each channel, float32 [D].
        per_channel: over the deviation of each channel, at least NEAR_DEAD times the scalar.
    """

    def __init__(
        self,
        mean_D: npt.NDArray[np.float32],
        std_D: npt.NDArray[np.float32],
        device: torch.device,
        *,
        per_channel: bool = False,
    ) -> None:
        self._mean = torch.from_numpy(mean_D.copy()).to(device)
        whole = max(float(np.sqrt(np.mean(std_D.astype(np.float64) ** 2))), 1e-12)
        floored = (1.0 / np.maximum(std_D.astype(np.float64), NEAR_DEAD * whole)).astype(np.float32)
        self._inverse: float | Tensor = torch.from_numpy(floored).to(device) if per_channel else 1.0 / whole
        self._memory = Memory()

    def within(self, basis: Basis) -> "TargetScaling":
        """The same scaling for values of `basis`: what one by a scalar makes of their tokens, on the axes."""
        assert isinstance(self._inverse, float)
        found = copy.copy(self)
        found._mean, found._memory = basis.values(self._mean), Memory()
        return found

    def __call__(self, tokens_BTD: Tensor) -> Tensor:
        """Scaled tokens, good until the next call."""
        out = self._memory.of(tokens_BTD.shape, torch.result_type(tokens_BTD, self._mean), tokens_BTD.device)
        return torch.sub(tokens_BTD, self._mean, out=out).mul_(self._inverse)
