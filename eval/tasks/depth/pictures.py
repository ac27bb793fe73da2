"""Depth maps as colours, for the report: near is bright, far is dark, what is not known is black.

Legend: h and w rows and columns of pixels.
"""

import numpy as np
from numpy.typing import NDArray

from ...pictures import Pixels

ANCHORS = np.array(
    [(252, 253, 191), (254, 194, 135), (251, 135, 97), (222, 73, 104), (161, 48, 126), (94, 24, 127), (30, 12, 70)],
    dtype=np.float64,
)
"""From the nearest to the farthest; lightness falls all the way."""
MAX_SIDE = 320


def depth_colours(depth_hw: NDArray[np.floating], near: float, far: float) -> Pixels:
    """uint8 [h, w, 3] on a scale from `near` to `far` metres; depths that are not above 0 are black."""
    place_hw = np.clip((depth_hw - near) / max(far - near, 1e-9), 0, 1) * (len(ANCHORS) - 1)
    steps = np.arange(len(ANCHORS))
    colours = np.stack([np.interp(place_hw, steps, ANCHORS[:, channel]) for channel in range(3)], axis=2)
    colours[~(depth_hw > 0)] = 0
    made: Pixels = np.rint(colours).astype(np.uint8)
    return made


def thinned(pixels: Pixels) -> Pixels:
    """Every k-th row and column, so that no side has more than `MAX_SIDE` pixels."""
    step = -(-max(pixels.shape[:2]) // MAX_SIDE)
    return pixels[::step, ::step]
