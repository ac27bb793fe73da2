"""Class numbers: the place of a label among all labels, sorted."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import UsageError

from .store import Store


def classes_in(store: Store, blocks: Iterable[int]) -> tuple[str, ...]:
    """All labels in some blocks, sorted; their positions are the class numbers."""
    return tuple(sorted({label for block in blocks for label in store.samples(block).labels() if label is not None}))


def block_classes(store: Store, block: int, number: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """int64 [rows of the block]: the class number of every row that is not in quarantine; -1 for those that are.

    Raises:
        UsageError: a good row has no label.
    """
    labels, found = store.samples(block).labels(), np.full(store.plan.blocks[block].num_rows, -1, np.int64)
    for row in store.good_rows(block).tolist():
        label = labels[row]
        if label is None:
            message = f"sample {store.samples(block)[row].key!r} of store {store.root} has no label"
            raise UsageError(message, hint="give every training image a label, or leave objective 'ce' out")
        found[row] = number[label]
    return found
