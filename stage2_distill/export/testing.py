"""What every export format promises, and the students that it is tried on.

Legend: B batch, T patches, D width, H and W pixels.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import Tensor

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.config import StudentConfig
from stillhouse.stage2_distill.students import Student, build_student
from stillhouse.storage.specs import LevelSpec

from . import FORMATS
from .base import Finished
from .timm import timm_config

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
TARGET = LevelSpec(num_tokens=16, dim=48, grid=(4, 4))
VIT = "vit_tiny_patch16_224"
SMALL: Final[Mapping[str, Any]] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


def _vit(*, layer_scale: float | None = 1.0, **args: Any) -> StudentConfig:
    return StudentConfig(model=VIT, model_args={**SMALL, **args}, layer_scale=layer_scale)


PLAIN: Final[Mapping[str, StudentConfig]] = {
    "vit": _vit(),
    "without layer scale": _vit(layer_scale=None),
    "registers": _vit(reg_tokens=2),
    "registers without position": _vit(reg_tokens=3, no_embed_class=True),
    "cls without position": _vit(no_embed_class=True),
    "any size": _vit(dynamic_img_size=True),
    "small patches and a slim MLP": _vit(embed_dim=32, num_heads=2, patch_size=4, mlp_ratio=2),
    "by tag": StudentConfig(model=f"{VIT}.augreg_in21k", model_args=dict(SMALL)),
}
"""ViTs that DINOv2 has a place for."""
OTHER: Final[Mapping[str, tuple[StudentConfig, str]]] = {
    "cnn": (StudentConfig(model="test_resnet", image_size=128), "it is a ResNet, not a plain VisionTransformer"),
    "pooled": (_vit(global_pool="avg"), "it pools its patches (avg) instead of reading a class token"),
    "normed before": (
        _vit(pre_norm=True),
        "it has a norm before its blocks; its patch embedding is not one convolution",
    ),
    "without position": (_vit(pos_embed="none"), "it has no learned position embedding"),
    "normed queries": (_vit(qk_norm=True), "it normalises inside its attention"),
    "without bias": (_vit(qkv_bias=False), "its attention lacks a bias"),
    "without projection bias": (_vit(proj_bias=False), "its attention lacks a bias; its MLP lacks a bias"),
    "normed MLP": (_vit(scale_mlp_norm=True), "it normalises inside its MLP"),
    "quick": (_vit(act_layer="quick_gelu"), "its activation is QuickGELU, not the exact GELU"),
    "other norm": (_vit(norm_layer="rmsnorm"), "its last norm is no LayerNorm with eps 1e-06; the norms of its blocks"),
}
"""Students that it has none for, and why."""


def trained(config: StudentConfig) -> tuple[Student, Finished]:
    """A student whose parameters and buffers are away from where they start, as training leaves them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = build_student(config, TARGET, view_size=32)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
            student(torch.randn(8, 3, student.image_size, student.image_size))
    weights = {name: tensor.clone() for name, tensor in student.encoder.model.state_dict().items()}
    mask_token_1D = student.mask_token.detach() if student.can_mask else None
    return student.eval(), Finished(timm_config(student, MEAN, STD), weights, mask_token_1D)


def pixels_of(finished: Finished, num: int = 2) -> Tensor:
    """float32 [num, 3, H, W], no two alike."""
    size = (num, 3, finished.image_size, finished.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(7))


def written(finished: Finished, name: str, folder: Path) -> Path:
    """`folder` with the files of a format, without card."""
    folder.mkdir(parents=True)
    for file, data in FORMATS[name](finished).files.items():
        (folder / file).write_bytes(data)
    return folder


Opened = Callable[[Tensor], tuple[Tensor, Tensor]]
"""pixels_BCHW -> cls_BD and patch_BTD."""


class FormatTests:
    """What every format promises. Derive, name the class `Test…`, and say how others open it."""

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = (*PLAIN, *OTHER)
    """The students that this format has a form for."""
    tolerance: ClassVar[float] = 1e-5
    """How far features may be from the student's, as a share of the largest."""
    same_bytes: ClassVar[bool] = True
    """The same student gives the same bytes."""

    def open(self, folder: Path, finished: Finished) -> Opened:
        """The features of what lies in `folder`, as a user of the format gets them: not by our code."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "taken" in metafunc.fixturenames:
            metafunc.parametrize("taken", self.takes)
        if "refused" in metafunc.fixturenames:
            metafunc.parametrize("refused", OTHER)

    def test_the_features_are_the_students(self, taken: str, tmp_path: Path) -> None:
        student, finished = trained(PLAIN[taken] if taken in PLAIN else OTHER[taken][0])
        opened = self.open(written(finished, self.name, tmp_path / "out"), finished)
        x_BCHW = pixels_of(finished)
        with torch.inference_mode():
            expected = Encoder(student.encoder.model, "student")(x_BCHW)
            found = opened(x_BCHW)
        for ours, theirs in zip((expected.cls_BD, expected.patch_BTD), found, strict=True):
            largest = float(ours.abs().max())
            torch.testing.assert_close(theirs, ours, rtol=0, atol=self.tolerance * largest)
            assert largest > 0.1 and float(ours.std(dim=0).max()) > 0  # two images, two features

    def test_it_leaves_the_student_as_it_is(self) -> None:
        _, finished = trained(PLAIN["registers"])
        before = {name: tensor.clone() for name, tensor in finished.weights.items()}
        once = FORMATS[self.name](finished)
        assert once.facts["format"] == self.name
        assert all(torch.equal(before[name], tensor) for name, tensor in finished.weights.items())
        if self.same_bytes:
            assert FORMATS[self.name](finished) == once


class PlainVitTests(FormatTests):
    """What formats promise that hold DINOv2's ViT and nothing else."""

    takes = tuple(PLAIN)

    def test_others_are_refused_by_name(self, refused: str) -> None:
        config, why = OTHER[refused]
        with pytest.raises(UsageError) as caught:
            FORMATS[self.name](trained(config)[1])
        assert why in caught.value.message and caught.value.hint == "--to timm and --to onnx take any student"
