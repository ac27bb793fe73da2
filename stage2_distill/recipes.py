"""Published recipes as presets of the section `distill`: every number that decides what comes out.

A preset is filled in below what the config gives: sections (`student`, `mask`) key by key, anything else as a whole, so that
`objectives` in a config are all of its objectives. docs/methods.md has the table with the source of each number.
"""

from collections.abc import Mapping
from typing import Any, Final

_PROTEUS: Final[Mapping[str, Any]] = {
    "student": {"model": "vit_base_patch14_dinov2", "layer_scale": 1.0, "mask_token_std": 0.0},
    "objectives": {"token": 1.0, "feature": 1.0, "patch": 1.0},
    "targets": "raw",
    "basis": "channels",
    "mask": {"probability": 0.5, "ratio": 0.5},
    "epochs": 300,
    "repeats": 3,
    "batch": 512,
    "lr": 5e-4,
    "min_lr": 1e-5,
    "warmup_lr": 1e-6,
    "warmup_epochs": 5.0,
    "schedule": "epoch",
    "weight_decay": 0.05,
    "ema": 0.99996,
    "precision": "fp16",
}
"""Proteus' script for DINOv2 teachers, B from L. Position embeddings, class and mask tokens are decayed always."""

RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "proteus_dinov2": _PROTEUS,
    "proteus_clip": {
        **_PROTEUS,
        "student": {
            "model": "vit_base_patch16_clip_quickgelu_224",
            "model_args": {"patch_size": 14},
            "layer_scale": None,
        },
        "objectives": {"token": 1.0},
    },
    "proteus_synclr": {
        **_PROTEUS,
        "student": {
            "model": "vit_base_patch16_224",
            "model_args": {"patch_size": 14},
            "layer_scale": None,
            "mask_token_std": 0.02,
        },
    },
}


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config with those of its recipe below them; an unknown recipe is left to validation."""
    preset = RECIPES.get(str(given.get("recipe")), {})
    found = {**preset, **given}
    for name in ("student", "mask"):
        above, below = given.get(name), preset.get(name)
        if isinstance(above, Mapping) and isinstance(below, Mapping):
            of_its_model = (
                {"model_args"} if "model" in above else set()
            )  # arguments of the preset's model are not another's
            found[name] = {key: value for key, value in below.items() if key not in of_its_model} | dict(above)
    return found
