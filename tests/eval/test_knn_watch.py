"""The probe of a student in training: which images it looks by, and what it says."""

from pathlib import Path

import pytest

from stillhouse.core.errors import UsageError
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import labelled_rows
from stillhouse.eval.run import probes_of
from stillhouse.eval.subjects import Subject, exported_student
from stillhouse.eval.watch import KnnWatch
from stillhouse.storage.store import Store


def config(images: int = 20, **fields: object) -> EvalConfig:
    return EvalConfig.model_validate({"device": "cpu", "watch": {"steps": 7, "images": images}} | fields)


@pytest.fixture(scope="module")
def store(finished: Path) -> Store:
    return Store.open(finished / "store")


@pytest.fixture(scope="module")
def student(finished: Path) -> Subject:
    return exported_student(finished / "students" / "student-seed0" / "student", "student")


def test_images_are_a_fixed_draw_that_leaves_the_test_split_alone(store: Store) -> None:
    train = set(labelled_rows(store, "train").keys)
    bank, judged = KnnWatch(store, config()).parts
    assert (len(bank.keys), len(judged.keys)) == (15, 5)
    assert not set(bank.keys) & set(judged.keys) and set(bank.keys) | set(judged.keys) < train
    again = KnnWatch(store, config()).parts
    assert (again[0].keys, again[1].keys) == (bank.keys, judged.keys)
    assert KnnWatch(store, config(seed=1)).parts[1].keys != judged.keys
    everything = KnnWatch(store, config(images=2000)).parts
    assert set(everything[0].keys) | set(everything[1].keys) == train


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_a_look_is_the_knn_probe_of_these_images(store: Store, student: Subject, metric: str) -> None:
    watch = KnnWatch(store, config(images=2000, metric=metric))
    found = watch.look(student.encoder, student.preprocessing)
    assert watch.steps == 7 and list(found) == ["knn", "noise", "fitted", "judged"]
    assert (found["fitted"], found["judged"]) == tuple(len(part.keys) for part in watch.parts)
    assert 0 <= found["knn"] <= 1 and 0.05 < found["noise"] < 0.3
    assert found == watch.look(student.encoder, student.preprocessing)


def test_looks_by_other_images_are_not_compared(store: Store) -> None:
    watch = KnnWatch(store, config())
    scores = (0.9, 0.5, 0.4, 0.4, 0.4)
    lines = [
        {"step": n, "loss": 1 - 0.1 * n, "knn": score, "noise": 0.01, "fitted": 15, "judged": 5}
        for n, score in enumerate(scores)
    ]
    told = watch.warning(lines)
    assert told is not None and "at step 0 it was 0.900" in told
    assert watch.warning([{**lines[0], "judged": 6}, *lines[1:]]) != told
    assert watch.warning([*({**line, "fitted": 9} for line in lines[:3]), *lines[3:]]) is None


def test_too_few_labels_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labelled_rows(store, "train")
    few = type(rows)(rows.at[:3], rows.keys[:3], rows.labels_N[:3])
    monkeypatch.setattr("stillhouse.eval.watch.labelled_rows", lambda store, split: few)
    with pytest.raises(UsageError, match=r"eval.watch has 3 labelled images of store .* to look by"):
        _ = KnnWatch(store, config()).parts


def test_watching_is_off_unless_asked_for_and_no_probe_of_the_report() -> None:
    assert EvalConfig().watch is None
    assert [probe.name for probe in probes_of(config())] == [probe.name for probe in probes_of(EvalConfig())]
