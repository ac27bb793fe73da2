"""Training crops: resized, cut, mirrored and recoloured as mmsegmentation does, every draw keyed by (seed, image, visit).

Where mmsegmentation redraws from a running generator, we redraw with a counter. Colours go through Pillow's HSV, whose hue has
256 steps to OpenCV's 180.

Legend: h and w rows and columns, S side of a crop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.rng import Q16, Draws

from ..dense.scenes import IGNORED
from .data import Labelled, Mask

Pixels = NDArray[np.uint8]
HALF = Fraction(1, 2)
LARGEST_SHARE = 0.75
"""Of one class in a crop; a crop with more of it is drawn again, at most REDRAWS times."""
REDRAWS = 10
BRIGHTNESS, HUE_DEGREES = 32, 36
STRENGTH_Q16 = (Q16 // 2, Q16 * 3 // 2)
"""Of contrast and saturation: 0.5 to 1.5."""


@dataclass(frozen=True, eq=False, slots=True)
class Crop:
    """pixels_SS3 uint8 and mask_SS uint8; beyond `size` (rows, columns) there is no image: zeros, and IGNORED."""

    pixels_SS3: Pixels
    mask_SS: Mask
    size: tuple[int, int]


def rescaled(size: tuple[int, int], short: int, long: float | None) -> tuple[int, int]:
    """Rows and columns of `size` brought to a shorter side of `short`, or less where the longer would pass `long`."""
    scale = short / min(size)
    if long is not None:
        scale = min(scale, int(long) / max(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def resize_image(image_hw3: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear without antialiasing, as OpenCV's INTER_LINEAR up to rounding."""
    if image_hw3.shape[:2] == size:
        return image_hw3
    x_1Chw = torch.from_numpy(np.array(image_hw3)).permute(2, 0, 1)[None].float()
    made = torch.nn.functional.interpolate(x_1Chw, size=size, mode="bilinear", align_corners=False)
    pixels: Pixels = made[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels


def resize_mask(mask_hw: Mask, size: tuple[int, int]) -> Mask:
    """The nearest pixel to the upper left, as OpenCV's INTER_NEAREST."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask_hw.shape, strict=True))
    resized: Mask = mask_hw[rows][:, columns]
    return resized


def training_crop(labelled: Labelled, draws: Draws, side: int, long: float | None, ratio: tuple[float, float]) -> Crop:
    """One crop of `side` x `side` pixels. `long`: limit of the longer side before the draw of a ratio, in pixels."""
    low, high = (round(one * Q16) for one in ratio)
    drawn = (low if low == high else draws.between_q16(low, high, "ratio")) / Q16
    size = rescaled(labelled.mask_hw.shape, max(1, int(side * drawn)), None if long is None else long * drawn)
    image_hw3, mask_hw = resize_image(labelled.image_hw3, size), resize_mask(labelled.mask_hw, size)
    top, left = _place(mask_hw, draws, side)
    image_hw3 = image_hw3[top : top + side, left : left + side]
    mask_hw = mask_hw[top : top + side, left : left + side]
    if draws.chance(HALF, "flip"):
        image_hw3, mask_hw = image_hw3[:, ::-1], mask_hw[:, ::-1]
    rows, columns = mask_hw.shape
    pixels_SS3, mask_SS = np.zeros((side, side, 3), np.uint8), np.full((side, side), IGNORED, np.uint8)
    pixels_SS3[:rows, :columns], mask_SS[:rows, :columns] = recoloured(image_hw3, draws), mask_hw
    return Crop(pixels_SS3, mask_SS, (rows, columns))


def _place(mask_hw: Mask, draws: Draws, side: int) -> tuple[int, int]:
    """Row and column of a crop that is not nearly all of one class, unless that cannot be found."""
    for attempt in range(REDRAWS + 1):
        top = draws.below(max(mask_hw.shape[0] - side, 0) + 1, "top", attempt)
        left = draws.below(max(mask_hw.shape[1] - side, 0) + 1, "left", attempt)
        counts = np.bincount(mask_hw[top : top + side, left : left + side].ravel(), minlength=256)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < LARGEST_SHARE * counts.sum():
            break
    return top, left


def recoloured(image_hw3: Pixels, draws: Draws) -> Pixels:
    """Photometric distortion: brightness, contrast, saturation and hue, each every second time."""
    if draws.chance(HALF, "brightness?"):
        image_hw3 = _affine(image_hw3, 1.0, draws.between_q16(-BRIGHTNESS * Q16, BRIGHTNESS * Q16, "brightness") / Q16)
    contrast_first = draws.chance(HALF, "contrast first?")
    if contrast_first:
        image_hw3 = _contrast(image_hw3, draws)
    if draws.chance(HALF, "saturation?"):
        strength = draws.between_q16(*STRENGTH_Q16, "saturation") / Q16
        image_hw3 = _hsv(image_hw3, 1, lambda channel_hw: _affine(channel_hw, strength, 0))
    if draws.chance(HALF, "hue?"):
        turn = round((draws.below(2 * HUE_DEGREES, "hue") - HUE_DEGREES) * 256 / 360)
        image_hw3 = _hsv(image_hw3, 0, lambda channel_hw: (channel_hw + np.uint8(turn % 256)).astype(np.uint8))
    return image_hw3 if contrast_first else _contrast(image_hw3, draws)


def _contrast(image_hw3: Pixels, draws: Draws) -> Pixels:
    if not draws.chance(HALF, "contrast?"):
        return image_hw3
    return _affine(image_hw3, draws.between_q16(*STRENGTH_Q16, "contrast") / Q16, 0)


def _affine(pixels: Pixels, times: float, plus: float) -> Pixels:
    """Cut off towards zero, as the published code does."""
    made: Pixels = (pixels.astype(np.float32) * np.float32(times) + np.float32(plus)).clip(0, 255).astype(np.uint8)
    return made


def _hsv(image_hw3: Pixels, channel: int, change: Callable[[Pixels], Pixels]) -> Pixels:
    hsv_hw3 = np.array(Image.fromarray(np.ascontiguousarray(image_hw3)).convert("HSV"))
    hsv_hw3[..., channel] = change(hsv_hw3[..., channel])
    height, width = hsv_hw3.shape[:2]
    return np.asarray(Image.frombytes("HSV", (width, height), hsv_hw3.tobytes()).convert("RGB"))
