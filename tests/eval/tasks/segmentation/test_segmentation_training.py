"""What reaches the encoder, at what learning rate, and how answers at several sizes are put together."""

from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.core.encoders import Encoder, create_timm, normalise
from stillhouse.core.events import Reporter
from stillhouse.eval.tasks.base import Context
from stillhouse.eval.tasks.dense.features import dense_maps
from stillhouse.eval.tasks.dense.scenes import SceneConfig, scene
from stillhouse.eval.tasks.segmentation.augment import Crop
from stillhouse.eval.tasks.segmentation.config import SegmentationConfig
from stillhouse.eval.tasks.segmentation.data import open_data
from stillhouse.eval.tasks.segmentation.predict import predict
from stillhouse.eval.tasks.segmentation.segmenter import Segmenter
from stillhouse.eval.tasks.segmentation.train import Pixels, order, train

HALF = (0.5, 0.5, 0.5)
PIXELS = Pixels(32, HALF, HALF, torch.device("cpu"))


def segmenter(config: SegmentationConfig) -> Segmenter:
    torch.manual_seed(0)
    args = {"embed_dim": 24, "depth": 4, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 0}
    encoder = Encoder(create_timm("vit_tiny_patch16_224", **args), "vit").eval().requires_grad_(False)
    return Segmenter(encoder, config, 5, 32)


def config(**fields: Any) -> SegmentationConfig:
    return SegmentationConfig(**{"set": "scenes", "crop": 32, "batch": 2, **fields})


def moved(made: Segmenter, chosen: SegmentationConfig) -> dict[str, float]:
    """How far training moves each parameter at most."""
    before = {name: tensor.detach().clone() for name, tensor in made.named_parameters()}
    train(made, open_data(chosen).train, chosen, PIXELS, Context(Reporter(quiet=True), threads=1), "training")
    return {name: float((tensor.detach() - before[name]).abs().max()) for name, tensor in made.named_parameters()}


def test_the_learning_rate_is_that_of_the_step() -> None:
    """AdamW's first step is the learning rate for every weight with a gradient: here 1e-6 of the peak, then all of it."""
    chosen = config(iterations=1, warmup=1, lr=0.1, weight_decay=0)
    found = moved(segmenter(chosen), chosen)
    assert found["head.classify.weight"] == pytest.approx(1e-7, rel=0.05)
    chosen = config(iterations=1, warmup=0, lr=0.1, weight_decay=0)
    assert moved(segmenter(chosen), chosen)["head.classify.weight"] == pytest.approx(0.1, rel=0.01)


def test_each_layer_has_its_share_of_it() -> None:
    chosen = config(preset="proteus_upernet", iterations=1, warmup=0, lr=0.1, weight_decay=0, layer_decay=0.1)
    found = moved(segmenter(chosen), chosen)
    assert found["head.classify.weight"] == pytest.approx(0.1, rel=0.01)
    for i in range(4):
        assert found[f"encoder.model.blocks.{i}.attn.qkv.weight"] == pytest.approx(0.1 * 0.1 ** (4 - i), rel=0.05)
    assert found["encoder.model.patch_embed.proj.weight"] == pytest.approx(0.1**6, rel=0.1)


def test_pixels_beyond_the_image_are_zero_after_normalisation() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    mask = np.full((32, 32), 255, np.uint8)
    mask[:20, :30] = 3
    x_BCHW, mask_BHW = PIXELS.batch([Crop(pixels, mask, (20, 30)), Crop(pixels, mask, (32, 32))])
    assert (x_BCHW[0, :, :20, :30] == -1).all() and (x_BCHW[1] == -1).all()
    assert (x_BCHW[0, :, 20:] == 0).all() and (x_BCHW[0, :, :, 30:] == 0).all()
    assert mask_BHW.dtype == torch.int64 and np.array_equal(mask_BHW[0].numpy(), mask)


@pytest.mark.parametrize("preset", ["dinov2_ms", "proteus_linear"])
def test_the_head_reads_the_presets_maps(preset: str) -> None:
    made = segmenter(config(preset=preset)).eval()
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = dense_maps(made.encoder, x_BCHW, [0, 1, 2, 3], norm=preset == "dinov2_ms").maps
        assert torch.equal(made.answers(x_BCHW)[0], made.head(maps)[0])
        wide = torch.nn.functional.interpolate(made.head(maps)[0], size=(32, 32), mode="bilinear", align_corners=False)
        assert torch.equal(made(x_BCHW), wide)


def test_several_sizes_are_averaged_as_probabilities() -> None:
    chosen = config(scales=(1.0, 1.5), flip=True, statistics="half")
    made = segmenter(chosen).eval()
    with torch.no_grad():
        made.head.classify.weight.mul_(300)
    image_hw3 = scene(0, SceneConfig(height=32, width=32, num_classes=8, boards=6)).image_hw3
    total = torch.zeros(5, 32, 32)
    with torch.no_grad():
        for side in (32, 48):
            x = torch.from_numpy(image_hw3[None]).permute(0, 3, 1, 2).float()
            x = torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
            pixels = x.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for mirror in (False, True):
                x = normalise(np.ascontiguousarray(pixels), HALF, HALF, torch.device("cpu"))
                x = x.flip(3) if mirror else x
                logits, count = torch.zeros(1, 5, side, side), torch.zeros(side, side)
                starts = [0] if side == 32 else [0, 16]  # a stride of 21 would end at 53: shifted to 16
                for top in starts:
                    for left in starts:
                        logits[:, :, top : top + 32, left : left + 32] += made(
                            x[:, :, top : top + 32, left : left + 32]
                        )
                        count[top : top + 32, left : left + 32] += 1
                logits = logits / count
                logits = logits.flip(3) if mirror else logits
                logits = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
                total += logits[0].softmax(dim=0)
    found = predict(made, image_hw3, chosen, PIXELS)
    assert len(np.unique(found)) > 1 and (found == total.argmax(dim=0).numpy()).mean() > 0.999


def test_every_image_comes_once_a_visit() -> None:
    places = order(5, 3)
    visits = [[next(places) for _ in range(5)] for _ in range(4)]
    for number, visit in enumerate(visits):
        assert sorted(visit) == [(i, number) for i in range(5)]
    assert len({tuple(i for i, _ in visit) for visit in visits}) > 1
