"""What the loss sees of a level: codes to targets, in the teacher's channels or in the codec's own basis.

A squared error is the same in every orthonormal basis (decision 0005). In the codec's own basis the last matrix product
of the decode goes away, and heads are as narrow as the codes: [student width, K] instead of [student width, D].

Legend: B batch, T tokens, C codes a token, D teacher width, K values a token.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.storage.codecs import Codec

from .decoders import Basis, Decoder, TargetScaling, build_decoder
from .objectives import OBJECTIVES, OF_CLASSES
from .phi_s import Turned

Statistics = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""(mean, std) of each channel, float32 [D]."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LevelTargets:
    """codes [B, T, C] -> float32 targets of `width` components.

    In the codec's own basis `width` is K and `dropped` is D - K. A dropped component of the teacher's token is not in the
    store. In the teacher's channels its target is a constant, which the bias of a head can learn and nothing else need
    know. Without it the loss is smaller by what a head has yet to learn of that constant: nothing that depends on codes.
    """

    decoder: Decoder
    scaling: TargetScaling | None
    width: int
    dropped: int = 0
    channels: Basis | None = None
    """Where targets in the codec's own basis lie in the channels."""

    @classmethod
    def of_values(cls, decoder: Decoder, scaling: TargetScaling | None) -> "LevelTargets":
        """Targets [B, T, K] in the basis of `decoder`; `scaling` is that of the channels, None for raw targets."""
        basis = decoder.basis
        assert basis is not None
        kept, dim = basis.axes_KD.shape
        nothing = basis.tokens(basis.axes_KD.new_zeros(kept))
        constant = nothing if scaling is None else scaling(nothing)
        channels = Basis(basis.axes_KD, constant - (constant @ basis.axes_KD.T) @ basis.axes_KD)
        if scaling is None and basis.mean_D is not None:  # values count from the codec's mean, raw targets from zero
            scaling = TargetScaling(np.zeros(dim, np.float32), np.ones(dim, np.float32), basis.axes_KD.device)
        within = None if scaling is None else scaling.within(basis)
        return cls(Decoder(decoder.values), within, kept, dim - kept, channels)

    def __call__(self, codes_BTC: Tensor) -> Tensor:
        tokens = self.decoder(codes_BTC)
        return tokens if self.scaling is None else self.scaling(tokens)

    def in_channels(self, predicted: Tensor) -> Tensor:
        """[..., D]: what predictions [..., width] are in channels, to compare with tokens that no codec made.

        Dropped components are at their constant.
        """
        return predicted if self.channels is None else self.channels.tokens(predicted)


def own_bases(
    objectives: Collection[str], codecs: Mapping[str, Codec], *, targets: str = "raw", basis: str = "auto"
) -> dict[str, str]:
    """level -> codec, for the levels whose heads predict in the basis of their codec; the others are not in it.

    With `basis: auto` those whose codec has one, if every objective in use gives the same loss in any and the targets are
    not bound to channels of their own.
    """
    used = [OBJECTIVES[name] for name in objectives if name not in OF_CLASSES]
    anywhere = targets in ("raw", "centred") and all(objective.in_any_basis for objective in used)
    if basis == "channels" or not used or not anywhere:
        return {}
    bases = {level: build_decoder(codec, _CPU).basis for level, codec in codecs.items()}
    return {level: codecs[level].name for level, basis in bases.items() if basis is not None and basis.is_orthonormal}


def build_targets(
    codec: Codec,
    device: torch.device,
    statistics: Statistics | None,
    *,
    own_basis: bool,
    per_channel: bool = False,
) -> LevelTargets:
    """Targets of one level on `device`.

    Args:
        statistics: for `targets: centred` and `standardised`; None: raw.
        own_basis: in the basis of the codec, which has one.
        per_channel: `standardised`.
    """
    decoder = build_decoder(codec, device)
    scaling = None if statistics is None else TargetScaling(*statistics, device, per_channel=per_channel)
    return LevelTargets.of_values(decoder, scaling) if own_basis else LevelTargets(decoder, scaling, codec.dim)


def turned_targets(codec: Codec, device: torch.device, turned: Turned) -> LevelTargets:
    """Targets of `phi_s`: its map and the codec's last step are one matrix product."""
    decoder = build_decoder(codec, device)
    matrix_DD, shift_D = (torch.from_numpy(part).to(device) for part in (turned.matrix_DD, turned.shift_D))
    if decoder.basis is None:
        return LevelTargets(Decoder(decoder.values, Basis(matrix_DD, shift_D)), None, codec.dim)
    axes_KD, mean_D = decoder.basis.axes_KD, decoder.basis.mean_D
    shift_D = shift_D if mean_D is None else shift_D + mean_D @ matrix_DD
    return LevelTargets(Decoder(decoder.values, Basis(axes_KD @ matrix_DD, shift_D)), None, codec.dim)
