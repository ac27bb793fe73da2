"""Several teachers, other grids, soft labels: what a run asks of whom, against a second computation.

Legend: B batch, T patches, D width, C classes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from stillhouse.core.encoders import normalise
from stillhouse.core.errors import SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.masking import draw_masks
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.teachers import classes_for, lead_of, taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

DEFAULTS: dict[str, Any] = {
    "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
    "batch": 8,
    "epochs": 1,
    "warmup_epochs": 0,
    "lr": 0.064,
    "device": "cpu",
}
BOTH: dict[str, Any] = {"teachers": {"tiny": {"weight": 2}, "fine": {"objectives": {"token": 1, "feature": 0.5}}}}
CNN: dict[str, Any] = {"model": "test_resnet", "image_size": 64}


def config(**fields: Any) -> DistillConfig:
    return DistillConfig.model_validate(DEFAULTS | fields)


def make(store: Store, **fields: Any) -> Trainer:
    chosen = config(**fields)
    trainer = Trainer(chosen, store, taught_by(chosen, store))
    trainer.begin(3)
    return trainer


def first_batch(store: Store, trainer: Trainer) -> Batch:
    taught = [loss.taught for loss in trainer.losses]
    levels = {one.name: one.levels for one in taught}
    with Loader(store, levels, trainer.config, trainer.student.image_size, classes_for(taught)) as loader:
        return next(iter(loader.epoch(0)))


def floats(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


def decoded(store: Store, batch: Batch, teacher: str, level: str) -> Tensor:
    return torch.from_numpy(store.codec(teacher, level).decode(batch.codes[teacher][level]))


def on_grid(tokens_BTD: Tensor, found: int, wanted: int) -> Tensor:
    maps = tokens_BTD.transpose(1, 2).reshape(len(tokens_BTD), -1, found, found)
    return interpolate(maps, size=(wanted, wanted), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def pixels_of(store: Store, batch: Batch, teacher: str) -> Tensor:
    seen = store.teacher(teacher).preprocessing
    return normalise(batch.pixels_BSSC, seen.mean, seen.std, torch.device("cpu"))


def test_two_teachers_are_two_losses(taught_store: Store) -> None:
    """Each with heads of its own; pixels as the heavier teacher sees them; its grid, the other's resampled to."""
    trainer = make(taught_store, **BOTH)
    batch = first_batch(taught_store, trainer)
    assert trainer.student.grid == (4, 4)
    with torch.no_grad():
        tokens = trainer.student(pixels_of(taught_store, batch, "tiny"))
        fine, tiny = (loss.heads for loss in trainer.losses)
        cls = fine.apply_head("token", tokens.cls_BD)
        patch = on_grid(fine.apply_head("feature", tokens.patch_BTD), 4, 8)
        wanted = [decoded(taught_store, batch, "fine", level) for level in ("cls", "patch")]
        together = torch.cat([cls[:, None], patch], dim=1) - torch.cat(wanted, dim=1)
        expected = {
            "fine.token": (cls - wanted[0][:, 0]).square().mean(),
            "fine.feature": together.square().mean(),
            "tiny.token": (tiny.apply_head("token", tokens.cls_BD) - decoded(taught_store, batch, "tiny", "cls")[:, 0])
            .square()
            .mean(),
        }
    found = floats(trainer.train_step(batch))
    assert found.keys() == expected.keys() | {"tiny.feature", "tiny.patch", "total"}
    assert {name: found[name] for name in expected} == pytest.approx(floats(expected), rel=1e-5)
    weights = {"fine.token": 1, "fine.feature": 0.5, "tiny.token": 2, "tiny.feature": 2, "tiny.patch": 2}
    assert found["total"] == pytest.approx(sum(weight * found[name] for name, weight in weights.items()), rel=1e-5)


def test_one_of_several_is_the_teacher_alone(taught_store: Store) -> None:
    alone, named = make(taught_store, teacher="fine"), make(taught_store, teachers={"fine": {}})
    batch = first_batch(taught_store, alone)
    assert floats(alone.train_step(batch)) == floats(named.train_step(batch))


def test_the_order_of_teachers_changes_nothing(taught_store: Store) -> None:
    one = make(taught_store, **BOTH)
    other = make(taught_store, teachers=dict(reversed(BOTH["teachers"].items())))
    batch = first_batch(taught_store, one)
    assert floats(one.train_step(batch)) == floats(other.train_step(batch))


def test_the_heaviest_teacher_leads(taught_store: Store) -> None:
    def lead(**weights: float) -> str:
        chosen = config(teachers={name: {"weight": weight} for name, weight in weights.items()})
        return lead_of(taught_by(chosen, taught_store)).name

    assert (lead(tiny=1, fine=2), lead(tiny=2, fine=1), lead(tiny=1, fine=1)) == ("fine", "tiny", "fine")


def test_masked_patches_on_another_grid_are_compared_on_the_students(taught_store: Store) -> None:
    trainer = make(taught_store, teachers={"fine": {}, "tiny": {"weight": 2}}, objectives={"patch": 1})
    batch = first_batch(taught_store, trainer)
    mask = torch.from_numpy(draw_masks(seed=0, step=0, batch=8, num_patches=16, probability=0.5, ratio=0.5))
    with torch.no_grad():
        hidden = trainer.student(pixels_of(taught_store, batch, "tiny"), mask).hidden_KD
        wanted = on_grid(decoded(taught_store, batch, "fine", "patch")[:4], 8, 4)[mask]
        expected = (trainer.losses[0].heads.apply_head("patch", hidden) - wanted).square().mean()
    assert float(trainer.train_step(batch)["fine.patch"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("objectives", [{"feature": 1, "token": 1}, {"theia": 1, "radio_summary": 1, "radio_patch": 1}])
def test_a_cnn_on_a_grid_of_its_own_learns(taught_store: Store, objectives: dict[str, float]) -> None:
    trainer = make(taught_store, teacher="tiny", student=CNN, objectives=objectives, targets="centred")
    assert trainer.student.grid == (2, 2)
    batch = first_batch(taught_store, trainer)
    losses = [float(trainer.train_step(batch)["total"]) for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("targets", ["standardised", "phi_s"])
def test_scaled_targets_are_learnt_and_kept_by_checkpoints(taught_store: Store, targets: str) -> None:
    one, other = (make(taught_store, teacher="tiny", targets=targets, ema=0) for _ in range(2))
    batch = first_batch(taught_store, one)
    losses = [float(one.train_step(batch)["total"]) for _ in range(4)]
    assert losses[0] > losses[-1] and 1 < losses[0] / 3 < 2  # three terms of targets of variance one
    for loss in other.losses:  # as if another machine had found other eigenvectors
        for level, turned in list(loss.turned.items()):
            loss.turn(level, type(turned)(-turned.matrix_DD, -turned.shift_D))
    other.restore(one.checkpoint({}))
    assert floats(one.train_step(batch)) == floats(other.train_step(batch))


def test_soft_and_hard_labels(taught_store: Store) -> None:
    """The conventional baseline: one linear classifier on the student's cls, labels by the sorted names."""
    trainer = make(taught_store, teacher="scorer", objectives={"ce": 1, "kl": 0.5}, temperature=2)
    batch = first_batch(taught_store, trainer)
    names = [taught_store.samples(block)[row].label for block, row in batch.pairs.tolist()]
    label_B = torch.tensor(["abc".index(str(name)) for name in names])
    assert batch.label_B is not None and batch.label_B.tolist() == label_B.tolist()
    assert set(batch.codes["scorer"]) == {"logits"}
    with torch.no_grad():
        cls_BD = trainer.student(pixels_of(taught_store, batch, "scorer")).cls_BD
        ours_BC = trainer.losses[0].heads["logits"](cls_BD)
        theirs_BC = decoded(taught_store, batch, "scorer", "logits")[:, 0]
        soft = [(scores / 2).softmax(-1) for scores in (theirs_BC, ours_BC)]
        kl = 4 * (soft[0] * (soft[0].log() - soft[1].log())).sum(-1).mean()
        expected = {"ce": float(cross_entropy(ours_BC, label_B)), "kl": float(kl)}
    found = floats(trainer.train_step(batch))
    assert found == pytest.approx({**expected, "total": expected["ce"] + 0.5 * expected["kl"]}, rel=1e-5)


def test_hard_labels_alone_need_no_logits(taught_store: Store) -> None:
    trainer = make(taught_store, teacher="tiny", objectives={"ce": 1})
    batch = first_batch(taught_store, trainer)
    assert dict(batch.codes) == {"tiny": {}}
    losses = [float(trainer.train_step(batch)["ce"]) for _ in range(5)]
    assert losses[0] == pytest.approx(np.log(3), rel=0.6) and losses[-1] < losses[0]


def test_only_what_is_compared_is_read(taught_store: Store) -> None:
    def levels(**objectives: float) -> tuple[str, ...]:
        return taught_by(config(teacher="tiny", objectives=objectives), taught_store)[0].levels

    assert levels(token=1) == levels(radio_summary=1) == ("cls",)
    assert levels(theia=1) == levels(patch=1) == ("patch",)
    assert levels(feature=1) == levels(token=1, radio_patch=1) == ("cls", "patch")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "tiny", "objectives": {"kl": 1}}, "objective 'kl' needs level 'logits'; teacher 'tiny' of store "),
        ({"teacher": "scorer"}, "objective 'feature' needs level 'patch'; teacher 'scorer' of store "),
        ({"teachers": {"tiny": {}, "nobody": {}}}, "has no teacher 'nobody'; teachers in it: fine, scorer, tiny"),
        ({}, r"has 3 teachers \(fine, scorer, tiny\); name one as distill.teacher"),
    ],
)
def test_what_is_not_there_is_refused_by_name(taught_store: Store, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        taught_by(config(**fields), taught_store)


def test_labels_and_scores_have_to_be_of_as_many_classes(taught_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(teacher="scorer", objectives={"ce": 1, "kl": 1})
    module = "stillhouse.stage2_distill.teachers.classes_in"
    monkeypatch.setattr(module, lambda store, blocks: ("a", "b"))
    with pytest.raises(UsageError, match=r"teacher 'scorer' scores 3 classes, the labels of store .* are 2; extract a"):
        taught_by(asked, taught_store)
    monkeypatch.setattr(module, lambda store, blocks: ())
    with pytest.raises(
        UsageError, match=r"objective 'ce' needs labels; the training images of store .* have 0; ingest"
    ):
        taught_by(asked, taught_store)


def test_a_teacher_or_teachers() -> None:
    with pytest.raises(ValueError, match="give `teacher` or `teachers`, not both"):
        config(teacher="tiny", teachers={"fine": {}})
    with pytest.raises(ValueError, match="unknown objective 'tokn'"):
        config(teachers={"fine": {"objectives": {"tokn": 1}}})


class Lines(Reporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(store: Store, folder: Path, reporter: Reporter | None = None, **fields: Any) -> tuple[DistillResult, bool]:
    return distill(store, config(log_steps=1, ema=0, **fields), folder, reporter or Reporter(quiet=True))


def test_a_run_names_all_its_teachers(taught_store: Store, tmp_path: Path) -> None:
    reporter = Lines()
    result, worked = run(taught_store, tmp_path / "both", reporter, **BOTH)
    assert worked and (result.teacher, result.teachers) == ("tiny", {"fine": 1.0, "tiny": 2.0})
    grids = "its patches lie on a grid of 4x4, those of teacher fine of 8x8: resampled bilinearly"
    assert reporter.lines == [f"distill student: {grids}"]
    card = json.loads((tmp_path / "both" / "student" / "card.json").read_text())
    assert card["teacher_specs"].keys() == card["teachers"].keys() == {"fine", "tiny"}
    readme = (tmp_path / "both" / "student" / "README.md").read_text()
    assert "distilled from fine and tiny" in readme
    line = json.loads((tmp_path / "both" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"tiny.patch", "fine.feature"} < line.keys()
    alone = run(taught_store, tmp_path / "alone", teacher="tiny")[0]
    assert len({alone.trained_on_sha256, result.trained_on_sha256}) == 2
    assert not run(taught_store, tmp_path / "both", **BOTH)[1]
    other: dict[str, Any] = {"teachers": {**BOTH["teachers"], "tiny": {"weight": 3}}}
    difference = re.escape("config.teachers.tiny.weight: stored 2.0, asked for 3.0")
    with pytest.raises(SpecMismatchError, match=difference):
        run(taught_store, tmp_path / "both", **other)
