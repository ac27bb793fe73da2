"""Losses against their formulae written out a second time, values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stillhouse.eval.tasks.depth.losses import (
    gradient_as_intended,
    gradient_as_written,
    sig_loss,
    silog_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]


def depths(num: int = 3, size: tuple[int, int] = (9, 11)) -> tuple[Tensor, Tensor]:
    """float64 predictions and truth, of which a quarter is not known."""
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.rand(num, 1, *size, generator=generator, dtype=torch.float64) * 9 + 0.5 for _ in range(2))
    true[torch.rand(true.shape, generator=generator) < 0.25] = 0
    return predicted, true


def sig_by_hand(predicted: Tensor, true: Tensor, warm: bool) -> Tensor:
    pairs = [(p, t) for p, t in zip(predicted.flatten(), true.flatten(), strict=True) if t > 0]
    g = [torch.log(p + 1e-3) - torch.log(t + 1e-3) for p, t in pairs]
    mean = torch.stack(g).sum() / len(g)
    spread = torch.stack([(each - mean) ** 2 for each in g]).sum() / (len(g) - 1)
    return torch.sqrt(0.15 * mean**2) if warm else torch.sqrt(spread + 0.15 * mean**2)


def silog_by_hand(predicted: Tensor, true: Tensor) -> Tensor:
    roots = []
    for p_map, t_map in zip(predicted, true, strict=True):
        pairs = [(p, t) for p, t in zip(p_map.flatten(), t_map.flatten(), strict=True) if t > 1e-6]
        d = torch.stack([torch.log(t) - torch.log(p) for p, t in pairs])
        roots.append(torch.sqrt((d**2).sum() / len(d) - 0.5 * (d.sum() / len(d)) ** 2))
    return torch.stack(roots).sum() / len(roots)


def intended_by_hand(predicted: Tensor, true: Tensor) -> Tensor:
    """Pixels two steps apart on grids of every 1st, 2nd, 4th and 6th row and column."""
    total = predicted.sum() * 0
    for step in (1, 2, 4, 6):
        rows, columns = range(0, true.shape[2], step), range(0, true.shape[3], step)
        error = {
            (b, i, j): torch.log(predicted[b, 0, y, x] + 1e-3) - torch.log(true[b, 0, y, x] + 1e-3)
            for b in range(len(true)) for i, y in enumerate(rows) for j, x in enumerate(columns) if true[b, 0, y, x] > 0
        }  # fmt: skip
        pairs = [
            (here, error[b, i + down, j + right])
            for (b, i, j), here in error.items() for down, right in ((2, 0), (0, 2)) if (b, i + down, j + right) in error
        ]  # fmt: skip
        total = total + torch.stack([(a - b).abs() for a, b in pairs] or [total * 0]).sum() / len(error)
    return total


def same_with_gradient(one: Loss, other: Loss, predicted: Tensor, true: Tensor) -> None:
    found = []
    for loss in (one, other):
        leaf = predicted.clone().requires_grad_()
        value = loss(leaf, true)
        value.backward()  # type: ignore[no-untyped-call]
        found.append((value.detach(), leaf.grad))
    assert found[0][0] > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("warm", [False, True])
def test_sig_loss(warm: bool) -> None:
    same_with_gradient(lambda p, t: sig_loss(p, t, warm=warm), lambda p, t: sig_by_hand(p, t, warm), *depths())


def test_silog_loss() -> None:
    same_with_gradient(silog_loss, silog_by_hand, *depths())


def test_gradient_loss_as_intended() -> None:
    same_with_gradient(gradient_as_intended, intended_by_hand, *depths(2))


@pytest.mark.parametrize("num", [1, 2])
def test_gradient_loss_as_written_is_nothing_for_up_to_two_images(num: int) -> None:
    predicted, true = depths(num)
    leaf = predicted.clone().requires_grad_()
    value = gradient_as_written(leaf, true)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0 and leaf.grad is not None and not leaf.grad.any()
    assert gradient_as_intended(predicted, true) > 0


def test_gradient_loss_as_written_compares_images() -> None:
    """Of three images the first with the third, pixel by pixel; coarser scales hold one image of the three or two."""
    predicted, true = depths(3)

    def by_hand(p: Tensor, t: Tensor) -> Tensor:
        log = torch.log(p + 1e-3) - torch.log(t + 1e-3)
        both = (t[0] > 0) & (t[2] > 0)
        return ((log[0] - log[2]).abs() * both).sum() / (t > 0).sum()

    same_with_gradient(gradient_as_written, by_hand, predicted, true)


def test_a_perfect_prediction_has_no_gradient_and_no_nan() -> None:
    _, true = depths()
    for loss in (lambda p, t: sig_loss(p, t, warm=False), lambda p, t: sig_loss(p, t, warm=True), silog_loss):
        leaf = true.clone().requires_grad_()
        value = loss(leaf, true)
        value.backward()  # type: ignore[no-untyped-call]
        assert value < 1e-12 and leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize("known", [0, 1])
def test_hardly_a_known_pixel_is_no_nan(known: int) -> None:
    predicted, true = depths()
    true[:] = 0
    true.view(-1)[:known] = 2
    losses: list[Loss] = [
        lambda p, t: sig_loss(p, t, warm=False),
        silog_loss,
        gradient_as_written,
        gradient_as_intended,
    ]
    for loss in losses:
        leaf = predicted.clone().requires_grad_()
        value = loss(leaf, true)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()


def test_silog_of_depths_below_zero_is_finite() -> None:
    predicted, true = depths()
    predicted[:, :, 0] = -1
    leaf = predicted.clone().requires_grad_()
    silog_loss(leaf, true).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None and leaf.grad.isfinite().all() and not leaf.grad[:, :, 0].any()
