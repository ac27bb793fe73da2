"""The losses of the first 20 steps of a tiny run, kept as tests/golden/loss_curve.json.

A refactor must reproduce them; a change of the maths of training (an objective, a mask, the order, the schedule, the
initial values) replaces them in the same commit, and says so in CHANGELOG.md:

    python tests/stage2_distill/test_loss_curve.py

CPUs add in different orders, so the comparison allows 1e-4. Never regenerate it because another machine differs by
more than that.
"""

import json
import tempfile
from pathlib import Path

import pytest

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, tiny_store
from stillhouse.stage2_distill.config import DistillConfig, StudentConfig
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.run import distill
from stillhouse.storage.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
CONFIG = DistillConfig(
    student=StudentConfig(model=TINY_VIT, model_args=TINY_VIT_ARGS),
    batch=7,
    epochs=5,
    lr=0.0366,  # 5e-4 at a batch of 7
    warmup_epochs=1,
    device="cpu",
    log_steps=1,
)


def losses(store: Store, folder: Path) -> dict[str, list[float]]:
    """Each term's losses, step by step."""
    result, _ = distill(store, CONFIG, folder, Reporter(quiet=True))
    assert result.num_steps == 20
    lines = read_metrics(folder / "metrics.jsonl")
    return {name: [line[name] for line in lines] for name in ("token", "feature", "patch", "total")}


def test_the_loss_curve_is_the_one_on_record(sealed_store: Store, tmp_path: Path) -> None:
    golden, found = json.loads(GOLDEN.read_text()), losses(sealed_store, tmp_path)
    assert found.keys() == golden.keys()
    for name, curve in golden.items():
        assert found[name] == pytest.approx(curve, rel=1e-4), name
    assert golden["total"][-1] < golden["total"][0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        curves = losses(tiny_store(Path(scratch)), Path(scratch) / "run")
        rounded = {name: [round(loss, 7) for loss in curve] for name, curve in curves.items()}
        GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
