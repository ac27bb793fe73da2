"""The families of released checkpoints that are known, one a file, by the word that `keys` names them by."""

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from .base import Family, Weights
from .clip import OPENAI_CLIP
from .convnext import CONVNEXT
from .deit3 import DEIT3
from .dinov2 import DINOV2
from .dinov3 import DINOV3
from .mae import MAE
from .openclip import OPENCLIP
from .siglip import SIGLIP
from .synclr import SYNCLR

Keys = Literal[
    "exact",
    "in_order",
    "dinov2",
    "dinov3",
    "clip",
    "openclip",
    "siglip",
    "synclr",
    "mae",
    "deit3",
    "convnext",
    "timm",
]
"""How the names of a file map onto the model's.

`exact`: they are the model's. `in_order`: by position. A family: its own names, as published. `timm`: by timm's own converter
for the model's architecture (EVA, BEiT, I-JEPA, ...), which drops what it does not know.
"""

FAMILIES: Mapping[str, Family] = {
    family.key: family for family in (DINOV3, DINOV2, OPENAI_CLIP, OPENCLIP, SIGLIP, SYNCLR, MAE, DEIT3, CONVNEXT)
}


def by_timm(weights: Weights, model: Any) -> Weights:
    """What timm's own converter for this architecture makes of a file, less its classifier; positions on the model's grid."""
    convert = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return weights
    heads = ("head.fc.", "head.weight", "head.bias")
    return {name: value for name, value in convert(dict(weights), model).items() if not name.startswith(heads)}
