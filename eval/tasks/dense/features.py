"""Feature maps of named blocks of an encoder, at any resolution.

A model's blocks are numbered from 0, as in published code; papers count from 1. A convolutional model's blocks are its stages.

Legend: B batch, C channels, H and W pixels, D width, h and w grid rows and columns, N positions.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError, one_line
from stillhouse.core.positions import resample

Block = int | Literal["last"]


@dataclass(frozen=True, eq=False, slots=True)
class Maps:
    """What blocks say of a batch, in the order that they were asked for: map_BDhw and cls_BD of each.

    cls is the mean of the map where the model has no cls token.
    """

    maps: tuple[Tensor, ...]
    cls: tuple[Tensor, ...]


def num_blocks(encoder: Encoder) -> int:
    """Transformer blocks of a ViT, stages of another timm model, 1 for a model that is only known by its output."""
    if encoder.is_vit:
        return len(encoder.model.blocks)
    return len(encoder.model.feature_info) if hasattr(encoder.model, "forward_intermediates") else 1


def quarters(num: int) -> tuple[int, ...]:
    """The last block of each quarter of `num` blocks, as DINOv2 reads its 12: 2, 5, 8, 11. Fewer than four: all."""
    return tuple(range(num)) if num < 4 else tuple(math.ceil(num * part / 4) - 1 for part in (1, 2, 3, 4))


def dense_maps(encoder: Encoder, x_BCHW: Tensor, blocks: Sequence[Block], *, norm: bool) -> Maps:
    """Maps of `blocks` for normalised pixels, which are padded to whole patches (`pad_to_patches`).

    The map covers the padded image. DINOv2 stretches it over the image as if there were no padding; so do we.

    Args:
        norm: the final norm after each block. "last" of a model without numbered blocks, or of a convolutional one, is what
            `Encoder.forward` gives as patch tokens: after its own end, whatever `norm` says.

    Raises:
        UsageError: the model has no such block, or takes no image of this size.
    """
    x_BCHW = pad_to_patches(x_BCHW, patch_size(encoder))
    numbered = [_number(encoder, block) for block in blocks]
    try:
        if encoder.is_vit:
            return _of_vit(encoder.model, x_BCHW, numbered, norm)
        return _of_others(encoder, x_BCHW, blocks, numbered)
    except (AssertionError, RuntimeError) as error:
        size = f"{x_BCHW.shape[2]} x {x_BCHW.shape[3]} pixels"
        if isinstance(error, torch.OutOfMemoryError):
            raise
        hint = "bring it to that size with `at_size`, or set the resolution to one that it takes"
        raise UsageError(f"{encoder.name} gives no map of {size}: {one_line(error)}", hint=hint) from error


def patch_size(encoder: Encoder) -> tuple[int, int]:
    """Rows and columns of pixels that an image must be a multiple of; 1 x 1 for a model that takes any."""
    patch = getattr(getattr(encoder.model, "patch_embed", None), "patch_size", None)
    if patch is None:
        return 1, 1
    return (int(patch), int(patch)) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))


def padded_size(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """The least multiples of `patch` that hold `size` (rows, columns)."""
    return -(-size[0] // patch[0]) * patch[0], -(-size[1] // patch[1]) * patch[1]


def pad_to_patches(x_BCHW: Tensor, patch: tuple[int, int]) -> Tensor:
    """Zeros around the image, the odd one below and on the right (DINOv2's CenterPadding)."""
    height, width = x_BCHW.shape[2:]
    rows, columns = padded_size((height, width), patch)
    top, left = (rows - height) // 2, (columns - width) // 2
    if (rows, columns) == (height, width):
        return x_BCHW
    return nn.functional.pad(x_BCHW, (left, columns - width - left, top, rows - height - top))


def at_size(encoder: Encoder, size: tuple[int, int]) -> Encoder:
    """The encoder for images of `size` (rows, columns; what is not whole patches is padded later).

    A model that is built for one size is copied; the copy shares every weight but its positions, which are resampled by
    the rule of the model's release from the released grid where that is known, else from the present one by timm's rule.
    A model that takes any size is returned as it is.

    Raises:
        UsageError: the model cannot be brought to this size.
    """
    model, wanted = encoder.model, padded_size(size, patch_size(encoder))
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if not hasattr(model, "set_input_size") or built is None or tuple(built) == wanted:
        return encoder
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    shared[id(encoder.released)] = encoder.released
    made = copy.deepcopy(encoder, shared)
    try:
        made.model.set_input_size(img_size=wanted)
    except (AssertionError, RuntimeError, ValueError) as error:
        message = f"{encoder.name} cannot be brought to {wanted[0]} x {wanted[1]} pixels: {one_line(error)}"
        raise UsageError(message, hint="set the resolution to one that it takes") from error
    _positions_as_released(made)
    return made


def resampling(encoder: Encoder, size: tuple[int, int]) -> str:
    """What a person should be told of `at_size`: where the positions come from; "" where none are resampled."""
    made = at_size(encoder, size)
    if made is encoder or getattr(made.model, "pos_embed", None) is None:
        return ""
    rows, columns = made.model.patch_embed.grid_size
    side = _released_side(encoder)
    if encoder.released is not None and side is not None:
        return f"positions for {rows} x {columns} patches from the released {side} x {side} ({encoder.released.rule})"
    old_rows, old_columns = encoder.model.patch_embed.grid_size
    return f"positions for {rows} x {columns} patches from its present {old_rows} x {old_columns}, by timm's rule"


def _released_side(encoder: Encoder) -> int | None:
    """Rows of the square grid of released positions; None where there is no such grid, or the model has no positions."""
    model, released = encoder.model, encoder.released
    if released is None or getattr(model, "pos_embed", None) is None or not hasattr(model, "num_prefix_tokens"):
        return None
    num = released.position_1ND.shape[1] - _num_prefix(model)
    side = math.isqrt(max(num, 0))
    return side if side > 0 and side * side == num else None


def _num_prefix(model: Any) -> int:
    return 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)


def _positions_as_released(encoder: Encoder) -> None:
    model, released = encoder.model, encoder.released
    if released is None or _released_side(encoder) is None:
        return
    rows, columns = model.patch_embed.grid_size
    found_1ND = released.position_1ND.to(model.pos_embed.device)
    with torch.no_grad():
        model.pos_embed.copy_(resample(found_1ND, (rows, columns), _num_prefix(model), released.rule))


def _number(encoder: Encoder, block: Block) -> int:
    num = num_blocks(encoder)
    if block == "last":
        return num - 1
    if not 0 <= block < num:
        kind = "transformer blocks" if encoder.is_vit else "stages"
        raise UsageError(f"{encoder.name} has {num} {kind}, no block {block}", hint="count from 0, or say last")
    return block


def _of_vit(model: Any, x_BCHW: Tensor, blocks: Sequence[int], norm: bool) -> Maps:
    kinds = sorted(set(blocks))
    found = model.forward_intermediates(
        x_BCHW, indices=kinds, return_prefix_tokens=True, norm=norm, output_fmt="NCHW", intermediates_only=True
    )
    has_cls = getattr(model, "cls_token", None) is not None
    pairs = {}
    for block, each in zip(kinds, found, strict=True):
        map_BDhw, prefix = each if isinstance(each, tuple) else (each, None)
        pairs[block] = map_BDhw, prefix[:, 0] if has_cls and prefix is not None else map_BDhw.mean(dim=(2, 3))
    return Maps(tuple(pairs[block][0] for block in blocks), tuple(pairs[block][1] for block in blocks))


def _of_others(encoder: Encoder, x_BCHW: Tensor, blocks: Sequence[Block], numbered: Sequence[int]) -> Maps:
    maps: dict[Block, tuple[Tensor, Tensor]] = {}
    if "last" in blocks:
        tokens = encoder(x_BCHW)
        maps["last"] = tokens.patch_BTD.transpose(1, 2).unflatten(2, tokens.grid), tokens.cls_BD
    kinds = sorted({number for block, number in zip(blocks, numbered, strict=True) if block != "last"})
    if kinds and not hasattr(encoder.model, "forward_intermediates"):
        raise UsageError(f"{encoder.name} gives no intermediate maps", hint="set blocks: [last]")
    if kinds:
        found = encoder.model.forward_intermediates(x_BCHW, indices=kinds, output_fmt="NCHW", intermediates_only=True)
        maps |= {number: (each, each.mean(dim=(2, 3))) for number, each in zip(kinds, found, strict=True)}
    return Maps(tuple(maps[block][0] for block in blocks), tuple(maps[block][1] for block in blocks))
