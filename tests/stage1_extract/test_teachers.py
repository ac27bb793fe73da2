"""Teachers: a ViT and a CNN pass the conformance class, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import dinov2_as_published as dinov2
import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from stillhouse.core.errors import DataError, UsageError
from stillhouse.core.pixels import resize_pixels
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage1_extract.fitting import identity
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage1_extract.testing import TeacherTests, tiny_teacher


class TestViT(TeacherTests):
    grid = (4, 4)

    def config(self, folder: Path) -> TeacherConfig:
        return tiny_teacher(folder)


class TestCnn(TeacherTests):
    """Sees views of 32 pixels at 96, so that its stride of 32 leaves a grid."""

    grid = (3, 3)

    def config(self, folder: Path) -> TeacherConfig:
        return tiny_teacher(folder, model="test_efficientnet", model_args={}, image_size=96)


class TestLevels(TeacherTests):
    """A block, logits and statistics that are named; the order is that of the config."""

    grid = (4, 4)

    def config(self, folder: Path) -> TeacherConfig:
        levels = ("logits", "patch-block1", "cls-block2-normed", "patch", "cls")
        codecs = {**dict.fromkeys(levels, "fp16"), "cls": "int8"}
        return tiny_teacher(folder, levels=levels, statistics="clip", codec=codecs)


OWN = """
import torch
from torch import nn


class Mixed(nn.Module):
    # no timm in it: a map, and a cls that is its mean

    pretrained_cfg = {"mean": (0.2, 0.3, 0.4), "std": (0.4, 0.5, 0.6)}

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, width, 8, stride=8)

    def forward_features(self, x):
        return self.conv(x)

    def forward_head(self, features, pre_logits=False):
        return features.mean((2, 3))
"""


class TestFactory(TeacherTests):
    """A module of one's own, by its import path."""

    grid = (4, 4)

    @pytest.fixture(autouse=True)
    def own_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "conforming.py").write_text(OWN)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "conforming", raising=False)

    def config(self, folder: Path) -> TeacherConfig:
        return TeacherConfig(name="own", model="conforming:Mixed", model_args={"width": 6})

    def test_it_says_how_it_sees_pixels(self, tmp_path: Path) -> None:
        assert self.teacher(tmp_path).preprocessing.mean == (0.2, 0.3, 0.4)

    def test_it_has_no_levels_but_those_that_it_gives(self, tmp_path: Path) -> None:
        for level, message in (("patch-block1", "has 0 blocks, not 1"), ("logits", "has no classifier")):
            config = self.config(tmp_path).model_copy(update={"levels": (level,)})
            with pytest.raises(UsageError, match=message):
                Teacher(config, view_size=32, device="cpu")

    def test_a_file_may_have_its_weights(self, tmp_path: Path) -> None:
        weights = {"conv.weight": torch.ones(6, 3, 8, 8), "conv.bias": torch.zeros(6)}
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
        config = self.config(tmp_path).model_copy(update={"checkpoint": str(tmp_path / "w.safetensors")})
        found = Teacher(config, view_size=32, device="cpu")(self.pixels())
        np.testing.assert_allclose(found["cls"], found["cls"][..., :1].repeat(6, axis=2), rtol=1e-5)  # channels are one
        safetensors.torch.save_file({"conv.weight": weights["conv.weight"]}, tmp_path / "w.safetensors")
        with pytest.raises(UsageError, match=r"1 missing \(conv.bias\)"):
            Teacher(config, view_size=32, device="cpu")


def test_tokens_are_those_of_the_model_on_normalised_pixels(tmp_path: Path) -> None:
    config = tiny_teacher(tmp_path, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), image_size=32)
    teacher = Teacher(config, view_size=64, device="cpu")
    views = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 64, 64, 3), np.uint8)
    scaled = resize_pixels(views, 32).astype(np.float64) / 255
    x_BCHW = torch.from_numpy(((scaled - (0.1, 0.2, 0.3)) / (0.4, 0.5, 0.6)).transpose(0, 3, 1, 2).copy()).float()
    feats = teacher.encoder.model.forward_features(x_BCHW)
    tokens = teacher(views)
    np.testing.assert_allclose(tokens["cls"][:, 0], feats[:, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(tokens["patch"], feats[:, 1:].numpy(), atol=1e-5)


def test_bf16_is_near_fp32(tmp_path: Path) -> None:
    exact = Teacher(tiny_teacher(tmp_path), view_size=32, device="cpu")
    half = Teacher(tiny_teacher(tmp_path, precision="bf16"), view_size=32, device="cpu")
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (2, 32, 32, 3), np.uint8)
    for level, tokens in exact(pixels).items():
        assert half(pixels)[level].dtype == np.float32
        assert 0 < float(np.abs(half(pixels)[level] - tokens).max()) < 0.1 * float(np.abs(tokens).max())
    assert half.spec != exact.spec
    assert half.spec.weights_sha256 == exact.spec.weights_sha256
    assert {one.dtype for one in half.encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("test_efficientnet", {}),
        ("vit_small_patch16_dinov3_qkvb", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
    ],
)
def test_bf16_leaves_weights_alone_beside_numbers_that_are_none(
    tmp_path: Path, model: str, args: dict[str, Any]
) -> None:
    """Running statistics, and tables of positions."""
    exact, half = (
        Teacher(tiny_teacher(tmp_path, model=model, model_args=args, precision=it), view_size=64, device="cpu")
        for it in ("fp32", "bf16")
    )
    assert {one.dtype for one in half.encoder.parameters()} == {torch.float32}
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for level, tokens in exact(pixels).items():
        assert 0 < ((half(pixels)[level] - tokens) ** 2).mean() < 1e-3 * tokens.var(), level


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = tiny_teacher(tmp_path)
    weights = safetensors.torch.load_file(str(config.checkpoint))
    weights["norm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, str(config.checkpoint))
    with pytest.raises(DataError, match="teacher tiny gives cls features that are not finite; use precision: fp32"):
        Teacher(config, view_size=32, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"statistics": "clip", "mean": (0.1, 0.2, 0.3)}, "statistics clip are a mean and a std; leave those out"),
        ({"statistics": "laion"}, "Input should be 'own', 'imagenet', 'clip' or 'half'"),
        ({"keys": "dinov4"}, "Input should be 'exact', 'in_order', 'dinov2'"),
    ],
)
def test_settings_that_are_none(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TeacherConfig.model_validate({"name": "t", "model": "vit_tiny_patch16_224", **fields})


def test_statistics_can_be_named(tmp_path: Path) -> None:
    """As Proteus shows images to CLIP: by ImageNet's statistics. The default is told as before there were others."""
    seen = {
        name: Teacher(tiny_teacher(tmp_path, statistics=name), view_size=32, device="cpu").spec
        for name in ("own", "imagenet", "clip", "half")
    }
    assert seen["imagenet"].preprocessing.mean == (0.485, 0.456, 0.406)
    assert seen["clip"].preprocessing.std == (0.26862954, 0.26130258, 0.27577711)
    assert seen["own"] == seen["half"]  # the tiny ViT's own are those
    assert len({spec.sha256() for spec in seen.values()}) == 3
    assert "statistics" not in identity(tiny_teacher(tmp_path))
    assert identity(tiny_teacher(tmp_path, statistics="clip"))["statistics"] == "clip"


def test_an_official_file_brings_its_licence_and_statistics(tmp_path: Path) -> None:
    """Those of its family, unless the config says otherwise."""
    torch.save(dinov2.draw(dim=48, depth=1, patch=4, side=10), tmp_path / "hub.pth")
    args = {"embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 4}
    fields: dict[str, Any] = {"name": "d", "model": "vit_small_patch14_dinov2", "model_args": args, "keys": "dinov2"}
    fields["checkpoint"] = str(tmp_path / "hub.pth")
    spec = Teacher(TeacherConfig.model_validate(fields), view_size=32, device="cpu").spec
    assert spec.licence == "Apache-2.0" and spec.preprocessing.mean == (0.485, 0.456, 0.406)
    other = TeacherConfig.model_validate({**fields, "licence": "mine", "statistics": "half", "positions": "plain"})
    changed = Teacher(other, view_size=32, device="cpu").spec
    assert changed.licence == "mine" and changed.preprocessing.mean == (0.5, 0.5, 0.5)
    assert changed.weights_sha256 != spec.weights_sha256
