"""UperNet (Xiao et al. 2018) on a plain ViT, as mmsegmentation and with it Proteus builds it.

A ViT's four maps are of one size; the neck makes a pyramid of x4, x2, x1 and x0.5 of them. A convolutional encoder's maps are one.

Legend: B batch, D width of a map, h and w its rows and columns, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .heads import classifier, resize

POOLS = (1, 2, 3, 6)
AUX_LEVEL, AUX_CHANNELS = 2, 256


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        conv = nn.Conv2d(width, channels, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU())


class Pyramid(nn.Module):
    """Four maps of one size to x4, x2, x1 and x0.5 of it."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second = widths[:2]
        up4 = nn.Sequential(
            nn.ConvTranspose2d(first, first, 2, 2),
            nn.BatchNorm2d(first),
            nn.GELU(),
            nn.ConvTranspose2d(first, first, 2, 2),
        )
        self.levels = nn.ModuleList([up4, nn.ConvTranspose2d(second, second, 2, 2), nn.Identity(), nn.MaxPool2d(2, 2)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [level(each) for level, each in zip(self.levels, maps, strict=True)]


class UperNet(nn.Module):
    """Pyramid pooling on the last map, a top-down path over all, classes at the size of the first; and an auxiliary head.

    Args:
        widths: of the four maps.
        pyramid: make a pyramid of maps of one size first.
        channels: within the head; Proteus has the encoder's width.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, *, pyramid: bool, channels: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.neck = Pyramid(widths) if pyramid else nn.Identity()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvUnit(widths[-1], channels, 1)) for side in POOLS
        )
        self.bottleneck = ConvUnit(widths[-1] + len(POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList(ConvUnit(width, channels, 1) for width in widths[:-1])
        self.smooths = nn.ModuleList(ConvUnit(channels, channels, 3) for _ in widths[:-1])
        self.fuse = ConvUnit(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = classifier(channels, num_classes)
        self.aux = nn.Sequential(
            ConvUnit(widths[AUX_LEVEL], AUX_CHANNELS, 3), nn.Dropout2d(dropout), classifier(AUX_CHANNELS, num_classes)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """(logits_BKhw, auxiliary logits_BKhw while training), each at the size of its level."""
        levels = self.neck(maps)
        path = [lateral(level) for lateral, level in zip(self.laterals, levels[:-1], strict=True)]
        path.append(self._pooled(levels[-1]))
        for i in range(len(path) - 1, 0, -1):
            path[i - 1] = path[i - 1] + resize(path[i], path[i - 1].shape[2:])
        smooth = [unit(each) for unit, each in zip(self.smooths, path[:-1], strict=True)]
        fused = self.fuse(torch.cat([resize(each, path[0].shape[2:]) for each in (*smooth, path[-1])], dim=1))
        aux = self.aux(levels[AUX_LEVEL]) if self.training else None
        return self.classify(self.dropout(fused)), aux

    def _pooled(self, map_BDhw: Tensor) -> Tensor:
        pooled = [resize(pool(map_BDhw), map_BDhw.shape[2:]) for pool in self.pools]
        answer: Tensor = self.bottleneck(torch.cat([map_BDhw, *pooled], dim=1))
        return answer
