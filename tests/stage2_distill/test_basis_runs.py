"""Whole runs from a store of codes with a basis of their own: in it, in channels, and from one to the other.

Legend: D teacher width, K kept components, S student width.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from stillhouse.core.errors import SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, tiny_store, tiny_teacher
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.targets import own_bases
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

DEFAULTS: dict[str, Any] = {
    "teacher": "klt",
    "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
    "batch": 8,
    "epochs": 2,
    "warmup_epochs": 0,
    "lr": 0.128,
    "device": "cpu",
    "checkpoint_steps": 2,
}
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def coded_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`tiny_store` with two more teachers, named for their codecs."""
    folder = tmp_path_factory.mktemp("coded")
    store = tiny_store(folder)
    for codec in ("klt:2", "opq:12"):
        teacher = tiny_teacher(folder / "weights", codec.partition(":")[0], codec=codec)
        extract(store, teacher, ExtractConfig(device="cpu"), QUIET)
    return store


def config(**fields: Any) -> DistillConfig:
    return DistillConfig.model_validate(DEFAULTS | fields)


def run(store: Store, folder: Path, **fields: Any) -> tuple[DistillResult, bool]:
    return distill(store, config(**fields), folder, QUIET)


def make(store: Store, **fields: Any) -> Trainer:
    chosen = config(**fields)
    trainer = Trainer(chosen, store, taught_by(chosen, store))
    trainer.begin(3)
    return trainer


def first_batch(store: Store, trainer: Trainer) -> Batch:
    levels = {one.taught.name: one.taught.levels for one in trainer.losses}
    with Loader(store, levels, trainer.config, trainer.student.image_size) as loader:
        return next(iter(loader.epoch(0)))


def linear(trainer: Trainer, name: str) -> nn.Linear:
    """The part of a head that gives its predictions."""
    found = trainer.heads.get_submodule(f"{name}.1")
    assert isinstance(found, nn.Linear)
    return found


def turn_heads(own: Trainer, channels: Trainer) -> None:
    """Make the heads in channels those in the codecs' basis, the constant of dropped components included."""
    for name in own.heads:
        targets = own.losses[0].targets["cls" if name == "token" else "patch"]
        narrow, wide = linear(own, name), linear(channels, name)
        assert targets.channels is not None
        with torch.no_grad():
            wide.weight.copy_(targets.channels.axes_KD.T @ narrow.weight)
            wide.bias.copy_(targets.in_channels(narrow.bias))


@pytest.mark.parametrize("targets", ["raw", "centred"])
@pytest.mark.parametrize("teacher", ["klt", "opq"])
def test_a_step_is_that_of_the_turned_heads_in_channels(coded_store: Store, teacher: str, targets: str) -> None:
    """All three losses, and the gradient of every weight of the student."""
    own = make(coded_store, teacher=teacher, targets=targets)
    channels = make(coded_store, teacher=teacher, targets=targets, basis="channels")
    turn_heads(own, channels)
    batch = first_batch(coded_store, own)
    losses, expected = own.train_step(batch), channels.train_step(batch)
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(
        {name: float(loss) for name, loss in expected.items()}, rel=1e-4
    )
    theirs = dict(channels.student.named_parameters())
    for name, parameter in own.student.named_parameters():
        found, wanted = parameter.grad, theirs[name].grad
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()), msg=name)


def test_heads_are_as_narrow_as_the_codes(coded_store: Store) -> None:
    def widths(**fields: Any) -> dict[str, int]:
        trainer = make(coded_store, **fields)
        return {name: linear(trainer, name).out_features for name in trainer.heads}

    kept = {level: len(coded_store.codec("klt", level).arrays()["axes"]) for level in ("cls", "patch")}
    assert 4 < kept["patch"] < 48
    assert widths() == {"token": kept["cls"], "feature": kept["patch"], "patch": kept["patch"]}
    assert set(widths(basis="channels").values()) == {48}
    assert set(widths(teacher="tiny").values()) == {48}


@pytest.mark.parametrize("basis", ["auto", "channels"])
def test_a_run_learns_and_exports(coded_store: Store, tmp_path: Path, basis: str) -> None:
    result, worked = run(coded_store, tmp_path, basis=basis, epochs=8, targets="centred", log_steps=1)
    assert worked
    assert result.bases == ({"cls": "klt", "patch": "klt"} if basis == "auto" else {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["total"] < lines[0]["total"]
    model = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 48)
    assert not run(coded_store, tmp_path, basis=basis, epochs=8, targets="centred", log_steps=1)[1]


def test_a_run_does_not_change_its_basis(coded_store: Store, tmp_path: Path) -> None:
    """Neither a finished one nor one that goes on from a checkpoint."""
    run(coded_store, tmp_path)
    message = "bases.cls: stored 'klt', asked for None; bases.patch: stored 'klt', asked for None; name the new run"
    with pytest.raises(SpecMismatchError, match=message):
        run(coded_store, tmp_path, basis="channels")
    (tmp_path / "result.json").unlink()
    with pytest.raises(SpecMismatchError, match=message):
        run(coded_store, tmp_path, basis="channels")
    assert run(coded_store, tmp_path)[1]


def test_without_a_basis_the_setting_changes_nothing(coded_store: Store, tmp_path: Path) -> None:
    assert run(coded_store, tmp_path, teacher="tiny")[0].bases == {}
    assert not run(coded_store, tmp_path, teacher="tiny", basis="channels")[1]


def test_what_was_written_before_there_were_bases_stays_valid(coded_store: Store, tmp_path: Path) -> None:
    """Its heads predicted in channels: it is the run of `channels`, and not that of `auto`."""
    run(coded_store, tmp_path, basis="channels")
    path = tmp_path / "result.json"
    body = json.loads(path.read_text())
    del body["bases"], body["config"]["basis"]
    path.write_text(json.dumps(body))
    assert not run(coded_store, tmp_path, basis="channels")[1]
    with pytest.raises(SpecMismatchError, match=r"bases\.cls: stored None, asked for 'klt'"):
        run(coded_store, tmp_path)


def test_the_bases_of_a_store(coded_store: Store) -> None:
    for teacher, expected in (("tiny", {}), ("klt", {"cls": "klt", "patch": "klt"})):
        codecs = {level: coded_store.codec(teacher, level) for level in ("cls", "patch")}
        assert own_bases(config().objectives, codecs) == expected
