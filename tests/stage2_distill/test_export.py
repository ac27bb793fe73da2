"""Export: timm opens the folder, its features are the trained student's, and nothing else is in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.data.config import resolve_model_data_config

from stillhouse.core.encoders import Encoder
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import StudentConfig
from stillhouse.stage2_distill.export import export_student, timm_config
from stillhouse.stage2_distill.students import Student, build_student
from stillhouse.storage.specs import LevelSpec

TARGET = LevelSpec(num_tokens=16, dim=48, grid=(4, 4))
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
STUDENTS: dict[str, dict[str, Any]] = {
    "vit": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
    "vit-without-layer-scale": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS, "layer_scale": None},
    "vit-with-registers": {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "reg_tokens": 2}},
    "vit-by-tag": {"model": "vit_tiny_patch16_224.augreg_in21k", "model_args": TINY_VIT_ARGS},
    "cnn": {"model": "test_resnet", "image_size": 128},
}


def trained(name: str) -> Student:
    """A student whose parameters and buffers are away from where they start, as training leaves them."""
    torch.manual_seed(0)
    student = build_student(StudentConfig.model_validate(STUDENTS[name]), TARGET, view_size=32)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        student(torch.randn(8, 3, student.image_size, student.image_size))
    return student


def export(student: Student, folder: Path) -> str:
    config = timm_config(student, MEAN, STD)
    return export_student(folder, student.encoder.model.state_dict(), config, {"teacher": "tiny"})


@pytest.mark.parametrize("name", STUDENTS)
def test_timm_opens_it_and_gives_the_same_features(name: str, tmp_path: Path) -> None:
    student, folder = trained(name), tmp_path / "student"
    export(student, folder)
    opened: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    x_BCHW = torch.randn(2, 3, student.image_size, student.image_size)
    student.eval()
    opened.eval()
    assert torch.equal(opened.forward_features(x_BCHW), student.encoder.model.forward_features(x_BCHW))
    ours, theirs = student.encoder(x_BCHW), Encoder(opened, "student")(x_BCHW)
    assert torch.equal(ours.cls_BD, theirs.cls_BD) and torch.equal(ours.patch_BTD, theirs.patch_BTD)
    assert torch.equal(opened(x_BCHW), ours.cls_BD)  # no classifier
    assert opened.num_features == student.cls_dim


def test_no_heads_and_no_mask_token_are_in_it(tmp_path: Path) -> None:
    student = trained("vit")
    export(student, tmp_path / "student")
    tensors = safetensors.torch.load_file(tmp_path / "student" / "model.safetensors")
    assert tensors.keys() == student.encoder.model.state_dict().keys()
    assert not any(name.startswith(("head", "heads", "student")) or "mask" in name for name in tensors)
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
    ]


def test_the_preprocessing_is_the_teachers(tmp_path: Path) -> None:
    export(trained("vit"), tmp_path / "student")
    opened = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True)
    resolve: Any = resolve_model_data_config
    data = resolve(opened)
    assert (tuple(data["mean"]), tuple(data["std"]), data["input_size"]) == (MEAN, STD, (3, 32, 32))
    assert data["interpolation"] == "bicubic"


def test_the_card_names_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    sha256 = export(trained("vit"), folder)
    card = json.loads((folder / "card.json").read_text())
    assert card == {"teacher": "tiny", "weights_sha256": sha256}
    assert export(trained("vit"), folder) == sha256


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    first, second = export(trained("vit"), folder), export(trained("cnn"), folder)
    assert first != second
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_features == trained("cnn").cls_dim
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
