"""The losses of the first 20 steps of tiny runs, kept as tests/golden/loss_curve.json and loss_curves.json.

A refactor must reproduce them; a change of the maths of training (an objective, a mask, the order, the schedule, the
initial values) replaces them in the same commit, and says so in CHANGELOG.md:

    python tests/stage2_distill/test_loss_curve.py

CPUs add in different orders, so the comparison allows 1e-4. Never regenerate it because another machine differs by
more than that.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, taught_store
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.objectives import OBJECTIVES
from stillhouse.stage2_distill.run import distill
from stillhouse.storage.store import Store

FOLDER = Path(__file__).parents[1] / "golden"
PROTEUS, OTHERS = FOLDER / "loss_curve.json", FOLDER / "loss_curves.json"
CONFIG: dict[str, Any] = {
    "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
    "batch": 7,
    "epochs": 5,
    "lr": 0.0366,  # 5e-4 at a batch of 7
    "warmup_epochs": 1,
    "device": "cpu",
    "log_steps": 1,
}
CURVES: dict[str, dict[str, Any]] = {
    "theia": {"objectives": {"theia": 1}},
    "radio": {"objectives": {"radio_patch": 1, "radio_summary": 1}},
    "ce": {"objectives": {"ce": 1}},
    "standardised": {"targets": "standardised"},
    "repeats": {"repeats": 2, "schedule": "epoch"},
    "two teachers": {"teachers": {"tiny": {"weight": 2}, "fine": {"objectives": {"token": 1, "feature": 1}}}},
    "kl": {"teacher": "scorer", "objectives": {"kl": 1}, "temperature": 2},
}
"""Each objective beside Proteus', and each other way to train, by what its run says otherwise."""


def losses(store: Store, folder: Path, **fields: Any) -> dict[str, list[float]]:
    """Each term's losses, step by step."""
    config = DistillConfig.model_validate({"teacher": None if "teachers" in fields else "tiny", **CONFIG, **fields})
    result, _ = distill(store, config, folder, Reporter(quiet=True))
    assert result.num_steps == 20
    lines = read_metrics(folder / "metrics.jsonl")
    return {name: [line[name] for line in lines] for name in lines[0] if name not in ("step", "lr", "wait_s")}


def test_the_loss_curve_is_the_one_on_record(sealed_store: Store, tmp_path: Path) -> None:
    golden, found = json.loads(PROTEUS.read_text()), losses(sealed_store, tmp_path)
    assert found.keys() == golden.keys()
    for name, curve in golden.items():
        assert found[name] == pytest.approx(curve, rel=1e-4), name
    assert golden["total"][-1] < golden["total"][0]


@pytest.mark.parametrize("name", CURVES)
def test_the_other_curves_are_those_on_record(taught_store: Store, tmp_path: Path, name: str) -> None:
    golden = json.loads(OTHERS.read_text())[name]
    found = losses(taught_store, tmp_path, **CURVES[name])
    assert found["total"] == pytest.approx(golden, rel=1e-4, abs=1e-4 * golden[0])
    assert golden[-1] < golden[0]


def test_every_objective_has_a_curve() -> None:
    shown = {objective for fields in CURVES.values() for objective in fields.get("objectives", {})}
    assert shown | {"token", "feature", "patch"} == OBJECTIVES.keys()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        store = taught_store(Path(scratch))
        curves = losses(store, Path(scratch) / "run")
        rounded = {name: [round(loss, 7) for loss in curve] for name, curve in curves.items()}
        PROTEUS.write_text(json.dumps(rounded, indent=1) + "\n")
        totals = {
            name: [round(loss, 7) for loss in losses(store, Path(scratch) / name, **fields)["total"]]
            for name, fields in CURVES.items()
        }
        OTHERS.write_text(json.dumps(totals, indent=1) + "\n")
