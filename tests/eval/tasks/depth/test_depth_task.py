"""The whole task: what can be learned is learned, the same run gives the same numbers, and what is wrong is told."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder, create_timm, weights_sha256
from stillhouse.core.errors import DataError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.base import Context, Task
from stillhouse.eval.tasks.depth import dpt
from stillhouse.eval.tasks.depth import estimator as estimator_module
from stillhouse.eval.tasks.depth.config import DepthConfig
from stillhouse.eval.tasks.depth.data import DepthData, Pair, Part
from stillhouse.eval.tasks.depth.estimator import Estimator
from stillhouse.eval.tasks.depth.layouts import open_data
from stillhouse.eval.tasks.depth.metrics import NAMES, RMSE
from stillhouse.eval.tasks.depth.pictures import depth_colours, thinned
from stillhouse.eval.tasks.depth.protocol import Protocol
from stillhouse.eval.tasks.depth.task import DepthTask
from stillhouse.eval.tasks.depth.training import batch_loss, batches
from stillhouse.storage.specs import Preprocessing

HALF = (0.5, 0.5, 0.5)
QUICK: dict[str, Any] = {"iterations": 3, "batch": 2, "group": 2, "warmup": 1}
SMALL = {"num_train": 4, "num_test": 3, "resolution": 24}


@pytest.fixture(autouse=True)
def narrow_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer heads of 8 channels, as nobody looks at how good they are."""
    monkeypatch.setattr(dpt, "FUSED", 8)


class Colours(nn.Module):
    """An encoder of plain colours: which of 8 grey levels the middle of a 4 x 4 patch has."""

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        level = ((x_BCHW[:, 0, 2::4, 2::4] + 1) * 4).floor().clamp(0, 7).long()
        return nn.functional.one_hot(level, 8).permute(0, 3, 1, 2).float()

    def forward_head(self, feats: Tensor, pre_logits: bool) -> Tensor:
        return feats.mean(dim=(2, 3)) * 0


def colours() -> Subject:
    return Subject("colours", Encoder(Colours(), "colours"), Preprocessing(mean=HALF, std=HALF, size=24), "0")


def vit(**fields: Any) -> Subject:
    torch.manual_seed(0)
    args = {"embed_dim": 16, "depth": 4, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 0, **fields}
    encoder = Encoder(create_timm("vit_tiny_patch16_224", **args), "vit").eval().requires_grad_(False)
    return Subject("vit", encoder, Preprocessing(mean=HALF, std=HALF, size=32), weights_sha256(encoder))


def context(stream: io.StringIO | None = None) -> Context:
    return Context(Reporter(console=Console(file=stream or io.StringIO())), device="cpu", threads=1)


def task(**fields: Any) -> DepthTask:
    return DepthTask(DepthConfig(**{"layout": "scenes", **SMALL, **fields}))


def by_colour(tmp_path: Path) -> Path:
    """Images of one grey level each, and depths that are a function of it."""
    for split, levels in (("train", range(8)), ("val", range(1, 8, 2))):
        for level in levels:
            for kind in ("images", "depths"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((24, 32, 3), 16 + 32 * level, np.uint8)).save(
                tmp_path / f"images/{split}/{level}.png"
            )
            depth = np.full((24, 32), 2000 + (level * 5 % 8) * 600, np.uint16)
            Image.fromarray(depth).save(tmp_path / f"depths/{split}/{level}.png")
    return tmp_path


def test_depth_that_is_a_function_of_colour_is_learned(tmp_path: Path) -> None:
    changes = {"iterations": 120, "batch": 8, "warmup": 20, "bins": 64, "lr": 0.1, "loss": "silog", "gradient": "none",
               "statistics": "half", "colour": "none", "rotate": 0, "crop": (480, 640)}  # fmt: skip
    config = DepthConfig(
        path=str(by_colour(tmp_path)), layout="folder", preset="dinov2_lin1", changes=changes, resolution=12
    )
    judged = DepthTask(config)
    result = judged.run(colours(), context())
    truth = [open_data(config).test.read(i).depth_hw[0, 0] for i in range(4)]
    assert np.std(truth) > 1.3  # what the best constant would be off by
    assert judged.score(result.items_NK) < 1e-3
    assert result.details["metrics"]["d1"] == 1


def test_the_result_is_plain_and_whole() -> None:
    judged: Task = task(preset="dinov2_lin4", changes={**QUICK, "blocks": [0, 1, 2, 3]}, examples=2)
    result = judged.run(vit(), context())
    assert result.items_NK.shape == (3, len(NAMES)) and np.isfinite(result.items_NK).all()
    assert judged.score(result.items_NK) == result.items_NK[:, RMSE].mean() == result.details["metrics"]["rmse"]
    assert not judged.metric.higher_is_better and judged.name == "depth-scenes-dinov2-lin4"
    assert result.chosen["blocks"] == [0, 1, 2, 3] and len(result.details["loss"]) == 3
    assert json.loads(json.dumps([result.chosen, result.details, judged.identity()], allow_nan=False))
    assert [example.key for example in result.examples] == ["scene 4", "scene 6"]
    for example in result.examples:
        assert [panel.shape for _, panel in example.panels] == [(48, 64, 3)] * 3
        assert all(panel.dtype == np.uint8 for _, panel in example.panels)


@pytest.mark.parametrize("preset", ["dinov2_lin1", "proteus_dpt"])
def test_the_same_run_gives_the_same_numbers_and_leaves_the_subject_alone(preset: str) -> None:
    subject = vit()
    random = torch.random.get_rng_state()
    judged = task(preset=preset, changes=QUICK, seed=3)
    found = [judged.run(subject, context()).items_NK for _ in range(2)]
    assert np.array_equal(found[0], found[1])
    other = task(preset=preset, changes=QUICK, seed=4).run(subject, context()).items_NK
    assert not np.array_equal(found[0], other)
    assert weights_sha256(subject.encoder) == subject.weights_sha256
    assert not any(parameter.requires_grad for parameter in subject.encoder.parameters())
    assert torch.equal(random, torch.random.get_rng_state())


def test_threads_change_nothing() -> None:
    data, protocol = open_data(task().config), task(changes=QUICK).config.protocol()
    one, other = (list(batches(data, protocol, 0, threads)) for threads in (1, 3))
    assert len(one) == 3
    assert all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_every_image_comes_once_before_any_comes_again() -> None:
    """Constant images of their own grey level; batches of 3 of 7 images, over three rounds."""
    pairs = [Pair(np.full((24, 24, 3), 10 * i, np.uint8), np.ones((24, 24), np.float32)) for i in range(7)]
    part = Part(tuple(map(str, range(7))), lambda i: pairs[i])
    plain = {"colour": "none", "crop": (480, 480), "rotate": 0, "iterations": 7, "batch": 3}
    protocol = task(changes=plain).config.protocol()
    seen = [
        int(each.max()) // 10 for pixels, _ in batches(DepthData(part, part, {}), protocol, 0, 1) for each in pixels
    ]
    rounds = [seen[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(each) == list(range(7)) for each in rounds) and rounds[0] != rounds[1]


def test_small_images_are_padded_with_what_is_neutral_and_unknown() -> None:
    protocol = task(changes={**QUICK, "crop": (600, 800)}).config.protocol()
    pixels_BHWC, depth_BHW = next(iter(batches(open_data(task().config), protocol, 0, 1)))
    assert pixels_BHWC.shape[1:3] == depth_BHW.shape[1:] == protocol.crop == (30, 40)
    assert np.array_equal(np.isnan(pixels_BHWC).any(axis=3), depth_BHW == 0) and (depth_BHW == 0).any()


def test_the_loss_is_that_of_groups() -> None:
    predicted, true = torch.rand(5, 1, 6, 8) + 1, torch.rand(5, 1, 6, 8) + 1
    plain = {"batch": 5, "group": 2, "gradient": "as-intended"}
    protocol = task(changes=plain).config.protocol()
    alone = [
        batch_loss(predicted[rows], true[rows], protocol, warm=False) for rows in (slice(2), slice(2, 4), slice(4, 5))
    ]
    together = batch_loss(predicted, true, protocol, warm=False)
    torch.testing.assert_close(together, 0.4 * alone[0] + 0.4 * alone[1] + 0.2 * alone[2])
    written, none = (
        batch_loss(predicted, true, protocol.model_copy(update={"gradient": kind}), warm=False)
        for kind in ("as-written", "none")
    )
    assert torch.equal(written, none) and together > none  # groups of two: nothing


def estimate(subject: Subject, depth: Any, **fields: Any) -> tuple[Estimator, list[tuple[int, ...]]]:
    """An estimator whose head is a function of the pixels; the sizes that it was asked for are noted."""
    made, sizes = Estimator(subject, protocol_of(**fields), torch.device("cpu")), []

    def of_pixels(x_BCHW: Tensor) -> Tensor:
        sizes.append(tuple(x_BCHW.shape))
        return depth(x_BCHW)  # type: ignore[no-any-return]

    made.depth = of_pixels  # type: ignore[method-assign]
    return made, sizes


def protocol_of(**fields: Any) -> Protocol:
    preset = fields.pop("preset", "dinov2_lin1")
    return task(preset=preset, changes={**QUICK, "statistics": "half", **fields}).config.protocol()


def test_predictions_are_averaged_with_the_mirror_image_and_clamped() -> None:
    """A head that says how far to the right a pixel is, 100 times too far on the right half."""
    places = torch.linspace(1, 4, 32).expand(1, 1, 24, 32).clone()
    places[..., 16:] *= 100
    made, sizes = estimate(vit(), lambda x: places)
    found = made.predict(np.zeros((24, 32, 3), np.uint8))
    limited = places.clamp(0.001, 10)
    np.testing.assert_allclose(found, ((limited + limited.flip(3)) / 2)[0, 0].numpy(), rtol=1e-6)
    assert sizes == [(1, 3, 24, 32)] * 2


def test_windows_slide_over_the_resized_image() -> None:
    """Every window answers its own red channel, so windows that overlap agree and nothing is lost but by resizing."""
    image = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
    made, sizes = estimate(vit(), lambda x: x[:, :1], preset="proteus_dpt")
    found = made.predict(image)
    assert {size[2:] for size in sizes} == {(24, 24)} and sum(
        size[0] for size in sizes
    ) == 2 * 4  # stride 6, flipped too
    np.testing.assert_allclose(found, image[..., 0] / 127.5 - 1, atol=1e-5)
    np.testing.assert_allclose(made.predict(np.full((48, 64, 3), 51, np.uint8)), 51 / 127.5 - 1, atol=1e-5)
    assert found.min() < -0.5  # never clamped


def test_a_trained_encoder_is_a_copy_with_its_own_rates() -> None:
    subject = vit()
    made = Estimator(subject, protocol_of(preset="proteus_dpt"), torch.device("cpu"))
    head, rest, free = made.parameters(1e-2)
    assert [(group["lr"], group["weight_decay"]) for group in (head, rest, free)] == [
        (0.01, 0.01),
        (0.001, 0.01),
        (0.01, 0),
    ]
    assert len(free["params"]) == 2 and sum(map(len, (rest["params"], free["params"]))) == len(
        list(subject.encoder.parameters())
    )
    drops = [getattr(block.drop_path1, "drop_prob", 0.0) for block in made._encoder.model.blocks]
    assert drops == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    frozen = Estimator(subject, protocol_of(preset="proteus_dpt", backbone_lr=0), torch.device("cpu"))
    assert len(frozen.parameters(1e-2)) == 1
    assert not frozen.depth(torch.zeros(1, 3, 24, 24)).isnan().any()


def test_training_moves_the_encoder_only_where_the_protocol_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Estimator] = []
    keep = estimator_module.Estimator.__init__

    def noted(self: Estimator, *args: Any) -> None:
        keep(self, *args)
        made.append(self)

    monkeypatch.setattr(estimator_module.Estimator, "__init__", noted)
    subject = vit()
    for share in (0.1, 0.0):
        task(preset="proteus_dpt", changes={**QUICK, "backbone_lr": share}).run(subject, context())
    before = subject.encoder.state_dict()
    moved, frozen = ([not torch.equal(before[name], tensor) for name, tensor in each._encoder.state_dict().items()
                      if before[name].shape == tensor.shape] for each in made)  # fmt: skip
    assert any(moved) and not any(frozen)


def test_a_convolutional_subject_gives_its_stages() -> None:
    encoder = Encoder(create_timm("test_efficientnet", num_classes=0).eval(), "cnn").requires_grad_(False)
    subject = Subject("cnn", encoder, Preprocessing(mean=HALF, std=HALF, size=32), "0")
    for preset in ("dinov2_lin1", "dinov2_dpt"):
        result = task(preset=preset, changes=QUICK, resolution=48).run(subject, context())
        assert np.isfinite(result.items_NK).all()


def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the loss is (nan|inf) at iteration \d of 3"):
        task(preset="proteus_dpt", changes={**QUICK, "lr": 1e30, "warmup": 0}).run(vit(), context())
    with pytest.raises(UsageError, match=r"blocks \[9\] of an encoder of 4 blocks"):
        task(changes={**QUICK, "blocks": [9]}).run(vit(), context())
    by_colour(tmp_path)
    dark = tmp_path / "depths/val/3.png"
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(dark)
    config = DepthConfig(path=str(tmp_path), layout="folder", changes=QUICK, resolution=24)
    with pytest.raises(DataError, match=r"depth-folder-dinov2-lin4, 3\.png: no pixel of the image has a depth"):
        DepthTask(config).run(vit(), context())


def test_depths_as_colours() -> None:
    depths_hw = np.array([[0.0, 2.0, 4.0, 9.0, 30.0]])
    colours_hw3 = depth_colours(depths_hw, 2.0, 9.0)
    light = colours_hw3[0].astype(int).sum(axis=1)
    assert light[0] == 0 and light[1] > light[2] > light[3] == light[4] > 0
    assert thinned(np.zeros((480, 640, 3), np.uint8)).shape == (240, 320, 3)
