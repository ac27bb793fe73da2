"""The published numbers, and what a config makes of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from stillhouse.eval.tasks.segmentation.config import SegmentationConfig
from stillhouse.eval.tasks.segmentation.presets import PRESETS


def config(**fields: Any) -> SegmentationConfig:
    return SegmentationConfig(**{"set": "scenes", **fields})


def test_every_preset_names_every_number() -> None:
    own = {"kind", "path", "name", "set", "num_classes", "scenes", "preset", "seed"}
    for preset in PRESETS.values():
        assert preset.keys() == SegmentationConfig.model_fields.keys() - own
    assert config() == config(preset="dinov2_linear")


def test_the_published_numbers() -> None:
    dinov2, ms = config(), config(preset="dinov2_ms")
    linear, upernet = config(preset="proteus_linear"), config(preset="proteus_upernet")
    assert (dinov2.crop, dinov2.iterations, dinov2.batch, dinov2.lr, dinov2.weight_decay) == (
        512,
        40_000,
        16,
        1e-3,
        1e-4,
    )
    assert (ms.crop, ms.long_side, ms.ratio, ms.scales) == (640, None, (1, 3), (1, 1.32, 1.73, 2.28, 3)) and ms.flip
    assert (linear.crop, linear.iterations, linear.batch, linear.lr, linear.weight_decay) == (
        518,
        60_000,
        32,
        8e-4,
        0.05,
    )
    assert (dinov2.norm, dinov2.head_norm, linear.norm, linear.head_norm) == (True, True, False, False)
    assert (upernet.lr, upernet.layer_decay, upernet.aux_weight, upernet.drop_path) == (1e-4, 0.65, 0.4, 0.1)
    for one, stride in ((dinov2, 341), (ms, 320), (linear, 345), (upernet, 345)):
        assert one.crop is not None and int(one.stride * one.crop) == stride and one.warmup == 1500


def test_what_is_given_stands_and_the_warm_up_keeps_its_share() -> None:
    short = config(preset="proteus_linear", iterations=600, crop=None)
    assert (short.iterations, short.warmup, short.crop, short.lr) == (600, 15, None, 8e-4)
    assert config(iterations=600, warmup=100).warmup == 100
    again = SegmentationConfig.model_validate(short.model_dump(mode="json"))
    assert again == short


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"preset": "dinov3"}, "unknown preset 'dinov3'; known: dinov2_linear, dinov2_ms"),
    ({"set": "folder", "path": "x"}, "set: folder needs num_classes"),
    ({"set": "ade20k", "path": "x", "num_classes": 3}, "set: ade20k has its own number of classes"),
    ({"set": "voc2012"}, "set: voc2012 needs path"),
    ({"ratio": (2.0, 0.5)}, "ratio is"),
    ({"batch": 1}, "batch norm needs a batch of at least 2"),
    ({"itertions": 1}, "itertions"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**fields)
