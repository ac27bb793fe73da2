"""Training images: cut, turned, flipped, resized and coloured by keyed draws, so that a visit is the same on every machine.

Legend: h and w rows and columns of pixels.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.rng import Draws

from .colour import between, colour
from .data import Pair
from .protocol import Protocol

NYU_ROWS, NYU_COLUMNS = slice(45, 472), slice(43, 608)
"""What BTS and DINOv2's toolbox keep of a training frame of NYU: without its white border."""
HALF = Fraction(1, 2)
MIX_SHARE = 0.75

Colours = NDArray[np.float32]


def augment(pair: Pair, protocol: Protocol, draws: Draws, *, is_nyu: bool) -> tuple[Colours, NDArray[np.float32]]:
    """float32 pixels 0 .. 255 and depths, both `protocol.crop` or smaller; never padded here.

    Order: NYU's border, depth mix, rotation, flip, resize, crop, colours. Each published pipeline has some of them, in this order.
    """
    factor = protocol.train_side / min(pair.depth_hw.shape) * between(draws, *protocol.ratio, "ratio")
    image, depth = pair.image_hw3, pair.depth_hw
    if is_nyu and protocol.border:
        image, depth = image[NYU_ROWS, NYU_COLUMNS], depth[NYU_ROWS, NYU_COLUMNS]
    if draws.chance(Fraction(protocol.mix).limit_denominator(10**6), "mix"):
        image = mix(image, depth, draws)
    if protocol.rotate and draws.chance(HALF, "rotate"):
        image, depth = rotate(image, depth, between(draws, -protocol.rotate, protocol.rotate, "degrees"))
    if draws.chance(HALF, "flip"):
        image, depth = image[:, ::-1], depth[:, ::-1]
    image, depth = resize(image, depth, factor)
    rows, columns = (
        _cut(side, crop, draws, name)
        for side, crop, name in zip(depth.shape, protocol.crop, ("crop.row", "crop.column"), strict=True)
    )
    return colour(image[rows, columns], protocol.colour, draws), np.ascontiguousarray(depth[rows, columns])


def mix(image: NDArray[np.uint8], depth: NDArray[np.float32], draws: Draws) -> NDArray[np.uint8]:
    """A strip of the image replaced by its depth, from top to bottom; the truth stays.

    Source: Proteus' depth-mix: from column w u, of 0.75 (w - column) u' columns. The published code writes millimetres into
    8-bit pixels, which keeps their lowest 8 bits; so does this.
    """
    width = image.shape[1]
    left = int(width * between(draws, 0.0, 1.0, "mix.left"))
    strip = slice(left, left + int(max(1, (width - left) * MIX_SHARE * between(draws, 0.0, 1.0, "mix.width"))))
    mixed = image.copy()
    mixed[:, strip] = (np.rint(depth[:, strip] * 1000).astype(np.int64) % 256).astype(np.uint8)[..., None]
    return mixed


def rotate(
    image: NDArray[np.uint8], depth: NDArray[np.float32], degrees: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Turned clockwise about the middle, the size kept; what comes in is black, of unknown depth."""
    turned = Image.fromarray(np.ascontiguousarray(image)).rotate(-degrees, Image.Resampling.BILINEAR)
    depths = Image.fromarray(np.ascontiguousarray(depth)).rotate(-degrees, Image.Resampling.NEAREST)
    return np.asarray(turned), np.asarray(depths)


def resize(
    image: NDArray[np.uint8], depth: NDArray[np.float32], factor: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Both by one factor: pixels between their neighbours, depths by the nearest; metres stay metres."""
    height, width = (max(1, int(side * factor + 0.5)) for side in depth.shape)
    if (height, width) == depth.shape:
        return image, depth
    depths = Image.fromarray(np.ascontiguousarray(depth)).resize((width, height), Image.Resampling.NEAREST)
    return resize_image(image, (height, width)), np.asarray(depths)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 to `size` (rows, columns), bilinear; a smaller size is antialiased (OpenCV, which the published runs used, is not)."""
    if image.shape[:2] == size:
        return image
    made = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(made)


def _cut(side: int, crop: int, draws: Draws, name: str) -> slice:
    first = draws.below(max(side - crop, 0) + 1, name)
    return slice(first, first + crop)
