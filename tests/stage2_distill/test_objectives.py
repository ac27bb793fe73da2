"""Proteus' objectives against a second computation: its formulae in numpy and float64, values and gradients.

Legend: B batch, T patches, M masked patches of the batch, D teacher width, S student width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.stage2_distill.heads import OF_OBJECTIVE, Head, Heads
from stillhouse.stage2_distill.objectives import OBJECTIVES, Predictions, Targets

Array = NDArray[np.float64]
B, T, M, D = 5, 7, 12, 6


@dataclass(frozen=True, slots=True)
class Case:
    """Predictions and targets as float64 arrays: cls [B, D], patch [B, T, D], masked [M, D]."""

    predicted: dict[str, Array]
    target: dict[str, Array]

    def loss(self, name: str) -> tuple[float, dict[str, Array]]:
        """The objective in torch, float32: its value and its gradient by each prediction that it reads."""
        given = {key: torch.from_numpy(value).float().requires_grad_() for key, value in self.predicted.items()}
        wanted = {key: torch.from_numpy(value).float() for key, value in self.target.items()}
        loss = OBJECTIVES[name](Predictions(*given.values()), Targets(*wanted.values()))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {key: value.grad.double().numpy() for key, value in given.items() if value.grad is not None}
        return float(loss.detach()), gradients


def draw(seed: int, *, cls_dim: int = D, scale: float = 1.0) -> Case:
    generator = np.random.Generator(np.random.PCG64(seed))
    shapes = {"cls": (B, cls_dim), "patch": (B, T, D), "masked": (M, D)}
    return Case(
        {key: generator.normal(size=shape) * scale for key, shape in shapes.items()},
        {key: generator.normal(2.0, 3.0, size=shape) * scale for key, shape in shapes.items()},
    )


def token(case: Case) -> tuple[float, dict[str, Array]]:
    """L_token: mean over B and D of (token_head(cls_s) - cls_t)^2."""
    error = case.predicted["cls"] - case.target["cls"]
    return float((error**2).mean()), {"cls": 2 * error / error.size}


def feature(case: Case) -> tuple[float, dict[str, Array]]:
    """L_fea: mean over B, 1 + T and D on the concatenations [cls; patches]."""
    predicted = np.concatenate([case.predicted["cls"][:, None], case.predicted["patch"]], axis=1)
    target = np.concatenate([case.target["cls"][:, None], case.target["patch"]], axis=1)
    error = predicted - target
    assert error.shape == (B, 1 + T, D)
    gradient = 2 * error / error.size
    return float((error**2).mean()), {"cls": gradient[:, 0], "patch": gradient[:, 1:]}


def patch(case: Case) -> tuple[float, dict[str, Array]]:
    """L_patch: mean over the masked positions and D."""
    error = case.predicted["masked"] - case.target["masked"]
    return float((error**2).mean()), {"masked": 2 * error / error.size}


FORMULAE: dict[str, Callable[[Case], tuple[float, dict[str, Array]]]] = {
    "token": token,
    "feature": feature,
    "patch": patch,
}


def test_every_objective_is_tested() -> None:
    """The others are in test_other_objectives.py."""
    assert FORMULAE.keys() < OBJECTIVES.keys() == OF_OBJECTIVE.keys()


@pytest.mark.parametrize("name", FORMULAE)
@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 1.0), (2, 30.0), (3, 0.01)])
def test_values_and_gradients_are_those_of_the_formula(name: str, seed: int, scale: float) -> None:
    case = draw(seed, scale=scale)
    value, gradients = case.loss(name)
    expected, expected_gradients = FORMULAE[name](case)
    assert value == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[key], rtol=1e-5, atol=1e-7 * scale)


@pytest.mark.parametrize(("lambda_token", "lambda_feature"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_cls_weighs_lambda_token_plus_a_share_of_lambda_feature(lambda_token: float, lambda_feature: float) -> None:
    """In units of a mean over B and D: lambda_token + lambda_feature / (1 + T)."""
    case = draw(4)
    gradient = lambda_token * case.loss("token")[1]["cls"] + lambda_feature * case.loss("feature")[1]["cls"]
    unit = token(case)[1]["cls"]
    np.testing.assert_allclose(gradient, (lambda_token + lambda_feature / (1 + T)) * unit, rtol=1e-5)


def test_a_cls_of_another_width_counts_its_elements() -> None:
    """Some CNNs pool to another width than their grid has; the mean is over all elements then."""
    case = draw(5, cls_dim=10)
    squares = [((case.predicted[key] - case.target[key]) ** 2).sum() for key in ("cls", "patch")]
    value, gradients = case.loss("feature")
    num = B * 10 + B * T * D
    assert value == pytest.approx(sum(squares) / num, rel=1e-5)
    np.testing.assert_allclose(
        gradients["cls"], 2 * (case.predicted["cls"] - case.target["cls"]) / num, rtol=1e-5, atol=1e-7
    )


def test_means_count_the_dropped_components_of_each_level() -> None:
    """Of a cls of 10 + 3 and patches of D + 5 components, those dropped are elements without error."""
    case = draw(8, cls_dim=10)
    predicted, target = (
        [torch.from_numpy(value) for value in values.values()] for values in (case.predicted, case.target)
    )
    squares = {key: ((case.predicted[key] - case.target[key]) ** 2).sum() for key in case.target}
    expected = {
        "token": squares["cls"] / (B * 13),
        "feature": (squares["cls"] + squares["patch"]) / (B * 13 + B * T * (D + 5)),
        "patch": squares["masked"] / (M * (D + 5)),
    }
    for name in FORMULAE:
        found = OBJECTIVES[name](Predictions(*predicted), Targets(*target, dropped_cls=3, dropped_patch=5))
        assert float(found) == pytest.approx(expected[name], rel=1e-12)


def test_perfect_predictions_cost_nothing() -> None:
    case = draw(6)
    for name in FORMULAE:
        value, gradients = Case(case.target, case.target).loss(name)
        assert value == 0
        assert all((gradient == 0).all() for gradient in gradients.values())


def numpy_head(head: Head, tokens: Tensor) -> Array:
    """LayerNorm with eps 1e-5, then Linear with bias, in float64."""
    norm, linear = (
        {key: value.detach().double().numpy() for key, value in part.named_parameters()} for part in (head[0], head[1])
    )
    x = tokens.detach().double().numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * norm["weight"] + norm["bias"]
    projected: Array = x @ linear["weight"].T + linear["bias"]
    return projected


def make_heads(**sizes: Any) -> Heads:
    torch.manual_seed(0)
    heads = Heads(
        **{"student_cls": 4, "student_patch": 4, "teacher_cls": D, "teacher_patch": D, "masked": True} | sizes
    )
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return heads


def test_heads_are_layer_norm_and_linear() -> None:
    heads, tokens = make_heads(), torch.randn(B, T, 4)
    assert set(heads) == {"token", "feature", "patch"}
    for name in heads:
        head = heads[name]
        assert isinstance(head, Head)
        np.testing.assert_allclose(heads.apply_head(name, tokens).detach(), numpy_head(head, tokens), atol=1e-5)


def test_heads_are_separate_and_take_different_widths() -> None:
    heads = make_heads(student_cls=3, teacher_cls=8, masked=False)
    assert set(heads) == {"token", "feature"}
    assert heads.apply_head("token", torch.randn(2, 3)).shape == (2, 8)
    assert heads.apply_head("feature", torch.randn(2, T, 4)).shape == (2, T, D)
    assert len({id(parameter) for parameter in make_heads().parameters()}) == 12


def test_the_feature_objective_sends_cls_through_the_token_head() -> None:
    """From the student's tokens on: the concatenation [token_head(cls); fea_head(patches)] against [cls_t; patches_t]."""
    heads, case = make_heads(), draw(7)
    cls_BS, patch_BTS = torch.randn(B, 4), torch.randn(B, T, 4)
    predicted = Predictions(heads.apply_head("token", cls_BS), heads.apply_head("feature", patch_BTS))
    target = Targets(*(torch.from_numpy(case.target[key]).float() for key in ("cls", "patch")))
    loss = OBJECTIVES["feature"](predicted, target)
    loss.backward()  # type: ignore[no-untyped-call]
    token_head, feature_head = heads["token"], heads["feature"]
    assert isinstance(token_head, Head) and isinstance(feature_head, Head)
    given = {"cls": numpy_head(token_head, cls_BS), "patch": numpy_head(feature_head, patch_BTS)}
    expected, gradients = feature(Case(given, case.target))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    bias = token_head[1].bias
    assert isinstance(bias, Tensor) and bias.grad is not None
    np.testing.assert_allclose(bias.grad, gradients["cls"].sum(axis=0), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in heads["patch"].parameters())
