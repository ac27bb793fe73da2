"""The task from end to end on scenes whose perfect answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.core.encoders import Encoder, create_timm, normalise
from stillhouse.core.events import Reporter
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.base import Context, Task
from stillhouse.eval.tasks.dense.scenes import SceneConfig, scene
from stillhouse.eval.tasks.segmentation.config import SegmentationConfig
from stillhouse.eval.tasks.segmentation.predict import predict
from stillhouse.eval.tasks.segmentation.segmenter import Segmenter
from stillhouse.eval.tasks.segmentation.task import SegmentationTask
from stillhouse.eval.tasks.segmentation.train import Pixels
from stillhouse.storage.specs import Preprocessing

HALF = (0.5, 0.5, 0.5)
CONTEXT = Context(Reporter(quiet=True), device="cpu", threads=1)


class Colours(nn.Module):
    """An encoder whose map is the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward_features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW

    def forward_head(self, x_BCHW: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3))


def subject(model: nn.Module, size: int) -> Subject:
    encoder = Encoder(model, "tiny").eval().requires_grad_(False)
    return Subject("student", encoder, Preprocessing(mean=HALF, std=HALF, size=size), "0")


def vit(size: int = 32) -> Subject:
    torch.manual_seed(0)
    args = {"embed_dim": 24, "depth": 4, "num_heads": 2, "patch_size": 8, "img_size": size, "num_classes": 0}
    return subject(create_timm("vit_tiny_patch16_224", **args), size)


def task(**fields: Any) -> SegmentationTask:
    scenes = {"train": 8, "val": 4, "noise": 0, **fields.pop("scenes", {})}
    values = {"set": "scenes", "crop": 48, "batch": 2, "iterations": 4, "statistics": "half", **fields}
    return SegmentationTask(SegmentationConfig(**values, scenes=scenes))


def test_an_encoder_of_colours_tells_classes_that_are_colours() -> None:
    """Photometric distortion or not: the validation scenes are not distorted."""
    done: Task = task(iterations=150, batch=4, lr=0.05, scenes={"train": 16, "num_classes": 5})
    result = done.run(subject(Colours(), 48), CONTEXT)
    assert done.score(result.items_NK) > 0.97
    assert result.items_NK.shape == (4, 15)


def test_the_same_run_twice_and_another_seed() -> None:
    """On two threads as on one."""
    first = task(preset="proteus_upernet").run(vit(), CONTEXT)
    again = task(preset="proteus_upernet").run(vit(), Context(CONTEXT.reporter, device="cpu", threads=2))
    other = task(preset="proteus_upernet", seed=1).run(vit(), CONTEXT)
    assert np.array_equal(first.items_NK, again.items_NK)
    assert first.details["losses"] == again.details["losses"] != other.details["losses"]


@pytest.mark.parametrize("preset", ["dinov2_linear", "dinov2_ms", "proteus_linear", "proteus_upernet"])
def test_every_preset_runs_and_says_what_it_did(preset: str) -> None:
    judged = task(preset=preset, scales=(1.0, 1.32) if preset == "dinov2_ms" else (1.0,))
    encoder = vit()
    before = {name: tensor.clone() for name, tensor in encoder.encoder.state_dict().items()}
    result = judged.run(encoder, CONTEXT)
    details = result.details
    assert judged.name == f"segmentation-scenes-{preset.replace('_', '-')}" and judged.metric.name == "mIoU"
    assert details["mIoU"] == judged.score(result.items_NK) and 0 <= details["mIoU"] <= 1
    assert details["blocks"] == (["last"] if preset == "dinov2_linear" else [0, 1, 2, 3])
    assert (details["pixels"], details["built_for_pixels"]) == (48, 32)
    assert len(details["losses"]) == 4 and len(details["class_iou"]) == 5
    assert result.items_NK[:, 10:].sum(axis=1).max() <= 48 * 64  # labels: no more than all pixels
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.encoder.state_dict().items())
    assert len(result.examples) == 4
    for example in result.examples:
        titles, panels = zip(*example.panels, strict=True)
        assert titles == ("image", "truth", "student")
        assert {panel.shape for panel in panels} == {(48, 64, 3)} and {panel.dtype for panel in panels} == {
            np.dtype(np.uint8)
        }


def test_without_a_resolution_it_is_the_subjects_own() -> None:
    result = task(crop=None).run(vit(), CONTEXT)
    assert (result.details["pixels"], result.details["built_for_pixels"]) == (32, 32)


def test_windows_and_mirrors_do_not_change_a_pointwise_answer() -> None:
    """A head on colours says of a pixel in a window, mirrored or not, what it says of it in the whole image."""
    made = scene(0, SceneConfig(height=64, width=96))
    plain = SegmentationConfig(set="scenes", crop=64, batch=2, statistics="half")
    torch.manual_seed(3)
    segmenter = Segmenter(subject(Colours(), 64).encoder, plain, 5, 64).eval()
    nn.init.normal_(segmenter.head.classify.weight)
    with torch.no_grad():
        x_1CHW = normalise(made.image_hw3[None], HALF, HALF, torch.device("cpu"))
        expected = segmenter(x_1CHW)[0].argmax(dim=0).numpy()
    assert len(np.unique(expected)) > 1
    for fields in ({}, {"flip": True}, {"stride": 0.25}):
        config = plain.model_copy(update=fields)
        found = predict(segmenter, made.image_hw3, config, Pixels(64, HALF, HALF, torch.device("cpu")))
        assert np.array_equal(found, expected)


def test_a_panorama_has_windows_of_its_own() -> None:
    """Its shorter side is less than a window: the encoder is brought to that, frozen or trained."""
    pixels = Pixels(32, HALF, HALF, torch.device("cpu"))
    for preset in ("dinov2_linear", "proteus_upernet"):
        config = SegmentationConfig(set="scenes", preset=preset, crop=32, batch=2)
        segmenter = Segmenter(vit().encoder, config, 3, 32).eval()
        assert predict(segmenter, np.zeros((20, 200, 3), np.uint8), config, pixels).shape == (20, 200)


def test_what_decides_the_result_is_its_identity(tmp_path: Path) -> None:
    plain = task().identity()
    assert plain == task(name="mine", path=str(tmp_path)).identity() and {"path", "name"} & plain.keys() == set()
    for fields in ({"lr": 0.5}, {"seed": 1}, {"crop": 32}, {"scenes": {"val": 5}}):
        assert task(**fields).identity() != plain


def test_a_part_of_a_known_set_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for part in ("training", "validation"):
        for folder, suffix, mode in (("images", "jpg", "RGB"), ("annotations", "png", "L")):
            path = tmp_path / "ADEChallengeData2016" / folder / part / f"1.{suffix}"
            path.parent.mkdir(parents=True)
            Image.new(mode, (20, 16), 1 if mode == "L" else (9, 9, 9)).save(path)
    judged = SegmentationTask(SegmentationConfig(set="ade20k", path=str(tmp_path), crop=16, batch=2, iterations=1))
    judged.run(subject(Colours(), 16), Context(Reporter(), device="cpu", threads=1))
    said = capsys.readouterr().err
    assert "ade20k has 20,210 training and 2,000 validation images; found 1 and 1" in said
