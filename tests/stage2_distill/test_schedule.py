"""The learning rate: documented values, and agreement with timm's scheduler."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler.cosine_lr import CosineLRScheduler

from stillhouse.stage2_distill.schedule import lr_at

PROTEUS: dict[str, Any] = {
    "steps_per_epoch": 10,
    "epochs": 300,
    "warmup_epochs": 5,
    "peak": 5e-4,
    "warmup": 1e-6,
    "floor": 1e-5,
}


def test_per_epoch_lags_by_one_epoch() -> None:
    """Proteus' script: epochs 0 and 1 both run at the warm-up rate."""
    rates = [lr_at(10 * epoch, per="epoch", **PROTEUS) for epoch in range(300)]
    assert rates[0] == rates[1] == 1e-6
    assert rates[2] == pytest.approx(1e-6 + (5e-4 - 1e-6) / 5)
    assert rates[5] == pytest.approx(1e-6 + (5e-4 - 1e-6) * 4 / 5)
    assert rates[6] == pytest.approx(1e-5 + 0.5 * (5e-4 - 1e-5) * (1 + math.cos(math.pi * 5 / 300)))
    assert max(rates) == rates[6]
    assert rates[151] == pytest.approx((5e-4 + 1e-5) / 2)
    assert rates[299] > 1e-5


def test_per_epoch_is_constant_inside_an_epoch() -> None:
    for epoch in (0, 1, 2, 7, 299):
        assert len({lr_at(10 * epoch + step, per="epoch", **PROTEUS) for step in range(10)}) == 1


@given(
    epochs=st.integers(1, 40),
    warmup_epochs=st.integers(0, 10),
    peak=st.floats(1e-4, 1e-2),
    warmup=st.floats(0, 1e-5),
    floor=st.floats(0, 1e-5),
)
def test_per_epoch_is_what_timm_gives_when_stepped_after_each_epoch(
    epochs: int, warmup_epochs: int, peak: float, warmup: float, floor: float
) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    timm_schedule = CosineLRScheduler(
        optimiser, t_initial=epochs, lr_min=floor, warmup_t=warmup_epochs, warmup_lr_init=warmup
    )
    for epoch in range(epochs):
        ours = lr_at(
            3 * epoch + 1,
            steps_per_epoch=3,
            epochs=epochs,
            warmup_epochs=warmup_epochs,
            peak=peak,
            warmup=warmup,
            floor=floor,
            per="epoch",
        )
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        timm_schedule.step(epoch)


def test_per_step_endpoints() -> None:
    assert lr_at(0, **PROTEUS) == 1e-6
    assert lr_at(25, **PROTEUS) == pytest.approx((1e-6 + 5e-4) / 2)
    assert lr_at(49, **PROTEUS) == pytest.approx(1e-6 + (5e-4 - 1e-6) * 49 / 50)
    assert lr_at(50, **PROTEUS) == pytest.approx(1e-5 + 0.5 * (5e-4 - 1e-5) * (1 + math.cos(math.pi / 60)))
    assert lr_at(1500, **PROTEUS) == pytest.approx((5e-4 + 1e-5) / 2)
    assert lr_at(3000, **PROTEUS) == pytest.approx(1e-5)
    assert lr_at(5000, **PROTEUS) == pytest.approx(1e-5)


def test_per_step_rises_then_falls() -> None:
    rates = [lr_at(step, **PROTEUS) for step in range(3000)]
    assert rates[:51] == sorted(rates[:51])
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_no_warm_up_begins_at_the_peak() -> None:
    assert lr_at(0, **{**PROTEUS, "warmup_epochs": 0}) == pytest.approx(5e-4)
    assert lr_at(0, per="epoch", **{**PROTEUS, "warmup_epochs": 0}) == pytest.approx(5e-4)


def test_a_fractional_warm_up() -> None:
    rates = [lr_at(step, **{**PROTEUS, "warmup_epochs": 0.5}) for step in range(6)]
    assert rates[4] == pytest.approx(1e-6 + (5e-4 - 1e-6) * 4 / 5)
    assert rates[5] == pytest.approx(5e-4, rel=1e-3)
