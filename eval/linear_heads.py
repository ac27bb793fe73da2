"""Many linear heads trained at once by SGD: those that read the same columns share one wide matrix product.

Shape letters: N images, B batch, W width of the widest head, D width of a layout, H learning rates, C classes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.core.rng import permutation, uniform_words

from .probe import Features, FloatArray, IntArray
from .threads import one_thread_if

INIT_STD = 0.01
MOMENTUM = 0.9
PREDICT_ROWS = 1024
SERIAL_WORK = 32_000_000  # multiplications of one product over all heads: half a millisecond


@dataclass(frozen=True)
class Layout:
    """Which columns of the wide matrix [blocks -4..-1, patch mean] a head reads; always one contiguous run."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class WideHead:
    """The heads of one layout, one a learning rate: float32 weights [D, H*C] and biases [H*C]."""

    layout: Layout
    learning_rates: tuple[float, ...]
    weight_DHC: torch.Tensor
    bias_HC: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and on what batches; learning rates are given at batch 256 and scale with the batch."""

    iterations: int
    batch: int
    seed: int

    def factor(self, iteration: int) -> float:
        """What multiplies a learning rate at `iteration`: batch / 256, times a cosine to 0 without warm-up."""
        return self.batch / 256 * (1 + math.cos(math.pi * iteration / self.iterations)) / 2


def wide_features(feats: Features) -> tuple[FloatArray, tuple[Layout, ...]]:
    """float32 [N, W] and the layouts {1, 4} blocks x {without, with} patch mean; 4 only where there are 4 blocks.

    Every layout is a slice of one matrix, so a batch is gathered once for all of them. (A head does not care in which
    order its inputs stand.)
    """
    blocks = feats.blocks[-4:] if len(feats.blocks) >= 4 else feats.blocks[-1:]
    last = sum(block.shape[1] for block in blocks[:-1])
    patches = last + blocks[-1].shape[1]
    end = patches + feats.patch_mean.shape[1]
    starts = {"cls1": last, "cls4": 0} if len(blocks) == 4 else {"cls1": last}
    layouts = []
    for name, start in starts.items():
        layouts.append(Layout(name, start, patches))
        if end > patches:
            layouts.append(Layout(f"{name}+patch", start, end))
    return np.concatenate([*blocks, feats.patch_mean], axis=1, dtype=np.float32), tuple(layouts)


def train_heads(
    feats_NW: FloatArray,
    labels_N: IntArray,
    num_classes: int,
    layouts: Sequence[Layout],
    learning_rates: Sequence[float],
    schedule: Schedule,
    advance: Callable[[int], None] = lambda num: None,
) -> list[WideHead]:
    """One WideHead a layout after SGD on the sum of the heads' mean cross-entropies.

    Momentum 0.9, no weight decay, weights from N(0, 0.01), biases 0. Heads share batches and nothing else, so each
    equals the head that `torch.optim.SGD` trains alone.
    """
    heads = [_new_head(layout, tuple(learning_rates), num_classes, schedule.seed) for layout in layouts]
    work = schedule.batch * sum(head.weight_DHC.numel() for head in heads)
    with one_thread_if(work <= SERIAL_WORK), torch.no_grad():
        _descend(heads, torch.from_numpy(feats_NW), torch.tensor(labels_N), num_classes, schedule, advance)
    return heads


def _descend(
    heads: Sequence[WideHead],
    data_NW: torch.Tensor,
    targets_N: torch.Tensor,
    num_classes: int,
    schedule: Schedule,
    advance: Callable[[int], None],
) -> None:
    """All iterations of SGD, in place."""
    momenta = [(torch.zeros_like(head.weight_DHC), torch.zeros_like(head.bias_HC)) for head in heads]
    rates_HC = torch.tensor(heads[0].learning_rates).repeat_interleave(num_classes)
    for iteration, rows in enumerate(batches(len(targets_N), schedule)):
        batch_BW = data_NW[rows]
        one_hot_B1C = torch.nn.functional.one_hot(targets_N[rows], num_classes)[:, None, :]
        step_HC = rates_HC * schedule.factor(iteration)
        for head, (momentum_DHC, momentum_HC) in zip(heads, momenta, strict=True):
            inputs_BD = batch_BW[:, head.layout.start : head.layout.stop]
            grad_BHC = _logit_gradient(torch.addmm(head.bias_HC, inputs_BD, head.weight_DHC), one_hot_B1C)
            momentum_DHC.mul_(MOMENTUM).addmm_(inputs_BD.T, grad_BHC)
            momentum_HC.mul_(MOMENTUM).add_(grad_BHC.sum(0))
            head.weight_DHC.addcmul_(momentum_DHC, step_HC, value=-1)
            head.bias_HC.addcmul_(momentum_HC, step_HC, value=-1)
        advance(1)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the heads of one layout say of some images: int64 predictions [H, N], mean cross-entropy float64 [H]."""

    layout: Layout
    predictions_HN: IntArray
    losses_H: NDArray[np.float64]


def judge_heads(feats_NW: FloatArray, labels_N: IntArray, head: WideHead) -> Judged:
    """Predict with every learning rate's head; of equal logits the lowest class."""
    losses_H = np.zeros(len(head.learning_rates))
    parts = []
    for rows, logits_BHC in logits_of(feats_NW, head):
        logs_BHC = torch.log_softmax(logits_BHC.double(), dim=2).numpy()
        losses_H -= logs_BHC[np.arange(len(logits_BHC)), :, labels_N[rows]].sum(axis=0)
        parts.append(logits_BHC.numpy().argmax(axis=2).T)
    return Judged(head.layout, np.concatenate(parts, axis=1, dtype=np.int64), losses_H / len(feats_NW))


def logits_of(feats_NW: FloatArray, head: WideHead) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, float32 logits [B, H, C]) of one piece of the images after the other."""
    for start in range(0, len(feats_NW), PREDICT_ROWS):
        rows = slice(start, start + PREDICT_ROWS)
        inputs_BD = torch.from_numpy(feats_NW[rows, head.layout.start : head.layout.stop])
        logits_BHC = torch.addmm(head.bias_HC, inputs_BD, head.weight_DHC)
        yield rows, logits_BHC.view(len(inputs_BD), len(head.learning_rates), -1)


def batches(num: int, schedule: Schedule) -> Iterator[torch.Tensor]:
    """Row numbers int64 [B] of each iteration, cut from one permutation of the N rows after the other."""
    epochs = (permutation(schedule.seed, num, "linear-epoch", epoch) for epoch in count())
    rest = np.empty(0, dtype=np.int64)
    for _ in range(schedule.iterations):
        while len(rest) < schedule.batch:
            rest = np.concatenate([rest, next(epochs)])
        yield torch.from_numpy(rest[: schedule.batch])
        rest = rest[schedule.batch :]


def initial_weights(layout: Layout, learning_rate: float, num_classes: int, seed: int) -> FloatArray:
    """float32 [D, C] from N(0, 0.01): the start of one head, whichever heads are trained beside it.

    A normal is the centred sum of twelve uniform 16-bit words (Irwin-Hall), so it is the same on every machine.
    """
    shape = (layout.stop - layout.start, num_classes)
    words = uniform_words(seed, 3 * math.prod(shape), "linear-init", layout.name, f"{learning_rate:.17g}")
    sums = words.view(np.uint16).reshape(-1, 12).sum(axis=1, dtype=np.int64) - 6 * 0xFFFF
    weights_DC: FloatArray = (sums.reshape(shape) * (INIT_STD / 0xFFFF)).astype(np.float32)
    return weights_DC


def _new_head(layout: Layout, learning_rates: tuple[float, ...], num_classes: int, seed: int) -> WideHead:
    starts = [initial_weights(layout, rate, num_classes, seed) for rate in learning_rates]
    weight_DHC = torch.from_numpy(np.concatenate(starts, axis=1))
    return WideHead(layout, learning_rates, weight_DHC, torch.zeros(weight_DHC.shape[1]))


def _logit_gradient(logits_BHC: torch.Tensor, one_hot_B1C: torch.Tensor) -> torch.Tensor:
    """Gradient of every head's mean cross-entropy for its logits [B, H*C]: (softmax - one-hot) / B."""
    num, _, num_classes = one_hot_B1C.shape
    probs_BHC = torch.softmax(logits_BHC.view(num, -1, num_classes), dim=2)
    return probs_BHC.sub_(one_hot_B1C).div_(num).view(num, -1)
