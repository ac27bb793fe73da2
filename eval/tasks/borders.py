"""Small pictures in a coloured border: green is right, red is wrong, grey is what was asked."""

import numpy as np
from PIL import Image, ImageOps

from ..pictures import Pixels

SIDE_PX, BORDER_PX = 128, 5
RIGHT, WRONG, ASKED = (26, 127, 55), (207, 34, 46), (140, 140, 140)


def framed(image: Image.Image, colour: tuple[int, int, int]) -> Pixels:
    """uint8 [h, w, 3]: the image, its longer side `SIDE_PX`, in a border of one colour."""
    scale = SIDE_PX / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(ImageOps.expand(image.resize(size, Image.Resampling.BICUBIC), BORDER_PX, colour))


def spread(num: int, most: int) -> list[int]:
    """At most so many of the numbers below `num`, evenly spread: a choice that looks at no encoder."""
    return [i * num // most for i in range(most)] if num > most else list(range(num))
