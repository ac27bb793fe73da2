"""`stillhouse sweep`: a grid and a study of tiny students, stopped and gone on with, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from stillhouse.core.config import load_config
from stillhouse.pipeline_config import PipelineConfig
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.testing import run_here

ROOT = Path(__file__).parents[1]
GRID = {"space": {"distill.lr": [1e-3, 1e-2], "distill.student.model_args.depth": [1, 2]}}
STUDY = {
    "name": "search",
    "space": {"distill.lr": {"low": 1e-4, "high": 1e-1, "log": True}},
    "study": {"trials": 3, "sampler": "random"},
}


@pytest.fixture
def config(own: Path, pipeline: Path, tmp_path: Path) -> Path:
    """The tiny pipeline, whose store is filled and whose teacher is judged, with room for a section `sweep`."""
    body = yaml.safe_load(pipeline.read_text())
    return with_sweep(tmp_path / "pipeline.yaml", body | {"out": str(own)}, GRID)


def with_sweep(path: Path, body: dict[str, Any], section: dict[str, Any] | None) -> Path:
    path.write_text(yaml.safe_dump({**body, "sweep": section}))
    return path


def again_with(config: Path, section: dict[str, Any] | None, **sections: Any) -> Path:
    body = yaml.safe_load(config.read_text())
    for name, fields in sections.items():
        body[name] |= fields
    return with_sweep(config, body, section)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "student" / "model.safetensors")


def same_weights(folder: Path, other: Path) -> bool:
    ours, theirs = weights(folder), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_grid_is_trained_judged_and_ranked(config: Path, own: Path) -> None:
    swept = run_here("sweep", config, "--json")
    assert swept.status == 0, swept.err
    found = swept.json()
    assert [trial["number"] for trial in sorted(found["trials"], key=lambda one: one["number"])] == [0, 1, 2, 3]
    scores = [trial["score"] for trial in found["trials"]]
    assert scores == sorted(scores, reverse=True) and [trial["rank"] for trial in found["trials"]] == [1, 2, 3, 4]
    assert found["best"] == found["trials"][0]["students"][0]["folder"]
    judged = json.loads((own / "eval" / "teacher-tiny.json").read_text())["probes"]
    assert found["teacher"] == judged["knn"]["scores"]["top1"] and set(judged) == {"knn", "linear", "logistic-dinov2"}
    assert json.loads((own / "sweeps/sweep/sweep.json").read_text()) == found
    page = (own / "sweeps/sweep/sweep.html").read_text()
    assert "4 trials, 4 students" in page and f"report: {own / 'sweeps/sweep/sweep.html'}" in swept.err
    assert all(Path(one["students"][0]["folder"]).name in page for one in found["trials"])
    assert not list((own / "eval/features").glob("sweep-*")), "the features of students are not kept"

    trial = next(one for one in found["trials"] if one["number"] == 3)
    assert trial["overrides"] == ["distill.lr=0.01", "distill.student.model_args.depth=2"]
    alone = run_here("distill", config, f"out={own}-alone", f"store={own / 'store'}", *trial["overrides"])
    assert alone.status == 0, alone.err
    folder = own.with_name("out-alone") / "students/student-seed0"
    assert same_weights(Path(trial["students"][0]["folder"]), folder)

    again = run_here("sweep", config)
    assert again.status == 0 and again.err.count("(already done)") == 4
    assert (
        "│    1 │" in again.out and "best: " in again.out and f"{100 * scores[0] / found['teacher']:.1f}" in again.out
    )
    wider = again_with(config, {"space": GRID["space"] | {"distill.lr": [1e-1, 1e-3, 1e-2]}, "together": 3})
    more = run_here("sweep", wider)
    assert more.status == 0 and more.err.count("(already done)") == 4 and more.err.count("sweep: ") == 6


def test_students_trained_together_are_those_alone(config: Path, own: Path) -> None:
    one = run_here("sweep", config, "--json").json()
    both = run_here("sweep", config, "sweep.name=both", "sweep.together=4", "--json").json()
    for trial, other in zip(one["trials"], both["trials"], strict=True):
        assert trial["score"] == other["score"] and trial["values"] == other["values"]
        assert trial["students"][0]["weights_sha256"] == other["students"][0]["weights_sha256"]


def test_seeds_count_by_their_mean(config: Path) -> None:
    section = {"space": {"distill.lr": [1e-3, 1e-2]}, "seeds": 2, "probe": "linear", "teacher": False}
    swept = run_here("sweep", again_with(config, section), "--json").json()
    assert swept["teacher"] is None and [trial["of_teacher"] for trial in swept["trials"]] == [None, None]
    for trial in swept["trials"]:
        students = trial["students"]
        assert [student["seed"] for student in students] == [0, 1]
        assert trial["score"] == pytest.approx(sum(student["score"] for student in students) / 2)
    assert "±" in run_here("sweep", config).out


class Stop(Exception):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    """Kill whoever takes step number `num`, counted over all students."""
    train_step, taken = Trainer.train_step, [0]

    def or_die(self: Trainer, batch: Any) -> Any:
        taken[0] += 1
        if taken[0] == num:
            raise Stop
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", or_die)


@pytest.mark.parametrize("section", [GRID, STUDY], ids=["grid", "study"])
def test_a_sweep_that_was_killed_goes_on(
    config: Path, own: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any]
) -> None:
    """In the second student, after its checkpoint of step 4."""
    undisturbed = run_here("sweep", again_with(config, section | {"name": "whole"}), "--json").json()
    again_with(config, section | {"name": "parts"})
    with monkeypatch.context() as patch:
        stop_at(patch, 9 + 6)
        assert run_here("sweep", config).status == 1
    on = run_here("sweep", config, "--json")
    assert on.status == 0 and on.err.count("(already done)") == 1
    assert "distill student: going on from step 4 of 9" in on.err
    for trial, other in zip(on.json()["trials"], undisturbed["trials"], strict=True):
        assert trial["values"] == other["values"] and trial["score"] == other["score"]
        assert trial["students"][0]["weights_sha256"] == other["students"][0]["weights_sha256"]


def test_a_study_prunes_by_the_looks(config: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rate alone, so that it is known who is pruned; what was pruned stays so when the study goes on."""
    from stillhouse.stage2_distill.sweep.study import Study

    asked: list[tuple[int, int]] = []

    def enough(self: Study, number: int, look: int, score: float) -> bool:
        asked.append((number, look))
        return number == 1 and look == 2

    monkeypatch.setattr(Study, "enough", enough)
    section = STUDY | {"study": {"trials": 3, "pruner": "median"}}
    first = run_here("sweep", again_with(config, section, eval={"watch": {"steps": 2}}), "--json")
    assert first.status == 0, first.err
    found = first.json()
    pruned = found["trials"][-1]
    assert (pruned["number"], pruned["state"], pruned["score"], pruned["rank"]) == (1, "pruned", None, None)
    student = pruned["students"][0]
    assert student["num_steps"] == 4 and student["note"] == "pruned at step 4 of 9"
    assert [step for step, _ in student["looks"]] == [0, 2, 4]
    assert [look for number, look in asked if number == 1] == [1, 2]
    assert [look for number, look in asked if number == 2] == [1, 2, 3, 4], "at its ends nobody is asked"
    again = run_here("sweep", config, "sweep.study.trials=4", "--json")
    assert again.status == 0 and again.err.count("(already done)") == 3
    known = {trial["number"]: trial for trial in again.json()["trials"]}
    assert known.keys() == {0, 1, 2, 3} and known[1] == pruned
    assert "pruned" in run_here("sweep", config, "sweep.study.trials=4").out
    page = (own / "sweeps/search/sweep.html").read_text()
    assert (
        "pruned at step 4 of 9" in page and "A study, drawn by tpe, pruned by median" in page and 'id="looks"' in page
    )


def test_one_that_diverges_is_told_of_and_the_others_go_on(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step = Trainer.train_step

    def diverges(self: Trainer, batch: Any) -> Any:
        if self.config.lr > 9e-3:
            with torch.no_grad():
                next(self.student.parameters()).fill_(torch.nan)
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", diverges)
    for section in (GRID | {"together": 2}, STUDY):
        again_with(config, section)
        swept = run_here("sweep", config, "--json")
        assert swept.status == 0, swept.err
        rates = {trial["state"]: trial["values"]["distill.lr"] > 9e-3 for trial in swept.json()["trials"]}
        assert rates == {"done": False, "diverged": True}
        assert "the loss of step 2 is nan" in swept.err
    all_of_them = run_here("sweep", again_with(config, {"space": {"distill.lr": [1e-1, 1e-2]}}))
    assert all_of_them.status == 6 and "every trial diverged" in all_of_them.last


@pytest.mark.parametrize(
    ("section", "status", "message"),
    [
        (None, 2, "the config has no section `sweep`"),
        ({"space": {"distill.learning_rate": [1]}}, 2, "override 'distill.learning_rate=1': unknown key"),
        ({"space": {"distill.lr": [1e-3, -1]}}, 2, "override 'distill.lr=-1': distill.lr: Input should be greater"),
        ({"space": {"distill.repeats": [1, 9]}}, 2, "distill.repeats=9: "),
        ({"space": {"distill.targets": ["raw"], "distill.ema": [0, 0.0]}}, 2, "are one and the same student"),
        ({"space": {"distill.lr": [1e-3]}, "split": "train"}, 2, "which the probes are fitted on"),
        (STUDY | {"study": {"trials": 2, "pruner": "median"}}, 2, "by the looks of `eval.watch`"),
    ],
)
def test_what_cannot_be_is_refused(config: Path, section: dict[str, Any] | None, status: int, message: str) -> None:
    ended = run_here("sweep", again_with(config, section))
    assert ended.status == status and message in ended.last, ended.err


def test_one_sweep_at_a_time(config: Path, own: Path) -> None:
    from stillhouse.storage.disk import only_process_in

    with only_process_in(own / "sweeps/sweep"):
        ended = run_here("sweep", config)
    assert ended.status == 5 and "another process is at work" in ended.last


def test_a_store_that_grew_wants_another_sweep(config: Path) -> None:
    again_with(config, {"space": {"distill.lr": [1e-3]}})
    assert run_here("sweep", config).status == 0
    for verb in ("ingest", "extract"):
        assert run_here(verb, config, "views.num=3").status == 0
    ended = run_here("sweep", config, "views.num=3")
    assert ended.status == 3 and "the store has grown to 3 views" in ended.last
    assert "name the new sweep otherwise (sweep.name)" in ended.last
    assert run_here("sweep", config, "views.num=3", "sweep.name=grown").status == 0


def test_the_example_is_a_study_of_the_demos_store() -> None:
    example, demo = (load_config(PipelineConfig, ROOT / name, []) for name in ("examples/sweep.yaml", "pipeline.yaml"))
    assert example.sweep is not None and example.sweep.study is not None
    assert example.store_path == demo.store_path
    assert (example.views, example.ingest) == (demo.views, demo.ingest)
    assert [one.name for one in example.teachers] == [one.name for one in demo.teachers]
