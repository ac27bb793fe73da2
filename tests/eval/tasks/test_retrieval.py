"""Retrieval sets on disk in their layouts, and the whole evaluation against a count by hand."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.encoders import EncoderConfig, build_encoder, weights_sha256
from stillhouse.core.errors import DataError, MissingError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.ranking import average_precision, positive_places, ranking
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.base import Context
from stillhouse.eval.tasks.dense.features import at_size
from stillhouse.eval.tasks.retrieval import RetrievalConfig, RetrievalTask
from stillhouse.eval.tasks.retrieval_sets import read_instances, read_revisited
from stillhouse.eval.tasks.run import TaskRuns
from stillhouse.eval.tasks.sizes import nearest_size
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, random_weights
from stillhouse.storage.decode import encode_png
from stillhouse.storage.specs import Preprocessing

CONTEXT = Context(Reporter(quiet=True), device="cpu", threads=1, batch=7)


class Told(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    args = {**TINY_VIT_ARGS, "img_size": 32}
    weights = random_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", TINY_VIT, args)
    encoder = build_encoder(EncoderConfig(model=TINY_VIT, model_args=args, checkpoint=str(weights)))
    statistics = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=32)
    return Subject("tiny", encoder, statistics, weights_sha256(encoder))


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A PNG of smooth noise; its name may say otherwise, the bytes are what counts."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))))
    return path


def truth() -> dict[str, Any]:
    """Three queries and ten images; the last query has no hard positive."""
    return {
        "imlist": [f"all_souls_{i:06d}" for i in range(10)],
        "qimlist": [f"query_{i:06d}" for i in range(3)],
        "gnd": [
            {"bbx": [4.4, 3.0, 30.5, 27.0], "easy": [1, 2], "hard": [5], "junk": [7, 8]},
            {"bbx": [0, 0, 40, 30], "easy": np.array([0]), "hard": np.array([9, 3]), "junk": np.array([], np.int64)},
            {"bbx": (10.0, 2.0, 39.0, 29.0), "easy": [4], "hard": [], "junk": [6]},
        ],
    }


@pytest.fixture
def oxford(tmp_path: Path) -> Path:
    root, told = tmp_path / "roxford5k", truth()
    for seed, name in enumerate([*told["imlist"], *told["qimlist"]]):
        draw(root / "jpg" / f"{name}.jpg", seed)
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(told, 2))
    return root


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "instances"
    for seed, name in enumerate(("cup/0", "cup/1", "hat/0")):
        draw(root / "queries" / f"{name}.png", seed)
    for seed, name in enumerate(("cup/0", "cup/1", "hat/2", "hat/10", "hat/1", "other/0")):
        draw(root / "database" / f"{name}.png", 100 + seed)
    return root


def test_the_official_layout(oxford: Path) -> None:
    found = read_revisited(oxford, "roxford5k")
    assert [path.name for path in found.database] == [f"all_souls_{i:06d}.jpg" for i in range(10)]
    first, second, third = found.queries
    assert first.path == oxford / "jpg" / "query_000000.jpg" and first.box == (4.4, 3.0, 30.5, 27.0)
    judged = {name: tuple(rows.tolist() for rows in each) for name, each in first.judged.items()}
    assert judged == {"easy": ([1, 2], [5, 7, 8]), "medium": ([1, 2, 5], [7, 8]), "hard": ([5], [1, 2, 7, 8])}
    assert second.judged["medium"][0].tolist() == [0, 3, 9] and third.judged["hard"][0].tolist() == []
    assert len(found.files) == 13


def test_json_says_the_same(oxford: Path) -> None:
    pickled = read_revisited(oxford, "roxford5k")
    plain = json.dumps(truth(), default=lambda array: array.tolist())
    (oxford / "gnd_roxford5k.pkl").unlink()
    (oxford / "gnd_roxford5k.json").write_text(plain)
    read = read_revisited(oxford, "roxford5k")
    assert read.database == pickled.database
    for one, other in zip(read.queries, pickled.queries, strict=True):
        assert (one.path, one.box) == (other.path, other.box)
        for difficulty in ("easy", "medium", "hard"):
            for ours, theirs in zip(one.judged[difficulty], other.judged[difficulty], strict=True):
                assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype == np.int64


def test_what_is_missing_of_oxford_is_named(oxford: Path) -> None:
    with pytest.raises(MissingError, match=r"elsewhere is not there: roxford5k"):
        read_revisited(oxford / "elsewhere", "roxford5k")
    with pytest.raises(MissingError, match=r"neither .*gnd_rparis6k\.pkl nor .*gnd_rparis6k\.json is there"):
        read_revisited(oxford, "rparis6k")
    (oxford / "jpg" / "all_souls_000004.jpg").unlink()
    (oxford / "jpg" / "query_000001.jpg").unlink()
    with pytest.raises(
        MissingError, match=r"2 of 13 files of roxford5k are not there; the first is .*query_000001\.jpg"
    ):
        RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k")).identity()
    shutil.rmtree(oxford / "jpg")
    with pytest.raises(MissingError, match=r"/jpg is not there: roxford5k with its images in jpg/"):
        read_revisited(oxford, "roxford5k")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gnd": []}, "`gnd` is not a list of 3, one for each of `qimlist`"),
        ({"imlist": []}, "'imlist' is not a list of names"),
        ({"qimlist": ["a", "b", "../c"]}, r"'qimlist' has '\.\./c', which is no name of an image"),
        (
            {"gnd": [{**truth()["gnd"][0], "hard": [10]}, *truth()["gnd"][1:]]},
            "'hard' of query_000000 is not a list of rows",
        ),
        (
            {"gnd": [{**truth()["gnd"][0], "easy": None}, *truth()["gnd"][1:]]},
            "'easy' of query_000000 is not a list of rows",
        ),
        ({"gnd": [{**truth()["gnd"][0], "bbx": [1, 2, 3]}, *truth()["gnd"][1:]]}, "'bbx' of query_000000 is not a box"),
        (
            {"gnd": [{**truth()["gnd"][0], "bbx": [9, 2, 3, 4]}, *truth()["gnd"][1:]]},
            "'bbx' of query_000000 is an empty box",
        ),
        ({"gnd": ["x", *truth()["gnd"][1:]]}, "of query_000000 is a str, no mapping"),
    ],
)
def test_a_ground_truth_that_is_none_is_refused(oxford: Path, change: dict[str, Any], message: str) -> None:
    (oxford / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth() | change))
    with pytest.raises(DataError, match=rf"gnd_roxford5k\.pkl.*{message}"):
        read_revisited(oxford, "roxford5k")


def features(subject: Subject, images: Sequence[Image.Image], side: int = 32) -> np.ndarray:
    """Class tokens of squashed images, one by one, from the model itself."""
    encoder, rows = at_size(subject.encoder, (side, side)), []
    for image in images:
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / np.float32(255)
        x = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            rows.append(encoder(x).cls_BD[0].numpy())
    return np.stack(rows)


def unit(rows: np.ndarray) -> np.ndarray:
    unit_rows: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit_rows


def test_oxford_is_what_counting_gives(oxford: Path, subject: Subject) -> None:
    result = RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k")).run(subject, CONTEXT)
    queries = [Image.open(oxford / "jpg" / f"{name}.jpg") for name in truth()["qimlist"]]
    crops = [(4, 3, 30, 27), (0, 0, 40, 30), (10, 2, 39, 29)]
    asked = unit(features(subject, [image.crop(box) for image, box in zip(queries, crops, strict=True)]))
    known = unit(features(subject, [Image.open(oxford / "jpg" / f"{name}.jpg") for name in truth()["imlist"]]))
    precisions: dict[str, list[float | None]] = {}
    for difficulty in ("easy", "medium", "hard"):
        precisions[difficulty] = []
        for query, rows in zip(read_revisited(oxford, "roxford5k").queries, ranking(known, asked), strict=True):
            positives, junk = query.judged[difficulty]
            places = positive_places(rows, positives, junk)
            precisions[difficulty].append(average_precision(places, len(positives)) if len(positives) else None)
    assert result.details["average_precision"] == precisions and precisions["hard"][2] is None
    assert result.items_NK.tolist() == [[value] for value in precisions["medium"]]
    assert result.details["mAP"]["hard"] == pytest.approx(sum(filter(None, precisions["hard"])) / 2)
    assert result.details["queries_without_positives"] == {"easy": 0, "medium": 0, "hard": 1}
    assert set(result.details) >= {"mP@1", "mP@5", "mP@10"}
    json.dumps(result.details, allow_nan=False)


def test_the_headline_is_a_mean_over_queries_with_a_positive(oxford: Path, subject: Subject) -> None:
    task = RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k", difficulty="hard"))
    result = task.run(subject, CONTEXT)
    assert task.name == "retrieval-roxford5k-hard" and result.items_NK.shape == (2, 1)
    assert task.score(result.items_NK) == pytest.approx(result.details["mAP"]["hard"])
    assert [example.key for example in result.examples] == ["jpg/query_000000.jpg", "jpg/query_000001.jpg"]


def test_a_difficulty_without_positives_is_refused(oxford: Path, subject: Subject) -> None:
    told = truth()
    for entry in told["gnd"]:
        entry["hard"] = []
    (oxford / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(told))
    task = RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k", difficulty="hard"))
    with pytest.raises(DataError, match=r"no query of .* has a positive of difficulty 'hard'"):
        task.run(subject, CONTEXT)


def test_settings_change_what_is_seen(oxford: Path, subject: Subject) -> None:
    plain, told = RetrievalConfig(path=str(oxford), set="roxford5k"), Told()
    context = Context(told, device="cpu", threads=1, batch=7)
    found = read_revisited(oxford, "roxford5k")
    images = [Image.open(path) for path in found.database]

    def database(**settings: Any) -> np.ndarray:
        config = RetrievalConfig.model_validate({**plain.model_dump(), **settings})
        return RetrievalTask(config)._features(subject, found, context)[1]

    np.testing.assert_allclose(database(), unit(features(subject, images)), atol=1e-5)
    assert told.lines == [], "at its own size nothing is resampled"
    np.testing.assert_allclose(database(size=48), unit(features(subject, images, 48)), atol=1e-5)
    assert told.lines == ["eval tiny: at 48 pixels, positions for 6 x 6 patches from the released 4 x 4 (antialias)"]
    three = np.sum(
        [features(subject, images, side) for side in (32, 24, 16)], axis=0
    )  # 32 / sqrt(2) = 22.6, in patches of 8
    np.testing.assert_allclose(database(multi_scale=True), unit(three), atol=1e-5)
    uncropped = RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k", crop_queries=False))
    whole = [Image.open(query.path) for query in found.queries]
    np.testing.assert_allclose(
        uncropped._features(subject, found, CONTEXT)[0], unit(features(subject, whole)), atol=1e-5
    )


def test_a_size_that_a_model_cannot_take(oxford: Path, subject: Subject) -> None:
    task = RetrievalTask(RetrievalConfig(path=str(oxford), set="roxford5k", size=33))
    with pytest.raises(UsageError, match=r"cannot be brought to 33 pixels: .*; set `size` to 32$"):
        task.run(subject, CONTEXT)
    assert nearest_size(subject.encoder, 33) == 32 and nearest_size(subject.encoder, 1) == 8


def test_a_copy_of_another_size_shares_all_weights_but_positions(subject: Subject) -> None:
    before = {name: value.clone() for name, value in subject.encoder.state_dict().items()}
    made = at_size(subject.encoder, (48, 48))
    ours, theirs = dict(subject.encoder.named_parameters()), dict(made.named_parameters())
    assert [name for name in ours if ours[name] is not theirs[name]] == ["model.pos_embed"]
    assert theirs["model.pos_embed"].shape[1] == 37
    assert all(torch.equal(value, before[name]) for name, value in subject.encoder.state_dict().items())


def test_copies_of_a_query_are_found_whatever_the_encoder(folders: Path, subject: Subject) -> None:
    for name in ("cup/0", "cup/1", "hat/0"):
        shutil.copy(folders / "queries" / f"{name}.png", folders / "database" / name.replace("/", "/copy"))
    for copy in (folders / "database").glob("*/copy*"):
        copy.rename(copy.with_suffix(".png"))
    for path in (folders / "database").glob("*/*[0-9].png"):
        if "copy" not in path.name and path.parent.name != "other":
            path.unlink()
    shutil.rmtree(folders / "queries" / "cup")
    result = RetrievalTask(RetrievalConfig(path=str(folders), set="folder")).run(subject, CONTEXT)
    assert result.items_NK.tolist() == [[1.0]] and result.details["mP@1"] == {"all": 1.0}


def test_folders_of_instances(folders: Path, subject: Subject) -> None:
    found = read_instances(folders)
    assert [path.relative_to(folders / "database").as_posix() for path in found.database] == [
        *("cup/0.png", "cup/1.png", "hat/1.png", "hat/2.png", "hat/10.png", "other/0.png")
    ]
    assert [query.judged["all"][0].tolist() for query in found.queries] == [[0, 1], [0, 1], [2, 3, 4]]
    task = RetrievalTask(RetrievalConfig(path=str(folders), set="folder"))
    assert task.name == "retrieval-folder" and task.run(subject, CONTEXT).items_NK.shape == (3, 1)
    before = task.identity()
    (folders / "database" / "hat" / "10.png").write_bytes(b"other")
    assert task.identity() != before


def test_folders_that_are_not_whole_are_named(folders: Path) -> None:
    task = RetrievalTask(RetrievalConfig(path=str(folders), set="folder"))
    (folders / "database" / "cup" / "0.png").unlink()
    (folders / "database" / "cup" / "1.png").unlink()
    with pytest.raises(MissingError, match=r"database/cup has no image; the data set is unpacked in part only"):
        task.identity()
    shutil.rmtree(folders / "database" / "cup")
    shutil.rmtree(folders / "database" / "hat")
    with pytest.raises(DataError, match=r"none of the 2 instances of .*queries is in .*database; the first is 'cup'"):
        task.identity()
    shutil.rmtree(folders / "database" / "other")
    with pytest.raises(MissingError, match=r"database has no folders"):
        task.identity()
    shutil.rmtree(folders / "database")
    with pytest.raises(MissingError, match=r"database is not there: a retrieval set with queries/ and database/"):
        task.identity()


def test_the_sheet_says_right_and_wrong(folders: Path, subject: Subject) -> None:
    task = RetrievalTask(RetrievalConfig(path=str(folders), set="folder"))
    (first, *_) = examples = task.run(subject, CONTEXT).examples
    assert [example.key for example in examples] == ["cup/0.png", "cup/1.png", "hat/0.png"]
    titles, pictures = zip(*first.panels, strict=True)
    assert len(titles) == 6 and titles[0] == "query"
    for title, pixels in zip(titles[1:], pictures[1:], strict=True):
        colour = (26, 127, 55) if title.startswith("right, cosine ") else (207, 34, 46)
        assert tuple(pixels[0, 0]) == tuple(pixels[-1, -1]) == colour and pixels.dtype == np.uint8
        assert max(pixels.shape[:2]) == 128 + 10
    assert sum(title.startswith("right") for title in titles) in (1, 2)


def test_what_was_found_is_kept_and_read_again(folders: Path, subject: Subject, tmp_path: Path) -> None:
    task, runs = RetrievalTask(RetrievalConfig(path=str(folders), set="folder")), TaskRuns(tmp_path / "runs", CONTEXT)
    first, second = (runs.judge(task, "tiny", "weights", lambda: subject) for _ in range(2))
    assert runs.num_judged == 1 and second.result.details == first.result.details and second.score == first.score
