"""DeiT III (Touvron et al. 2022): LayerScale under its own names, positions of patches alone."""

from .base import IMAGENET, Drop, Family, renamed

DEIT3 = Family(
    key="deit3",
    title="DeiT III",
    examples=tuple(
        f"deit3_{size}_224.fb_in22k_ft_in1k"
        for size in ("small_patch16", "medium_patch16", "base_patch16", "large_patch16", "huge_patch14")
    ),
    licence="Apache-2.0",
    statistics=IMAGENET,
    marks=(r"blocks\.\d+\.gamma_1",),
    drops=(Drop("classifier of the distillation token", r"head_dist\..*"),),
    classifier=r"head\.(weight|bias)",
    to_timm=lambda weights, wanted: renamed(weights, ((r"gamma_(\d)$", r"ls\1.gamma"),)),
    positions=lambda weights: "plain",
)
