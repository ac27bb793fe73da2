"""One run of the probes over several encoders: what is kept, and when it is used again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval import run as module
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.judged import Judgement
from stillhouse.eval.knn import KnnProbe
from stillhouse.eval.linear import LinearProbe
from stillhouse.eval.logistic import LogisticProbe
from stillhouse.eval.run import Evaluation, probes_of
from stillhouse.eval.subjects import Subject, exported_student
from stillhouse.storage.signed_json import read_signed_json, signed_json
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

CHEAP = {
    "linear": {"iterations": 5, "learning_rates": [0.1]},
    "logistic": {"num_c": 3},
    "bootstrap": 100,
    "device": "cpu",
}


def config(**fields: object) -> EvalConfig:
    return EvalConfig.model_validate(CHEAP | fields)


class Lines(Reporter):
    """Keeps what is said, and every advance of every task."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.events: list[tuple[str, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "task":
            self.events.append((facts["name"], facts["units"]))


SEES = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=32)


def evaluation(
    finished: Path, folder: Path, chosen: EvalConfig | None = None, reporter: Reporter | None = None
) -> Evaluation:
    return Evaluation(Store.open(finished / "store"), chosen or config(), folder, reporter or Reporter(quiet=True))


def judge(one: Evaluation, load: Callable[[], Subject], weights: str = "abc") -> Judgement:
    return one.judge("s", weights, load, sees=SEES)


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
    judged = first.judge("s", "abc", lambda: student, sees=SEES)
    assert first.num_judged == 1 and list(judged.scores) == ["knn", "linear", "logistic-dinov2"]
    for probe, scores in judged.scores.items():
        assert scores["top1"] == np.mean(judged.predictions[probe] == first.test.labels_N)
    second = evaluation(finished, tmp_path)
    assert equal(second.judge("s", "abc", never, sees=SEES), judged) and second.num_judged == 0


def test_neighbours_are_kept_with_the_scores(finished: Path, tmp_path: Path, student: Subject) -> None:
    first = evaluation(finished, tmp_path)
    judged = first.judge("s", "abc", lambda: student, sees=SEES)
    assert judged.neighbours is not None and {len(row) for row in judged.neighbours.train} == {5}
    assert evaluation(finished, tmp_path).judge("s", "abc", never, sees=SEES).neighbours == judged.neighbours
    without = evaluation(finished, tmp_path, config(knn=None)).judge("t", "abc", lambda: student, sees=SEES)
    assert without.neighbours is None


def test_scores_of_before_there_were_neighbours_are_good(finished: Path, tmp_path: Path, student: Subject) -> None:
    judged = evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=SEES)
    body = read_signed_json(tmp_path / "s.json", "")
    assert body is not None
    del body["probes"]["knn"]["details"]["neighbours"]
    (tmp_path / "s.json").write_bytes(signed_json(body))
    again = evaluation(finished, tmp_path).judge("s", "abc", never, sees=SEES)
    assert equal(again, judged) and again.neighbours is None


def test_only_what_is_kept(finished: Path, tmp_path: Path, student: Subject) -> None:
    def kept(weights: str) -> Judgement:
        found = Evaluation(Store.open(finished / "store"), config(), tmp_path, Reporter(quiet=True), only_kept=True)
        return found.judge("s", weights, never, sees=SEES)

    with pytest.raises(UsageError, match=r"s is not judged yet: .*s\.json is not there; run `stillhouse eval` first"):
        kept("abc")
    evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=SEES)
    kept("abc")
    with pytest.raises(UsageError, match=r"s\.json is of other weights, images or settings"):
        kept("abd")


@pytest.mark.parametrize("change", ["weights", "probe", "split", "images"])
def test_it_is_judged_again_when_something_is_another(
    finished: Path, tmp_path: Path, student: Subject, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=SEES)
    chosen = {"probe": config(knn={"temperature": 0.1}), "split": config(train="test", test="train")}.get(change)
    if change == "images":
        monkeypatch.setattr(module, "content_digest", lambda objects: "other")
    again = evaluation(finished, tmp_path, chosen)
    again.judge("s", "abd" if change == "weights" else "abc", lambda: student, sees=SEES)
    assert again.num_judged == 1


@pytest.mark.parametrize("field", [{"metric": "mean_per_class"}, {"bootstrap": 300}, {"threads": 1}, {"pictures": 0}])
def test_it_is_not_judged_again_for_what_changes_no_score(
    finished: Path, tmp_path: Path, student: Subject, field: dict[str, object]
) -> None:
    evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=SEES)
    evaluation(finished, tmp_path, config(**field)).judge("s", "abc", never, sees=SEES)


def test_the_order_of_probes_is_that_of_the_report(finished: Path, tmp_path: Path, student: Subject) -> None:
    chosen = config(linear=None)
    fresh = evaluation(finished, tmp_path, chosen).judge("s", "abc", lambda: student, sees=SEES)
    stored = evaluation(finished, tmp_path, chosen).judge("s", "abc", never, sees=SEES)
    assert list(fresh.scores) == list(stored.scores) == ["knn", "logistic-dinov2"]
    assert [probe.name for probe in probes_of(chosen)] == ["knn", "logistic-dinov2"]
    assert len(probes_of(config())) == 3


def test_what_is_kept_cannot_be_changed_unnoticed(finished: Path, tmp_path: Path, student: Subject) -> None:
    judged = evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=SEES)
    path = tmp_path / "s.json"
    body = json.loads(path.read_text())
    body["probes"]["knn"]["scores"]["top1"] = 1.0
    path.write_text(json.dumps(body))
    reporter = Lines()
    assert equal(judge(evaluation(finished, tmp_path, reporter=reporter), never), judged)
    assert reporter.lines == [f"eval s: {path} does not match its own sha256; it is judged again"]


class Killed(Exception):
    pass


PROBES = {"knn": KnnProbe, "linear": LinearProbe, "logistic": LogisticProbe}


@pytest.mark.parametrize("before", PROBES)
def test_a_run_that_is_killed_goes_on_with_the_next_probe(
    finished: Path, tmp_path: Path, student: Subject, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """What was found stays found, and the encoder is not asked again."""
    whole = judge(evaluation(finished, tmp_path / "whole"), lambda: student)

    def die(*_: object) -> NoReturn:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(PROBES[before], "run", die)
        with pytest.raises(Killed):
            judge(evaluation(finished, tmp_path), lambda: student)
    through = list(PROBES)[: list(PROBES).index(before)]
    for name in through:
        monkeypatch.setattr(PROBES[name], "run", die)
    again = evaluation(finished, tmp_path)
    assert equal(judge(again, never), whole) and again.num_judged == 1
    assert (tmp_path / "s.json").read_bytes() == (tmp_path / "whole" / "s.json").read_bytes()


def test_a_probe_that_is_added_needs_no_encoder(finished: Path, tmp_path: Path, student: Subject) -> None:
    whole = judge(evaluation(finished, tmp_path / "whole"), lambda: student)
    reporter = Lines()
    few = evaluation(finished, tmp_path, config(linear=None, logistic=None), reporter)
    assert list(judge(few, lambda: student).scores) == ["knn"]
    assert [name for name, _ in reporter.events] == ["eval: images", "eval student: features", "eval s: knn"]
    reporter.events.clear()
    assert equal(judge(evaluation(finished, tmp_path, reporter=reporter), never), whole)
    assert [name for name, _ in reporter.events] == ["eval s: linear", "eval s: logistic-dinov2"]
    reporter.events.clear()
    assert list(judge(evaluation(finished, tmp_path, config(linear=None), reporter), never).scores) == [
        "knn",
        "logistic-dinov2",
    ]
    assert reporter.events == []


def test_progress_reaches_its_end(finished: Path, tmp_path: Path, student: Subject) -> None:
    """Every image, every query, every iteration of the heads twice, every C and the last fit."""
    reporter = Lines()
    one = evaluation(finished, tmp_path, reporter=reporter)
    judge(one, lambda: student)
    num = len(one.train.keys), len(one.test.keys)
    assert dict(reporter.events) == {
        "eval: images": sum(num),
        "eval student: features": sum(num),
        "eval s: knn": num[1],
        "eval s: linear": 2 * 5,
        "eval s: logistic-dinov2": 3 + 1,
    }


def test_damaged_features_are_told_of_and_made_again(finished: Path, tmp_path: Path, student: Subject) -> None:
    judged = judge(evaluation(finished, tmp_path), lambda: student)
    (tmp_path / "s.json").unlink()
    chunk = tmp_path / "features" / "s" / "train-cls-0" / "c" / "0" / "0"
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    reporter = Lines()
    asked: list[None] = []

    def load() -> Subject:
        asked.append(None)
        return student

    assert equal(judge(evaluation(finished, tmp_path, reporter=reporter), load), judged) and asked == [None]
    assert reporter.lines == [f"eval s: {chunk} is not what was written; its features are made again"]
    (tmp_path / "s.json").unlink()
    assert equal(judge(evaluation(finished, tmp_path), never), judged)


def test_features_that_are_deleted_cost_an_encoder_pass_and_no_more(
    finished: Path, tmp_path: Path, student: Subject
) -> None:
    judged = judge(evaluation(finished, tmp_path), lambda: student)
    shutil.rmtree(tmp_path / "features")
    assert equal(judge(evaluation(finished, tmp_path), never), judged)
    (tmp_path / "s.json").unlink()
    assert equal(judge(evaluation(finished, tmp_path), lambda: student), judged)


OF_CHEAP = "c0d4c56286a2c817"
"""Digest of CHEAP as earlier versions took it."""


def as_earlier(path: Path, digest: str) -> None:
    """Make of a file what earlier versions would have written."""
    body = json.loads(path.read_text())
    identity = {key: body["identity"][key] for key in ("weights", "images_sha256")}
    probes = {name: {key: found[key] for key in found if key != "config"} for name, found in body["probes"].items()}
    path.write_bytes(signed_json({"identity": {**identity, "config": digest}, "probes": probes}))


def test_what_earlier_versions_kept_is_used(finished: Path, tmp_path: Path, student: Subject) -> None:
    judged, path = judge(evaluation(finished, tmp_path), lambda: student), tmp_path / "s.json"
    now = path.read_bytes()
    as_earlier(path, OF_CHEAP)
    shutil.rmtree(tmp_path / "features")
    reporter = Lines()
    assert equal(judge(evaluation(finished, tmp_path, reporter=reporter), never), judged)
    assert reporter.lines == [] and path.read_bytes() == now


def test_what_earlier_versions_kept_of_something_else_is_told_of(
    finished: Path, tmp_path: Path, student: Subject
) -> None:
    judged, path = judge(evaluation(finished, tmp_path), lambda: student), tmp_path / "s.json"
    as_earlier(path, "0" * 16)
    reporter = Lines()
    assert equal(judge(evaluation(finished, tmp_path, reporter=reporter), never), judged)
    why = "was kept by an earlier version, of other settings, images or weights"
    assert reporter.lines == [f"eval s: {path} {why}; it is judged again"]


def test_a_subject_that_sees_otherwise_is_refused(finished: Path, tmp_path: Path, student: Subject) -> None:
    other = SEES.model_copy(update={"mean": (0.4, 0.4, 0.4)})
    with pytest.raises(SpecMismatchError, match=r"sees pixels as .*mean=\(0.5, 0.5, 0.5\).*judged as .*\(0.4"):
        evaluation(finished, tmp_path).judge("s", "abc", lambda: student, sees=other)


def test_configs_that_judge_nothing() -> None:
    with pytest.raises(UsageError, match="knn, linear and logistic are all null and there are no tasks"):
        parse_config(EvalConfig, {"knn": None, "linear": None, "logistic": None}, where="x")
    with pytest.raises(UsageError, match="train and test are one split, 'test'"):
        parse_config(EvalConfig, {"train": "test"}, where="x")
