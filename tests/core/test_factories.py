"""Models of the user's own, in place of names that timm knows."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from stillhouse.core.encoders import create_timm, require_model
from stillhouse.core.errors import ResourceError, UsageError
from stillhouse.core.factories import is_factory
from stillhouse.eval.subjects import exported_student, untrained_student
from stillhouse.stage2_distill.config import StudentConfig
from stillhouse.stage2_distill.export import export_student, timm_config
from stillhouse.stage2_distill.students import build_student
from stillhouse.storage.specs import LevelSpec

SOURCE = """
import timm

def small(width=24, **args):
    return timm.create_model("vit_tiny_patch16_224", embed_dim=width, depth=1, num_heads=2, num_classes=0, **args)

def nothing():
    return None
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "of_my_own.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "of_my_own", raising=False)
    return "of_my_own"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:factory", True),
        ("vit_tiny_patch16_224", False),
        ("hf-hub:org/name", False),
        ("hf_hub:name", False),
        ("local-dir:folder", False),
    ],
)
def test_a_factory_is_told_by_its_name(name: str, expected: bool) -> None:
    assert is_factory(name) is expected


def test_a_factory_makes_the_model(own_module: str) -> None:
    model = create_timm(f"{own_module}:small", num_classes=0, pretrained=False, width=36)
    assert isinstance(model, nn.Module) and model.embed_dim == 36


def test_what_is_no_factory_is_refused(own_module: str) -> None:
    with pytest.raises(UsageError, match="module 'of_my_own' has no function 'large'; name it as module:function"):
        require_model(f"{own_module}:large")
    with pytest.raises(ResourceError, match="the package 'of_nobody' is not installed"):
        require_model("of_nobody:model")
    with pytest.raises(UsageError, match="of_my_own:nothing returned NoneType, a model has `forward_features` and "):
        create_timm(f"{own_module}:nothing")
    with pytest.raises(UsageError, match=r"model 'of_my_own:small' with \{'heigth': 3\}: "):
        create_timm(f"{own_module}:small", heigth=3)


def test_a_student_of_a_factory_is_exported_and_opened_again(own_module: str, tmp_path: Path) -> None:
    config = StudentConfig(model=f"{own_module}:small", model_args={"width": 12})
    torch.manual_seed(3)
    student = build_student(config, LevelSpec(num_tokens=4, dim=8, grid=(2, 2)), view_size=32)
    assert student.can_mask and (student.image_size, student.cls_dim) == (32, 12)
    half = (0.5, 0.5, 0.5)
    weights: dict[str, Any] = dict(student.encoder.model.state_dict())
    export_student(tmp_path / "student", weights, timm_config(student, half, half), {})
    x_BCHW = torch.randn(2, 3, 32, 32)
    expected = student.eval()(x_BCHW).cls_BD.detach()
    for subject in (exported_student(tmp_path / "student", "it"), untrained_student(tmp_path / "student", "it", 3)):
        torch.testing.assert_close(subject.encoder(x_BCHW).cls_BD, expected)
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True)
