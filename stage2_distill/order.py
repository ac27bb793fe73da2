"""The order of training: a pure function of (seed, epoch), the same for any number of workers.

Blocks are shuffled, taken `window_blocks` at a time, and the rows of a window are shuffled together. As blocks are fair
draws of the data, that mixes as well as a global shuffle while every shard is read whole and in order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng


@dataclass(frozen=True, slots=True)
class Window:
    """Some blocks, whose rows are shuffled together.

    `pairs` are (block, row), int64 [n, 2], in training order; `places` say where each stands among the rows of `blocks`
    taken block after block.
    """

    blocks: tuple[int, ...]
    pairs: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def view_of(epoch: int, num_views: int) -> int:
    """The view that an epoch trains on."""
    return epoch % num_views


def epoch_windows(
    blocks: Sequence[int],
    rows_of: Callable[[int], npt.NDArray[np.int64]],
    *,
    seed: int,
    epoch: int,
    window_blocks: int,
) -> Iterator[Window]:
    """The windows of one epoch, one at a time: no list is as long as the data.

    Args:
        rows_of: gives the rows of a block that can be trained on.
    """
    shuffled = rng.permutation(seed, len(blocks), "blocks", epoch)
    for start in range(0, len(blocks), window_blocks):
        chosen = [blocks[i] for i in shuffled[start : start + window_blocks]]
        rows = [rows_of(block) for block in chosen]
        pairs = np.concatenate(
            [np.stack([np.full(len(some), block), some], axis=1) for block, some in zip(chosen, rows, strict=True)]
        )
        places = rng.permutation(seed, len(pairs), "rows", epoch, start)
        yield Window(tuple(chosen), pairs[places], places)


def num_steps(num_rows: int, batch: int) -> int:
    """Steps of an epoch; the last rows that do not fill a batch are left for another epoch's order."""
    return num_rows // batch
