"""A search in Optuna's database: drawn again after a kill as it would have been, pruned, and not mixed with another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.errors import ResourceError, SpecMismatchError
from stillhouse.stage2_distill.sweep import study as module
from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.stage2_distill.sweep.space import Trial
from stillhouse.stage2_distill.sweep.study import Study

SPACE: dict[str, Any] = {
    "distill.lr": {"low": 1e-4, "high": 1.0, "log": True},
    "distill.student.model_args.depth": {"low": 2, "high": 6},
    "distill.objectives": [{"token": 1.0}, {"token": 1.0, "feature": 0.5}],
}


def asked(**study: Any) -> SweepConfig:
    return SweepConfig.model_validate({"space": SPACE, "study": {"trials": 20, **study}})


def score(trial: Trial) -> float:
    depth, lr = trial.values["distill.student.model_args.depth"], trial.values["distill.lr"]
    return float(depth - abs(lr - 0.1))


def searched(folder: Path, num: int, **options: Any) -> list[Trial]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with Study(folder, asked(**options)) as study:
        for _ in range(num):
            trial = study.draw()
            study.tell(trial.number, "done", score(trial), "")
            found.append(trial)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_goes_on_draws_as_if_undisturbed(tmp_path: Path, sampler: str) -> None:
    whole = searched(tmp_path / "whole", 14, sampler=sampler)
    parts = searched(tmp_path / "parts", 5, sampler=sampler)
    with Study(tmp_path / "parts", asked(sampler=sampler)) as study:
        begun = study.draw()  # and killed
    with Study(tmp_path / "parts", asked(sampler=sampler)) as study:
        assert list(study.begun()) == [begun] and study.num_trials == 6
        study.tell(begun.number, "done", score(begun), "")
        assert [trial for trial, *_ in study.ended()] == [*parts, begun]
    rest = searched(tmp_path / "parts", 8, sampler=sampler)
    assert [*parts, begun, *rest] == whole
    assert len({trial.values["distill.lr"] for trial in whole}) == 14, "no two are drawn alike"
    assert {type(trial.values["distill.student.model_args.depth"]) for trial in whole} == {int}
    assert {str(trial.values["distill.objectives"]) for trial in whole} <= {
        str(one) for one in SPACE["distill.objectives"]
    }
    other = searched(tmp_path / "other", 3, sampler=sampler, seed=1)
    assert other != whole[:3]


def test_a_kill_before_all_of_a_trial_is_drawn_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = searched(tmp_path / "whole", 1)
    value = Study._value

    def killed(self: Study, trial: Any, key: str) -> Any:
        if key == "distill.student.model_args.depth":
            raise KeyboardInterrupt
        return value(self, trial, key)

    with monkeypatch.context() as patch, Study(tmp_path, asked()) as study:
        patch.setattr(Study, "_value", killed)
        with pytest.raises(KeyboardInterrupt):
            study.draw()
    with Study(tmp_path, asked()) as study:
        assert list(study.begun()) == [expected]


@pytest.fixture
def five(tmp_path: Path) -> Iterator[Study]:
    """Five trials that rose to 0.5 in three looks: as many as a median needs."""
    with Study(tmp_path, asked(pruner="median")) as study:
        for _ in range(5):
            trial = study.draw()
            for look in (1, 2, 3):
                assert not study.enough(trial.number, look, 0.2 + 0.1 * look)
            study.tell(trial.number, "done", 0.5, "")
        yield study


def test_a_trial_below_the_median_is_pruned(five: Study) -> None:
    trial = five.draw()
    assert not five.enough(trial.number, 0, 0.0), "it has not begun to learn"
    assert not five.enough(trial.number, 1, 0.35)
    assert five.enough(trial.number, 2, 0.36)
    assert five.enough(trial.number, 2, 0.36), "a look that is taken again after a kill says the same"
    five.tell(trial.number, "pruned", None, "at step 4")
    assert list(five.ended())[-1] == (trial, "pruned", "at step 4")
    better = five.draw()
    assert not five.enough(better.number, 2, 0.45)
    five.tell(better.number, "diverged", None, "the loss is nan")
    assert list(five.ended())[-1] == (better, "diverged", "the loss is nan")


def test_hyperband_prunes_too(tmp_path: Path) -> None:
    stopped = 0
    with Study(tmp_path, asked(pruner="hyperband")) as study:
        for number in range(12):
            trial = study.draw()
            came = "done"
            for look in range(1, 10):
                if study.enough(trial.number, look, 0.05 * look - 0.02 * number):
                    came, stopped = "pruned", stopped + 1
                    break
            study.tell(trial.number, came, 0.5 if came == "done" else None, "")  # type: ignore[arg-type]
    assert 0 < stopped < 12


def test_one_database_holds_one_search(tmp_path: Path) -> None:
    with Study(tmp_path, asked(), {"config": {"epochs": 3}, "space": SPACE}):
        pass
    with Study(tmp_path, asked(trials=40), {"config": {"epochs": 3}, "space": SPACE}):
        pass
    with pytest.raises(SpecMismatchError, match=r"config.epochs.*sweep.name"):
        Study(tmp_path, asked(), {"config": {"epochs": 4}, "space": SPACE})


def test_optuna_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"'optuna' is not installed; run `pip install 'stillhouse\[sweep\]'`"):
        Study(tmp_path, asked())
