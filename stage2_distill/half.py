"""Half-precision weights with float32 masters: a copy of the student runs, the student itself is what is trained.

Autocast casts every weight at every use and keeps what flows between the blocks in float32. The copy is cast once a step, and
all between its first layer and its last is in half precision. Gradients go to the masters, which the optimiser, the average,
checkpoints and exports know alone.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def can_be_halved(module: nn.Module) -> bool:
    """False for a module with running statistics, which half precision cannot average."""
    return not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


class Half(Generic[M]):
    """`module` in `dtype`, to be run in the place of `masters`."""

    def __init__(self, masters: M, dtype: torch.dtype) -> None:
        self.module: M = copy.deepcopy(masters).to(dtype)
        pairs = list(zip(masters.parameters(), self.module.parameters(), strict=True))
        self._masters: list[Tensor] = [master for master, _ in pairs]
        self._copies: list[Tensor] = [mine for _, mine in pairs]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the masters' values."""
        torch._foreach_copy_(self._copies, self._masters)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Add the gradients to those of the masters, in float32, and forget them."""
        for master, mine in zip(self._masters, self._copies, strict=True):
            if mine.grad is not None:
                given = mine.grad.to(master.dtype)
                master.grad = given if master.grad is None else master.grad.add_(given)
                mine.grad = None
