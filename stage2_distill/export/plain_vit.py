"""DINOv2's plain ViT: which students are one, and their tensors under its names.

Legend: D width, T patches, R registers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stillhouse.core.errors import UsageError

from .base import Finished

EPS = 1e-6


def plain_vit(finished: Finished, wanted: str) -> tuple[Any, dict[str, Tensor]]:
    """The student as a timm model, and its tensors under the names of DINOv2's `DinoVisionTransformer`.

    Names: cls_token, pos_embed, register_tokens (if any), mask_token, patch_embed.proj, blocks.N.{norm1, attn.qkv,
    attn.proj, ls1.gamma, norm2, mlp.fc1, mlp.fc2, ls2.gamma}, norm; no block chunks. DINOv2 adds no position to its
    registers and one to its cls token: timm's are folded so. Without LayerScale its gammas are ones, which changes no bit.

    Raises:
        UsageError: the student has no such form; every property in the way is named.
    """
    model = finished.model()
    if faults := list(obstacles(model)):
        message = f"student {finished.config['architecture']} has no {wanted} form: {'; '.join(faults)}"
        raise UsageError(message, hint="--to timm and --to onnx take any student")
    return model, _renamed(model, dict(finished.weights), finished.mask_token_1D)


def obstacles(model: Any) -> Iterator[str]:
    """Each property of a timm model that DINOv2's ViT has not, as a clause."""
    if type(model) is not VisionTransformer:
        yield f"it is a {type(model).__name__}, not a plain VisionTransformer"
        return
    if not model.has_class_token or model.global_pool != "token":
        yield f"it pools its patches ({model.global_pool or 'none'}) instead of reading a class token"
    if model.pos_embed is None:
        yield "it has no learned position embedding"
    if not isinstance(model.norm_pre, nn.Identity):
        yield "it has a norm before its blocks"
    if not _is_norm(model.norm):
        yield f"its last norm is no LayerNorm with eps {EPS:g}"
    yield from _patch_obstacles(model.patch_embed)
    found: dict[str, None] = {}  # of any block, once
    for block in model.blocks:
        found |= dict.fromkeys(_block_obstacles(block))
    yield from found


def _patch_obstacles(embed: Any) -> Iterator[str]:
    if type(embed) is not PatchEmbed or not isinstance(embed.norm, nn.Identity) or embed.proj.bias is None:
        yield "its patch embedding is not one convolution with a bias"
        return
    if len(set(embed.patch_size)) > 1:
        yield f"its patches are not square ({embed.patch_size[0]} x {embed.patch_size[1]})"
    if len(set(embed.grid_size)) > 1:
        yield f"its grid is not square ({embed.grid_size[0]} x {embed.grid_size[1]})"
    if embed.proj.in_channels != 3:
        yield f"it takes {embed.proj.in_channels} channels"


def _block_obstacles(block: Any) -> Iterator[str]:
    if type(block) is not Block:
        yield f"its blocks are {type(block).__name__}s"
        return
    if not (_is_norm(block.norm1) and _is_norm(block.norm2)):
        yield f"the norms of its blocks are no LayerNorms with eps {EPS:g}"
    attn, mlp = block.attn, block.mlp
    if type(attn) is not Attention:
        yield f"its attention is {type(attn).__name__}"
    else:
        if not all(isinstance(norm, nn.Identity) for norm in (attn.q_norm, attn.k_norm, attn.norm)):
            yield "it normalises inside its attention"
        if not _biased(attn.qkv, attn.proj):
            yield "its attention lacks a bias"
    if type(mlp) is not Mlp:
        yield f"its MLP is a {type(mlp).__name__}"
    else:
        if not isinstance(mlp.norm, nn.Identity):
            yield "it normalises inside its MLP"
        if not _biased(mlp.fc1, mlp.fc2):
            yield "its MLP lacks a bias"
        if not isinstance(mlp.act, nn.GELU) or mlp.act.approximate != "none":
            yield f"its activation is {type(mlp.act).__name__}, not the exact GELU"
    if not all(isinstance(scale, LayerScale | nn.Identity) for scale in (block.ls1, block.ls2)):
        yield "its LayerScale is of another kind"


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and module.eps == EPS and module.elementwise_affine


def _biased(*layers: Any) -> bool:
    return all(layer.bias is not None for layer in layers)


def _renamed(model: Any, weights: dict[str, Tensor], mask_token_1D: Tensor | None) -> dict[str, Tensor]:
    """timm's tensors under DINOv2's names; every one of them is used."""
    cls, pos, registers = weights.pop("cls_token"), weights.pop("pos_embed"), weights.pop("reg_token", None)
    if not model.no_embed_class:  # then it holds positions of cls, registers and patches, in this order
        num = model.num_reg_tokens
        registers = None if registers is None else registers + pos[:, 1 : 1 + num]
        pos = torch.cat([pos[:, :1], pos[:, 1 + num :]], dim=1)
    else:
        pos = torch.cat([torch.zeros_like(cls), pos], dim=1)
    named = {"cls_token": cls, "pos_embed": pos}
    if registers is not None:
        named["register_tokens"] = registers
    named["mask_token"] = torch.zeros(1, cls.shape[2]) if mask_token_1D is None else mask_token_1D
    for number, block in enumerate(model.blocks):
        for scale in (name for name in ("ls1", "ls2") if isinstance(getattr(block, name), nn.Identity)):
            weights[f"blocks.{number}.{scale}.gamma"] = torch.ones(cls.shape[2])
    return named | {name: weights[name] for name in sorted(weights, key=_place)}


def _place(name: str) -> tuple[int, int, str]:
    """Patch embedding, blocks by number, norm: the order that a reader expects."""
    parts = name.split(".")
    return ("patch_embed", "blocks", "norm").index(parts[0]), int(parts[1]) if parts[0] == "blocks" else 0, name
