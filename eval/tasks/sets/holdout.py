"""Which training images the published scripts hold out where a set has no validation part of its own."""

import numpy as np
import torch

from ...probe import IntArray


def proteus_holdout(num: int) -> IntArray:
    """Rows held out of `num`: the first floor(0.2 num) of 0..num-1 as numpy's legacy generator, seed 0, shuffles a list.

    Proteus, eval/fine_grained/main_downstream_linear_dinov2.py (from SynCLR). numpy promises never to change this stream.
    """
    rows = list(range(num))
    np.random.RandomState(0).shuffle(rows)
    return np.array(rows[: int(np.floor(0.2 * num))], np.int64)


def dinov2_holdout(num: int) -> IntArray:
    """Rows held out of `num`: the first num // 10 of torch's permutation on the CPU, seed 0.

    DINOv2, eval/log_regression.py.
    """
    order_N = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    held: IntArray = order_N[: num // 10].numpy()
    return held
