"""An encoder with a head: pixels to logits of classes.

Legend: B batch, C channels, H and W pixels, K classes.
"""

import copy
from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError

from ..dense.features import Block, at_size, dense_maps, num_blocks, quarters
from ..dense.scenes import IGNORED
from .config import SegmentationConfig
from .heads import LinearHead, resize
from .optimise import decayed_groups, head_groups
from .upernet import UperNet

PROTEUS_BLOCKS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
CNN_CHANNELS = 512
"""Most channels of UperNet on a convolutional encoder, whose last map may be thousands wide."""


def blocks_of(encoder: Encoder, wanted: str | Sequence[int]) -> tuple[Block, ...]:
    """The blocks of a config for this encoder. `proteus` of an unpublished depth: the last block of each quarter."""
    num = num_blocks(encoder)
    if wanted == "last":
        return ("last",)
    if wanted == "last_four":
        return tuple(range(max(num - 4, 0), num))
    if wanted == "proteus":
        return PROTEUS_BLOCKS.get(num, quarters(num)) if encoder.is_vit else quarters(num)
    return tuple(int(block) for block in wanted)


class Segmenter(nn.Module):
    """Built for crops of `side` x `side` pixels; other sizes are brought to the encoder, or the encoder to them.

    A frozen encoder stays in eval mode and shares its weights with the one that was given; one to fine-tune is a copy.

    Raises:
        UsageError: the encoder has no such blocks, or cannot be brought to this size.
    """

    def __init__(self, encoder: Encoder, config: SegmentationConfig, num_classes: int, side: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = blocks_of(encoder, config.blocks)
        self.encoder = at_size(copy.deepcopy(encoder) if config.fine_tune else encoder, (side, side))
        if config.fine_tune:
            self.encoder.released = None  # from here on its positions are its own
            self.encoder.requires_grad_(True)
            _drop_paths(self.encoder, config.drop_path)
        with torch.no_grad():
            x_BCHW = next(self.encoder.parameters()).new_zeros(1, 3, side, side)
            maps = dense_maps(self.encoder.eval(), x_BCHW, self.blocks, norm=config.norm).maps
        self.head = _head(self.encoder, config, [each.shape[1] for each in maps], num_classes).to(x_BCHW.device)

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        if not self.config.fine_tune:
            self.encoder.eval()
        return self

    def answers(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits at the head's own size, and the auxiliary ones while training."""
        encoder = at_size(self.encoder, (x_BCHW.shape[2], x_BCHW.shape[3]))
        with torch.set_grad_enabled(self.config.fine_tune and torch.is_grad_enabled()):
            maps = dense_maps(encoder, x_BCHW, self.blocks, norm=self.config.norm).maps
        answers: tuple[Tensor, Tensor | None] = self.head(maps)
        return answers

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """logits_BKHW at every pixel."""
        return resize(self.answers(x_BCHW)[0], x_BCHW.shape[2:])

    def loss(self, x_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
        """Cross-entropy plus the weighted auxiliary one."""
        main, aux = self.answers(x_BCHW)
        loss = pixel_loss(main, mask_BHW)
        return loss if aux is None else loss + self.config.aux_weight * pixel_loss(aux, mask_BHW)

    def parameter_groups(self) -> list[dict[str, object]]:
        """For AdamW; `scale` is a group's share of the learning rate."""
        config = self.config
        if not config.fine_tune:
            return head_groups(self.head, config.weight_decay)
        return decayed_groups(self.encoder, self.head, config.weight_decay, config.layer_decay)


def pixel_loss(logits_BKhw: Tensor, mask_BHW: Tensor) -> Tensor:
    """Cross-entropy at the size of the mask: the sum over judged pixels by the number of all, as mmsegmentation divides."""
    logits_BKHW = resize(logits_BKhw, mask_BHW.shape[1:])
    total = nn.functional.cross_entropy(logits_BKHW, mask_BHW, ignore_index=IGNORED, reduction="sum")
    return total / mask_BHW.numel()


def _head(
    encoder: Encoder, config: SegmentationConfig, widths: Sequence[int], num_classes: int
) -> LinearHead | UperNet:
    if config.head == "linear":
        return LinearHead(widths, num_classes, norm=config.head_norm, dropout=config.dropout)
    if len(widths) != 4:
        message = f"UperNet reads four maps, and {encoder.name} gives {len(widths)} of blocks: {config.blocks}"
        raise UsageError(message, hint="name four blocks, or use a linear preset")
    channels = widths[-1] if encoder.is_vit else min(widths[-1], CNN_CHANNELS)
    return UperNet(widths, num_classes, pyramid=encoder.is_vit, channels=channels, dropout=config.dropout)


def _drop_paths(encoder: Encoder, rate: float) -> None:
    """Stochastic depth, linear from 0 at the first block to `rate` at the last."""
    blocks = encoder.model.blocks if encoder.is_vit and rate > 0 else ()
    for i, block in enumerate(blocks):
        for name in ("drop_path1", "drop_path2"):
            if hasattr(block, name):
                setattr(block, name, DropPath(rate * i / max(len(blocks) - 1, 1)))
