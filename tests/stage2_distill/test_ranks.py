"""Several ranks train the student that one would, whatever stops them; turns of a rank, likewise."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.teachers import classes_for, taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store
from stillhouse.testing import run_here

CONFIG: dict[str, Any] = {
    "student": {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "depth": 1}},
    "batch": 8,
    "epochs": 3,
    "warmup_epochs": 1,
    "ema": 0.9,
    "device": "cpu",
    "checkpoint_steps": 4,
    "log_steps": 1,
}
"""9 steps of 8 samples, of which 4 are masked."""
QUIET = Reporter(quiet=True)


def weights(folder: Path, name: str = "student") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / name / "model.safetensors")


def assert_near(found: Path, expected: Path) -> None:
    """Up to the order in which sums were taken."""
    for name in ("student", "student-ema"):
        ours, theirs = weights(found, name), weights(expected, name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=2e-3, atol=2e-5)
    lines, others = read_metrics(found / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert [line["step"] for line in lines] == [line["step"] for line in others] == list(range(1, 10))
    for line, other in zip(lines, others, strict=True):
        assert {**line, "wait_s": 0} == pytest.approx({**other, "wait_s": 0}, rel=1e-4)


def trained(store: Store, folder: Path, **fields: Any) -> Path:
    distill(store, DistillConfig.model_validate(CONFIG | fields), folder, QUIET)
    return folder


@pytest.fixture(scope="module")
def alone(sealed_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one rank, in one turn."""
    return trained(sealed_store, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def of_two(
    sealed_store: Store, alone: Path, pipeline: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the runs of two ranks that ranks_runs.py makes."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copytree(alone / "checkpoints", folder / "goes-on" / "checkpoints")
    shutil.copy(alone / "metrics.jsonl", folder / "goes-on")
    shutil.rmtree(folder / "goes-on" / "checkpoints" / "000000008", ignore_errors=True)
    shutil.copytree(finished, folder / "out")
    shutil.rmtree(folder / "out" / "students")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("ranks_runs.py")
    arguments = [script, sealed_store.root, folder, pipeline, folder / "out"]
    ended = subprocess.run([*command, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return folder


def ends(folder: Path, of: str) -> list[str]:
    """How the runs came to their ends, on which both ranks agree."""
    first, second = (json.loads((folder / f"ends-{rank}.json").read_text())[of] for rank in (0, 1))
    assert first == second
    return list(first)


def test_two_ranks_train_the_student_of_one(of_two: Path, alone: Path) -> None:
    assert ends(of_two, "undisturbed") == ["worked True", "worked False"]
    assert_near(of_two / "undisturbed", alone)


def test_the_first_rank_alone_writes(of_two: Path, alone: Path) -> None:
    def names(folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).parts[0] for path in folder.glob("*"))

    assert names(of_two / "undisturbed") == names(alone)
    assert len(list((of_two / "undisturbed" / "tensorboard").iterdir())) == 1


def test_two_ranks_take_two_turns_each(of_two: Path, alone: Path) -> None:
    assert ends(of_two, "accumulated") == ["worked True"]
    assert_near(of_two / "accumulated", alone)


def test_two_ranks_go_on_where_one_stopped(of_two: Path, alone: Path) -> None:
    assert ends(of_two, "goes on") == ["worked True"]
    assert_near(of_two / "goes-on", alone)


def test_a_stop_of_either_rank_keeps_every_step(of_two: Path) -> None:
    """Two stops within the second epoch; the weights are bit for bit those of no stop."""
    stopped = ends(of_two, "stopped")
    assert stopped == ["KeyboardInterrupt: SIGTERM", "KeyboardInterrupt: SIGTERM", "worked True"]
    for name in ("student", "student-ema"):
        ours, theirs = weights(of_two / "stopped", name), weights(of_two / "undisturbed", name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("step", [3, 4])
def test_one_rank_goes_on_where_two_stopped(of_two: Path, alone: Path, sealed_store: Store, step: int) -> None:
    folder = of_two / f"left-{step}"
    assert ends(of_two, f"left at {step}") == ["KeyboardInterrupt: SIGTERM"]
    assert [path.name for path in (folder / "checkpoints").iterdir()] != []
    assert_near(trained(sealed_store, folder, checkpoint_steps=1000), alone)


def test_ranks_that_do_not_divide_the_batch_are_refused(of_two: Path) -> None:
    (message,) = ends(of_two, "indivisible")
    assert message.startswith("UsageError: distill.batch 7 cannot be divided among 2 ranks")
    assert "use 1 or 7 ranks" in message and not (of_two / "indivisible" / "checkpoints").exists()


def test_the_verb_trains_with_all_ranks_and_one_speaks(of_two: Path, finished: Path) -> None:
    first, second = (json.loads((of_two / f"ends-{rank}.json").read_text())["verb"] for rank in (0, 1))
    assert first[0] == second[0] == "0" and second[1:] == ["", ""]
    assert json.loads(first[1])["students"][0]["num_steps"] == 9 and "student:" in first[2]
    (ours,) = (of_two / "out" / "students").glob("*/student")
    (theirs,) = (finished / "students").glob("*/student")
    found, expected = (safetensors.torch.load_file(each / "model.safetensors") for each in (ours, theirs))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("verb", ["run", "ingest", "sweep"])
def test_other_verbs_are_refused_under_torchrun(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        ended = run_here(verb, pipeline, f"out={tmp_path / 'out'}")
        assert ended.status == 2 and len(ended.err.splitlines()) == lines
        assert not lines or ("torchrun" in ended.err and "stillhouse distill" in ended.err)
    assert not (tmp_path / "out").exists()


def step_of(store: Store, **fields: Any) -> tuple[Trainer, dict[str, float]]:
    config = DistillConfig.model_validate({**CONFIG, "warmup_epochs": 0, **fields})
    trainer = Trainer(config, store, taught_by(config, store))
    trainer.begin(3)
    levels = {loss.taught.name: loss.taught.levels for loss in trainer.losses}
    classes = classes_for([loss.taught for loss in trainer.losses])
    with Loader(store, levels, config, trainer.student.image_size, classes) as loader:
        batch: Batch = next(loader.epoch(0))
    losses = {name: float(value) for name, value in trainer.train_step(batch).items()}
    return trainer, losses


@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mask": {"probability": 0.3, "ratio": 0.5}},
        {"objectives": {"theia": 1.0, "radio_patch": 1.0, "radio_summary": 0.5}},
        {"objectives": {"token": 1.0, "ce": 1.0}},
        {"teacher": "scorer", "objectives": {"token": 1.0, "kl": 1.0}},
    ],
    ids=["proteus", "few masked", "agglomerative", "labels", "scores"],
)
def test_a_batch_in_turns_has_the_losses_and_gradients_of_the_whole(
    taught_store: Store, fields: dict[str, Any], turns: int
) -> None:
    fields = {"teacher": "tiny", "batch": 12, **fields}
    whole, expected = step_of(taught_store, **fields)
    parted, found = step_of(taught_store, accumulate=turns, **fields)
    assert found == pytest.approx(expected, rel=1e-5)
    theirs = dict(whole._trained())
    for name, ours in parted._trained():
        gradient, other = ours.grad, theirs[name].grad
        assert (gradient is None) == (other is None)
        if gradient is not None and other is not None:
            torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-6, msg=name)


def test_turns_go_on_where_the_whole_stopped(sealed_store: Store, alone: Path, tmp_path: Path) -> None:
    """How a batch is divided is no part of what a run is."""
    shutil.copytree(alone, tmp_path / "run")
    for name in ("result.json",):
        (tmp_path / "run" / name).unlink()
    assert_near(trained(sealed_store, tmp_path / "run", accumulate=4), alone)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and this machine shows none")
def test_a_gpu_trains_in_turns_what_it_trains_at_once(taught_store: Store) -> None:
    fields = {"teacher": "tiny", "batch": 12, "device": "auto"}
    whole, expected = step_of(taught_store, **fields)
    _, found = step_of(taught_store, accumulate=3, **fields)
    assert whole.device.type == "cuda" and found == pytest.approx(expected, rel=1e-3)
