"""How the rows of every batch are divided: among ranks, and among the turns that a rank takes to sum its gradients.

The batch is what the order says, whatever the division. Part p of P has its rows p, p + P, p + 2P, …: every part has as many
rows, and of the first M rows, which are masked, as many as there can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stillhouse.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `number`, `number` + `of`, … of every batch."""

    number: int = 0
    of: int = 1

    @property
    def rows(self) -> slice:
        """Of whatever has a row for each of the batch, or for its first ones."""
        return slice(self.number, None, self.of)

    def num(self, first: int) -> int:
        """How many of the first so many rows."""
        return len(range(self.number, first, self.of))

    def turns(self, num: int) -> Iterator["Part"]:
        """This part in `num` parts: turn t has its rows t, t + num, …"""
        return (Part(self.number + self.of * turn, self.of * num) for turn in range(num))


WHOLE = Part()
"""The whole batch."""


def require_parts(batch: int, num_masked: int | None, ranks: int, turns: int) -> None:
    """UsageError, naming what would do, unless a batch can be divided among ranks, each of which takes so many turns.

    Args:
        num_masked: rows that are masked, of which each part needs one; None: no objective asks for masks.
    """

    def fits(parts: int) -> bool:
        return batch % parts == 0 and (num_masked is None or parts <= num_masked)

    if fits(ranks * turns):
        return
    each = "" if turns == 1 else f" of {turns} turns each (distill.accumulate)"
    masked = "" if num_masked is None or batch % (ranks * turns) else f", of which {num_masked} are masked"
    message = f"distill.batch {batch}{masked} cannot be divided among {ranks} rank{'s' * (ranks > 1)}{each}"
    which = [num for num in range(1, batch + 1) if fits(num * turns)]
    if which:
        raise UsageError(message, hint=f"use {_listed(which)} ranks (torchrun --nproc-per-node)")
    which = [num for num in range(1, batch + 1) if fits(num * ranks)]
    if which:
        raise UsageError(message, hint=f"set distill.accumulate to {_listed(which)}")
    raise UsageError(message, hint="set distill.accumulate: 1 and use one rank, or a larger batch")


def _listed(numbers: list[int]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
