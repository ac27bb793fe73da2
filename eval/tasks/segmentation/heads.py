"""The linear head: maps side by side, batch norm or none, one 1 x 1 convolution.

Legend: B batch, D width of a map, h and w its rows and columns, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CLASSIFIER_STD = 0.01
"""Of a classifier's starting weights, as mmsegmentation has it; its bias starts at 0."""


def resize(x_BDhw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned; as it is when it has that size."""
    if tuple(x_BDhw.shape[2:]) == tuple(size):
        return x_BDhw
    return nn.functional.interpolate(x_BDhw, size=tuple(size), mode="bilinear", align_corners=False)


def classifier(width: int, num_classes: int) -> nn.Conv2d:
    """A 1 x 1 convolution to classes."""
    made = nn.Conv2d(width, num_classes, 1)
    nn.init.normal_(made.weight, std=CLASSIFIER_STD)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type] # it has one
    return made


class LinearHead(nn.Module):
    """Classes of each patch from all maps, which are brought to the size of the first.

    With batch norm it is DINOv2's BNHead; without, the head of Proteus' frozen probe.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, *, norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(widths)) if norm else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.classify = classifier(sum(widths), num_classes)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, None]:
        """(logits_BKhw, None): there is no auxiliary answer."""
        x_BDhw = torch.cat([resize(each, maps[0].shape[2:]) for each in maps], dim=1)
        logits: Tensor = self.classify(self.dropout(self.norm(x_BDhw)))
        return logits, None
