"""Logistic regression on sets on disk, against scikit-learn on features that are computed here."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from stillhouse.core.errors import UsageError
from stillhouse.eval.metrics import mean_per_class, top1
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.base import Task
from stillhouse.eval.tasks.fine_grained import FineGrainedConfig, FineGrainedTask
from stillhouse.eval.tasks.run import TaskRuns
from stillhouse.eval.tasks.sets import SETS, SetName
from stillhouse.eval.tasks.sets.base import Part, Picture, read_picture
from stillhouse.eval.tasks.sets.holdout import dinov2_holdout, proteus_holdout
from stillhouse.eval.tasks.sets.testing import MAKERS, make_folders
from stillhouse.eval.tasks.testing import quiet_context, tiny_cnn, tiny_vit

CONTEXT, CNN, VIT = quiet_context(), tiny_cnn(), tiny_vit()

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def grid_of(preset: str, num: int) -> np.ndarray:
    """Values of C, rising."""
    return 10.0 ** np.linspace(-6, 5, num) if preset == "dinov2" else 1 / np.logspace(-6, 5, num)[::-1]


def task(data: SetName, root: Path, **fields: Any) -> FineGrainedTask:
    made: dict[str, Any] = {"set": data, "path": str(root), "size": 32, "num_c": 5, **fields}
    return FineGrainedTask(FineGrainedConfig.model_validate(made))


def features(subject: Subject, pictures: tuple[Picture, ...], statistics: Any) -> np.ndarray:
    """cls float64 [N, D] of the shorter side resized to 32 and the middle cut, by other code than the tasks'."""
    found = []
    for picture in pictures:
        image = read_picture(picture)
        scale = 32 / min(image.size)
        width, height = (int(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - 32) / 2), round((height - 32) / 2)
        pixels = np.asarray(image)[top : top + 32, left : left + 32] / 255
        x = (pixels - statistics[0]) / statistics[1]
        with torch.inference_mode():
            found.append(subject.encoder(torch.from_numpy(x.transpose(2, 0, 1)[None]).float()).cls_BD[0].numpy())
    return np.array(found, np.float64)


def standardised(fit: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    return [(each - fit.mean(axis=0)) / fit.std(axis=0) for each in (fit, *others)]


def sklearn_fit(feats: np.ndarray, targets: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():  # at the large end of the grid its last steps are below what float64 can tell apart
        warnings.filterwarnings("ignore", "(?i).*line search", Warning)
        return LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(feats, targets)


def rest(num: int, held: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(num), held)


METRICS: dict[str, Callable[[Any, Any], float]] = {"top1": top1, "mean_per_class": mean_per_class}


@pytest.mark.parametrize("preset", ["dinov2", "proteus"])
@pytest.mark.parametrize("name", ["pets", "dtd"])
def test_against_scikit_learn(tmp_path: Path, name: SetName, preset: str) -> None:
    """Pets have no validation part, so one is held out by the preset's rule; DTD has one."""
    MAKERS[name](tmp_path)
    judged = task(name, tmp_path, preset=preset)
    result = judged.run(VIT, CONTEXT)
    data = SETS[name].read(tmp_path)
    statistics = {"dinov2": IMAGENET, "proteus": CLIP}[preset]
    train, test = (features(VIT, part.pictures, statistics) for part in (data.trainval, data.test))
    labels = data.trainval.labels
    if data.val is None:
        held = {"dinov2": dinov2_holdout, "proteus": proteus_holdout}[preset](len(labels))
    else:
        held = np.arange(len(data.train), len(labels))
    fit = rest(len(labels), held)
    inputs = [train[fit], train[held]] if preset == "dinov2" else standardised(train[fit], train[held])
    metric, grid = METRICS[SETS[name].metric], grid_of(preset, 5)
    scores = [metric(sklearn_fit(inputs[0], labels[fit], c).predict(inputs[1]), labels[held]) for c in grid]
    best = scores.index(max(scores)) if preset == "dinov2" else len(scores) - 1 - scores[::-1].index(max(scores))
    assert result.chosen["c"] == pytest.approx(grid[best])
    assert result.details[f"selection_{SETS[name].metric}"] == pytest.approx(scores)
    finals = [train, test] if preset == "dinov2" else standardised(train, test)
    predictions = sklearn_fit(finals[0], labels, grid[best]).predict(finals[1])
    assert np.array_equal(result.items_NK, np.stack([predictions, data.test.labels], axis=1))
    assert judged.score(result.items_NK) == metric(predictions, data.test.labels)
    assert len(result.examples) == 6 and result.examples[0].panels[0][1].shape == (32, 32, 3)


def published_ap(targets: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(targets, scores)
    return sum(float(np.max(precision[recall >= t])) / 11 for t in np.linspace(0, 1, 11))


@pytest.mark.parametrize("preset", ["dinov2", "proteus"])
def test_voc_against_scikit_learn(tmp_path: Path, preset: str) -> None:
    MAKERS["voc2007"](tmp_path)
    judged = task("voc2007", tmp_path, preset=preset, num_c=3)
    result = judged.run(VIT, CONTEXT)
    data = SETS["voc2007"].read(tmp_path)
    assert data.val is not None
    statistics = {"dinov2": IMAGENET, "proteus": CLIP}[preset]
    parts = [features(VIT, part.pictures, statistics) for part in (data.train, data.val, data.trainval, data.test)]
    fit, held, train, test = parts
    if preset == "proteus":
        (fit, held), (train, test) = standardised(fit, held), standardised(train, test)

    def decisions(inputs: np.ndarray, part: Part, others: np.ndarray, c: float) -> np.ndarray:
        fits = [sklearn_fit(inputs, part.labels[:, label], c) for label in range(20)]
        return np.stack([each.decision_function(others) for each in fits], axis=1)

    grid = grid_of(preset, 3)
    maps = []
    for c in grid:
        scores = decisions(fit, data.train, held, c)
        maps.append(np.mean([published_ap(data.val.labels[:, k], scores[:, k]) for k in range(20)]))
    np.testing.assert_allclose(result.details["selection_map11"][:2], maps[:2], atol=1e-6)
    chosen = int(np.argmin(np.abs(np.log(grid) - np.log(result.chosen["c"]))))
    found = result.details["selection_map11"]
    assert found[chosen] == max(found)
    assert result.items_NK.shape == (24, 40)
    assert np.array_equal(result.items_NK[:, 20:], data.test.labels)
    scores = decisions(train, data.trainval, test, grid[chosen])
    np.testing.assert_allclose(result.items_NK[:, :20], scores, atol=1e-6, rtol=1e-4)
    expected = np.mean([published_ap(data.test.labels[:, k], result.items_NK[:, k]) for k in range(20)])
    assert judged.score(result.items_NK) == pytest.approx(expected, abs=1e-12)
    assert 0 <= result.details["map11_without_origin"] <= judged.score(result.items_NK)
    assert judged.metric.name == "11-point mAP"


def test_voc_needs_images_of_every_class(tmp_path: Path) -> None:
    MAKERS["voc2007"](tmp_path)
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "bird_train.txt").write_text((lists / "bird_train.txt").read_text().replace("  1", " -1"))
    with pytest.raises(UsageError, match="class number 2 is shown by none of 24 images to fit"):
        task("voc2007", tmp_path).run(VIT, CONTEXT)


def test_the_same_run_twice(tmp_path: Path) -> None:
    MAKERS["dtd"](tmp_path)
    judged: Task = task("dtd", tmp_path)
    first, second = judged.run(VIT, CONTEXT), judged.run(VIT, CONTEXT)
    assert np.array_equal(first.items_NK, second.items_NK) and first.chosen == second.chosen
    identity = judged.identity()
    assert identity == task("dtd", tmp_path, name="other").identity()
    assert identity != task("dtd", tmp_path, preset="proteus").identity()
    labels = tmp_path / "dtd" / "labels" / "test1.txt"
    labels.write_text("".join(reversed(labels.read_text().splitlines(keepends=True))))
    assert identity != judged.identity()


def test_names_metrics_and_settings(tmp_path: Path) -> None:
    assert task("pets", tmp_path, preset="proteus").name == "pets-logistic-proteus"
    assert task("pets", tmp_path, name="mine").name == "mine"
    assert task("pets", tmp_path).metric.name == "mean per class"
    assert task("cars", tmp_path).metric.name == "accuracy"
    config = FineGrainedConfig(set="cub", path="x")
    assert (config.size, config.num_c, config.max_iter, config.statistics) == (224, 45, 1000, None)
    with pytest.raises(ValidationError):
        FineGrainedConfig.model_validate({"set": "mnist", "path": "x"})
    make_folders(tmp_path, {"train": 8, "val": 2})
    own = task("folders", tmp_path, statistics="subject", size=None).run(CNN, CONTEXT)
    half = task("folders", tmp_path, statistics="half").run(CNN, CONTEXT)
    other = task("folders", tmp_path).run(CNN, CONTEXT)
    assert np.array_equal(own.items_NK, half.items_NK) and own.details == half.details
    assert own.details != other.details


def test_pictures_drawn_twice_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillhouse.eval.tasks import features as module
    from stillhouse.eval.tasks.encode import Transform, encode_pixels

    make_folders(tmp_path, {"train": 2, "val": 1})
    data = SETS["folders"].read(tmp_path)
    again = Part((*data.train.pictures, *data.train.pictures[:3]), np.concatenate([data.train.labels, [0, 0, 1]]))
    seen: list[int] = []

    def spy(subject: Subject, sources: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(sources))
        return encode_pixels(subject, sources, *args, **kwargs)

    monkeypatch.setattr(module, "encode_pixels", spy)
    twice, test = module.encode_parts(VIT, [again, data.test], Transform(32, 32), CONTEXT)
    assert seen == [9]
    assert np.array_equal(twice.cls[6:], twice.cls[:3]) and twice.patch_mean.shape == (9, 48)
    (alone,) = module.encode_parts(VIT, [data.test], Transform(32, 32), CONTEXT)
    np.testing.assert_allclose(alone.cls, test.cls, atol=1e-5)


@pytest.mark.parametrize("data", ["dtd", "voc2007"])
def test_what_is_found_can_be_kept(tmp_path: Path, data: SetName) -> None:
    """JSON and arrays, read again and not judged again."""
    MAKERS[data](tmp_path / "data")
    runs, judged = TaskRuns(tmp_path / "results", CONTEXT), task(data, tmp_path / "data", num_c=2)
    first, second = (runs.judge(judged, "tiny", "w", lambda: VIT) for _ in range(2))
    assert runs.num_judged == 1 and first.score == second.score
    assert (first.result.chosen, first.result.details) == (second.result.chosen, second.result.details)
