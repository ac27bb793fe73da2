"""Published protocols of semantic segmentation as presets of the task's config: every number that differs between them.

docs/evaluations/segmentation.md has the table with the source of each.
"""

from collections.abc import Mapping
from typing import Any, Final

_DINOV2: Final[Mapping[str, Any]] = {
    "head": "linear",
    "blocks": "last",
    "norm": True,
    "head_norm": True,
    "fine_tune": False,
    "crop": 512,
    "long_side": 4.0,
    "ratio": (0.5, 2.0),
    "stride": 2 / 3,
    "scales": (1.0,),
    "flip": False,
    "statistics": "imagenet",
    "iterations": 40_000,
    "batch": 16,
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "warmup": 1500,
    "decay_from": "start",
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "dropout": 0.0,
    "aux_weight": 0.0,
}
"""8 GPUs x 2 images, mmsegmentation 0.27: the decay runs from the first step, the warm-up multiplies it."""

_PROTEUS: Final[Mapping[str, Any]] = {
    **_DINOV2,
    "blocks": "proteus",
    "norm": False,
    "head_norm": False,
    "crop": 518,
    "iterations": 60_000,
    "batch": 32,
    "lr": 8e-4,
    "weight_decay": 0.05,
    "decay_from": "warmup",
}
"""4 GPUs x 8 images, mmsegmentation 1.x: the decay begins where the warm-up ends."""

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "dinov2_linear": _DINOV2,
    "dinov2_ms": {
        **_DINOV2,
        "blocks": "last_four",
        "crop": 640,
        "long_side": None,
        "ratio": (1.0, 3.0),
        "stride": 0.5,
        "scales": (1.0, 1.32, 1.73, 2.28, 3.0),
        "flip": True,
    },
    "proteus_linear": _PROTEUS,
    "proteus_upernet": {
        **_PROTEUS,
        "head": "upernet",
        "head_norm": True,
        "fine_tune": True,
        "lr": 1e-4,
        "layer_decay": 0.65,
        "drop_path": 0.1,
        "dropout": 0.1,
        "aux_weight": 0.4,
    },
}


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config with those of its preset below them; an unknown preset is left to validation.

    A number of iterations of its own keeps the preset's share of warm-up, or a short training would be nothing else.
    """
    preset = PRESETS.get(str(given.get("preset", "dinov2_linear")), {})
    found = {**preset, **given}
    iterations = given.get("iterations")
    if preset and isinstance(iterations, int) and "warmup" not in given:
        found["warmup"] = round(preset["warmup"] * iterations / preset["iterations"])
    return found
