"""The objectives beside Proteus' against a second computation: numpy, float64, gradients by differences.

Legend: B batch, T patches, D width, C classes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stillhouse.stage2_distill.objectives import OBJECTIVES, Predictions, Targets

Array = NDArray[np.float64]
B, T, D, C = 3, 5, 4, 6
KEYS = {"theia": "patch", "radio_patch": "patch", "radio_summary": "cls", "kl": "logits", "ce": "logits"}


def draw(seed: int, scale: float = 1.0) -> tuple[dict[str, Array], dict[str, Array], NDArray[np.int64]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    shapes = {"cls": (B, D), "patch": (B, T, D), "logits": (B, C)}
    given, wanted = (
        {key: generator.normal(middle, 2.0, shape) * scale for key, shape in shapes.items()} for middle in (0.0, 0.5)
    )
    return given, wanted, generator.integers(0, C, B)


def cosine(one: Array, other: Array) -> float:
    return float((one * other).sum() / np.sqrt((one * one).sum() * (other * other).sum()))


def smooth_l1(error: Array) -> float:
    """0.5 e^2 below 1, |e| - 0.5 from there on; the mean over all."""
    return float(np.where(np.abs(error) < 1, 0.5 * error**2, np.abs(error) - 0.5).mean())


def theia(given: Array, wanted: Array, label_B: NDArray[np.int64], temperature: float) -> float:
    cosines = [cosine(given[b].ravel(), wanted[b].ravel()) for b in range(B)]
    return 0.9 * (1 - float(np.mean(cosines))) + 0.1 * smooth_l1(given - wanted)


def radio_patch(given: Array, wanted: Array, label_B: NDArray[np.int64], temperature: float) -> float:
    cosines = [cosine(given[b, t], wanted[b, t]) for b in range(B) for t in range(T)]
    return 0.9 * (1 - float(np.mean(cosines))) + 0.1 * smooth_l1(given - wanted)


def radio_summary(given: Array, wanted: Array, label_B: NDArray[np.int64], temperature: float) -> float:
    return 1 - float(np.mean([cosine(given[b], wanted[b]) for b in range(B)]))


def softmax(scores: Array) -> Array:
    powers: Array = np.exp(scores)
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def kl(given: Array, wanted: Array, label_B: NDArray[np.int64], temperature: float) -> float:
    teacher, student = softmax(wanted / temperature), softmax(given / temperature)
    return temperature**2 * float((teacher * np.log(teacher / student)).sum(-1).mean())


def ce(given: Array, wanted: Array, label_B: NDArray[np.int64], temperature: float) -> float:
    return -float(np.mean([np.log(softmax(given)[b, label_B[b]]) for b in range(B)]))


FORMULAE: dict[str, Callable[[Array, Array, NDArray[np.int64], float], float]] = {
    "theia": theia,
    "radio_patch": radio_patch,
    "radio_summary": radio_summary,
    "kl": kl,
    "ce": ce,
}


def evaluate(
    name: str, given: dict[str, Array], wanted: dict[str, Array], label_B: NDArray[np.int64], temperature: float
) -> tuple[float, Array]:
    """In torch, float64: the value, and its gradient by what the objective reads."""
    tensors = {key: torch.from_numpy(value).requires_grad_() for key, value in given.items()}
    predicted = Predictions(tensors["cls"], tensors["patch"], None, tensors["logits"])
    target = Targets(*(torch.from_numpy(wanted[key]) for key in ("cls", "patch")), temperature=temperature)
    target = replace(target, logits_BC=torch.from_numpy(wanted["logits"]), label_B=torch.from_numpy(label_B))
    loss = OBJECTIVES[name](predicted, target)
    loss.backward()  # type: ignore[no-untyped-call]
    read = [key for key, tensor in tensors.items() if tensor.grad is not None]
    assert read == [KEYS[name]]
    gradient = tensors[KEYS[name]].grad
    assert gradient is not None
    return float(loss.detach()), gradient.numpy()


def test_every_other_objective_is_tested() -> None:
    assert FORMULAE.keys() == KEYS.keys() == OBJECTIVES.keys() - {"token", "feature", "patch"}


@pytest.mark.parametrize("name", FORMULAE)
@pytest.mark.parametrize(("seed", "scale", "temperature"), [(0, 1.0, 1.0), (1, 0.2, 4.0), (2, 3.0, 0.5)])
def test_values_and_gradients_are_those_of_the_formula(name: str, seed: int, scale: float, temperature: float) -> None:
    given, wanted, label_B = draw(seed, scale)
    value, gradient = evaluate(name, given, wanted, label_B, temperature)
    key = KEYS[name]

    def formula(at: Array) -> float:
        return FORMULAE[name](at, wanted[key], label_B, temperature)

    assert value == pytest.approx(formula(given[key]), rel=1e-10)
    step, expected = 1e-6, np.zeros_like(gradient)
    for place in np.ndindex(*gradient.shape):
        moved = np.zeros_like(gradient)
        moved[place] = step
        expected[place] = (formula(given[key] + moved) - formula(given[key] - moved)) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["theia", "radio_patch", "radio_summary", "kl"])
def test_the_teacher_itself_costs_nothing(name: str) -> None:
    _, wanted, label_B = draw(4)
    value, gradient = evaluate(name, wanted, wanted, label_B, 2.0)
    assert abs(value) < 1e-12 and float(np.abs(gradient).max()) < 1e-12


def test_the_two_cosines_are_not_one() -> None:
    """Theia's sees the sizes of tokens beside each other, RADIO's does not."""
    given, wanted, label_B = draw(5)
    louder = {**given, "patch": given["patch"] * np.linspace(1, 9, T)[:, None]}
    plain, loud = (evaluate("theia", case, wanted, label_B, 1.0)[1] for case in (given, louder))
    assert not np.allclose(plain, loud)

    def cosine_part(name: str, case: dict[str, Array]) -> float:
        return evaluate(name, case, wanted, label_B, 1.0)[0] - 0.1 * smooth_l1(case["patch"] - wanted["patch"])

    assert cosine_part("radio_patch", louder) == pytest.approx(cosine_part("radio_patch", given), rel=1e-10)
    assert abs(cosine_part("theia", louder) - cosine_part("theia", given)) > 1e-3


def test_logits_mean_the_same_wherever_their_zero_is() -> None:
    given, wanted, label_B = draw(6)
    moved = {**wanted, "logits": wanted["logits"] + 5.0}
    values = [evaluate("kl", given, case, label_B, 3.0)[0] for case in (wanted, moved)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
