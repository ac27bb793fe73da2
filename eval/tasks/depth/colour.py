"""Colours of training images, as the published pipelines change them.

Legend: h and w rows and columns of pixels.
"""

from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.rng import Draws

HALF = Fraction(1, 2)


def colour(image: NDArray[np.uint8], kind: Literal["none", "toolbox", "albu"], draws: Draws) -> NDArray[np.float32]:
    """float32 [h, w, 3] from 0 to 255."""
    if kind == "toolbox":
        return _toolbox(image, draws)
    if kind == "albu":
        return _albumentations(image, draws)
    return image.astype(np.float32)


def _toolbox(image: NDArray[np.uint8], draws: Draws) -> NDArray[np.float32]:
    """Monocular-Depth-Estimation-Toolbox, half of the images: x^gamma of grey levels (not of shares), brightness, tint."""
    if not draws.chance(HALF, "colour"):
        return image.astype(np.float32)
    gamma, brightness = between(draws, 0.9, 1.1, "gamma"), between(draws, 0.75, 1.25, "brightness")
    tint = [between(draws, 0.9, 1.1, f"tint.{channel}") for channel in range(3)]
    coloured = image.astype(np.float64) ** gamma * brightness * tint
    return coloured.clip(0, 255).astype(np.float32)


def _albumentations(image: NDArray[np.uint8], draws: Draws) -> NDArray[np.float32]:
    """RandomBrightnessContrast, RandomGamma and HueSaturationValue by their defaults, each on half of the images."""
    grey = image.astype(np.float64)
    if draws.chance(HALF, "contrast"):
        contrast, brightness = (between(draws, -0.2, 0.2, f"contrast.{part}") for part in ("factor", "shift"))
        grey = _whole(grey * (1 + contrast) + brightness * 255)
    if draws.chance(HALF, "gamma"):
        grey = _whole((grey / 255) ** between(draws, 0.8, 1.2, "gamma.power") * 255)
    if draws.chance(HALF, "hue"):
        grey = _shifted(grey.astype(np.uint8), draws)
    return grey.astype(np.float32)


def _shifted(image: NDArray[np.uint8], draws: Draws) -> NDArray[np.float64]:
    """Hue moved by up to 40 degrees, saturation by up to 30 grey levels, value by up to 20."""
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float64)
    hue = (hsv[..., 0] + between(draws, -40, 40, "hue.shift") * 256 / 360) % 256
    saturation = hsv[..., 1] + between(draws, -30, 30, "saturation.shift")
    value = hsv[..., 2] + between(draws, -20, 20, "value.shift")
    moved = np.stack([np.floor(hue), _whole(saturation), _whole(value)], axis=2).astype(np.uint8)
    bands = [Image.fromarray(np.ascontiguousarray(moved[..., band])) for band in range(3)]
    return np.asarray(Image.merge("HSV", bands).convert("RGB")).astype(np.float64)


def _whole(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    whole: NDArray[np.float64] = np.rint(grey.clip(0, 255))
    return whole


def between(draws: Draws, low: float, high: float, name: str) -> float:
    """A uniform number from `low` to `high`."""
    return low + (high - low) * (draws.bits(name) / 2**64)
