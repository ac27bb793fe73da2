"""Who is judged: the very teacher of the store, the exported student, and that student before its first step."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.core.encoders import EncoderConfig
from stillhouse.core.errors import MissingError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.eval.subjects import exported_student, teacher_subject, untrained_student
from stillhouse.stage1_extract.testing import random_weights, tiny_teacher
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.result import STUDENT
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

VIT = {"model": "vit_tiny_patch16_224", "model_args": {"embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 8}}
CNN = {"model": "test_resnet", "image_size": 128}


def config(**fields: Any) -> DistillConfig:
    values = {"student": VIT, "epochs": 1, "batch": 8, "warmup_epochs": 0, "ema": 0, "device": "cpu", "seed": 5}
    return DistillConfig.model_validate(values | fields)


def weights(module: Any) -> dict[str, torch.Tensor]:
    return dict(module.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


STUDENTS = [
    {"student": VIT},
    {"student": VIT | {"layer_scale": None}},
    {"student": VIT | {"model_args": {**VIT["model_args"], "num_classes": 0}}},  # type: ignore[dict-item]
    {"student": CNN, "objectives": {"token": 1, "feature": 1}},
]


@pytest.mark.parametrize("fields", STUDENTS)
def test_a_student_and_its_start(sealed_store: Store, tmp_path: Path, fields: dict[str, Any]) -> None:
    """The untrained student has the weights with which training began, and is nothing but untrained."""
    chosen = config(**fields)
    begun = Trainer(chosen, sealed_store, taught_by(chosen, sealed_store))
    result, _ = distill(sealed_store, chosen, tmp_path, Reporter(quiet=True))
    trained = exported_student(tmp_path / STUDENT, "trained")
    untrained = untrained_student(tmp_path / STUDENT, "untrained", 5)
    assert same(weights(untrained.encoder.model), begun.student_weights())
    assert not same(weights(trained.encoder.model), begun.student_weights())
    assert not same(weights(untrained_student(tmp_path / STUDENT, "other", 6).encoder.model), begun.student_weights())
    assert trained.preprocessing == untrained.preprocessing
    assert (trained.preprocessing.size, trained.preprocessing.mean) == (result.image_size, (0.5, 0.5, 0.5))
    for subject in (trained, untrained):
        assert not subject.encoder.training and not any(p.requires_grad for p in subject.encoder.parameters())
        assert subject.encoder(torch.zeros(2, 3, result.image_size, result.image_size)).grid == (4, 4)


def test_a_folder_without_a_student(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no exported student at .*; run `stillhouse distill` first"):
        exported_student(tmp_path, "x")
    with pytest.raises(MissingError, match="no exported student at "):
        untrained_student(tmp_path, "x", 0)


def test_the_teacher_is_the_one_that_filled_the_store(sealed_store: Store) -> None:
    spec = sealed_store.teacher("tiny")
    source = tiny_teacher(sealed_store.root.parent / "weights")
    subject = teacher_subject(source, spec)
    assert (subject.name, subject.weights_sha256) == ("tiny", spec.weights_sha256)
    assert subject.preprocessing == spec.preprocessing


def test_other_weights_are_refused(sealed_store: Store, tmp_path: Path) -> None:
    spec = sealed_store.teacher("tiny")
    source = tiny_teacher(sealed_store.root.parent / "weights")
    other = random_weights(tmp_path / "other.safetensors", source.model, {**source.model_args, "img_size": 32}, seed=9)
    with pytest.raises(SpecMismatchError) as caught:
        teacher_subject(EncoderConfig(model=source.model, model_args=source.model_args, checkpoint=str(other)), spec)
    assert "the store was filled by " + spec.weights_sha256[:12] in str(caught.value)
    assert caught.value.hint == "name the checkpoint that filled the store"


def test_a_student_elsewhere_is_the_same(finished: Path, tmp_path: Path) -> None:
    """A folder that was copied to another machine."""
    folder = finished / "students" / "student-seed0" / STUDENT
    moved = shutil.copytree(folder, tmp_path / "moved [1]")
    here, there = exported_student(folder, "a"), exported_student(moved, "b")
    assert here.weights_sha256 == there.weights_sha256
    card = json.loads((moved / "card.json").read_text())
    assert card["teacher_spec"]["name"] == "tiny" and len(card["weights_sha256"]) == 64
