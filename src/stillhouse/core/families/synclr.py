"""SynCLR (Tian et al. 2024): timm's ViT under `module.visual.`; what is not under it belongs to its contrastive training."""

from .base import IMAGENET, Drop, Family

SYNCLR = Family(
    key="synclr",
    title="SynCLR",
    examples=("vit_base_patch16_224", "vit_large_patch14_224"),
    licence="Apache-2.0",
    statistics=IMAGENET,
    marks=(r"(module\.)?visual\.cls_token",),
    prefixes=("module.visual.", "visual."),
    others=(Drop("contrastive training", ".*"),),
    drops=(Drop("head of pre-training", r"head\..*"), Drop("mask token", "mask_token")),
    positions=lambda weights: "plain",
)
