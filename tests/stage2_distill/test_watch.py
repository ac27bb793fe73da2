"""Looks at a student in training: when, at what, what is written, and that training goes on bit for bit as without."""

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stillhouse.core.encoders import Encoder
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.stage2_distill.watch import SeenEnough, Watch
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

VIT = {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "depth": 1, "drop_path_rate": 0.2}}
CNN = {"model": "test_resnet", "image_size": 64}
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


class Lines(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Rough:
    """Looks as carelessly as can be: trains what it is given, spoils it, and draws random numbers."""

    def __init__(self, steps: int = 2, warn_at: int = 1 << 30, enough_at: int = 1 << 30) -> None:
        self.steps, self.warn_at, self.enough_at = steps, warn_at, enough_at
        self.seen: list[tuple[bool, bool, Preprocessing]] = []

    def look(self, encoder: Encoder, sees: Preprocessing) -> Mapping[str, float]:
        trainable = any(parameter.requires_grad for parameter in encoder.parameters())
        self.seen.append((encoder.training, trainable, sees))
        encoder.train()
        with torch.no_grad():
            encoder(torch.rand(4, 3, sees.size, sees.size))
            score = float(sum(parameter.abs().sum() for parameter in encoder.parameters()))
            for parameter in encoder.parameters():
                parameter.zero_()
        torch.manual_seed(123)
        return {"size": score, "num": 4}

    def warning(self, lines: Sequence[Mapping[str, Any]]) -> str | None:
        return f"{len(lines)} looks" if lines[-1]["step"] >= self.warn_at else None

    def enough(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        return bool(lines[-1]["step"] >= self.enough_at)


def run(store: Store, folder: Path, watch: Watch | None, reporter: Reporter | None = None, **fields: Any) -> bool:
    config = DistillConfig.model_validate(DEFAULTS | fields)
    return distill(store, config, folder, reporter or Reporter(quiet=True), watch)[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name in ("student", "student-ema"):
        tensors = safetensors.torch.load_file(folder / name / "model.safetensors")
        found |= {f"{name}/{key}": value for key, value in tensors.items()}
    return found


def assert_same_training(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines, expected = (read_metrics(each / "metrics.jsonl") for each in (folder, other))
    assert [{**line, "wait_s": 0} for line in lines] == [{**line, "wait_s": 0} for line in expected]


@pytest.fixture(scope="module")
def watched(sealed_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a watched run that nothing stopped."""
    folder = tmp_path_factory.mktemp("watched")
    assert run(sealed_store, folder, Rough())
    return folder


@pytest.mark.parametrize(
    "student", [{"student": VIT}, {"student": CNN, "objectives": {"token": 1, "feature": 1}}], ids=["vit", "cnn"]
)
def test_training_is_bit_for_bit_that_without(sealed_store: Store, tmp_path: Path, student: dict[str, Any]) -> None:
    """Drop path draws random numbers, batch norm has statistics, the average has weights of its own."""
    run(sealed_store, tmp_path / "without", None, **student)
    run(sealed_store, tmp_path / "with", Rough(), **student)
    assert_same_training(tmp_path / "with", tmp_path / "without")
    if student["student"] is CNN:
        assert any("running_mean" in name for name in weights(tmp_path / "with"))
    assert not (tmp_path / "without" / "watch.jsonl").exists()
    state = torch.get_rng_state()
    again = Rough(steps=9)
    run(sealed_store, tmp_path / "with", again, **student)
    assert torch.equal(torch.get_rng_state(), state) and again.seen == [], "a finished run is not looked at"


def test_looks_are_at_the_start_every_so_many_steps_and_at_the_end(sealed_store: Store, tmp_path: Path) -> None:
    watch, reporter = Rough(steps=4), Lines()
    run(sealed_store, tmp_path, watch, reporter)
    sees = sealed_store.teacher("tiny").preprocessing
    assert watch.seen == [(False, False, sees)] * 4
    lines = read_metrics(tmp_path / "watch.jsonl")
    assert [line["step"] for line in lines] == [0, 4, 8, 9]
    assert len({line["size"] for line in lines}) == 4, "each look is at the student of its step"
    losses = [line["total"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert [line["loss"] for line in lines] == [None, sum(losses[:4]) / 4, sum(losses[4:8]) / 4, losses[8]]
    shown = [f"{line['size']:.3f}" for line in lines]
    assert reporter.lines == [
        f"distill student: step 0: size {shown[0]}",
        *(
            f"distill student: step {line['step']}: loss {line['loss']:.4f}, size {line['size']:.3f}"
            for line in lines[1:]
        ),
    ]


def test_a_warning_is_given_once(sealed_store: Store, tmp_path: Path) -> None:
    reporter = Lines()
    run(sealed_store, tmp_path, Rough(warn_at=4), reporter)
    lines: list[Any] = [*read_metrics(tmp_path / "watch.jsonl")]
    assert [line.get("warning") for line in lines] == [None, None, "3 looks", None, None, None]
    assert [line for line in reporter.lines if "warning" in line] == ["distill student: warning: 3 looks"]


def test_a_run_that_a_watch_stops_goes_on_from_there(sealed_store: Store, watched: Path, tmp_path: Path) -> None:
    """Step 6 has no checkpoint but this one's."""
    with pytest.raises(SeenEnough, match="at step 6 of 9"):
        run(sealed_store, tmp_path, Rough(enough_at=6))
    assert [line["step"] for line in read_metrics(tmp_path / "watch.jsonl")] == [0, 2, 4, 6]
    assert not (tmp_path / "result.json").exists()
    reporter = Lines()
    run(sealed_store, tmp_path, Rough(enough_at=9), reporter)  # at the end it is asked no more
    assert reporter.lines[0] == "distill student: going on from step 6 of 9"
    assert_same_training(tmp_path, watched)
    assert (tmp_path / "watch.jsonl").read_bytes() == (watched / "watch.jsonl").read_bytes()


class Stop(Exception):
    pass


@pytest.mark.parametrize(("where", "stop"), [("step", 1), ("step", 7), ("look", 0), ("look", 4), ("checkpoint", 4)])
def test_a_run_that_goes_on_goes_on_with_the_same_file(
    sealed_store: Store, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, stop: int
) -> None:
    """Killed before a step, in the look after one, and between that look and the checkpoint."""
    train_step, checkpoint, look = Trainer.train_step, Trainer.checkpoint, Rough.look

    def step_or_die(self: Trainer, batch: Any) -> Any:
        if where == "step" and self.step == stop:
            raise Stop
        return train_step(self, batch)

    def look_or_die(self: Rough, *arguments: Any) -> Any:
        if where == "look" and len(self.seen) * self.steps == stop:
            raise Stop
        return look(self, *arguments)

    def checkpoint_or_die(self: Trainer, identity: Any) -> Any:
        if where == "checkpoint":
            raise Stop
        return checkpoint(self, identity)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_or_die)
        patch.setattr(Rough, "look", look_or_die)
        patch.setattr(Trainer, "checkpoint", checkpoint_or_die)
        with pytest.raises(Stop):
            run(sealed_store, tmp_path, Rough())
    run(sealed_store, tmp_path, Rough())
    assert_same_training(tmp_path, watched)
    assert (tmp_path / "watch.jsonl").read_bytes() == (watched / "watch.jsonl").read_bytes()


@pytest.fixture
def interruptible() -> Iterator[None]:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_a_stop_in_a_look_waits_for_its_line(sealed_store: Store, watched: Path, tmp_path: Path) -> None:
    class Stopped(Rough):
        def look(self, encoder: Encoder, sees: Preprocessing) -> Mapping[str, float]:
            if len(self.seen) == 3:
                signal.raise_signal(signal.SIGINT)
            return super().look(encoder, sees)

    with pytest.raises(KeyboardInterrupt):
        run(sealed_store, tmp_path, Stopped())
    assert [line["step"] for line in read_metrics(tmp_path / "watch.jsonl")] == [0, 2, 4, 6]
    reporter = Lines()
    run(sealed_store, tmp_path, Rough(), reporter)
    assert reporter.lines[0] == "distill student: going on from step 6 of 9"
    assert_same_training(tmp_path, watched)
    assert (tmp_path / "watch.jsonl").read_bytes() == (watched / "watch.jsonl").read_bytes()


def test_a_run_may_be_watched_from_its_middle_on_or_no_more(
    sealed_store: Store, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watching is no part of what a run is."""
    train_step = Trainer.train_step

    def killed(self: Trainer, batch: Any) -> Any:
        if self.step >= 6:
            raise Stop
        return train_step(self, batch)

    for first, second, steps in ((None, Rough(), [6, 8, 9]), (Rough(), None, [0, 2, 4])):
        folder = tmp_path / str(steps[0])
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", killed)
            with pytest.raises(Stop):
                run(sealed_store, folder, first)
        run(sealed_store, folder, second)
        assert_same_training(folder, watched)
        assert [line["step"] for line in read_metrics(folder / "watch.jsonl")] == steps
    assert json.loads((watched / "result.json").read_text())["config"].keys().isdisjoint({"watch"})
