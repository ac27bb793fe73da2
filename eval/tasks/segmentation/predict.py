"""What a trained segmenter says of a whole image: windows, scales and mirror images averaged.

Legend: B batch, C channels, H and W pixels, K classes, h and w rows and columns of the image as it is on disk.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.core.encoders import normalise

from ..dense.windows import Sliding, slide
from .augment import rescaled, resize_image
from .config import SegmentationConfig
from .data import Mask
from .heads import resize
from .segmenter import Segmenter
from .train import Pixels

WINDOWS_AT_ONCE = 4


def predict(segmenter: Segmenter, image_hw3: NDArray[np.uint8], config: SegmentationConfig, pixels: Pixels) -> Mask:
    """The class of every pixel of an image. One scale: the largest logit; several: the largest mean probability."""
    height, width = image_hw3.shape[:2]
    views = [(scale, mirror) for scale in config.scales for mirror in ((False, True) if config.flip else (False,))]
    total_1Khw: Tensor | None = None
    with torch.no_grad():  # not inference_mode: a trained encoder may be brought to a size within it
        for scale, mirror in views:
            logits_1KHW = _logits(segmenter, image_hw3, scale, mirror, config, pixels)
            logits_1Khw = resize(logits_1KHW, (height, width))
            each_1Khw = logits_1Khw if len(views) == 1 else logits_1Khw.softmax(dim=1)
            total_1Khw = each_1Khw if total_1Khw is None else total_1Khw + each_1Khw
        assert total_1Khw is not None  # there is a scale
        return total_1Khw[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


def _logits(
    segmenter: Segmenter,
    image_hw3: NDArray[np.uint8],
    scale: float,
    mirror: bool,
    config: SegmentationConfig,
    pixels: Pixels,
) -> Tensor:
    side = pixels.side
    long = None if config.long_side is None else int(config.long_side * side * scale)
    size = rescaled((image_hw3.shape[0], image_hw3.shape[1]), int(side * scale), long)
    resized_HW3 = np.ascontiguousarray(resize_image(image_hw3, size))
    x_1CHW = normalise(resized_HW3[None], pixels.mean, pixels.std, pixels.device)
    sliding = Sliding(side, max(1, int(config.stride * side)))
    logits_1KHW = slide(segmenter, x_1CHW.flip(3) if mirror else x_1CHW, sliding, at_once=WINDOWS_AT_ONCE)
    return logits_1KHW.flip(3) if mirror else logits_1KHW
