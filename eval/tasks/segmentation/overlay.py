"""Masks as colours over their image, for people.

Legend: h and w rows and columns.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray

from ..dense.scenes import IGNORED
from .augment import rescaled, resize_image, resize_mask

LONGEST = 320
GOLDEN = 0.6180339887498949
"""Turn of the hue from class to class: neighbours in number never look alike."""


def palette() -> NDArray[np.uint8]:
    """[256, 3]: a colour a class, grey for what is not judged."""
    colours = [colorsys.hsv_to_rgb((i * GOLDEN) % 1, 0.65 + 0.35 * (i % 2), 1 - 0.3 * (i // 2 % 2)) for i in range(256)]
    colours[IGNORED] = (0.5, 0.5, 0.5)
    colours_C3: NDArray[np.uint8] = np.rint(np.array(colours) * 255).astype(np.uint8)
    return colours_C3


def overlay(image_hw3: NDArray[np.uint8], mask_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half the image's grey, half the colour of its class."""
    grey_hw1 = image_hw3.mean(axis=2, keepdims=True)
    mixed_hw3: NDArray[np.uint8] = np.rint(0.5 * grey_hw1 + 0.5 * palette()[mask_hw]).astype(np.uint8)
    return mixed_hw3


def for_page(image_hw3: NDArray[np.uint8], *masks: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    """The image and its masks, at most LONGEST pixels long."""
    height, width = image_hw3.shape[:2]
    size = rescaled((height, width), min(height, width), min(LONGEST, max(height, width)))
    return resize_image(image_hw3, size), *(resize_mask(mask, size) for mask in masks)
