"""OpenCLIP (Cherti et al. 2023): towers of its own, named as OpenAI's, and timm's towers under `visual.trunk.`.

Its state dicts do not say which activation a tower was trained with: name the timm model of the release.
"""

from torch import Tensor

from .base import Drop, Family, Weights
from .clip import OTHERS, PREFIXES, rename_clip


def _rename(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """A trunk has timm's own names."""
    return rename_clip(weights, wanted) if "class_embedding" in weights else dict(weights)


OPENCLIP = Family(
    key="openclip",
    title="OpenCLIP",
    examples=(
        "vit_base_patch32_clip_224.laion2b",
        "vit_base_patch16_clip_224.datacompxl",
        "vit_large_patch14_clip_224.datacompxl",
        "vit_huge_patch14_clip_224.laion2b",
        "convnext_base.clip_laion2b",
    ),
    licence="",
    statistics=None,
    marks=(r"(module\.)?visual\.class_embedding", r"(module\.)?visual\.trunk\..*"),
    prefixes=("module.visual.trunk.", "visual.trunk.", *PREFIXES),
    others=(*OTHERS, Drop("projection", r"(module\.)?visual\.head\..*")),
    drops=(Drop("projection", "proj"),),
    to_timm=_rename,
)
