"""Export as timm: a folder that `timm.create_model("local-dir:…", pretrained=True)` opens, in the layout of its hub."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stillhouse.core.factories import is_factory
from stillhouse.stage2_distill.students import Student

from .base import Finished, Written
from .card import write_folder

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "card.json"


def timm_config(student: Student, mean: Any, std: Any) -> dict[str, Any]:
    """timm's hub config of a student: architecture, arguments, preprocessing."""
    config = student.config
    size = student.image_size
    args: dict[str, Any] = dict(config.model_args)
    if student.encoder.is_vit:
        args["img_size"] = size
        if config.layer_scale is not None:
            args.setdefault("init_values", config.layer_scale)
    pretrained = {
        "input_size": [3, size, size],
        "fixed_input_size": student.encoder.is_vit,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(mean),
        "std": list(std),
        "num_classes": 0,
    }
    architecture = config.model if is_factory(config.model) else config.model.split(".")[0]
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": student.cls_dim,
        "model_args": args,
        "pretrained_cfg": pretrained,
    }


def to_timm(finished: Finished) -> Written:
    """`model.safetensors` and `config.json`: the encoder's own tensors, no heads, no mask token."""
    usage = (
        "import timm\n\n"
        'model = timm.create_model("local-dir:.", pretrained=True).eval()\n'
        "tokens = model.forward_features(pixels)  # a ViT: [batch, prefix + patches, width], cls first\n"
    )
    files = {WEIGHTS: safetensor_bytes(finished.weights), CONFIG: json.dumps(finished.config, indent=2).encode()}
    return Written(files, usage, "timm", {"format": "timm"})


def safetensor_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """A .safetensors file of PyTorch tensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    data: bytes = safetensors.torch.save(contiguous, metadata={"format": "pt"})
    return data


def export_student(folder: Path, weights: dict[str, Tensor], config: dict[str, Any], card: dict[str, Any]) -> str:
    """What training leaves in its run folder, replacing what was there; returns the sha256 of the weights.

    Args:
        weights: the encoder's own tensors: no heads, no mask token.
        card: what the student was trained on: store digest, teacher, licence, config.
    """
    finished = Finished(config, weights)
    written = to_timm(finished)
    sha256 = hashlib.sha256(written.files[WEIGHTS]).hexdigest()
    write_folder(folder, finished, written, card | {"weights_sha256": sha256}, replace=True)
    return sha256


def is_whole(folder: Path, weights_sha256: str) -> bool:
    """True when `folder` holds an exported student with these weights."""
    weights, others = folder / WEIGHTS, (CONFIG, CARD)
    if not weights.is_file() or not all((folder / name).is_file() for name in others):
        return False
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == weights_sha256
