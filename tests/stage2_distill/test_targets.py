"""Targets in a codec's own basis: the same loss, the same gradients, up to what no code says.

Legend: B batch, T tokens, D teacher width, K kept components, S student width, M masked patches.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillhouse.stage2_distill.decoders import Basis, Decoder, TargetScaling
from stillhouse.stage2_distill.objectives import OBJECTIVES, Objective, Predictions, Targets, token_loss
from stillhouse.stage2_distill.targets import LevelTargets, own_bases
from stillhouse.storage.codecs import Codec, fit_codec

CPU = torch.device("cpu")
B, T, M, D, S = 5, 7, 12, 24, 6
ALL = ("token", "feature", "patch")


def drawn(seed: int, *shape: int) -> Tensor:
    """float64, normal."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, slots=True)
class Case:
    """A level in float64 whose codes are its values, with both ways to its targets."""

    basis: Basis
    scaling: TargetScaling | None

    @property
    def channels(self) -> LevelTargets:
        return LevelTargets(Decoder(torch.Tensor.double, self.basis), self.scaling, D)

    @property
    def own(self) -> LevelTargets:
        return LevelTargets.of_values(Decoder(torch.Tensor.double, self.basis), self.scaling)

    def kept(self, predicted: Tensor) -> Tensor:
        """[..., K] of predictions [..., D]: turned into the basis."""
        return predicted @ self.basis.axes_KD.T

    def dropped(self, predicted: Tensor) -> Tensor:
        """[..., D]: what is beside the axes."""
        return predicted - self.kept(predicted) @ self.basis.axes_KD

    def whole(self, predicted: Tensor) -> Tensor:
        """[..., D]: a prediction with the constant in place of what it has beside the axes."""
        return self.own.in_channels(self.kept(predicted))


def make(kept: int, targets: str, *, mean: bool = True) -> Case:
    axes_KD = torch.linalg.qr(drawn(1, D, kept)).Q.T
    basis = Basis(axes_KD, 3 * drawn(2, D) if mean else None)
    return Case(basis, TargetScaling(2 * drawn(3, D).numpy(), np.full(D, 2.7), CPU) if targets == "centred" else None)


def both(case: Case, name: str, predicted: Predictions, codes: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The objective (in channels, in the codec's basis); patches 0 ... M of the batch are the masked ones."""
    losses = []
    turned = Predictions(*(case.kept(tensor) for tensor in _given(predicted)))
    for level, given in ((case.channels, predicted), (case.own, turned)):
        cls_B1D, patch_BTD = (level(of_level) for of_level in codes)
        masked = patch_BTD.reshape(B * T, -1)[:M]
        target = Targets(cls_B1D[:, 0], patch_BTD, masked, dropped_cls=level.dropped, dropped_patch=level.dropped)
        losses.append(float(OBJECTIVES[name](given, target)))
    return losses[0], losses[1]


def _given(predicted: Predictions) -> tuple[Tensor, Tensor, Tensor]:
    cls_BD, patch_BTD, masked_MD = predicted.cls_BD, predicted.patch_BTD, predicted.masked_MD
    assert cls_BD is not None and patch_BTD is not None and masked_MD is not None
    return cls_BD, patch_BTD, masked_MD


def predictions(seed: int) -> Predictions:
    return Predictions(4 * drawn(seed, B, D), 4 * drawn(seed + 1, B, T, D), 4 * drawn(seed + 2, M, D))


def same_beside_the_axes(case: Case, predicted: Predictions, other: Predictions) -> Predictions:
    """`other`, with what `predicted` has beside the axes."""
    pairs = zip(_given(predicted), _given(other), strict=True)
    return Predictions(*(b - case.dropped(b) + case.dropped(a) for a, b in pairs))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("targets", ["raw", "centred"])
@pytest.mark.parametrize("kept", [D, 9])
@pytest.mark.parametrize("name", ALL)
def test_the_loss_is_that_of_the_channels_up_to_the_dropped_components(
    name: str, kept: int, targets: str, mean: bool
) -> None:
    """Whatever is predicted on the axes and whatever the codes say, the difference of the two losses is one constant."""
    case = make(kept, targets, mean=mean)
    first, differences = predictions(10), []
    for seed in range(20, 28):
        predicted = same_beside_the_axes(case, first, predictions(10 * seed))
        codes = (5 * drawn(10 * seed + 3, B, 1, kept), 5 * drawn(10 * seed + 4, B, T, kept))
        in_channels, in_basis = both(case, name, predicted, codes)
        assert in_basis > 0
        differences.append(in_channels - in_basis)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-12)
    assert abs(differences[0]) < 1e-12 if kept == D else differences[0] > 0.1


@pytest.mark.parametrize("targets", ["raw", "centred"])
@pytest.mark.parametrize("name", ALL)
def test_predictions_put_back_into_channels_have_the_very_same_loss(name: str, targets: str) -> None:
    """Beside the axes every decoded token is the codec's mean: the difference is what is missing to that, and no more."""
    case = make(9, targets)
    codes = (5 * drawn(1, B, 1, 9), 5 * drawn(2, B, T, 9))
    drawn_ones = predictions(50)
    tensors = _given(drawn_ones)
    in_channels, in_basis = both(case, name, Predictions(*(case.whole(tensor) for tensor in tensors)), codes)
    assert in_channels == pytest.approx(in_basis, rel=1e-13)
    missing = (tensors[0] - case.whole(tensors[0])).square().mean()
    unknowing = both(case, "token", drawn_ones, codes)
    assert unknowing[0] - unknowing[1] == pytest.approx(float(missing), rel=1e-12)


def test_targets_put_back_into_channels_are_those_of_the_channels() -> None:
    for case in (make(9, "raw"), make(9, "centred"), make(D, "centred", mean=False), make(9, "raw", mean=False)):
        codes_BTK = 5 * drawn(2, B, T, len(case.basis.axes_KD))
        expected = case.channels(codes_BTK)
        torch.testing.assert_close(case.own.in_channels(case.own(codes_BTK)), expected, rtol=1e-12, atol=1e-12)
        assert case.channels.in_channels(expected) is expected


@pytest.mark.parametrize("targets", ["raw", "centred"])
@pytest.mark.parametrize("kept", [D, 9])
def test_gradients_of_a_turned_head_are_the_turned_gradients(kept: int, targets: str) -> None:
    """A head in the basis against the same head in channels: its gradients turned, those of the student as they are."""
    case = make(kept, targets)
    axes_KD = case.basis.axes_KD
    torch.manual_seed(0)
    norm, narrow, wide = nn.LayerNorm(S).double(), nn.Linear(S, kept).double(), nn.Linear(S, D).double()
    with torch.no_grad():
        wide.weight.copy_(axes_KD.T @ narrow.weight)
        wide.bias.copy_(case.own.in_channels(narrow.bias))
    codes_BTK, of_tokens = 5 * drawn(2, B, T, kept), []
    for level, linear in ((case.own, narrow), (case.channels, wide)):
        tokens_BTS = drawn(4, B, T, S).requires_grad_()
        predicted, target = linear(norm(tokens_BTS)), level(codes_BTK)
        aside = torch.zeros(B, level.width, dtype=torch.float64)
        wanted = Targets(aside, target, dropped_cls=level.dropped, dropped_patch=level.dropped)
        OBJECTIVES["feature"](Predictions(aside, predicted), wanted).backward()  # type: ignore[no-untyped-call]
        of_tokens.append(tokens_BTS.grad)
    found, expected = [of_tokens[0]], [of_tokens[1]]
    assert wide.weight.grad is not None and wide.bias.grad is not None
    found += [narrow.weight.grad, narrow.bias.grad]
    expected += [axes_KD @ wide.weight.grad, axes_KD @ wide.bias.grad]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def channels_like(num: int = 300) -> Any:
    """float32 [num, 3, 24] with channels of very different sizes, as teachers have."""
    generator = np.random.Generator(np.random.PCG64(0))
    return (generator.normal(0.3, 1.0, (num, 3, D)) * np.logspace(-2, 1.5, D)).astype(np.float32)


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    return {name: fit_codec(name, channels_like()) for name in ("fp16", "klt", "opq")}


def test_auto_takes_every_basis_there_is(codecs: dict[str, Codec]) -> None:
    assert own_bases(ALL, codecs) == {"klt": "klt", "opq": "opq"}
    assert own_bases(ALL, codecs, basis="channels") == {}


def test_one_objective_that_is_not_of_any_basis_keeps_all_in_channels(
    codecs: dict[str, Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = Objective(token_loss, in_any_basis=False)
    monkeypatch.setattr("stillhouse.stage2_distill.targets.OBJECTIVES", {**OBJECTIVES, "token": absolute})
    assert own_bases(ALL, codecs) == {}
    assert own_bases(("feature",), codecs) == {"klt": "klt", "opq": "opq"}


def test_axes_that_are_not_orthonormal_are_no_basis(codecs: dict[str, Codec]) -> None:
    klt: Any = codecs["klt"]
    assert own_bases(ALL, {"cls": replace(klt, axes_KD=1.01 * klt.axes_KD), "patch": klt}) == {"patch": "klt"}
