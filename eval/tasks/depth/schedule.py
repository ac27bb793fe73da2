"""Learning rates over the iterations: pure functions of the iteration, as shares of the highest rate."""

import math
from typing import Literal


def share(
    iteration: int, *, iterations: int, schedule: Literal["cosine", "linear"], warmup: int, warmup_from: float
) -> float:
    """The share at `iteration` of `iterations`.

    cosine: half a cosine over ALL iterations, multiplied by the warm-up, as mmcv does (DINOv2's toolbox).
    linear: from the end of the warm-up down to 0, as mmengine does (Proteus).
    The warm-up grows linearly from `warmup_from`.
    """
    warm = min(1.0, warmup_from + (1 - warmup_from) * iteration / warmup) if warmup else 1.0
    if schedule == "cosine":
        return warm * (1 + math.cos(math.pi * iteration / iterations)) / 2
    if iteration < warmup:
        return warm
    return 1 - (iteration - warmup) / max(iterations - warmup, 1)
