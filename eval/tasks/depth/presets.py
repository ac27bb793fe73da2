"""The published protocols, number by number.

Sources: DINOv2 = facebookresearch/dinov2 (heads, losses and blocks: `dinov2/hub/depthers.py`, `dinov2/eval/depth`) with the data
pipeline and schedule of Monocular-Depth-Estimation-Toolbox (`configs/_base_/datasets/nyu.py`, `configs/depthformer`), on which
it was run; its own training configs are not released. Proteus = `eval/dense_prediction/configs/dpt` of Proteus-pytorch with
mmsegmentation's NYU pipeline. docs/evaluations/depth.md says which numbers no released file gives.
"""

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["dinov2_lin1", "dinov2_lin4", "dinov2_dpt", "proteus_dpt"]

_DINOV2: Mapping[str, Any] = {
    "final_norm": False,
    "statistics": "imagenet",
    "loss": "sig",
    "gradient": "as-written",
    "iterations": 38_400,
    "batch": 16,
    "group": 2,
    "lr": 1e-4,
    "lr_wide": 1e-4,
    "backbone_lr": 0.0,
    "drop_path": 0.0,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 12_800,
    "warmup_from": 1e-3,
    "clip": 35.0,
    "side": 480,
    "train_side": 480,
    "ratio": (1.0, 1.0),
    "crop": (416, 544),
    "border": True,
    "mix": 0.0,
    "rotate": 2.5,
    "colour": "toolbox",
    "window": None,
    "stride": None,
    "clamp": True,
}
PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    "dinov2_lin1": {**_DINOV2, "head": "linear", "blocks": "last"},
    "dinov2_lin4": {**_DINOV2, "head": "linear", "blocks": "dinov2"},
    "dinov2_dpt": {**_DINOV2, "head": "dpt", "blocks": "dinov2"},
    "proteus_dpt": {
        "head": "dpt-norm",
        "blocks": "proteus",
        "final_norm": False,
        "statistics": "half",
        "loss": "silog",
        "gradient": "none",
        "iterations": 25_000,
        "batch": 16,
        "group": 4,
        "lr": 4e-4,
        "lr_wide": 1e-4,
        "backbone_lr": 0.1,
        "drop_path": 0.1,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup": 1500,
        "warmup_from": 1e-6,
        "clip": None,
        "side": 518,
        "train_side": 512,
        "ratio": (0.8, 1.5),
        "crop": (518, 518),
        "border": False,
        "mix": 0.25,
        "rotate": 0.0,
        "colour": "albu",
        "window": 518,
        "stride": 129,
        "clamp": False,
    },
}
