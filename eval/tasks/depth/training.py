"""Training of a depth head: order, augmentation and starts by keyed draws, so that the same data gives the same head.

Legend: B images of a batch, G of a group, C channels, H and W pixels.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from stillhouse.core.errors import UsageError
from stillhouse.core.rng import Draws, permutation, seed_bytes

from ..base import Context
from .augment import augment
from .data import DepthData
from .estimator import Estimator
from .losses import WARM_CALLS, gradient_as_intended, gradient_as_written, sig_loss, silog_loss
from .protocol import Protocol
from .schedule import share

AHEAD = 2
"""Batches that are read while one is trained on."""
WIDE = 384
CURVE = 50
"""Points of the loss that are kept."""

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


def learning_rate(protocol: Protocol, width: int) -> float:
    """The highest rate for an encoder of `width` dimensions."""
    return protocol.lr_wide if width > WIDE else protocol.lr


def fit(estimator: Estimator, data: DepthData, seed: int, context: Context, name: str) -> list[float]:
    """Train the estimator's head (and encoder, where the protocol says so); the mean loss of up to `CURVE` stretches.

    Raises:
        UsageError: the loss is not finite.
    """
    protocol = estimator.protocol
    lr = learning_rate(protocol, estimator.width)
    groups = estimator.parameters(lr)
    optimiser = torch.optim.AdamW(groups)
    highest = [group["lr"] for group in groups]
    every = [parameter for group in groups for parameter in group["params"]]
    losses: list[float] = []
    estimator.train(True)
    with context.reporter.task(name, protocol.iterations, unit="it") as task:
        for iteration, batch in enumerate(batches(data, protocol, seed, context.threads)):
            part = share(
                iteration,
                iterations=protocol.iterations,
                schedule=protocol.schedule,
                warmup=protocol.warmup,
                warmup_from=protocol.warmup_from,
            )
            for group, rate in zip(optimiser.param_groups, highest, strict=True):
                group["lr"] = rate * part
            loss = _loss(estimator, batch, warm=iteration < WARM_CALLS)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                message = f"{name}: the loss is {losses[-1]} at iteration {iteration:,} of {protocol.iterations:,}"
                raise UsageError(message, hint="set a lower changes.lr")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if protocol.clip is not None:
                torch.nn.utils.clip_grad_norm_(every, protocol.clip)
            optimiser.step()
            task.advance(1, f"loss {losses[-1]:.3f}")
    estimator.train(False)
    return [float(np.mean(stretch)) for stretch in np.array_split(losses, min(CURVE, len(losses)))]


def batch_loss(depth_B1HW: Tensor, true_B1HW: Tensor, protocol: Protocol, *, warm: bool) -> Tensor:
    """The mean loss of groups of `protocol.group` images; predictions are brought to the truth's size first."""
    depth_B1HW = interpolate(depth_B1HW, true_B1HW.shape[2:], mode="bilinear", align_corners=False)
    terms = []
    pairs = zip(torch.split(depth_B1HW, protocol.group), torch.split(true_B1HW, protocol.group), strict=True)
    for depth_G1HW, true_G1HW in pairs:
        if protocol.loss == "silog":
            term = silog_loss(depth_G1HW, true_G1HW)
        else:
            term = sig_loss(depth_G1HW, true_G1HW, warm=warm)
        if protocol.gradient != "none":
            gradient = gradient_as_written if protocol.gradient == "as-written" else gradient_as_intended
            term = term + protocol.gradient_weight * gradient(depth_G1HW, true_G1HW)
        terms.append(term * (len(depth_G1HW) / len(depth_B1HW)))
    return torch.stack(terms).sum()


def batches(data: DepthData, protocol: Protocol, seed: int, threads: int) -> Iterator[Batch]:
    """Grey levels float32 [B, H, W, C] and depths [B, H, W] of each iteration; every image once before any comes again."""
    num, batch = len(data.train), protocol.batch
    order: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[Batch]]] = deque()
        for iteration in range(protocol.iterations):
            while len(order) < (iteration + 1) * batch:
                order.extend(permutation(seed, num, "depth", len(order) // num).tolist())
            visits = range(iteration * batch, (iteration + 1) * batch)
            waiting.append([pool.submit(_visit, data, protocol, seed, order[visit], visit) for visit in visits])
            if len(waiting) > AHEAD:
                yield _collate(waiting.popleft())
        while waiting:
            yield _collate(waiting.popleft())


def _visit(data: DepthData, protocol: Protocol, seed: int, index: int, visit: int) -> Batch:
    """One training image, augmented and not yet padded."""
    draws = Draws(seed_bytes(seed), data.train.keys[index], visit)
    pixels, depth = augment(data.train.read(index), protocol, draws, is_nyu=data.is_nyu)
    missing = [(0, crop - side) for crop, side in zip(protocol.crop, depth.shape, strict=True)]
    # NaN marks pixels that are padded: they are to be 0 after normalisation, whatever the statistics
    return np.pad(pixels, [*missing, (0, 0)], constant_values=np.nan), np.pad(depth, missing)


def _collate(visits: list[Future[Batch]]) -> Batch:
    pixels, depths = zip(*(visit.result() for visit in visits), strict=True)
    return np.stack(pixels), np.stack(depths)


def _loss(estimator: Estimator, batch: Batch, *, warm: bool) -> Tensor:
    pixels_BHWC, depth_BHW = batch
    x_BCHW = estimator.normalise(pixels_BHWC).nan_to_num_(nan=0.0)
    true_B1HW = torch.from_numpy(depth_BHW).to(estimator.device)[:, None]
    return batch_loss(estimator.depth(x_BCHW), true_B1HW, estimator.protocol, warm=warm)
