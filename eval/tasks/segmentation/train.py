"""Training of a segmenter: the same weights, data and seed give the same head.

Legend: B batch, C channels, H and W pixels, S side of a crop.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stillhouse.core import rng
from stillhouse.core.encoders import normalise
from stillhouse.core.errors import ResourceError

from ..base import Context
from .augment import Crop, training_crop
from .config import SegmentationConfig
from .data import Split
from .optimise import lr_factor
from .segmenter import Segmenter

LOSSES = 50
"""Points of the loss curve that is kept."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """How pixels reach the encoder."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def batch(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """x_BCHW normalised, zero beyond the image, and mask_BHW int64."""
        x_BCHW = normalise(np.stack([crop.pixels_SS3 for crop in crops]), self.mean, self.std, self.device)
        for x_CHW, crop in zip(x_BCHW, crops, strict=True):
            x_CHW[:, crop.size[0] :] = 0
            x_CHW[:, :, crop.size[1] :] = 0
        mask_BHW = torch.from_numpy(np.stack([crop.mask_SS for crop in crops])).to(self.device).long()
        return x_BCHW, mask_BHW


def train(
    segmenter: Segmenter, split: Split, config: SegmentationConfig, pixels: Pixels, context: Context, name: str
) -> list[tuple[int, float]]:
    """Train in place; (step, mean loss since the last one) of a few dozen steps.

    Raises:
        ResourceError: the loss is not finite.
    """
    optimiser = torch.optim.AdamW(segmenter.parameter_groups(), lr=config.lr, betas=(0.9, 0.999))
    every, curve, recent = max(1, config.iterations // LOSSES), [], []
    segmenter.train()
    with context.reporter.task(name, config.iterations, unit="it") as task:
        for step, crops in enumerate(_batches(split, config, pixels.side, context.threads)):
            factor = config.lr * lr_factor(step, config.iterations, config.warmup, config.decay_from)
            for group in optimiser.param_groups:
                group["lr"] = factor * group["scale"]
            torch.manual_seed(rng.block(rng.seed_bytes(config.seed), "segmentation", step, "dropout")[0])
            loss = segmenter.loss(*pixels.batch(crops))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            recent.append(loss.detach())
            if (step + 1) % every == 0 or step + 1 == config.iterations:
                curve.append((step + 1, _mean(recent, step)))
                recent = []
            task.advance(1, f"loss {curve[-1][1]:.3f}" if curve else "")
    segmenter.eval()
    return curve


def order(num: int, seed: int) -> Iterator[tuple[int, int]]:
    """(image, visit) for ever: every image once a visit, in an order of its own."""
    visit = 0
    while True:
        for i in rng.permutation(seed, num, "segmentation", visit):
            yield int(i), visit
        visit += 1


def _batches(split: Split, config: SegmentationConfig, side: int, threads: int) -> Iterator[list[Crop]]:
    """Crops of every step; those of the next one are made while one trains."""
    seed, long = rng.seed_bytes(config.seed), None if config.long_side is None else config.long_side * side

    def crop(place: tuple[int, int]) -> Crop:
        image, visit = place
        return training_crop(split.read(image), rng.Draws(seed, split.keys[image], visit), side, long, config.ratio)

    places = order(len(split.keys), config.seed)
    with ThreadPoolExecutor(threads) as pool:

        def ask() -> list[Future[Crop]]:
            return [pool.submit(crop, next(places)) for _ in range(config.batch)]

        coming = ask()
        for step in range(config.iterations):
            ready = [future.result() for future in coming]
            coming = ask() if step + 1 < config.iterations else []
            yield ready


def _mean(losses: list[Tensor], step: int) -> float:
    mean: float = torch.stack(losses).mean().item()
    if not np.isfinite(mean):
        raise ResourceError(f"the loss of step {step + 1} is {mean}", hint="use a smaller lr")
    return mean
