"""Robustness sets: restricted predictions, and errors by corruption, against what can be computed by hand."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import CorruptError, MissingError, UsageError
from stillhouse.eval.knn import KnnConfig, KnnProbe
from stillhouse.eval.linear import LinearConfig, LinearProbe
from stillhouse.eval.tasks import robustness
from stillhouse.eval.tasks.encode import Transform
from stillhouse.eval.tasks.features import encode_parts, labelled
from stillhouse.eval.tasks.robustness import ALEXNET, RobustnessConfig, RobustnessTask, restricted
from stillhouse.eval.tasks.run import TaskRuns
from stillhouse.eval.tasks.sets.folders import tree_part
from stillhouse.eval.tasks.sets.testing import make_folders
from stillhouse.eval.tasks.testing import quiet_context, tiny_cnn

CONTEXT, CNN = quiet_context(), tiny_cnn()

WNIDS = ("n01", "n02", "n03", "n04")


@pytest.fixture(autouse=True)
def _small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, num in (("imagenet_a", 2), ("imagenet_r", 2), ("imagenet_sketch", 4), ("imagenet_c", 4)):
        monkeypatch.setitem(robustness.CLASSES, name, num)


def task(root: Path, **fields: Any) -> RobustnessTask:
    made = {"path": str(root), "train": str(root / "train"), "size": 28, **fields}
    return RobustnessTask(parse_config(RobustnessConfig, made, where="task"))


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    make_folders(tmp_path, {"train": 5, "sketch": 3}, WNIDS)
    for name in ("imagenet-a", "imagenet-r"):
        make_folders(tmp_path, {name: 4}, WNIDS)
        for wnid in ("n01", "n03"):
            shutil.rmtree(tmp_path / name / wnid)
    (tmp_path / "imagenet-a" / "README.txt").write_text("read me")
    return tmp_path


@pytest.mark.parametrize("probe", [{"name": "knn", "ks": [6], "report_k": 6}, {"name": "linear", "iterations": 20}])
def test_predictions_are_of_the_classes_of_the_set(imagenet: Path, probe: dict[str, Any]) -> None:
    judged = task(imagenet, set="imagenet_a", probe=probe)
    result = judged.run(CNN, CONTEXT)
    parts = [tree_part(imagenet / name, WNIDS) for name in ("train", "imagenet-a")]
    encoded = encode_parts(CNN, parts, Transform(32, 28, "imagenet"), CONTEXT, num_blocks=4)
    train, test = (labelled(each, part.labels, 4) for each, part in zip(encoded, parts, strict=True))
    scores = np.asarray(
        KnnProbe(KnnConfig(ks=(6,), report_k=6)).fit(train).scores(test)
        if probe["name"] == "knn"
        else LinearProbe(LinearConfig(iterations=20)).fit(train).scores(test)
    )
    expected = [(1, 3)[int(row[3] > row[1])] for row in scores]
    assert result.items_NK[:, 0].tolist() == expected
    assert result.items_NK[:, 1].tolist() == [1] * 4 + [3] * 4
    assert judged.score(result.items_NK) == np.mean(np.array(expected) == parts[1].labels)
    assert judged.metric.name == "accuracy" and judged.name == f"imagenet-a-{probe['name']}"
    assert result.details == {"classes": 2, "images": 8}


def test_restriction() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.3], [0.0, 0.0, 1.0]])
    assert restricted(scores, np.array([1, 2])).tolist() == [1, 1, 2]
    assert restricted(scores, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_all_classes_of_sketch(imagenet: Path) -> None:
    judged = task(imagenet, set="imagenet_sketch")
    result = judged.run(CNN, CONTEXT)
    assert result.items_NK.shape == (12, 2) and set(result.items_NK[:, 1]) == {0, 1, 2, 3}
    assert judged.identity() == task(imagenet, set="imagenet_sketch", name="x").identity()


def test_half_unpacked(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "imagenet-r" / "n02")
    with pytest.raises(MissingError, match=r"/imagenet-r has 1 of 2 class folders"):
        task(imagenet, set="imagenet_r").run(CNN, CONTEXT)
    shutil.rmtree(imagenet / "train" / "n04")
    with pytest.raises(CorruptError, match=r"/imagenet-a/n04 is none of the 3 classes"):
        task(imagenet, set="imagenet_a").run(CNN, CONTEXT)
    with pytest.raises(MissingError, match=r"/gaussian_noise is not there: ImageNet-C needs .*/gaussian_noise/1"):
        task(imagenet, set="imagenet_c").identity()


def test_errors_of_imagenet_c(imagenet: Path) -> None:
    """Images that are the 28 x 28 middle already are taken as they are; the score is a plain mean of errors."""
    conditions = [("fog", "1"), ("fog", "3"), ("snow", "1"), ("snow", "3")]
    for number, condition in enumerate(conditions):
        make_folders(imagenet / "imagenet-c" / "/".join(condition), {"here": 2}, WNIDS[number:] + WNIDS[:number])
        for wnid in WNIDS:  # colours and names disagree in all but the first condition
            (imagenet / "imagenet-c" / "/".join(condition) / "here" / wnid).rename(
                imagenet / "imagenet-c" / "/".join(condition) / wnid
            )
        (imagenet / "imagenet-c" / "/".join(condition) / "here").rmdir()
    fields = {"set": "imagenet_c", "corruptions": ["fog", "snow"], "severities": [1, 3]}
    judged = task(imagenet, **fields, probe={"name": "knn", "ks": [3], "report_k": 3})
    result = judged.run(CNN, CONTEXT)
    parts = [tree_part(imagenet / "train", WNIDS)]
    parts += [tree_part(imagenet / "imagenet-c" / "/".join(each), WNIDS) for each in conditions]
    (train,) = encode_parts(CNN, parts[:1], Transform(32, 28, "imagenet"), CONTEXT)
    classifier = KnnProbe(KnnConfig(ks=(3,), report_k=3)).fit(labelled(train, parts[0].labels, 4))
    columns = []
    for part in parts[1:]:
        (encoded,) = encode_parts(CNN, [part], Transform(28, 28, "imagenet"), CONTEXT)
        columns.append(classifier.scores(labelled(encoded, part.labels, 4)).argmax(axis=1) != part.labels)
    assert np.array_equal(result.items_NK, np.stack(columns, axis=1))
    means = np.mean(columns, axis=1)
    assert len(set(means.tolist())) > 1
    assert judged.score(result.items_NK) == pytest.approx(means.mean())
    errors = {"fog": means[:2].mean(), "snow": means[2:].mean()}
    assert result.details["error_by_corruption"] == pytest.approx(errors)
    assert result.details["error_by_condition"]["snow/1"] == means[2]
    assert result.details["score"] == "plain mean error, not mCE"
    assert judged.metric.name == "mean error" and not judged.metric.higher_is_better
    (imagenet / "imagenet-c" / "snow" / "3" / "n02" / "1.png").unlink()
    with pytest.raises(MissingError, match=r"/snow/3 has other images \(7\) than .*/fog/1 \(8\)"):
        judged.run(CNN, CONTEXT)


def test_mean_corruption_error(tmp_path: Path) -> None:
    """AlexNet itself has mCE 1, a classifier that is always wrong the mean of 1 / its errors."""
    judged = task(tmp_path, set="imagenet_c")
    assert (judged.metric.name, len(ALEXNET)) == ("mCE", 15)
    as_alexnet = np.repeat([list(ALEXNET.values())], 5, axis=1)
    assert judged.score(as_alexnet) == pytest.approx(1)
    assert judged.score(np.ones((2, 75))) == pytest.approx(np.mean([1 / error for error in ALEXNET.values()]))
    half = np.zeros((2, 75))
    half[0, :5] = half[1, :5] = 1  # all severities of gaussian noise
    assert judged.score(half) == pytest.approx(1 / 0.886428 / 15)
    assert task(tmp_path, set="imagenet_c", severities=[1, 2]).metric.name == "mean error"


def test_a_head_cannot_be_chosen_on_these_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the head is chosen on training images held out; set holdout"):
        task(tmp_path, set="imagenet_a", probe={"name": "linear", "selection": "test"})


def test_what_is_found_can_be_kept(imagenet: Path, tmp_path: Path) -> None:
    """JSON and arrays, read again and not judged again."""
    runs = TaskRuns(tmp_path / "results", CONTEXT)
    judged = task(imagenet, set="imagenet_a", probe={"name": "linear", "iterations": 5})
    first = runs.judge(judged, "tiny", "w", lambda: CNN)
    second = runs.judge(judged, "tiny", "w", lambda: CNN)
    assert runs.num_judged == 1 and (first.score, first.result.chosen) == (second.score, second.result.chosen)
    assert np.array_equal(first.result.items_NK, second.result.items_NK)
