"""DINOv3 ViTs (Siméoni et al. 2025): the release's `.pth` files. Positions are rotary, so nothing is resampled."""

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .base import IMAGENET, Drop, Family, Weights, renamed

RULES = (
    (r"storage_tokens$", "reg_token"),
    (r"rope_embed\.periods$", "rope.periods"),
    (r"ls1\.gamma$", "gamma_1"),
    (r"ls2\.gamma$", "gamma_2"),
    (r"mlp\.w1\.", "mlp.fc1_g."),
    (r"mlp\.w2\.", "mlp.fc1_x."),
    (r"mlp\.w3\.", "mlp.fc2."),
)
BIAS, MASK = ".attn.qkv.bias", ".attn.qkv.bias_mask"


def _rename(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """The bias of keys is masked to zero in the release; timm has biases of queries and values alone, or none at all.

    A bias that a model without them cannot hold stays under its own name, and is reported, unless it is zero.
    """
    found = renamed(weights, RULES)
    for name in [name for name in found if name.endswith(BIAS)]:
        block = name.removesuffix(BIAS)
        bias = found[name] * found.pop(f"{block}{MASK}").nan_to_num() if f"{block}{MASK}" in found else found[name]
        query, key, value = bias.chunk(3)
        place = f"{block}.attn.q_bias"
        if key.any() or (place not in wanted and bias.any()):
            continue
        del found[name]
        if place in wanted:
            found[place], found[f"{block}.attn.v_bias"] = query, value
    if "rope.periods" in found:
        found["rope.periods"] = found["rope.periods"].float()
    return found


def _prepare(model: Any) -> None:
    """The released periods are rounded to bfloat16, and what was trained with them: they are loaded, not computed."""
    rope = model.rope
    rope.register_buffer("periods", rope.periods.clone(), persistent=True)


def _check(model: Any) -> None:
    if not hasattr(getattr(model, "rope", None), "periods"):
        raise UsageError("keys: dinov3 is for a ViT with rotary positions", hint="name a model vit_*_dinov3")
    if model.rope.feat_shape is not None:
        raise UsageError(
            "keys: dinov3 needs a model that computes its positions anew", hint="leave dynamic_img_size true"
        )
    assert isinstance(model.rope.periods, torch.Tensor)


DINOV3 = Family(
    key="dinov3",
    title="DINOv3",
    examples=tuple(
        f"vit_{size}_patch16_dinov3.lvd1689m" for size in ("small", "small_plus", "base", "large", "huge_plus", "7b")
    ),
    licence="DINOv3 License",
    statistics=IMAGENET,
    marks=(r"storage_tokens", r"rope_embed\.periods"),
    drops=(
        Drop("mask token", r"mask_token"),
        Drop("norm of local crops", r"local_cls_norm\..*"),
    ),
    to_timm=_rename,
    model_args={"global_pool": "token"},
    prepare=_prepare,
    check=_check,
)
