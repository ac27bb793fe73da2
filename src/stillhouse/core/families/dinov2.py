"""DINOv2 S, B, L and g, with and without registers (Oquab et al. 2024, Darcet et al. 2024): the hub's `.pth` files."""

from torch import Tensor

from ..positions import PositionRule
from .base import IMAGENET, Drop, Family, Weights, renamed

RULES = (
    (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks, as trained under FSDP
    (r"mlp\.w12\.", "mlp.fc1."),  # SwiGLU of the giant: gate and value in one matrix
    (r"mlp\.w3\.", "mlp.fc2."),
)


def _rename(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """With registers, timm keeps the cls token with its position added, and positions of patches alone."""
    found = renamed(weights, RULES)
    if "register_tokens" in found and "cls_token" in found and "pos_embed" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def _positions(weights: Weights) -> PositionRule:
    """The hub builds models with registers with antialiasing and without the offset, the others the other way round."""
    registers = any(name.endswith("register_tokens") for name in weights)
    return "antialias" if registers else "offset"


DINOV2 = Family(
    key="dinov2",
    title="DINOv2",
    examples=tuple(
        f"vit_{size}_patch14_{kind}.lvd142m"
        for kind in ("dinov2", "reg4_dinov2")
        for size in ("small", "base", "large", "giant")
    ),
    licence="Apache-2.0",
    statistics=IMAGENET,
    marks=(r"(backbone\.)?register_tokens", r"(backbone\.)?blocks\.\d+\.(\d+\.)?ls1\.gamma"),
    prefixes=("teacher.backbone.", "backbone."),  # training checkpoints, and the hub's classifiers
    others=(
        Drop("heads of pre-training", r"(teacher\.)?(dino|ibot)_head\..*"),
        Drop("linear classifier", r"linear_head\..*"),
    ),
    drops=(Drop("mask token", "mask_token"),),
    to_timm=_rename,
    positions=_positions,
)
