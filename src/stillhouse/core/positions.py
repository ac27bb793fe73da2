"""Learned position embeddings on another grid than they were trained on.

Families differ in how they resample, and so do their features: DINOv2 without registers (37 x 37 to 16 x 16 at 224 pixels)
interpolates by a scale factor from a size 0.1 larger than the grid, which moves every position a little.

Legend: P prefix tokens with a position, N positions, D width, h and w rows and columns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import UsageError

PositionRule = Literal["antialias", "plain", "offset"]
"""All bicubic, corners not aligned. `antialias`: to the exact size, with antialiasing (timm, DINOv2 with registers). `plain`: to
the exact size without (MAE, DeiT III, transformers). `offset`: without, by the factor (size + 0.1) / old size (DINOv2)."""

OFFSET = 0.1


@dataclass(frozen=True, eq=False, slots=True)
class Released:
    """The position embedding of a file on the grid that it was trained on, and how its release resamples it.

    Kept so that a model built for one size comes onto another from there: resampled twice, positions are blurred twice.
    """

    position_1ND: Tensor
    rule: PositionRule


def resample(position_1ND: Tensor, grid: tuple[int, int], num_prefix: int, rule: PositionRule) -> Tensor:
    """[1, P + h * w, D] of [1, P + side * side, D]; as it is when the grid is that size already.

    Raises:
        UsageError: the factor of `offset` leads to another size.
    """
    prefix, patches = position_1ND[:, :num_prefix], position_1ND[:, num_prefix:]
    side = math.isqrt(patches.shape[1])
    if grid == (side, side):
        return position_1ND
    image = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    how: dict[str, Any] = {"size": grid, "antialias": rule == "antialias"}
    if rule == "offset":
        how = {"scale_factor": tuple((size + OFFSET) / side for size in grid)}
    made = torch.nn.functional.interpolate(image, mode="bicubic", align_corners=False, **how)
    if tuple(made.shape[2:]) != grid:
        message = f"positions of {side}x{side} by rule {rule!r} have a grid of {made.shape[2]}x{made.shape[3]}"
        raise UsageError(f"{message}, not {grid[0]}x{grid[1]}", hint="set positions: plain, or another image_size")
    return torch.cat([prefix, made.permute(0, 2, 3, 1).flatten(1, 2).to(prefix.dtype)], dim=1)


def resample_positions(
    model: Any, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rule: PositionRule
) -> Mapping[str, Tensor]:
    """`weights` with a ViT's position embedding on the model's grid, if it was on another square one."""
    found, place = weights.get("pos_embed"), wanted.get("pos_embed")
    if found is None or place is None or found.shape == place.shape or not hasattr(model, "num_prefix_tokens"):
        return weights
    prefix = 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)
    if found.ndim != 3 or found.shape[2] != place.shape[2] or not _is_square(found.shape[1] - prefix):
        return weights
    rows, columns = model.patch_embed.grid_size
    return {**weights, "pos_embed": resample(found, (rows, columns), prefix, rule)}


def _is_square(num: int) -> bool:
    return num > 0 and math.isqrt(num) ** 2 == num
