import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill import waiting
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.waiting import BESIDE, STEP, advised, told
from stillhouse.storage.store import Store

BUSY = {"wait": 0.0, "h2d": 0.001, "forward": 0.02, "backward": 0.03}
WAITING = {**BUSY, "wait": 0.05}
FACTS: dict[str, Any] = {"threads": 2, "cores": 2, "missing_cache_mb": 0, "rendered": False, "precision": "bf16"}


@pytest.mark.parametrize(
    ("step", "beside", "facts", "says"),
    [
        (BUSY, {"render": 0.1}, {}, "it does not wait, and nothing is to be changed"),
        (BUSY, {"render": 0.1}, {"precision": "fp32"}, "distill.precision: bf16"),
        (
            WAITING,
            {"render": 0.1, "read": 0.01},
            {"threads": 1, "cores": 8},
            "render 50% of the time: set distill.threads: 8",
        ),
        (WAITING, {"render": 0.1}, {"missing_cache_mb": 2048}, "raise distill.pixel_cache_mb by 2,048"),
        (WAITING, {"render": 0.1}, {}, "run `stillhouse render` and set distill.pixels: rendered"),
        (WAITING, {"render": 0.1}, {"rendered": True}, "lower views.size"),
        (WAITING, {"decode": 0.1, "read": 0.01}, {}, "codec: fp16"),
        (WAITING, {"read": 0.1, "decode": 0.01}, {}, "nearer disk"),
        (WAITING, {"verify": 0.1}, {}, "it waits for verify"),
        (WAITING, {}, {}, "it waits for read"),
    ],
)
def test_the_one_setting_to_change(
    step: Mapping[str, float], beside: Mapping[str, float], facts: dict[str, Any], says: str
) -> None:
    assert says in advised(step, beside, **FACTS | facts)


def test_a_line_has_every_part_in_milliseconds() -> None:
    line = told(WAITING, {"render": 0.25}, "so what")
    assert line.startswith(
        "a step takes 101.0 ms: wait 50.0, h2d 1.0, forward 20.0, backward 30.0; beside it read 0.0,"
    )
    assert line.endswith("render 250.0; so what")


def test_a_run_says_where_its_time_went_if_it_is_long_enough(
    sealed_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda self, text: lines.append(text))
    student = {"model": TINY_VIT, "model_args": TINY_VIT_ARGS}
    config = DistillConfig.model_validate(
        {"student": student, "batch": 8, "epochs": 2, "device": "cpu", "log_steps": 2}
    )
    distill(sealed_store, config, tmp_path / "short", Reporter(quiet=True))
    assert lines == []
    monkeypatch.setattr(waiting, "FEWEST", 6)
    distill(sealed_store, config, tmp_path / "long", Reporter(quiet=True))
    (line,) = lines
    found = dict(re.findall(r"(\w+) ([0-9.]+)(?=[,;])", line))
    assert found.keys() >= {*STEP, *BESIDE}
    assert all(float(found[part]) > 0 for part in ("forward", "backward", "render"))
