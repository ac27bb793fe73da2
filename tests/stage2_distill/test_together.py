"""Students that share each batch: bit for bit what they are alone, resumed, of other lengths, and beside one that fails."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stillhouse.core.errors import DivergedError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.stage2_distill.run import Run, distill, distill_together
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

VIT = {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "depth": 1, "drop_path_rate": 0.2}}
DEEP = {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "depth": 2}}
CNN = {"model": "test_resnet", "image_size": 32}
DEFAULTS: dict[str, Any] = {
    "student": VIT,
    "batch": 8,
    "epochs": 3,
    "warmup_epochs": 1,
    "ema": 0.9,
    "device": "cpu",
    "checkpoint_steps": 4,
    "log_steps": 1,
}
"""9 steps."""
SEVERAL: list[dict[str, Any]] = [
    {},
    {"lr": 5e-3, "epochs": 2},
    {"student": DEEP, "targets": "centred"},
    {"student": CNN, "objectives": {"token": 1.0}},
    {"seed": 1},
]
"""All but the last see the same batches."""
QUIET = Reporter(quiet=True)


def runs(folder: Path, several: list[dict[str, Any]] = SEVERAL) -> list[Run]:
    return [Run(DistillConfig.model_validate(DEFAULTS | fields), folder / str(n)) for n, fields in enumerate(several)]


def assert_same_students(folder: Path, other: Path) -> None:
    for n in range(len(SEVERAL)):
        for name in ("student", "student-ema"):
            ours, theirs = (
                safetensors.torch.load_file(each / str(n) / name / "model.safetensors") for each in (folder, other)
            )
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
        lines, expected = (read_metrics(each / str(n) / "metrics.jsonl") for each in (folder, other))
        assert [{**line, "wait_s": 0} for line in lines] == [{**line, "wait_s": 0} for line in expected]


@pytest.fixture(scope="module")
def alone(sealed_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for run in runs(folder):
        distill(sealed_store, run.config, run.folder, QUIET)
    return folder


def test_students_are_bit_for_bit_those_alone(
    sealed_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], Loader._make

    def counted(self: Loader, pieces: Any) -> Batch:
        made.append(pieces)
        return make(self, pieces)

    monkeypatch.setattr(Loader, "_make", counted)
    found = distill_together(sealed_store, runs(tmp_path), QUIET)
    assert len(made) == 9 + 9, "four students share nine batches, and the last has nine of its own"
    assert_same_students(tmp_path, alone)
    assert [worked for _, worked in found] == [True] * 5
    assert [result.num_steps for result, _ in found if isinstance(result, DistillResult)] == [9, 6, 9, 9, 9]
    again = distill_together(sealed_store, runs(tmp_path), QUIET)
    assert [worked for _, worked in again] == [False] * 5
    assert [result for result, _ in again] == [result for result, _ in found]


class Stop(Exception):
    pass


def test_students_go_on_from_wherever_each_stands(
    sealed_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the checkpoints of two: one stands at step 8, the others at step 4."""
    checkpoint = Trainer.checkpoint

    def or_die(self: Trainer, identity: Any) -> Any:
        if self.step == 8 and self.config.student.model_args == DEEP["model_args"]:
            raise Stop
        return checkpoint(self, identity)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "checkpoint", or_die)
        with pytest.raises(Stop):
            distill_together(sealed_store, runs(tmp_path), QUIET)
    newest = [max((tmp_path / str(n) / "checkpoints").glob("step-*")).name for n in (0, 1, 2, 3)]
    assert newest == ["step-00000008", "step-00000004", "step-00000004", "step-00000004"]
    distill_together(sealed_store, runs(tmp_path), QUIET)
    assert_same_students(tmp_path, alone)


def test_one_that_diverges_leaves_the_others_alone(
    sealed_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer.train_step

    def diverges(self: Trainer, batch: Any) -> Any:
        if self.step == 5 and self.config.targets == "centred":
            with torch.no_grad():
                next(self.student.parameters()).fill_(torch.nan)
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", diverges)
    found = distill_together(sealed_store, runs(tmp_path), QUIET)
    failed, worked = found[2]
    assert isinstance(failed, DivergedError) and worked and "the loss of step 6 is nan" in str(failed)
    assert not (tmp_path / "2" / "result.json").exists()
    monkeypatch.undo()
    distill_together(sealed_store, runs(tmp_path), QUIET)
    assert_same_students(tmp_path, alone)
