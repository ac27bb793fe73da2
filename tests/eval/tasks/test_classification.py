"""kNN and the linear probe on sets on disk."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from stillhouse.core.config import parse_config
from stillhouse.core.errors import MissingError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.knn import KnnConfig
from stillhouse.eval.linear import LinearConfig, LinearProbe
from stillhouse.eval.tasks.base import Task
from stillhouse.eval.tasks.classification import ClassificationConfig, ClassificationTask
from stillhouse.eval.tasks.encode import Transform
from stillhouse.eval.tasks.features import encode_parts, labelled
from stillhouse.eval.tasks.sets import SETS
from stillhouse.eval.tasks.sets.testing import MAKERS, make_folders
from stillhouse.eval.tasks.testing import quiet_context, tiny_cnn, tiny_vit

CONTEXT, CNN, VIT = quiet_context(), tiny_cnn(), tiny_vit()

LINEAR = {"name": "linear", "iterations": 30, "batch": 8}


def task(path: Path, probe: dict[str, Any], **fields: Any) -> ClassificationTask:
    made = {"path": str(path), "probe": probe, "size": 28, **fields}
    return ClassificationTask(parse_config(ClassificationConfig, made, where="task"))


def test_knn_by_hand(tmp_path: Path) -> None:
    """Shorter side 32 (28 * 256 / 224), middle 28, ImageNet's statistics, cosine neighbours."""
    make_folders(tmp_path, {"train": 5, "val": 4})
    judged: Task = task(tmp_path, {"name": "knn", "ks": [3, 7], "report_k": 7})
    result = judged.run(CNN, CONTEXT)
    data = SETS["folders"].read(tmp_path)
    train, test = encode_parts(CNN, [data.train, data.test], Transform(32, 28, "imagenet"), CONTEXT)
    unit, query = (each.cls / np.linalg.norm(each.cls, axis=1, keepdims=True) for each in (train, test))
    expected = []
    for row in query @ unit.T:
        nearest = np.argsort(-row, kind="stable")[:7]
        expected.append(np.bincount(data.train.labels[nearest], np.exp(row[nearest] / 0.07), 3).argmax())
    assert result.items_NK.tolist() == [[float(a), float(b)] for a, b in zip(expected, data.test.labels, strict=True)]
    assert judged.score(result.items_NK) == result.details["top1"] == np.mean(np.array(expected) == data.test.labels)
    assert (judged.name, judged.metric.name) == ("folders-knn", "accuracy")
    assert judged.identity() != task(tmp_path, {"name": "knn", "ks": [7], "report_k": 7}).identity()


def test_linear_reads_four_blocks_and_chooses_on_the_official_part(tmp_path: Path) -> None:
    MAKERS["dtd"](tmp_path)
    judged = task(tmp_path, LINEAR, set="dtd", size=32)
    result = judged.run(VIT, CONTEXT)
    data = SETS["dtd"].read(tmp_path)
    parts = (data.trainval, data.test)
    encoded = encode_parts(VIT, parts, Transform(37, 32, "imagenet"), CONTEXT, num_blocks=4)
    train, test = (labelled(each, part.labels, 3) for each, part in zip(encoded, parts, strict=True))
    assert len(train.blocks) == 4
    config = LinearConfig(iterations=30, batch=8)
    expected = LinearProbe(config).run(train, test, held=np.arange(6, 12))
    assert np.array_equal(result.items_NK[:, 0], expected.predictions)
    assert result.chosen == expected.chosen and "best of 52 heads" in result.chosen["selection"]
    assert result.details["selection_top1"] == expected.details["selection_top1"]
    assert judged.name == "dtd-linear"


def test_the_metric_is_that_of_the_set(tmp_path: Path) -> None:
    MAKERS["pets"](tmp_path)
    judged = task(tmp_path, {"name": "knn"}, set="pets")
    result = judged.run(CNN, CONTEXT)
    assert judged.metric.name == "mean per class"
    assert judged.score(result.items_NK) == result.details["mean_per_class"]
    uneven = np.array([[0.0, 0], [1, 0], [1, 0], [1, 1]])
    assert judged.score(uneven) == pytest.approx((1 / 3 + 1) / 2)
    assert task(tmp_path, {"name": "knn"}, set="cars").score(uneven) == 0.5


def test_settings(tmp_path: Path) -> None:
    config = ClassificationConfig(path="x")
    assert (config.set, config.size, config.statistics, config.probe) == ("folders", 224, "imagenet", KnnConfig())
    with pytest.raises(UsageError, match=r"an image of voc2007 shows several classes; use kind: fine_grained"):
        task(tmp_path, {"name": "knn"}, set="voc2007")
    with pytest.raises(ValidationError):
        ClassificationConfig.model_validate({"path": "x", "probe": {"name": "forest"}})
    with pytest.raises(MissingError, match="train is not there"):
        task(tmp_path, {"name": "knn"}).identity()


def test_another_size_than_the_encoders_own(tmp_path: Path) -> None:
    """A ViT of 32 pixels is judged at 48, and told of; `size: null` is its own."""
    make_folders(tmp_path, {"train": 3, "val": 2})
    said = io.StringIO()
    context = replace(CONTEXT, reporter=Reporter(console=Console(file=said)))
    larger = task(tmp_path, {"name": "knn"}, size=48).run(VIT, context)
    assert "eval tiny: at 48 pixels, positions for 6 x 6 patches from" in said.getvalue()
    assert larger.examples[0].panels[0][1].shape == (48, 48, 3)
    own = task(tmp_path, {"name": "knn"}, size=None).run(VIT, CONTEXT)
    same = task(tmp_path, {"name": "knn"}, size=32).run(VIT, CONTEXT)
    assert np.array_equal(own.items_NK, same.items_NK) and VIT.encoder.model.pos_embed.shape[1] == 17
    with pytest.raises(UsageError, match="set `size` to 48"):
        task(tmp_path, {"name": "knn"}, size=50).run(VIT, CONTEXT)
