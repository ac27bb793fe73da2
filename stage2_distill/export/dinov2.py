"""Export under DINOv2's names: a plain state dict for its code, and the wrapping that Proteus' evaluation expects."""

import io
from typing import Any

import torch
from torch import Tensor

from .base import Finished, Written
from .plain_vit import plain_vit

SIZES = {(384, 12, 6): "vit_small", (768, 12, 12): "vit_base", (1024, 24, 16): "vit_large"}
"""(width, blocks, heads) of the constructors that DINOv2 names; the others are built from their arguments."""


def to_dinov2(finished: Finished) -> Written:
    """`dinov2.pth`: names to tensors and nothing else, as DINOv2's `load_pretrained_weights` reads it."""
    model, weights = plain_vit(finished, "DINOv2")
    arguments = _arguments(model)
    usage = (
        "import torch\n"
        "from dinov2.models.vision_transformer import DinoVisionTransformer\n\n"
        f"model = DinoVisionTransformer({', '.join(f'{name}={value!r}' for name, value in arguments.items())})\n"
        'model.load_state_dict(torch.load("dinov2.pth", weights_only=True))\n'
    )
    return Written({"dinov2.pth": _saved(weights)}, usage, "pytorch", _facts("dinov2", finished, model))


def to_proteus(finished: Finished) -> Written:
    """`proteus.pth`: the same under `model`, each name behind `student.backbone.`.

    Proteus' three loaders take names that hold `student` from the entry `model` and load the rest of each leniently:
    with other names they evaluate random weights, and say so only in a list of missing keys.
    """
    model, weights = plain_vit(finished, "Proteus")
    wrapped = {"model": {f"student.backbone.{name}": tensor for name, tensor in weights.items()}}
    usage = (
        "import torch\n\n"
        'names = torch.load("proteus.pth", weights_only=True)["model"]\n'
        'weights = {name.removeprefix("student.backbone."): tensor for name, tensor in names.items()}\n'
    )
    return Written({"proteus.pth": _saved(wrapped)}, usage, "pytorch", _facts("proteus", finished, model))


def _facts(name: str, finished: Finished, model: Any) -> dict[str, Any]:
    size = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads)
    token = "as trained" if finished.mask_token_1D is not None else "zeros: the run kept none"
    return {"format": name, "arguments": _arguments(model), "arch": SIZES.get(size), "mask_token": token}


def _arguments(model: Any) -> dict[str, Any]:
    """What `DinoVisionTransformer` is built with; the number of heads is in no tensor."""
    block, embed = model.blocks[0], model.patch_embed
    return {
        "img_size": embed.img_size[0],
        "patch_size": embed.patch_size[0],
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / model.embed_dim,
        "init_values": 1.0,
        "block_chunks": 0,
        "num_register_tokens": model.num_reg_tokens,
    }


def _saved(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(_owned(value), buffer)
    return buffer.getvalue()


def _owned(value: Any) -> Any:
    """Tensors that hold their own numbers and no more: a saved view would bring all that it looks into."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    return {name: _owned(below) for name, below in value.items()}
