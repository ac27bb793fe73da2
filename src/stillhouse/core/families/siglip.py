"""SigLIP 2 and SigLIP (Tschannen et al. 2025, Zhai et al. 2023), fixed sizes, as released on Hugging Face.

cls is what the attention pooling gives: these towers have no cls token. Files of OpenCLIP are `keys: openclip`.
"""

import torch
from torch import Tensor

from .base import HALF, Drop, Family, Weights, renamed

RULES = (
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"encoder\.layers\.", "blocks."),
    (r"layer_norm(\d)\.", r"norm\1."),
    (r"self_attn\.out_proj\.", "attn.proj."),
    (r"self_attn\.", "attn."),
    (r"post_layernorm\.", "norm."),
    (r"head\.probe$", "attn_pool.latent"),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.attention\.in_proj_", "attn_pool.in_proj."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
)


def _rename(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """Query, key and value are one matrix in timm's blocks; in its pooling the query stands alone."""
    found = renamed(weights, RULES)
    for name in [name for name in found if ".attn.q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in found for part in parts):
            found[name.replace(".q_proj.", ".qkv.")] = torch.cat([found.pop(part) for part in parts])
    for kind in ("weight", "bias"):
        if f"attn_pool.in_proj.{kind}" in found:
            query, key, value = found.pop(f"attn_pool.in_proj.{kind}").chunk(3)
            found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = query, torch.cat([key, value])
    if "pos_embed" in found and found["pos_embed"].ndim == 2:
        found["pos_embed"] = found["pos_embed"][None]
    return found


SIGLIP = Family(
    key="siglip",
    title="SigLIP 2",
    examples=(
        "vit_base_patch16_siglip_224.v2_webli",
        "vit_large_patch16_siglip_256.v2_webli",
        "vit_so400m_patch14_siglip_224.v2_webli",
        "vit_giantopt_patch16_siglip_256.v2_webli",
    ),
    licence="Apache-2.0",
    statistics=HALF,
    marks=(r"vision_model\.embeddings\.patch_embedding\.weight",),
    prefixes=("vision_model.",),
    others=(Drop("text tower", r"text_model\..*"), Drop("temperature", "logit_scale|logit_bias")),
    drops=(Drop("position numbers", r"embeddings\.position_ids"),),
    to_timm=_rename,
    positions=lambda weights: "plain",
    model_args={"act_layer": "gelu_tanh"},
)
