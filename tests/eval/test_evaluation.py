"""One run of the probes over several encoders: what is kept, and when it is used again."""

import json
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval import run as module
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.run import Evaluation, Judgement, probes_of
from stillhouse.eval.subjects import Subject, exported_student
from stillhouse.storage.store import Store

CHEAP = {
    "linear": {"iterations": 5, "learning_rates": [0.1]},
    "logistic": {"num_c": 3},
    "bootstrap": 100,
    "device": "cpu",
}


def config(**fields: object) -> EvalConfig:
    return EvalConfig.model_validate(CHEAP | fields)


def evaluation(finished: Path, folder: Path, chosen: EvalConfig | None = None) -> Evaluation:
    return Evaluation(Store.open(finished / "store"), chosen or config(), folder, Reporter(quiet=True))


@pytest.fixture(scope="module")
def student(finished: Path) -> Subject:
    return exported_student(finished / "students" / "student-seed0" / "student", "student")


def never() -> Subject:
    raise AssertionError("loaded, though all is known")


def equal(one: Judgement, other: Judgement) -> bool:
    return (
        (one.name, one.scores, one.chosen) == (other.name, other.scores, other.chosen)
        and one.predictions.keys() == other.predictions.keys()
        and all(np.array_equal(one.predictions[probe], other.predictions[probe]) for probe in one.predictions)
    )


def test_a_subject_is_judged_once(finished: Path, tmp_path: Path, student: Subject) -> None:
    first = evaluation(finished, tmp_path)
    judged = first.judge("s", "abc", lambda: student)
    assert first.num_judged == 1 and list(judged.scores) == ["knn", "linear", "logistic-dinov2"]
    for probe, scores in judged.scores.items():
        assert scores["top1"] == np.mean(judged.predictions[probe] == first.test.labels_N)
    second = evaluation(finished, tmp_path)
    assert equal(second.judge("s", "abc", never), judged) and second.num_judged == 0


@pytest.mark.parametrize("change", ["weights", "probe", "split", "images"])
def test_it_is_judged_again_when_something_is_another(
    finished: Path, tmp_path: Path, student: Subject, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    evaluation(finished, tmp_path).judge("s", "abc", lambda: student)
    chosen = {"probe": config(knn=None), "split": config(train="test", test="train")}.get(change)
    if change == "images":
        monkeypatch.setattr(module, "content_digest", lambda objects: "other")
    again = evaluation(finished, tmp_path, chosen)
    again.judge("s", "abd" if change == "weights" else "abc", lambda: student)
    assert again.num_judged == 1


@pytest.mark.parametrize("field", [{"metric": "mean_per_class"}, {"bootstrap": 300}, {"threads": 1}, {"pictures": 0}])
def test_it_is_not_judged_again_for_what_changes_no_score(
    finished: Path, tmp_path: Path, student: Subject, field: dict[str, object]
) -> None:
    evaluation(finished, tmp_path).judge("s", "abc", lambda: student)
    evaluation(finished, tmp_path, config(**field)).judge("s", "abc", never)


def test_the_order_of_probes_is_that_of_the_report(finished: Path, tmp_path: Path, student: Subject) -> None:
    chosen = config(linear=None)
    fresh = evaluation(finished, tmp_path, chosen).judge("s", "abc", lambda: student)
    stored = evaluation(finished, tmp_path, chosen).judge("s", "abc", never)
    assert list(fresh.scores) == list(stored.scores) == ["knn", "logistic-dinov2"]
    assert [probe.name for probe in probes_of(chosen)] == ["knn", "logistic-dinov2"]
    assert len(probes_of(config())) == 3


def test_what_is_kept_cannot_be_changed_unnoticed(finished: Path, tmp_path: Path, student: Subject) -> None:
    judged = evaluation(finished, tmp_path).judge("s", "abc", lambda: student)
    path = tmp_path / "s.json"
    body = json.loads(path.read_text())
    body["probes"]["knn"]["scores"]["top1"] = 1.0
    path.write_text(json.dumps(body))
    assert equal(evaluation(finished, tmp_path).judge("s", "abc", lambda: student), judged)


def test_configs_that_judge_nothing() -> None:
    with pytest.raises(UsageError, match="at least one of knn, linear and logistic must not be null"):
        parse_config(EvalConfig, {"knn": None, "linear": None, "logistic": None}, where="x")
    with pytest.raises(UsageError, match="train and test are one split, 'test'"):
        parse_config(EvalConfig, {"train": "test"}, where="x")
