"""What is judged: a teacher, a student, and the student as it was before training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from stillhouse.core.checkpoints import load_weights, read_weights
from stillhouse.core.encoders import Encoder, EncoderConfig, build_encoder, create_timm, weights_sha256
from stillhouse.core.errors import MissingError, SpecMismatchError
from stillhouse.core.factories import is_factory
from stillhouse.storage.signed_json import read_json
from stillhouse.storage.specs import Preprocessing, TeacherSpec

CHOSEN = ("img_size", "init_values")
"""Arguments of a ViT that training adds to those of the config."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A named encoder and how it sees pixels."""

    name: str
    encoder: Encoder
    preprocessing: Preprocessing
    weights_sha256: str


def teacher_subject(config: EncoderConfig, spec: TeacherSpec) -> Subject:
    """The live teacher of a store; SpecMismatchError when these weights are not the ones that filled it."""
    encoder = build_encoder(config, image_size=spec.preprocessing.size, classifier="logits" in spec.levels)
    found = weights_sha256(encoder)
    if found != spec.weights_sha256:
        message = f"teacher {spec.name!r}: weights {found[:12]}, the store was filled by {spec.weights_sha256[:12]}"
        raise SpecMismatchError(message, hint="name the checkpoint that filled the store")
    return Subject(spec.name, encoder, spec.preprocessing, found)


def exported_student(folder: Path, name: str) -> Subject:
    """An exported student folder, opened as anyone would open it: by timm, or by the factory that its model is from."""
    config = _timm_config(folder)
    if is_factory(config["architecture"]):
        model = create_timm(config["architecture"], **config["model_args"])
        load_weights(model, read_weights(folder / "model.safetensors"), str(folder))
    else:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return _subject(name, Encoder(model, config["architecture"]).eval().requires_grad_(False), config)


def untrained_student(folder: Path, name: str, seed: int) -> Subject:
    """An exported student as it was before its first step, drawn anew from its seed: the honest baseline."""
    config = _timm_config(folder)
    args = {"num_classes": 0, **config["model_args"]}
    torch.manual_seed(seed)
    if "img_size" in args:  # training builds a ViT twice, first to learn its patch size; both draw
        create_timm(config["architecture"], **{name: args[name] for name in args if name not in CHOSEN})
    model = create_timm(config["architecture"], **args)
    return _subject(name, Encoder(model, config["architecture"]).eval().requires_grad_(False), config)


def _subject(name: str, encoder: Encoder, config: dict[str, Any]) -> Subject:
    pretrained = config["pretrained_cfg"]
    preprocessing = Preprocessing(
        mean=tuple(pretrained["mean"]), std=tuple(pretrained["std"]), size=pretrained["input_size"][1]
    )
    return Subject(name, encoder, preprocessing, weights_sha256(encoder))


def _timm_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if config is None:
        raise MissingError(f"no exported student at {folder}", hint="run `stillhouse distill` first")
    return config
