"""Teachers from the store: what is read, that it equals the live teacher, and that it needs nothing else."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval import features as features_module
from stillhouse.eval import stored as module
from stillhouse.eval.config import EvalConfig, StoredConfig
from stillhouse.eval.features import classes_of, labelled_rows
from stillhouse.eval.linear_heads import wide_features
from stillhouse.eval.probe import Features
from stillhouse.eval.run import probes_of
from stillhouse.eval.stored import (
    StoredEvaluation,
    levels_read,
    live_features,
    stored_features,
    stored_parts,
)
from stillhouse.eval.subjects import Subject, teacher_subject
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.testing import TINY_VIEWS, TINY_VIT_ARGS, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage.specs import LevelSpec
from stillhouse.storage.store import Store

CHEAP = {"linear": {"iterations": 20, "learning_rates": [0.01, 0.1]}, "logistic": {"num_c": 3}, "device": "cpu"}
CONFIG = EvalConfig.model_validate(CHEAP | {"stored": {"view": 1, "test": 0.4}})
BLOCKS = ("cls-block1-normed", "cls-block2-normed", "cls-block3-normed")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TeacherConfig]:
    """Two of the same weights in two codecs, and one of four blocks, all of which are stored."""
    folder = tmp_path_factory.mktemp("weights")
    deep = {**TINY_VIT_ARGS, "depth": 4, "img_size": 32}
    return {
        "half": tiny_teacher(folder, "half"),
        "lossy": tiny_teacher(folder, "lossy", codec={"cls": "int4", "patch": "klt:1"}),
        "deep": tiny_teacher(folder, "deep", seed=3, model_args=deep, levels=(*BLOCKS, "cls")),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, teachers: dict[str, TeacherConfig]) -> Store:
    """Sixty images, two of them without a label, one of them bad; three teachers."""
    folder = tmp_path_factory.mktemp("stored")
    images = tiny_images(folder / "images", 60)
    (images / "a" / "0000.png").write_bytes(b"no image")
    for path in list((images / "c").iterdir())[:2]:
        path.rename(images / path.name)
    ingest(folder / "store", tiny_ingest(images, split={"test": 0.2}), TINY_VIEWS, Reporter(quiet=True))
    store = Store.open(folder / "store")
    for teacher in teachers.values():
        extract(store, teacher, ExtractConfig(device="cpu"), Reporter(quiet=True))
    return store


def live(store: Store, config: TeacherConfig) -> Subject:
    return teacher_subject(config, store.teacher(config.name))


def both(store: Store, config: TeacherConfig, view: int) -> tuple[Features, Features]:
    """What the store holds of all labelled training images, and what the teacher says of them now."""
    rows, num = labelled_rows(store, "train"), len(classes_of(store))
    stored = stored_features(store, config.name, view, rows, num)
    return stored, live_features(live(store, config), store, view, rows, num, CONFIG, len(stored.blocks))


def nmse(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Squared error over the variance about the mean."""
    return float(((found - expected) ** 2).sum() / ((expected - expected.mean(axis=0)) ** 2).sum())


# --- equal to the live teacher ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [0, 1])
def test_half_floats_are_the_teachers_rounded(store: Store, teachers: dict[str, TeacherConfig], view: int) -> None:
    """To half a unit in the last of eleven bits; batches of other sizes differ by some 1e-6 before that."""
    stored, alive = both(store, teachers["half"], view)
    np.testing.assert_array_equal(stored.labels, alive.labels)
    assert len(stored.blocks) == len(alive.blocks) == 1
    np.testing.assert_allclose(stored.cls, alive.cls, rtol=2**-11, atol=1e-5)
    np.testing.assert_allclose(stored.patch_mean, alive.patch_mean, rtol=2**-11, atol=2**-11 * 4)


def test_another_view_is_another(store: Store, teachers: dict[str, TeacherConfig]) -> None:
    """What the equality above would not see if views were taken for each other."""
    one, other = both(store, teachers["half"], 0)[0], both(store, teachers["half"], 1)[1]
    assert nmse(one.cls, other.cls) > 0.01


def test_four_stored_blocks_are_the_teachers_last_four(store: Store, teachers: dict[str, TeacherConfig]) -> None:
    stored, alive = both(store, teachers["deep"], 0)
    assert len(stored.blocks) == len(alive.blocks) == 4
    for one, other in zip(stored.blocks, alive.blocks, strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-11, atol=1e-5)
    assert stored.patch_mean.shape == (len(stored), 0)
    assert [layout.name for layout in wide_features(stored)[1]] == ["cls1", "cls4"]


def test_a_lossy_codec_errs_by_its_own_error(store: Store, teachers: dict[str, TeacherConfig]) -> None:
    """By what encoding the live tokens anew and decoding them costs; the mean of patches errs less than the patches."""
    stored, alive = both(store, teachers["lossy"], 0)
    codec = store.codec("lossy", "cls")
    own = nmse(codec.decode(codec.encode(alive.cls[:, None]))[:, 0], alive.cls)
    assert own > 1e-3
    assert nmse(stored.cls, alive.cls) == pytest.approx(own, rel=0.02)
    tokens, kept = list[np.ndarray[Any, Any]](), list[np.ndarray[Any, Any]]()
    for block in store.plan.blocks_of("train"):
        for teacher, found in (("half", tokens), ("lossy", kept)):
            found.append(store.codec(teacher, "patch").decode(store.features(teacher, "patch").read(0, block)))
    of_patches = nmse(np.concatenate(kept).reshape(-1, 48), np.concatenate(tokens).reshape(-1, 48))
    assert 0.01 * of_patches < nmse(stored.patch_mean, alive.patch_mean) < of_patches


def test_scores_are_those_of_the_live_teacher(store: Store, teachers: dict[str, TeacherConfig], tmp_path: Path) -> None:
    judged = StoredEvaluation(store, CONFIG, tmp_path, Reporter(quiet=True)).judge("half")
    assert CONFIG.stored is not None
    fit, test = (
        live_features(live(store, teachers["half"]), store, 1, part, 3, CONFIG)
        for part in stored_parts(store, CONFIG.stored)
    )
    for probe in probes_of(CONFIG):
        result = probe.run(fit, test)
        assert judged.scores[probe.name] == result.scores
        np.testing.assert_array_equal(judged.predictions[probe.name], result.predictions)


# --- what is needed --------------------------------------------------------------------------------------------------


def test_neither_images_nor_weights_nor_network_are_needed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "store"
    shutil.copytree(store.root, copied)
    shutil.rmtree(copied / "images")

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("not needed")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("decode", "render", "encode_images"):
        monkeypatch.setattr(features_module, name, refuse)
    monkeypatch.setattr("timm.create_model", refuse)
    found = StoredEvaluation(Store.open(copied), CONFIG, tmp_path, Reporter(quiet=True)).judge_all()
    assert [teacher.name for teacher in found.teachers] == ["deep", "half", "lossy"]
    assert found.num_fitted + found.num_judged == len(labelled_rows(store, "train").keys)


def test_what_was_found_is_kept_and_read_no_more(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = StoredEvaluation(store, CONFIG, tmp_path, Reporter(quiet=True))
    judged = first.judge("half")
    assert first.num_judged == 1
    body = json.loads((tmp_path / "stored-half.json").read_text())["identity"]
    assert body["weights"] == store.teacher("half").weights_sha256
    assert body["parts"] == {"split": "train", "view": 1, "test": 0.4, "seed": 0} and body["levels"] == ["cls", "patch"]
    assert (body["num_fitted"], body["num_judged"]) == tuple(len(part.keys) for part in first.parts)
    monkeypatch.setattr(module, "stored_features", None)
    second = StoredEvaluation(store, CONFIG, tmp_path, Reporter(quiet=True))
    assert second.judge("half").scores == judged.scores and second.num_judged == 0
    for other in (
        StoredConfig(view=0, test=0.4),
        StoredConfig(view=1, test=0.3),
        StoredConfig(view=1, test=0.4, seed=1),
    ):
        again = StoredEvaluation(store, CONFIG.model_copy(update={"stored": other}), tmp_path, Reporter(quiet=True))
        with pytest.raises(TypeError):
            again.judge("half")


def test_damage_is_an_error(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "store")
    path = next((tmp_path / "store" / "features" / "half" / "cls" / "c" / "1").rglob("0/0/0"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        StoredEvaluation(Store.open(tmp_path / "store"), CONFIG, tmp_path, Reporter(quiet=True)).judge("half")


# --- which images, which levels --------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_a_matter_of_the_key(store: Store) -> None:
    fit, test = stored_parts(store, StoredConfig(test=0.4))
    rows = labelled_rows(store, "train")
    assert not set(fit.keys) & set(test.keys) and set(fit.keys) | set(test.keys) == set(rows.keys)
    label_of = dict(zip(rows.keys, rows.labels_N.tolist(), strict=True))
    for part in (fit, test):
        assert [label_of[key] for key in part.keys] == part.labels_N.tolist()
        assert [store.samples(block)[row].key for block, row in part.at] == list(part.keys)
    fewer = stored_parts(store, StoredConfig(test=0.2))[1]
    assert set(fewer.keys) < set(test.keys)
    assert stored_parts(store, StoredConfig(test=0.4, seed=1))[1].keys != test.keys


def test_what_cannot_be_judged(store: Store, random_store: Store) -> None:
    with pytest.raises(UsageError, match=r"eval.stored.view is 2, store .* has views 0 to 1; name one of them"):
        stored_parts(store, StoredConfig(view=2))
    with pytest.raises(
        UsageError, match=r"eval.stored.test: 0.0001 of \d+ labelled training images leaves a part empty"
    ):
        stored_parts(store, StoredConfig(test=0.0001))
    spec = store.teacher("half")
    without = spec.model_copy(update={"levels": {"logits": LevelSpec(num_tokens=1, dim=3)}})
    with pytest.raises(UsageError, match="has no level 'cls', only logits"):
        levels_read(without)


def test_which_levels_are_read(store: Store) -> None:
    spec, one = store.teacher("half"), LevelSpec(num_tokens=1, dim=4)

    def read(*names: str) -> tuple[str, ...]:
        return levels_read(spec.model_copy(update={"levels": dict.fromkeys(names, one)})).names

    assert read("patch", "cls") == ("cls", "patch")
    assert read("cls", *BLOCKS) == (*BLOCKS, "cls")
    assert read("cls", "cls-block7-normed", "patch-block11", *(f"cls-block{n}-normed" for n in (10, 11, 9))) == (
        "cls-block9-normed",
        "cls-block10-normed",
        "cls-block11-normed",
        "cls",
    )
    assert read("cls", "cls-block2-normed", "cls-block4-normed", "cls-block5-normed") == ("cls",)
    assert read("cls", "cls-block1", "cls-block2", "cls-block3") == ("cls",)


def test_a_teacher_without_cls_is_told_of(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    class Lines(Reporter):
        def say(self, text: str) -> None:
            lines.append(text)

    spec, scores = store.teacher("half"), {"logits": LevelSpec(num_tokens=1, dim=3)}
    scorer = spec.model_copy(update={"name": "scorer", "levels": scores})
    evaluation = StoredEvaluation(store, CONFIG, tmp_path, Lines(quiet=True))
    monkeypatch.setattr(store, "teachers", lambda: [spec, scorer])
    assert [teacher.name for teacher in evaluation.judge_all().teachers] == ["half"]
    assert lines == ["eval: the store has no cls of teacher scorer, which is not judged by it"]
    monkeypatch.setattr(store, "teachers", lambda: [scorer])
    with pytest.raises(UsageError, match="has no cls of any teacher"):
        evaluation.judge_all()
