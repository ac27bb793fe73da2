"""Rendered views at another size than they are stored for."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def resize_pixels(pixels_BHWC: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8 [B, H, W, 3] to [B, size, size, 3] by PIL's antialiased bicubic, the same on every machine."""
    if pixels_BHWC.shape[1:3] == (size, size):
        return pixels_BHWC
    resized = np.empty((len(pixels_BHWC), size, size, 3), np.uint8)
    for i, pixels in enumerate(pixels_BHWC):
        resized[i] = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return resized
