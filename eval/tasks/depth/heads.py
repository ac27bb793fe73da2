"""The linear depth head of DINOv2: bins on patch tokens, each with the image's cls token beside it.

Legend: B images, D width, h and w grid rows and columns, K bins.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..dense.features import Maps

UPSAMPLE = 4
"""How many times finer than the first block's grid depths are predicted."""


class BinsHead(nn.Module):
    """One 1 x 1 convolution from [patch; cls] of all blocks to weights of K uniform bins; depth is their mean bin.

    lin1 reads the last block, lin4 four blocks. The published class is called BNHead and has no normalisation.
    """

    bins_K: Tensor

    def __init__(self, widths: Sequence[int], *, min_depth: float, max_depth: float, num_bins: int) -> None:
        """`widths`: of map and cls together, block by block."""
        super().__init__()
        self.conv = nn.Conv2d(sum(widths), num_bins, kernel_size=1)
        self.register_buffer("bins_K", torch.linspace(min_depth, max_depth, num_bins))

    def forward(self, maps: Maps) -> Tensor:
        """Depth in metres [B, 1, 4 h, 4 w], within the bins' range."""
        size = [UPSAMPLE * side for side in maps.maps[0].shape[2:]]
        wide = [
            interpolate(with_cls(map_BDhw, cls_BD), size, mode="bilinear", align_corners=False)
            for map_BDhw, cls_BD in zip(maps.maps, maps.cls, strict=True)
        ]
        weights_BKhw = self.conv(torch.cat(wide, dim=1)).relu() + 0.1
        depth_Bhw = torch.einsum("bkhw,k->bhw", weights_BKhw / weights_BKhw.sum(dim=1, keepdim=True), self.bins_K)
        return depth_Bhw[:, None]


def with_cls(map_BDhw: Tensor, cls_BD: Tensor) -> Tensor:
    """[B, D + D_cls, h, w]: the cls token behind every patch."""
    return torch.cat([map_BDhw, cls_BD[:, :, None, None].expand(-1, -1, *map_BDhw.shape[2:])], dim=1)
