"""Sliding windows over an image that is larger than what a model was trained on, overlaps averaged.

The grid is mmsegmentation's: windows start every `stride` pixels; one that would reach over the border is shifted inward.

Legend: B batch, C channels, H and W pixels, K channels of the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stillhouse.core.errors import UsageError


class Box(NamedTuple):
    """Rows top .. bottom - 1 and columns left .. right - 1."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Sliding:
    """Windows of `window` x `window` pixels, `stride` apart."""

    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            message = f"stride {self.stride} and window {self.window}: the stride is from 1 to the window"
            raise UsageError(message, hint="published: window 512, stride 341")

    def boxes(self, height: int, width: int) -> list[Box]:
        """Windows that cover an image, row by row. Along a side shorter than the window they are as long as the side."""
        return [
            Box(top, left, min(top + self.window, height), min(left + self.window, width))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        num = max(length - self.window + self.stride - 1, 0) // self.stride + 1
        return [max(min(i * self.stride, length - self.window), 0) for i in range(num)]


def slide(answer: Callable[[Tensor], Tensor], x_BCHW: Tensor, sliding: Sliding, *, at_once: int = 8) -> Tensor:
    """The mean of `answer` over all windows that hold a pixel: [B, K, H, W].

    Args:
        answer: [n, C, a, b] to [n, K, a, b], for windows of one size.
        at_once: windows that `answer` is given in one call.
    """
    num, _, height, width = x_BCHW.shape
    boxes = sliding.boxes(height, width)
    step = max(1, at_once // num)
    total_BKHW: Tensor | None = None
    count_HW = x_BCHW.new_zeros(height, width)
    for first in range(0, len(boxes), step):
        part = boxes[first : first + step]
        crops = torch.cat([x_BCHW[:, :, box.top : box.bottom, box.left : box.right] for box in part])
        answers = answer(crops)
        if total_BKHW is None:
            total_BKHW = answers.new_zeros(num, answers.shape[1], height, width)
        for box, one in zip(part, answers.chunk(len(part)), strict=True):
            total_BKHW[:, :, box.top : box.bottom, box.left : box.right] += one
            count_HW[box.top : box.bottom, box.left : box.right] += 1
    assert total_BKHW is not None  # an image has at least one window
    return total_BKHW / count_HW
