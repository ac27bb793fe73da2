"""What every probe reads and gives back: features with labels in, scores and predictions out.

Shape letters in eval/: N images, D width of a token, C classes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter, Task

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

Steps = Callable[[str, int, str], AbstractContextManager[Task]]
"""Begins work that progress is shown of: what it is, how many steps, what one is called."""


def untold(what: str, total: int, unit: str) -> AbstractContextManager[Task]:
    """Work whose progress nobody sees."""
    return Reporter(quiet=True).task(what, total, unit)


@dataclass(frozen=True, eq=False)
class Features:
    """What one encoder says about N labelled images.

    `blocks` are the class tokens of the last blocks, each float32 [N, D] after the encoder's final norm, the last block
    LAST. An encoder without blocks (a CNN) gives its pooled output as the only one.
    """

    blocks: tuple[FloatArray, ...]
    patch_mean: FloatArray
    """float32 [N, D]: the mean of the last block's patch tokens."""
    labels: IntArray
    """int64 [N], each in [0, num_classes)."""
    num_classes: int

    @property
    def cls(self) -> FloatArray:
        """float32 [N, D]: the class token of the last block."""
        return self.blocks[-1]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeResult:
    """What a probe found on the test images."""

    name: str
    scores: dict[str, float]
    """Headline scores as fractions: `top1` and `mean_per_class`."""
    predictions: IntArray
    """int64 [N_test]: the class that the headline scores count."""
    chosen: dict[str, Any]
    """The hyper-parameters behind the headline scores, and how they were selected."""
    details: dict[str, Any] = field(default_factory=dict)
    """Everything else worth keeping, as plain JSON values."""


class Probe(Protocol):
    """One evaluation of frozen features. Construction only stores the config; `run` validates and computes."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> Config:
        """All that decides what it finds in given features."""
        ...

    def run(self, train: Features, test: Features, steps: Steps = untold) -> ProbeResult:
        """Fit on `train`, predict `test`; both stay unchanged. Progress of what takes long is told to `steps`.

        Raises:
            UsageError: features that do not fit together, are not finite, or are too few to fit.
        """
        ...


class Classifier(Protocol):
    """A probe fitted once, for any number of test parts."""

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Its hyper-parameters, as plain JSON values."""
        ...

    def scores(self, feats: Features) -> NDArray[np.floating]:
        """[N, C]: the larger, the likelier is the class."""
        ...


def check_features(train: Features, test: Features) -> None:
    """Refuse what would otherwise become a wrong score.

    Raises:
        UsageError: no samples, arrays of different lengths, widths that differ between train and test, a label out of
            range, a feature that is not finite, or a train part with fewer than two classes.
    """
    for part, feats in (("train", train), ("test", test)):
        check_part(part, feats)
    widths = [[array.shape[1] for array in (*feats.blocks, feats.patch_mean)] for feats in (train, test)]
    if widths[0] != widths[1]:
        raise UsageError(
            f"train features have widths {widths[0]} (blocks, then patch mean), test features {widths[1]}",
            hint="extract both with the same encoder",
        )
    if train.num_classes != test.num_classes:
        raise UsageError(f"train has {train.num_classes} classes, test has {test.num_classes}")
    check_classes(train.labels, "the train labels")


def check_classes(labels_N: IntArray, where: str) -> IntArray:
    """The classes present, ascending.

    Raises:
        UsageError: fewer than two.
    """
    present = np.unique(labels_N)
    if len(present) < 2:
        raise UsageError(
            f"{where} ({len(labels_N)} samples) hold one class only: {present.tolist()}",
            hint="a probe needs samples of at least two classes: give it more labelled images",
        )
    return present


def check_part(part: str, feats: Features) -> None:
    """Refuse one part's features: none, of unequal lengths, labels out of range, or not finite (UsageError)."""
    num = len(feats.labels)
    if num == 0 or not feats.blocks:
        raise UsageError(
            f"the {part} features are empty: {num} samples, {len(feats.blocks)} blocks",
            hint="check that the split names labelled samples",
        )
    low, high = int(feats.labels.min()), int(feats.labels.max())
    if low < 0 or high >= feats.num_classes:
        raise UsageError(f"the {part} labels span {low}..{high}; {feats.num_classes} classes allow 0 up")
    named = {f"block {i - len(feats.blocks)}": block for i, block in enumerate(feats.blocks)}
    for name, array in {**named, "patch_mean": feats.patch_mean}.items():
        if array.ndim != 2 or len(array) != num:
            raise UsageError(f"the {part} features' {name} has shape {list(array.shape)}; {num} labels need [{num}, D]")
        if not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array).all(axis=1)))
            raise UsageError(
                f"the {part} features' {name} holds NaN or infinity in {bad} of {num} rows",
                hint="the encoder diverged, or the features were stored in too narrow a type: extract them again",
            )
