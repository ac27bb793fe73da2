"""An encoder with a depth head, at any size of image.

Legend: B images, C channels, H and W pixels, h and w rows and columns of pixels of one image.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stillhouse.core.encoders import Encoder, normalise

from ...subjects import Subject
from ..dense.features import Maps, at_size, dense_maps, num_blocks
from ..dense.windows import Sliding, slide
from ..encode import STATISTICS
from .augment import resize_image
from .dpt import Dpt
from .heads import BinsHead
from .protocol import Protocol, resolve_blocks

WINDOWS_AT_ONCE = 4
SIZES_KEPT = 4
"""Encoders by image size; they share their weights but not their positions."""


class Estimator:
    """Depth of images by a subject; the head is drawn from torch's generator, the subject itself is never changed."""

    def __init__(self, subject: Subject, protocol: Protocol, device: torch.device) -> None:
        """
        Raises:
            UsageError: the encoder lacks a block that the protocol reads, or cannot see images of its size.
        """
        self.protocol, self.device = protocol, device
        seen = subject.preprocessing
        own = protocol.statistics == "subject"
        self.mean, self.std = (seen.mean, seen.std) if own else STATISTICS[protocol.statistics]
        self.blocks = resolve_blocks(protocol.blocks, num_blocks(subject.encoder))
        self.tuned = protocol.backbone_lr > 0
        self._sized: dict[tuple[int, int], Encoder] = {}
        self._encoder = subject.encoder.to(device)
        if self.tuned:
            self._encoder = _own_copy(at_size(self._encoder, protocol.crop), protocol.drop_path)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, *protocol.crop, device=device))
        self.head = _build_head(maps, protocol).to(device)

    @property
    def width(self) -> int:
        """Of the encoder's last map."""
        return int(self._width)

    def train(self, mode: bool) -> None:
        """Batch normalisation and dropout of the head, and of the encoder where it is trained."""
        self.head.train(mode)
        if self.tuned:
            self._encoder.train(mode)

    def parameters(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimiser.

        Where the encoder is trained, its position embedding and cls token have the full rate and no weight decay, all else of
        it the protocol's share of the rate: so the published config's keys resolve, longest first.
        """
        decay = self.protocol.weight_decay
        groups = [{"params": list(self.head.parameters()), "lr": lr, "weight_decay": decay}]
        if self.tuned:
            free: list[nn.Parameter] = []
            rest: list[nn.Parameter] = []
            for name, parameter in self._encoder.named_parameters():
                (free if "pos_embed" in name or "cls_token" in name else rest).append(parameter)
            groups.append({"params": rest, "lr": lr * self.protocol.backbone_lr, "weight_decay": decay})
            groups.append({"params": free, "lr": lr, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def normalise(self, pixels_BHWC: NDArray[Any]) -> Tensor:
        """Grey levels 0 .. 255 to what the encoder sees, on the device."""
        return normalise(pixels_BHWC, self.mean, self.std, self.device)

    def depth(self, x_BCHW: Tensor) -> Tensor:
        """What the head says of normalised pixels, [B, 1, ...] on the head's own grid."""
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            maps = self._maps(x_BCHW)
        out: Tensor = self.head(maps)
        return out

    @torch.no_grad()
    def predict(self, image_hw3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Metres [h, w] of one image: seen at the protocol's size, averaged with its mirror image, whole or by windows."""
        size = (image_hw3.shape[0], image_hw3.shape[1])
        factor = self.protocol.side / min(size)
        seen = resize_image(image_hw3, (int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)))
        x_1CHW = self.normalise(np.array(seen[None]))  # torch refuses what cannot be written
        if self.protocol.window is None or self.protocol.stride is None:
            out = self._both_ways(x_1CHW)
        else:
            sliding = Sliding(self.protocol.window, self.protocol.stride)
            out = slide(self._both_ways, x_1CHW, sliding, at_once=WINDOWS_AT_ONCE)
        found: NDArray[np.float32] = _resized(out, size)[0, 0].float().cpu().numpy()
        return found

    def _both_ways(self, x_BCHW: Tensor) -> Tensor:
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        there = _resized(self._clamped(self.depth(x_BCHW)), size)
        back = _resized(self._clamped(self.depth(x_BCHW.flip(3))), size)
        return (there + back.flip(3)) / 2

    def _clamped(self, depth: Tensor) -> Tensor:
        limits = (self.protocol.min_depth, self.protocol.max_depth)
        return depth.clamp(*limits) if self.protocol.clamp else depth

    def _maps(self, x_BCHW: Tensor) -> Maps:
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        if size not in self._sized:
            if len(self._sized) >= SIZES_KEPT:
                del self._sized[next(iter(self._sized))]
            self._sized[size] = at_size(self._encoder, size)
        maps = dense_maps(self._sized[size], x_BCHW, self.blocks, norm=self.protocol.final_norm)
        self._width = maps.maps[-1].shape[1]
        return maps


def _own_copy(encoder: Encoder, drop_path: float) -> Encoder:
    """An encoder to be trained: its weights its own, at the size that it has."""
    made = copy.deepcopy(encoder)
    made.released = None  # another size is made of the trained positions, not of those of the file
    blocks: Sequence[Any] = list(made.model.blocks) if made.is_vit else []
    for number, block in enumerate(blocks):
        rate = drop_path * number / max(len(blocks) - 1, 1)
        for name in ("drop_path1", "drop_path2"):
            if rate and hasattr(block, name):
                setattr(block, name, DropPath(rate))
    return made.requires_grad_(True)


def _build_head(maps: Maps, protocol: Protocol) -> nn.Module:
    widths = [(each.shape[1], cls.shape[1]) for each, cls in zip(maps.maps, maps.cls, strict=True)]
    if protocol.head == "linear":
        both = [width + cls for width, cls in widths]
        limits: Mapping[str, float] = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
        return BinsHead(both, **limits, num_bins=protocol.bins)
    return Dpt(widths, normalised=protocol.head == "dpt-norm", min_depth=protocol.min_depth)


def _resized(x_BKHW: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(x_BKHW, size, mode="bilinear", align_corners=False)
