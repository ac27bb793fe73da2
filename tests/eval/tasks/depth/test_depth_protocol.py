"""Presets as published, what may be changed of them, sizes and rates."""

import math
from typing import Any

import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import UsageError
from stillhouse.eval.tasks.depth.config import DepthConfig
from stillhouse.eval.tasks.depth.presets import PRESETS
from stillhouse.eval.tasks.depth.protocol import Protocol, resolve_blocks
from stillhouse.eval.tasks.depth.schedule import share
from stillhouse.eval.tasks.depth.training import learning_rate


def protocol(own_size: int = 224, **fields: Any) -> Protocol:
    return DepthConfig(path="/data/nyu", **fields).protocol(own_size)


def test_presets_are_explicit() -> None:
    """Each names every number that has no meaning beyond its protocol."""
    required = {name for name, field in Protocol.model_fields.items() if field.is_required()}
    assert all(required <= set(preset) <= set(Protocol.model_fields) for preset in PRESETS.values())
    assert not any(Protocol(**preset).final_norm for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("rule", "num", "wanted"),
    [
        ("last", 12, ("last",)),
        ("dinov2", 12, (2, 5, 8, 11)),
        ("dinov2", 24, (4, 11, 17, 23)),
        ("dinov2", 40, (9, 19, 29, 39)),
        ("proteus", 12, (3, 5, 7, 11)),
        ("proteus", 24, (7, 11, 15, 23)),
        ("dinov2", 6, (1, 2, 4, 5)),
        ((0, 3), 4, (0, 3)),
    ],
)
def test_blocks_are_counted_from_zero(rule: Any, num: int, wanted: tuple[Any, ...]) -> None:
    assert resolve_blocks(rule, num) == wanted


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"blocks \[0, 4\] of an encoder of 4 blocks"):
        resolve_blocks((0, 4), 4)


def test_changes_are_checked_and_the_rest_stays() -> None:
    changed = protocol(preset="dinov2_dpt", changes={"iterations": 7, "gradient": "as-intended"})
    assert (changed.iterations, changed.gradient, changed.lr) == (7, "as-intended", 1e-4)
    for changes, said in (
        ({"iteration": 7}, "unknown key 'iteration'; did you mean 'iterations'"),
        ({"batch": 0}, "batch"),
        ({"window": 100}, "window and stride are set together"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_config(DepthConfig, {"kind": "depth", "path": "/data", "changes": changes}, where="eval")


def test_fewer_iterations_have_the_same_share_of_warm_up() -> None:
    assert protocol().warmup == 12_800 and protocol(preset="proteus_dpt").warmup == 1500
    assert protocol(changes={"iterations": 300}).warmup == 100
    assert protocol(changes={"iterations": 300, "warmup": 7}).warmup == 7


def test_a_path_is_for_files() -> None:
    for fields in ({}, {"path": "/data", "layout": "scenes"}):
        with pytest.raises(UsageError, match="path names the data set, unless the layout is scenes"):
            parse_config(DepthConfig, fields, where="eval")


def test_sizes_go_with_the_resolution() -> None:
    assert protocol().crop == (416, 544) and protocol().side == 480
    small = protocol(own_size=48, resolution=None)
    assert (small.side, small.train_side, small.crop, small.window) == (48, 48, (42, 54), None)
    half = protocol(preset="proteus_dpt", resolution=259)
    assert (half.side, half.train_side, half.crop, half.window, half.stride) == (259, 256, (259, 259), 259, 64)


def test_rates_by_width() -> None:
    proteus = protocol(preset="proteus_dpt")
    assert [learning_rate(proteus, width) for width in (192, 384, 768, 1024)] == [4e-4, 4e-4, 1e-4, 1e-4]


def test_rates_over_the_iterations() -> None:
    def rate(iteration: int, schedule: Any, warmup: int, start: float) -> float:
        return share(iteration, iterations=100, schedule=schedule, warmup=warmup, warmup_from=start)

    assert rate(0, "cosine", 20, 1e-3) == pytest.approx(1e-3)
    assert rate(10, "cosine", 20, 1e-3) == pytest.approx((1e-3 + 0.999 / 2) * (1 + math.cos(math.pi / 10)) / 2)
    assert rate(60, "cosine", 20, 1e-3) == pytest.approx((1 + math.cos(math.pi * 0.6)) / 2)
    assert rate(0, "linear", 20, 1e-6) == pytest.approx(1e-6) and rate(20, "linear", 20, 1e-6) == 1
    assert rate(60, "linear", 20, 1e-6) == 0.5 and rate(100, "linear", 20, 1e-6) == 0
    assert rate(0, "linear", 0, 1.0) == 1
