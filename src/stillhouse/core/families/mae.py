"""MAE (He et al. 2022): the encoder of pre-training files, with or without their decoder."""

from .base import IMAGENET, Drop, Family

MAE = Family(
    key="mae",
    title="MAE",
    examples=("vit_base_patch16_224.mae", "vit_large_patch16_224.mae", "vit_huge_patch14_224.mae"),
    licence="CC-BY-NC-4.0",
    statistics=IMAGENET,
    marks=(r"decoder_embed\.weight",),
    drops=(Drop("decoder", r"decoder_.*"), Drop("mask token", "mask_token"), Drop("classifier", r"head\..*")),
    positions=lambda weights: "plain",
)
