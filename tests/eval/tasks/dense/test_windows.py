"""Sliding windows against a loop written out, and against the whole image."""

import pytest
import torch

from stillhouse.core.errors import UsageError
from stillhouse.eval.tasks.dense.windows import Sliding, slide


def by_hand(x_BCHW: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """The mean over windows of an answer that depends on the place in the window."""
    num, _, height, width = x_BCHW.shape
    out = torch.zeros(num, 2, height, width, dtype=x_BCHW.dtype)
    for row in range(height):
        for column in range(width):
            found = []
            for top in tops(height, window, stride):
                for left in tops(width, window, stride):
                    high, wide = min(window, height), min(window, width)
                    if top <= row < top + high and left <= column < left + wide:
                        crop = x_BCHW[:, :, top : top + high, left : left + wide]
                        found.append(answer(crop)[:, :, row - top, column - left])
            out[:, :, row, column] = torch.stack(found).mean(dim=0)
    return out


def tops(length: int, window: int, stride: int) -> list[int]:
    found, top = [], 0
    while top + window < length:
        found.append(top)
        top += stride
    return [*found, max(length - window, 0)]


def answer(x_nCab: torch.Tensor) -> torch.Tensor:
    """Not pointwise: it knows the rest of its window, and the place in it."""
    ramp = torch.arange(x_nCab[0, 0].numel(), dtype=x_nCab.dtype).reshape(x_nCab.shape[2:])
    return torch.stack([x_nCab.sum(dim=1) * ramp, x_nCab.mean(dim=(1, 2, 3))[:, None, None] + ramp], dim=1)


@pytest.mark.parametrize("size", [(9, 9), (4, 4), (3, 11), (10, 4), (13, 8)])
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 3), (5, 1), (4, 2)])
def test_slide_is_the_mean_over_windows(size: tuple[int, int], window: int, stride: int) -> None:
    x_BCHW = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = by_hand(x_BCHW, window, stride)
    for at_once in (1, 2, 7, 100):
        found = slide(answer, x_BCHW, Sliding(window, stride), at_once=at_once)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_pointwise_answer_does_not_see_the_windows() -> None:
    x_BCHW = torch.randn(1, 3, 37, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = slide(lambda x: x.exp(), x_BCHW, Sliding(16, 11))
    torch.testing.assert_close(found, x_BCHW.exp(), rtol=1e-14, atol=0)


def test_the_published_windows() -> None:
    """512 / 341 over a photograph of 512 x 683: two windows, the second shifted in from 341 to 171."""
    assert Sliding(512, 341).boxes(512, 683) == [(0, 0, 512, 512), (0, 171, 512, 683)]
    assert Sliding(518, 345).boxes(400, 518) == [(0, 0, 400, 518)]


@pytest.mark.parametrize("stride", [0, 5])
def test_gaps_are_refused(stride: int) -> None:
    with pytest.raises(UsageError, match=f"stride {stride} and window 4: the stride is from 1 to the window"):
        Sliding(4, stride)
