"""Teachers: a ViT and a CNN pass the conformance class, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from stillhouse.core.errors import DataError
from stillhouse.core.pixels import resize_pixels
from stillhouse.stage1_extract.config import TeacherConfig
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


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = tiny_teacher(tmp_path)
    weights = safetensors.torch.load_file(str(config.checkpoint))
    weights["norm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, str(config.checkpoint))
    with pytest.raises(DataError, match="teacher tiny gives cls features that are not finite; use precision: fp32"):
        Teacher(config, view_size=32, device="cpu")
