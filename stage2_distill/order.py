"""The order of training: a pure function of (seed, epoch), the same for any number of workers.

Blocks are shuffled, taken `window_blocks` at a time, and the rows of a window are shuffled together. As blocks are fair
draws of the data, that mixes as well as a global shuffle while every shard is read whole and in order.

With repeated augmentation an epoch shows each of its samples in several views, one after the other, and goes over as much
fewer samples: those of the first blocks of its order. A window then holds whole shards of each of its views.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng
from stillhouse.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Window:
    """Some blocks in some views, whose rows are shuffled together.

    `pairs` are (block, row), int64 [n, 2], in training order; `places` say where each stands among the rows of `blocks`
    taken block after block, view after view; `views_n` in which view each is seen.
    """

    blocks: tuple[int, ...]
    views: tuple[int, ...]
    pairs: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    views_n: npt.NDArray[np.int64]


def views_of(epoch: int, num_views: int, repeats: int = 1) -> tuple[int, ...]:
    """The views that an epoch trains on: the next `repeats` in turn.

    Raises:
        UsageError: there are not so many.
    """
    if repeats > num_views:
        message = f"repeats {repeats} shows a sample in as many views of an epoch, the store has {num_views}"
        raise UsageError(message, hint=f"set distill.repeats to {num_views} or less, or extract more views")
    return tuple((epoch * repeats + turn) % num_views for turn in range(repeats))


def epoch_windows(
    blocks: Sequence[int],
    rows_of: Callable[[int], npt.NDArray[np.int64]],
    *,
    seed: int,
    epoch: int,
    window_blocks: int,
    views: Sequence[int] = (0,),
    most: int | None = None,
) -> Iterator[Window]:
    """The windows of one epoch, one at a time: no list is as long as the data. Each has its rows in every view.

    Args:
        rows_of: gives the rows of a block that can be trained on.
        most: pairs of all windows together; no block is in a window that is not needed for them. None: all there are.
    """
    shuffled = rng.permutation(seed, len(blocks), "blocks", epoch)
    repeats, seen = len(views), np.asarray(views, np.int64)
    for start in range(0, len(blocks), window_blocks):
        chosen = [blocks[i] for i in shuffled[start : start + window_blocks]]
        rows = [rows_of(block) for block in chosen]
        if most is not None:
            needed = int(np.searchsorted(np.cumsum([len(some) for some in rows]), -(-most // repeats))) + 1
            chosen, rows = chosen[:needed], rows[:needed]
        pairs = np.concatenate(
            [np.stack([np.full(len(some), block), some], axis=1) for block, some in zip(chosen, rows, strict=True)]
        )
        firsts = np.repeat(rng.permutation(seed, len(pairs), "rows", epoch, start), repeats)[:most]
        turns = np.tile(np.arange(repeats), len(pairs))[:most]
        yield Window(tuple(chosen), tuple(views), pairs[firsts], turns * len(pairs) + firsts, seen[turns])
        if most is not None:
            most -= len(firsts)
            if most == 0:
                return


def num_steps(num_rows: int, batch: int) -> int:
    """Steps of an epoch; the last rows that do not fill a batch are left for another epoch's order."""
    return num_rows // batch
