"""In which order work that others may be doing too is done, so that all share it without talking to each other.

Everyone begins at a place of their own on the ring of what is undone, and goes forward. Who comes to a place that is
done already has met another's work, and jumps into the further half of the longest run of undone places: whoever
works at its beginning will need longest to come there. So several meet instead of doing each place twice, and waste at
most about one place each, at the very end.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

P = TypeVar("P")


class Tour(Generic[P]):
    """Gives out each undone place once.

    Args:
        places: what is to do, in an order in which neighbours are best done one after the other.
        is_done: asked right before a place is given out: others may have been there.
        draw: a number below its argument; by it tours differ from each other.
    """

    def __init__(
        self, places: Sequence[P], is_done: Callable[[P], bool], draw: Callable[[int], int] = secrets.randbelow
    ) -> None:
        self._places, self._is_done, self._draw = places, is_done, draw
        self._left = dict.fromkeys(range(len(places)))
        self._at = draw(len(places)) if places else 0

    def __iter__(self) -> Iterator[P]:
        while (place := self.next()) is not None:
            yield place

    def next(self) -> P | None:
        """The next place to do; None when all are done or given out."""
        while self._left:
            here = self._places[self._at]
            if self._at in self._left:
                del self._left[self._at]
                if not self._is_done(here):
                    self._at = (self._at + 1) % len(self._places)
                    return here
            self.jump()
        return None

    def jump(self) -> None:
        """Go where others are not; also called by whoever was not the first to finish a place."""
        for index in [index for index in self._left if self._is_done(self._places[index])]:
            del self._left[index]
        if self._left:
            start, length = longest_run(list(self._left), len(self._places))
            self._at = (start + length // 2 + self._draw(max(1, length // 4))) % len(self._places)


def longest_run(indices: Sequence[int], around: int) -> tuple[int, int]:
    """(start, length) of the longest run of consecutive ones among rising `indices` of a ring with `around` places."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    if len(runs) > 1 and runs[0][0] == 0 and sum(runs[-1]) == around:
        runs[0] = (runs[-1][0], runs[-1][1] + runs[0][1])
        runs.pop()
    return max(runs, key=lambda run: run[1])
