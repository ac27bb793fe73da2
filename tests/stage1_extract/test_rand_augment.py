"""RandAugment as integers: strengths against timm's level functions, and rates against the definition."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment as timm_ops

from stillhouse.core.errors import UsageError
from stillhouse.core.rng import Q16, Draws, seed_bytes
from stillhouse.stage1_extract.rand_augment import RAND_AUGMENT, rand_augment, strength_of
from stillhouse.storage.view_ops import OP_IDS, OPS

# RAND_AUGMENT and timm's increasing set list the same operations in the same order.
TIMM_NAMES = dict(zip(RAND_AUGMENT, timm_ops._RAND_INCREASING_TRANSFORMS, strict=True))
# Odd ones, so that no float product of timm's lies within rounding of a whole number; the ends are exact.
LEVELS_Q16 = (0, 12_345, 333_333, 557_111, 589_823, 600_001, 655_360)


def test_operations_are_timms() -> None:
    assert len(RAND_AUGMENT) == 15
    for ours, theirs in TIMM_NAMES.items():
        short = theirs.lower().removesuffix("increasing").removesuffix("rel")
        assert ours.replace("_", "") == short


@pytest.mark.parametrize("op", RAND_AUGMENT)
@pytest.mark.parametrize("sign", [1, -1])
def test_strength_equals_timms_argument(op: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1/65536, and exactly where the argument is a whole number."""
    monkeypatch.setattr(random, "random", lambda: 0.0 if sign > 0 else 1.0)  # the coin of timm's signs
    to_argument: Any = timm_ops.LEVEL_TO_ARG[TIMM_NAMES[op]]
    for level_q16 in LEVELS_Q16:
        strength = strength_of(op, level_q16, sign)
        assert OPS[OP_IDS[op]].low <= strength <= OPS[OP_IDS[op]].high
        if to_argument is None:
            assert strength == 0
            continue
        (argument,) = to_argument(level_q16 / Q16, {})
        if isinstance(argument, int):
            assert strength == argument
        else:
            assert abs(strength / Q16 - argument) <= 1.01 / Q16


def test_rates_and_levels_follow_the_definition() -> None:
    """4,000 layers: half of them apply, operations are equally likely, levels are N(9, 0.5) cut at 10, signs fair."""
    layers = [
        rand_augment(Draws(seed_bytes(3), f"sample {i}", view), name)
        for i in range(1000)
        for view in range(2)
        for name in ("op1", "op2")
    ]
    counts = Counter(op for op, _ in layers)
    applied = len(layers) - counts.pop(0)
    assert abs(applied / len(layers) - 0.5) < 0.03
    assert set(counts) == {OP_IDS[name] for name in RAND_AUGMENT}
    expected = applied / 15
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 36.1  # chi-squared, 14 df, p = 0.001
    both_ways = {OP_IDS["rotate"]: 3, OP_IDS["shear_x"]: 0.03, OP_IDS["translate_x"]: 0.045}
    signed = np.array([strength / both_ways[op] / Q16 for op, strength in layers if op in both_ways])
    levels = np.abs(signed)
    # N(9, 0.5) cut at 10 has mean 8.996 and deviation 0.489.
    assert abs(levels.mean() - 8.996) < 0.08
    assert abs(levels.std() - 0.489) < 0.05
    assert levels.max() <= 10.001
    assert abs((signed > 0).mean() - 0.5) < 0.1


def test_the_two_layers_are_independent() -> None:
    pairs = [[rand_augment(Draws(seed_bytes(3), f"{i}", 0), name)[0] for name in ("op1", "op2")] for i in range(2000)]
    ops = np.array(pairs)
    assert abs(((ops > 0).all(axis=1)).mean() - 0.25) < 0.04
    same = (ops[:, 0] == ops[:, 1])[(ops > 0).all(axis=1)].mean()
    assert abs(same - 1 / 15) < 0.04  # with replacement


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(UsageError, match=r"no operation 'blur'; known: autocontrast, "):
        strength_of("blur", 9 * Q16, 1)
