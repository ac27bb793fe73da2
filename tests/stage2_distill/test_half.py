import torch
from torch import nn

from stillhouse.stage2_distill.half import Half, can_be_halved


def test_masters_get_the_gradients_of_the_copy() -> None:
    masters = nn.Linear(3, 2)
    half = Half(masters, torch.bfloat16)
    with torch.no_grad():
        masters.weight.fill_(0.5)
    half.refresh()
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    half.module(x).sum().backward()
    half.hand_over()
    assert masters.weight.grad is not None and masters.weight.grad.dtype == torch.float32
    assert masters.weight.grad.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert all(parameter.grad is None for parameter in half.module.parameters())
    assert half.module.weight.tolist() == masters.weight.tolist()


def test_what_got_no_gradient_has_none() -> None:
    masters = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    half = Half(masters, torch.bfloat16)
    half.module["used"](torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    half.hand_over()
    assert masters["used"].weight.grad is not None and masters["idle"].weight.grad is None


def test_small_steps_are_not_lost_in_the_masters() -> None:
    """A step of a thousandth is nothing beside 1 in bfloat16; eight of them in a master are."""
    masters = nn.Linear(1, 1, bias=False)
    nn.init.ones_(masters.weight)
    half = Half(masters, torch.bfloat16)
    optimiser = torch.optim.SGD(masters.parameters(), lr=1e-3)
    for _ in range(8):
        half.refresh()
        half.module(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        half.hand_over()
        optimiser.step()
    half.refresh()
    assert masters.weight.item() < 0.9925
    assert half.module.weight.item() < 1


def test_turns_are_summed_in_full_precision() -> None:
    """In bfloat16 256 + 1 is 256."""
    masters = nn.Linear(1, 1, bias=False)
    half = Half(masters, torch.bfloat16)
    half.refresh()
    for x in (256.0, 1.0, 1.0):
        half.module(torch.full((1, 1), x, dtype=torch.bfloat16)).sum().backward()
        half.hand_over()
    assert masters.weight.grad is not None and masters.weight.grad.item() == 258


def test_running_statistics_stay_in_full_precision() -> None:
    assert can_be_halved(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    assert not can_be_halved(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
