"""The learning rate as a pure function of the step (Proteus: warm-up, then cosine to a floor)."""

import math
from typing import Literal


def lr_at(
    step: int,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float,
    peak: float,
    warmup: float,
    floor: float,
    per: Literal["step", "epoch"] = "step",
) -> float:
    """Learning rate of optimiser step `step` (from 0).

    `per="epoch"` is what timm's scheduler gives when it is stepped after each epoch with that epoch's index: epochs 0
    and 1 both run at the warm-up rate and everything lags by one epoch (methods of Proteus' published script).
    """
    if per == "epoch":
        position, length, ramp = float(max(step // steps_per_epoch - 1, 0)), float(epochs), warmup_epochs
    else:
        position, length = float(step), float(epochs * steps_per_epoch)
        ramp = warmup_epochs * steps_per_epoch
    if position < ramp:
        return warmup + (peak - warmup) * position / ramp
    angle = math.pi * min(position, length) / length
    return floor + 0.5 * (peak - floor) * (1 + math.cos(angle))
