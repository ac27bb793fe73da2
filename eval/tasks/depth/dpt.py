"""The dense prediction transformer's head (arXiv 2103.13413) as DINOv2 and Proteus have it.

Four maps of one grid become a pyramid (x 4, x 2, x 1, / 2), which is fused from the coarsest to the finest.

| | DINOv2 | Proteus |
| --- | --- | --- |
| fusion | without normalisation | batch normalisation |
| output | conv 256 to 128, x 2, 128 to 32, ReLU, 32 to 1; ReLU + min_depth | dropout 0.1, one 1 x 1 convolution, no activation |

Legend: B images, D width, F width of the fusion, h and w grid rows and columns.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from stillhouse.core.errors import UsageError

from ..dense.features import Maps
from .heads import with_cls

LEVELS = 4
FUSED = 256
DROPOUT = 0.1


class Dpt(nn.Module):
    """Depth in metres from four maps.

    Args:
        widths: of map and cls, block by block.
        normalised: as Proteus: batch normalisation in the fusion and the single output convolution.
        min_depth: what DINOv2's head adds to its output, which is not below 0.

    Raises:
        UsageError: another number of blocks than four.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], *, normalised: bool, min_depth: float) -> None:
        super().__init__()
        if len(widths) != LEVELS:
            raise UsageError(f"dpt reads {LEVELS} blocks, got {len(widths)}", hint="name four in changes.blocks")
        self.levels = nn.ModuleList(_Level(*each, level) for level, each in enumerate(widths))
        self.fusions = nn.ModuleList(_Fusion(normalised, skip=level > 0) for level in range(LEVELS))
        self.project = nn.Sequential(*_conv_norm(FUSED, FUSED, normalised, bias=not normalised), nn.ReLU())
        self.output = _plain_output() if normalised else _Regression(min_depth)

    def forward(self, maps: Maps) -> Tensor:
        """[B, 1, 8 h, 8 w] with batch normalisation (Proteus), [B, 1, 16 h, 16 w] without; h and w rounded up to even."""
        pairs = zip(self.levels, maps.maps, maps.cls, strict=True)
        pyramid = [level(map_BDhw, cls_BD) for level, map_BDhw, cls_BD in pairs]
        fused = self.fusions[0](pyramid[-1], None)
        for fusion, finer in zip(list(self.fusions)[1:], reversed(pyramid[:-1]), strict=True):
            fused = fusion(fused, finer)
        out: Tensor = self.output(self.project(fused))
        return out


class _Level(nn.Module):
    """One map: its cls token projected into every patch, D to D / 2^(3 - level) channels, resized, then F channels."""

    def __init__(self, width: int, cls_width: int, level: int) -> None:
        super().__init__()
        out = max(1, width // 2 ** (LEVELS - 1 - level))
        self.readout = nn.Sequential(nn.Linear(width + cls_width, width), nn.GELU())
        self.narrow = kaiming(nn.Conv2d(width, out, kernel_size=1))
        self.resize: nn.Module = (
            nn.ConvTranspose2d(out, out, kernel_size=4, stride=4),
            nn.ConvTranspose2d(out, out, kernel_size=2, stride=2),
            nn.Identity(),
            nn.Conv2d(out, out, kernel_size=3, stride=2, padding=1),
        )[level]
        self.widen = kaiming(nn.Conv2d(out, FUSED, kernel_size=3, padding=1, bias=False))

    def forward(self, map_BDhw: Tensor, cls_BD: Tensor) -> Tensor:
        read_BhwD = self.readout(with_cls(map_BDhw, cls_BD).permute(0, 2, 3, 1))
        out: Tensor = self.widen(self.resize(self.narrow(read_BhwD.permute(0, 3, 1, 2))))
        return out


class _Residual(nn.Module):
    """Two times ReLU, 3 x 3 convolution, normalisation; added to the input."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        parts = [layer for _ in range(2) for layer in (nn.ReLU(), *_conv_norm(FUSED, FUSED, normalised, bias=False))]
        self.parts = nn.Sequential(*parts)

    def forward(self, x_BFhw: Tensor) -> Tensor:
        out: Tensor = self.parts(x_BFhw) + x_BFhw
        return out


class _Fusion(nn.Module):
    """What came from coarser levels plus one finer level, twice as large."""

    def __init__(self, normalised: bool, *, skip: bool) -> None:
        super().__init__()
        self.finer = _Residual(normalised) if skip else None
        self.both = _Residual(normalised)
        self.project = kaiming(nn.Conv2d(FUSED, FUSED, kernel_size=1))

    def forward(self, coarse: Tensor, finer: Tensor | None) -> Tensor:
        if self.finer is not None and finer is not None:
            if finer.shape != coarse.shape:
                finer = interpolate(finer, coarse.shape[2:], mode="bilinear", align_corners=False)
            coarse = coarse + self.finer(finer)
        out: Tensor = self.project(_twice(self.both(coarse)))
        return out


class _Regression(nn.Module):
    """DINOv2's output."""

    def __init__(self, min_depth: float) -> None:
        super().__init__()
        self.min_depth = min_depth
        self.first = nn.Conv2d(FUSED, FUSED // 2, kernel_size=3, padding=1)
        self.second = nn.Conv2d(FUSED // 2, 32, kernel_size=3, padding=1)
        self.last = nn.Conv2d(32, 1, kernel_size=1)

    def forward(self, x_BFhw: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(_twice(self.first(x_BFhw))).relu())
        return out.relu() + self.min_depth


def _plain_output() -> nn.Module:
    """Proteus' output; mmsegmentation starts its weights from N(0, 0.01)."""
    conv = nn.Conv2d(FUSED, 1, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), 0)
    return nn.Sequential(nn.Dropout2d(DROPOUT), conv)


def _conv_norm(width: int, out: int, normalised: bool, *, bias: bool) -> list[nn.Module]:
    conv = kaiming(nn.Conv2d(width, out, kernel_size=3, padding=1, bias=bias))
    return [conv, nn.BatchNorm2d(out)] if normalised else [conv]


def kaiming(conv: nn.Conv2d) -> nn.Conv2d:
    """As mmcv starts its convolution blocks: He's normal by fan out, bias 0."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _twice(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
