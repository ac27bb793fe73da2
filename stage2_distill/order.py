"""The order of training: a pure function of (seed, epoch), the same for any number of workers.

Blocks are shuffled, taken `window_blocks` at a time, and the rows of a window are shuffled together. As blocks are fair
draws of the data, that mixes as well as a global shuffle while every shard is read whole and in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng


@dataclass(frozen=True, slots=True)
class Window:
    """Some blocks and the shuffled (block, row) pairs in them, int64 [n, 2]."""

    blocks: tuple[int, ...]
    pairs: npt.NDArray[np.int64]


def view_of(epoch: int, num_views: int) -> int:
    """The view that an epoch trains on."""
    return epoch % num_views


def epoch_windows(
    rows_of: Sequence[tuple[int, npt.NDArray[np.int64]]], *, seed: int, epoch: int, window_blocks: int
) -> list[Window]:
    """The windows of one epoch.

    Args:
        rows_of: per block its number and the rows in it that can be trained on.
    """
    shuffled = rng.permutation(seed, len(rows_of), "blocks", epoch)
    windows = []
    for start in range(0, len(rows_of), window_blocks):
        chosen = [rows_of[i] for i in shuffled[start : start + window_blocks]]
        pairs = np.concatenate([np.stack([np.full(len(rows), block), rows], axis=1) for block, rows in chosen])
        mixed = pairs[rng.permutation(seed, len(pairs), "rows", epoch, start)]
        windows.append(Window(tuple(block for block, _ in chosen), mixed))
    return windows


def num_steps(num_rows: int, batch: int) -> int:
    """Steps of an epoch; the last rows that do not fill a batch are left for another epoch's order."""
    return num_rows // batch
