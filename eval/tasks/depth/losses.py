"""Losses of depth maps, as published; pure functions of predictions and truth in metres. A truth of 0 is unknown.

Legend: B images, H and W pixels.
"""

import torch
from torch import Tensor

EPS_M = 1e-3
"""Added to depths before their logarithm (SigLoss, gradient loss)."""
SILOG_EPS_M = 1e-6
WARM_CALLS = 100
"""First calls of SigLoss that look at the mean alone."""
STRIDES = (1, 2, 4, 6)
"""Every how many-th row and column the gradient loss looks at, scale by scale."""
TINY = 1e-30


def sig_loss(predicted_B1HW: Tensor, true_B1HW: Tensor, *, warm: bool) -> Tensor:
    """SigLoss of DINOv2's depth training: sqrt(Var(g) + 0.15 mean(g)^2), g the difference of log depths over known pixels.

    `warm`: sqrt(0.15 mean(g)^2), for the first `WARM_CALLS` calls. The variance is the unbiased one, over all images at once.
    0 where fewer than two pixels are known.
    """
    known = true_B1HW > 0
    if int(known.sum()) < 2:
        return predicted_B1HW.sum() * 0
    g = torch.log(predicted_B1HW[known] + EPS_M) - torch.log(true_B1HW[known] + EPS_M)
    mean_part = 0.15 * g.mean() ** 2
    return _root(mean_part if warm else g.var() + mean_part)


def gradient_as_written(predicted_B1HW: Tensor, true_B1HW: Tensor) -> Tensor:
    """The gradient loss as DINOv2's code computes it: along axes 0 and 1, which are images and channels.

    The code was written for one map [H, W] and is given a batch. Of up to two images it is exactly 0; of more it compares
    pixels of different images.
    """
    return _differences(predicted_B1HW, true_B1HW, axes=(0, 1))


def gradient_as_intended(predicted_B1HW: Tensor, true_B1HW: Tensor) -> Tensor:
    """The same loss along rows and columns: how much the error of log depths changes over two pixels, on four scales.

    Source: MegaDepth's gradient matching, in the form of DINOv2's code: at each of `STRIDES` the sum of absolute differences,
    over pairs of known pixels, divided by the number of known pixels.
    """
    return _differences(predicted_B1HW, true_B1HW, axes=(2, 3))


def silog_loss(predicted_B1HW: Tensor, true_B1HW: Tensor) -> Tensor:
    """Proteus' SiLog: the mean over images of sqrt(mean d^2 - 0.5 mean(d)^2), d the difference of log depths.

    Depths below `SILOG_EPS_M` count as that, so a pixel predicted below zero has no gradient. An image without a known pixel
    counts as 0.
    """
    predicted_BP, true_BP = predicted_B1HW.flatten(1), true_B1HW.flatten(1)
    known_BP = (true_BP > SILOG_EPS_M).to(predicted_BP.dtype)
    d_BP = (torch.log(true_BP.clamp(min=SILOG_EPS_M)) - torch.log(predicted_BP.clamp(min=SILOG_EPS_M))) * known_BP
    num_B = known_BP.sum(dim=1).clamp(min=1)
    return _root((d_BP**2).sum(dim=1) / num_B - 0.5 * (d_BP.sum(dim=1) / num_B) ** 2).mean()


def _root(squared: Tensor) -> Tensor:
    """A square root that has a gradient (0) at 0, where there is nothing to learn."""
    return squared.clamp(min=TINY).sqrt()


def _differences(predicted: Tensor, true: Tensor, axes: tuple[int, int]) -> Tensor:
    total = predicted.sum() * 0
    for stride in STRIDES:
        at = [slice(None)] * predicted.ndim
        for axis in axes:
            at[axis] = slice(None, None, stride)
        coarse, known = true[tuple(at)], true[tuple(at)] > 0
        error = (torch.log(predicted[tuple(at)] + EPS_M) - torch.log(coarse + EPS_M)) * known
        num = known.sum().clamp(min=1)
        for axis in axes:
            pairs = max(error.shape[axis] - 2, 0)
            change = (error.narrow(axis, 0, pairs) - _after(error, axis, pairs)).abs()
            total = total + (change * (known.narrow(axis, 0, pairs) & _after(known, axis, pairs))).sum() / num
    return total


def _after(x: Tensor, axis: int, pairs: int) -> Tensor:
    """The last `pairs` entries of an axis."""
    return x.narrow(axis, x.shape[axis] - pairs, pairs)
