"""A finished student as a folder that `timm.create_model("local-dir:…", pretrained=True)` opens."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stillhouse.storage.disk import disk_errors, publish_folder, write_synced
from stillhouse.storage.signed_json import canonical_json

from .students import Student


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
    architecture = config.model.split(".")[0]
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": student.cls_dim,
        "model_args": args,
        "pretrained_cfg": pretrained,
    }


def export_student(folder: Path, weights: dict[str, Tensor], config: dict[str, Any], card: dict[str, Any]) -> str:
    """Write `config.json`, `model.safetensors` and `card.json` into a new `folder`; returns the weights' sha256.

    Args:
        weights: the encoder's own tensors: no heads, no mask token.
        card: what the student was trained on: store digest, teacher, licence, config.
    """
    staged = folder.with_name(f".{folder.name}.writing")
    with disk_errors(folder):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        data = safetensors.torch.save(contiguous, metadata={"format": "pt"})
        _, sha256 = write_synced(staged / "model.safetensors", [data])
        write_synced(staged / "config.json", [json.dumps(config, indent=2).encode()])
        write_synced(staged / "card.json", [canonical_json(card | {"weights_sha256": sha256})])
        shutil.rmtree(folder, ignore_errors=True)
    publish_folder(staged, folder)
    return sha256


def is_whole(folder: Path, weights_sha256: str) -> bool:
    """True when `folder` holds an exported student with these weights."""
    weights, others = folder / "model.safetensors", ("config.json", "card.json")
    if not weights.is_file() or not all((folder / name).is_file() for name in others):
        return False
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == weights_sha256
