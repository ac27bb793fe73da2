"""OpenAI CLIP (Radford et al. 2021): the visual tower of a state dict or of the released TorchScript archive.

cls is taken after `ln_post` and before the projection, 1024 wide for L/14. `patch` passes through `ln_post` too; tokens
as the last block leaves them, as Proteus' CLIP module has them, are the level `patch.23`.
"""

from typing import Any

from torch import Tensor

from ..errors import UsageError
from .base import CLIP as STATISTICS
from .base import Drop, Family, Weights, renamed

RULES = (
    (r"conv1\.", "patch_embed.proj."),
    (r"positional_embedding$", "pos_embed"),
    (r"class_embedding$", "cls_token"),
    (r"transformer\.resblocks\.", "blocks."),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"ln_(\d)\.", r"norm\1."),
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
)
PREFIXES = ("module.visual.", "visual.")
OTHERS = (
    Drop(
        "text tower",
        r"(module\.)?((transformer|token_embedding|ln_final|text)\..*|positional_embedding|text_projection(\..*)?|attn_mask)",
    ),
    Drop("temperature", r"(module\.)?logit_(scale|bias)"),
    Drop("sizes", "input_resolution|context_length|vocab_size"),
)


def rename_clip(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """timm has leading axes of one on cls token and positions."""
    found = renamed(weights, RULES)
    for name, axes in (("cls_token", 1), ("pos_embed", 2)):
        if name in found and found[name].ndim == axes:
            found[name] = found[name].reshape(1, -1, found[name].shape[-1])
    return found


def _check(model: Any) -> None:
    """OpenAI's towers were trained with QuickGELU; with GELU their weights fit and their features are others."""
    blocks: Any = getattr(model, "blocks", ())
    act = type(blocks[0].mlp.act).__name__.lower() if len(blocks) else ""
    if not act.startswith("quickgelu"):
        hint = "name the model vit_*_clip_quickgelu_*, or set model_args: {act_layer: quick_gelu}"
        raise UsageError("keys: clip is for towers with QuickGELU, and this model has none", hint=hint)


OPENAI_CLIP = Family(
    key="clip",
    title="OpenAI CLIP",
    examples=(
        "vit_base_patch32_clip_quickgelu_224.openai",
        "vit_base_patch16_clip_quickgelu_224.openai",
        "vit_large_patch14_clip_quickgelu_224.openai",
        "vit_large_patch14_clip_quickgelu_336.openai",
    ),
    licence="MIT",
    statistics=STATISTICS,
    marks=(r"(module\.)?visual\.class_embedding", "class_embedding"),
    prefixes=PREFIXES,
    others=OTHERS,
    drops=(Drop("projection", "proj"),),
    to_timm=rename_clip,
    check=_check,
)
