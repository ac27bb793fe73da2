"""`extract`: what is stored is what the encoder gives, any stop is resumed, and nothing decided is done again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from stillhouse.core.encoders import build_encoder
from stillhouse.core.errors import CorruptError, DataError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import fitting, teachers
from stillhouse.stage1_extract import units as module
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import ExtractResult, extract
from stillhouse.stage1_extract.fitting import channel_statistics
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.policies import draw, draw_many
from stillhouse.stage1_extract.testing import (
    TINY_VIEWS,
    TINY_VIT_ARGS,
    Stop,
    Stopping,
    tiny_images,
    tiny_ingest,
    tiny_teacher,
)
from stillhouse.storage import commit, layout
from stillhouse.storage.decode import decode
from stillhouse.storage.seal import records
from stillhouse.storage.store import Store
from stillhouse.storage.verify import verify
from stillhouse.storage.views import render, view_hash


def run(store: Store, config: TeacherConfig, reporter: Reporter | None = None, threads: int = 2) -> ExtractResult:
    return extract(store, config, ExtractConfig(device="cpu", threads=threads), reporter or Reporter(quiet=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images`, of which three are bad, `ingested`, a store without features, and `weights`."""
    folder = tmp_path_factory.mktemp("home")
    images = tiny_images(folder / "images", 20)
    for key in ("a/0000.png", "b/0004.png", "c/0005.png"):
        (images / key).write_bytes(b"no image")
    ingest(folder / "ingested", tiny_ingest(images), TINY_VIEWS, Reporter(quiet=True))
    return folder


@pytest.fixture(scope="module")
def teacher(home: Path) -> TeacherConfig:
    return tiny_teacher(home / "weights")


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Store:
    """An ingested store of its own: blocks of 8 + 8 + 4 samples, two views, no features."""
    shutil.copytree(home / "ingested", tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture(scope="module")
def whole(home: Path, teacher: TeacherConfig) -> Store:
    """A store that nothing disturbed. Shared: do not write to it."""
    shutil.copytree(home / "ingested", home / "whole")
    store = Store.open(home / "whole")
    run(store, teacher)
    return store


@pytest.fixture
def filled(whole: Store, tmp_path: Path) -> Store:
    """A copy of `whole` that a test may write to."""
    shutil.copytree(whole.root, tmp_path / "filled")
    return Store.open(tmp_path / "filled")


def digest(store: Store, teacher: TeacherConfig) -> str:
    """Of the seal; nothing is written by asking."""
    return run(store, teacher).seal.content_sha256


def contents(root: Path, below: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / below).rglob("*") if path.is_file()}


def test_views_are_the_policys_and_hashes_are_their_pixels(whole: Store) -> None:
    for block in range(3):
        samples, good = whole.samples(block), whole.good_rows(block)
        for view in range(2):
            params, hashes = whole.view_params(view, block), whole.view_hashes(view, block)
            for row in good:
                sample = samples[row]
                expected = draw_many(TINY_VIEWS, [sample.key], [(sample.width, sample.height)], view)[0]
                np.testing.assert_array_equal(params[row], expected)
                pixels = render(decode(whole.image_bytes(block, int(row))), params[row], 32)
                assert hashes[row] == view_hash(pixels)
            bad = np.setdiff1d(np.arange(len(samples)), good)
            assert (params[bad] == layout.MISSING_PARAM).all() and (hashes[bad] == layout.MISSING_HASH).all()


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_features_are_a_forward_pass_of_the_encoder(
    fresh: Store, home: Path, teacher: TeacherConfig, codec: str
) -> None:
    """Straight from the images, sample by sample; the codec's error is all that lies between."""
    config = teacher.model_copy(update={"codec": codec, "batch": 3})
    run(fresh, config)
    encoder = build_encoder(config, image_size=32)
    spec = fresh.teacher("tiny").preprocessing
    checked = 0
    for block in range(3):
        for view in range(2):
            for row in fresh.good_rows(block):
                sample = fresh.samples(block)[row]
                params = draw(TINY_VIEWS, sample.key, sample.width, sample.height, view)
                pixels = render(decode((home / "images" / sample.key).read_bytes()), params, 32)
                x = ((pixels / 255 - spec.mean) / spec.std).transpose(2, 0, 1)[None]
                with torch.inference_mode():
                    tokens = encoder(torch.from_numpy(x).float())
                for level, exact in (("cls", tokens.cls_BD[:, None]), ("patch", tokens.patch_BTD)):
                    codes = fresh.codes("tiny", level, view, block, [row])
                    assert_within(fresh, level, codes, exact.numpy())
                    checked += 1
    assert checked == 17 * 2 * 2


@pytest.mark.parametrize("codec", ["bf16", "int4", "ecsq:6", "klt:6", "pq:12", "opq:12", "rq:6"])
def test_every_codec_keeps_most_of_a_teacher(fresh: Store, whole: Store, teacher: TeacherConfig, codec: str) -> None:
    run(fresh, teacher.model_copy(update={"codec": codec}))
    for level in ("cls", "patch"):
        kept = [
            np.concatenate(
                [
                    store.codec("tiny", level).decode(store.codes("tiny", level, 1, b, store.good_rows(b)))
                    for b in range(3)
                ]
            ).astype(np.float64)
            for store in (whole, fresh)
        ]
        error = ((kept[1] - kept[0]) ** 2).mean() / (kept[0] ** 2).mean()  # of tokens whose mean is most of them
        assert error < {"bf16": 1e-5, "int4": 0.01}.get(codec, 0.2), level


def test_auto_chooses_by_measuring_and_writes_the_curve(
    fresh: Store, teacher: TeacherConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TeacherConfig.model_validate({**teacher.model_dump(), "codec": "auto", "max_nmse": 0.5})
    run(fresh, config, Reporter())
    chosen = fresh.require("codecs/tiny", "it").facts["chosen"]
    told = capsys.readouterr().err
    for level in ("cls", "patch"):
        assert fresh.codec("tiny", level).name == chosen[level]["choice"].partition(":")[0]
        assert f"codec of tiny/{level}: {chosen[level]['choice']}, {chosen[level]['why']}" in " ".join(told.split())
        assert len(chosen[level]["curve"]) >= 8
    assert fresh.teacher("tiny").codec == "auto: an NMSE of at most 0.5"
    other = TeacherConfig.model_validate({**config.model_dump(), "max_nmse": 0.2})
    with pytest.raises(SpecMismatchError, match="codec: stored 'auto: an NMSE of at most 0\\.5', asked for 'auto"):
        run(Store.open(fresh.root), other)


@pytest.mark.parametrize(
    "fields",
    [{"codec": "auto"}, {"codec": "int8", "max_nmse": 0.1}, {"codec": "auto", "max_nmse": 0.1, "bytes_per_token": 9}],
)
def test_auto_takes_one_budget(teacher: TeacherConfig, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="codec auto takes either bytes_per_token or max_nmse, other codecs neither"):
        TeacherConfig.model_validate({**teacher.model_dump(), **fields})


def assert_within(store: Store, level: str, codes: NDArray[Any], exact: NDArray[np.float32]) -> None:
    """The codec's declared tolerance, and float32's own."""
    codec = store.codec("tiny", level)
    if codec.name == "fp16":
        np.testing.assert_allclose(codec.decode(codes), exact, rtol=2**-10, atol=1e-4)
    else:
        offset, scale = (codec.arrays()[name] for name in ("offset", "scale"))
        inside = np.clip(exact, offset - 127 * scale, offset + 127 * scale)
        assert (np.abs(codec.decode(codes) - inside) <= 0.51 * scale + 1e-4).all()


def test_statistics_are_those_of_the_sample_it_was_fitted_on(whole: Store) -> None:
    """The first views of all blocks, as there are few."""
    for level in ("cls", "patch"):
        codes = [whole.codes("tiny", level, 0, block, whole.good_rows(block)) for block in range(3)]
        tokens = whole.codec("tiny", level).decode(np.concatenate(codes))
        mean, std = whole.statistics("tiny", level)
        flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(mean, flat.mean(axis=0), atol=2e-3)
        np.testing.assert_allclose(std, flat.std(axis=0), atol=2e-3)


def test_what_the_codecs_are_fitted_on_is_not_asked_for_twice(
    fresh: Store, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted on part of a batch, on parts of a block and on all: the same features, and one pass of the teacher."""
    array, calls = teachers._array, 0

    def counting(tensor: torch.Tensor) -> NDArray[np.float32]:
        nonlocal calls
        calls += len(tensor)
        return array(tensor)

    monkeypatch.setattr(teachers, "_array", counting)
    monkeypatch.setattr(fitting, "FIT_ROWS", 7)
    run(fresh, teacher.model_copy(update={"batch": 4}))
    good = sum(len(fresh.good_rows(block)) for block in range(3))
    assert calls == 2 * (1 + 2 * good)  # levels, the spec's image, views
    assert fresh.require("codecs/tiny", "it").facts["fitted_on"]["rows"] == {"cls": 7, "patch": 7}
    assert not verify(fresh).problems


def test_each_level_has_its_codec(fresh: Store, teacher: TeacherConfig) -> None:
    run(fresh, TeacherConfig.model_validate({**teacher.model_dump(), "codec": {"cls": "int8", "patch": "klt:4"}}))
    assert [fresh.codec("tiny", level).name for level in ("cls", "patch")] == ["int8", "klt"]
    assert fresh.teacher("tiny").codec == "cls int8, patch klt:4"


@pytest.mark.parametrize(
    "codec", [{"patch": "int8"}, {"cls": "int8", "patch": "int9"}, {"cls": "auto", "patch": "int8"}, {}]
)
def test_codecs_of_levels_that_are_none(teacher: TeacherConfig, codec: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"a codec for each level is needed|unknown codec"):
        TeacherConfig.model_validate({**teacher.model_dump(), "codec": codec})


def test_channel_statistics() -> None:
    tokens = np.random.Generator(np.random.PCG64(0)).normal(1e3, 1e-2, (50, 4, 3)).astype(np.float32)
    found = channel_statistics(tokens)
    flat = tokens.reshape(-1, 3).astype(np.float64)
    assert found["mean"].dtype == found["std"].dtype == np.float32
    np.testing.assert_allclose(found["mean"], flat.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["std"], flat.std(axis=0), rtol=1e-6)


def test_the_store_is_sealed_and_whole(whole: Store, teacher: TeacherConfig) -> None:
    found = verify(whole)
    assert found.sealed and not found.problems
    assert found.content_sha256 == digest(whole, teacher)


def test_a_second_call_does_nothing_and_loads_no_teacher(
    filled: Store, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "build_encoder", None)
    before = contents(filled.root, ".")
    result = run(filled, teacher.model_copy(update={"batch": 1}))
    assert (result.num_units_written, result.num_units_found, result.num_images) == (0, 6, 0)
    assert contents(filled.root, ".") == before


@pytest.mark.parametrize("units", range(1, 7))
def test_a_stop_between_units_goes_on_to_the_same_seal(
    fresh: Store, whole: Store, teacher: TeacherConfig, units: int
) -> None:
    with pytest.raises(Stop):
        run(fresh, teacher, Stopping(units))
    result = run(Store.open(fresh.root), teacher, threads=1)
    assert result.num_units_written + result.num_units_found == 6
    assert result.num_units_found in (units, units + 1)  # one may be written while the one before it is told of
    assert result.seal.content_sha256 == digest(whole, teacher)


@pytest.mark.parametrize("function", ["decide", "publish", "sync_folder"])
@pytest.mark.parametrize("call", [1, 2, 3, 8])
def test_a_stop_inside_a_commit_goes_on_to_the_same_seal(
    fresh: Store,
    whole: Store,
    teacher: TeacherConfig,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    call: int,
) -> None:
    """Codecs, views and features; before the decision, and between the decision and publication."""
    original, calls = getattr(commit, function), 0

    def stopping(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return original(*args)

    monkeypatch.setattr(commit, function, stopping)
    with pytest.raises(Stop):
        run(fresh, teacher)
    monkeypatch.undo()
    again = Store.open(fresh.root)
    assert run(again, teacher).seal.content_sha256 == digest(whole, teacher)
    assert not verify(again).problems


def test_other_weights_under_the_same_name_are_refused(filled: Store, home: Path) -> None:
    before = contents(filled.root, ".")
    with pytest.raises(SpecMismatchError) as caught:
        run(filled, tiny_teacher(home / "weights", seed=1))
    stored, asked = filled.teacher("tiny").weights_sha256, "asked for"
    assert f"holds features of another 'tiny': weights_sha256: stored '{stored}', {asked}" in caught.value.message
    assert caught.value.hint == "give this teacher another name"
    assert contents(filled.root, ".") == before


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "preprocessing.mean: stored [0.5, 0.5, 0.5], asked for [0.1, 0.2, 0.3]"),
        ({"image_size": 16}, "preprocessing.size: stored 32, asked for 16"),
        ({"codec": "int8"}, "codec: stored 'fp16', asked for 'int8'"),
        ({"precision": "bf16"}, "precision: stored 'fp32', asked for 'bf16'"),
        ({"model_args": {**TINY_VIT_ARGS, "act_layer": "relu"}}, "model_args.act_layer: stored None, asked for 'relu'"),
    ],
)
def test_another_setting_under_the_same_name_is_refused(
    filled: Store, teacher: TeacherConfig, fields: dict[str, Any], difference: str
) -> None:
    with pytest.raises(SpecMismatchError) as caught:
        run(filled, teacher.model_copy(update=fields))
    assert difference in caught.value.message


def test_the_same_weights_from_another_file_are_the_same_teacher(
    filled: Store, teacher: TeacherConfig, tmp_path: Path
) -> None:
    elsewhere = shutil.copy(str(teacher.checkpoint), tmp_path / "moved.safetensors")
    assert run(filled, teacher.model_copy(update={"checkpoint": str(elsewhere)})).num_units_written == 0


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_stop_the_unit(
    fresh: Store, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch, codec: str, value: float
) -> None:
    """The teacher is sound when it is loaded; one image of a unit of view 1 makes it fail."""
    array, calls = teachers._array, 0

    def failing(tensor: torch.Tensor) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        found = array(tensor).copy()
        if calls == 10:  # two levels each: the spec, the codec's sample of three blocks, and the patches of view 1
            found[-1, 1, 0] = value
        return found

    monkeypatch.setattr(teachers, "_array", failing)
    config = teacher.model_copy(update={"codec": codec})
    with pytest.raises(DataError, match=r"teacher tiny gives patch features that are not finite; use precision: fp32"):
        run(fresh, config)
    features = [record.unit for record in records(fresh.root) if record.unit.startswith("features/")]
    assert features == [layout.features_unit("tiny", 0, block) for block in range(3)]


def test_changed_pixels_are_refused_and_the_sample_named(
    filled: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another Pillow would give them to a second teacher."""
    victim = filled.samples(1)[int(filled.good_rows(1)[2])].key
    changed = view_hash(render(decode((home / "images" / victim).read_bytes()), params_of(filled, 1, victim), 32))

    def off_by_one(*args: Any) -> NDArray[np.uint8]:
        pixels = render(*args)
        if view_hash(pixels) == changed:
            pixels[3, 4, 1] ^= 1
        return pixels

    monkeypatch.setattr(module, "render", off_by_one)
    with pytest.raises(CorruptError) as caught:
        run(filled, tiny_teacher(home / "weights", "second"))
    message = f"view 0 of '{victim}' (1 in block 1) renders to other pixels than recorded"
    assert caught.value.message == message
    assert "Pillow" in caught.value.hint
    assert filled.record(layout.features_unit("second", 0, 1)) is None


def params_of(store: Store, block: int, key: str) -> NDArray[np.int32]:
    row = [sample.key for sample in store.samples(block)].index(key)
    params: NDArray[np.int32] = store.view_params(0, block)[row]
    return params


def test_a_second_teacher_leaves_the_first_untouched(
    filled: Store, home: Path, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of images, views and features changes, views are replayed and not drawn again, and both can be read."""
    monkeypatch.setattr(module, "draw", None)
    folders = ("images", "index", "views", "features/tiny")
    before = {folder: contents(filled.root, folder) for folder in folders}
    second = tiny_teacher(
        home / "weights", "second", model="test_efficientnet", model_args={}, image_size=64, codec="int8"
    )
    result = run(filled, second)
    assert (result.num_units_written, result.seal.generation) == (6, 2)
    assert {folder: contents(filled.root, folder) for folder in folders} == before
    assert [spec.name for spec in filled.teachers()] == ["second", "tiny"]
    rows = filled.good_rows(0)
    assert filled.codes("second", "patch", 1, 0, rows).shape[:2] == (len(rows), 4)
    assert run(filled, teacher).num_units_written == 0


def test_a_block_without_a_good_image_has_empty_features(tmp_path: Path, teacher: TeacherConfig) -> None:
    images = tiny_images(tmp_path / "images", 20)
    for path in sorted(images.rglob("*.png"))[8:16]:
        path.write_bytes(b"")
    ingest(tmp_path / "store", tiny_ingest(images, order="source"), TINY_VIEWS, Reporter(quiet=True))
    store = Store.open(tmp_path / "store")
    assert [len(store.good_rows(block)) for block in range(3)] == [8, 0, 4]
    assert run(store, teacher).num_images == 24
    assert store.codes("tiny", "patch", 0, 1, []).shape == (0, 16, 48)
    assert run(store, teacher).num_units_written == 0


def test_nothing_to_train_on_is_refused(tmp_path: Path, teacher: TeacherConfig) -> None:
    images = tiny_images(tmp_path / "images", 3)
    for path in images.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError):
        ingest(tmp_path / "store", tiny_ingest(images), TINY_VIEWS, Reporter(quiet=True))
    with pytest.raises(DataError, match=r"no training image of store .*/store can be read"):
        run(Store.open(tmp_path / "store"), teacher)


def test_batches_and_threads_change_no_view_and_no_shape(
    fresh: Store, whole: Store, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fresh, teacher.model_copy(update={"batch": 3}), threads=4)
    assert contents(fresh.root, "views") == contents(whole.root, "views")
    for level in ("cls", "patch"):
        ours, theirs = (
            store.codes("tiny", level, 1, 1, store.good_rows(1)).astype(np.float32) for store in (fresh, whole)
        )
        np.testing.assert_allclose(ours, theirs, rtol=2**-9, atol=1e-3)


def test_progress_counts_images(fresh: Store, teacher: TeacherConfig, make_events: Callable[[], Any]) -> None:
    reporter, events = make_events()
    result = run(fresh, teacher, reporter)
    assert result.num_images == 34
    found = events()
    assert sorted((e["block"], e["view"]) for e in found if e["event"] == "block") == [
        (block, view) for block in range(3) for view in range(2)
    ]
    assert found[-1] | {"time": 0, "seconds": 0} == {
        "time": 0,
        "event": "task",
        "name": "extract tiny",
        "units": 34,
        "unit": "img",
        "seconds": 0,
    }


@pytest.fixture
def make_events(tmp_path: Path) -> Callable[[], tuple[Reporter, Callable[[], list[dict[str, Any]]]]]:
    """A reporter, and a function that reads back its events."""

    def make() -> tuple[Reporter, Callable[[], list[dict[str, Any]]]]:
        reporter = Reporter(quiet=True)
        reporter.open_events(tmp_path / "events")

        def read() -> list[dict[str, Any]]:
            reporter.close()
            lines = (tmp_path / "events" / "events.jsonl").read_text().splitlines()
            return [json.loads(line) for line in lines]

        return reporter, read

    return make


def test_what_half_precision_costs_is_kept(fresh: Store, teacher: TeacherConfig) -> None:
    """Beside the codecs, of every level; a teacher in float32 has nothing to say."""
    half = teacher.model_copy(update={"precision": "bf16"})
    run(fresh, half)
    facts = fresh.require("codecs/tiny", "codecs").facts
    assert facts["against_fp32"].keys() == {"cls", "patch"}
    for level, found in facts["against_fp32"].items():
        assert found["rows"] == len(fresh.good_rows(0)) and 0.999 < found["min_cosine"] <= found["mean_cosine"] < 1, (
            level
        )
    assert 0 < facts["against_fp32"]["patch"]["nmse"] < 1e-3  # the cls of random weights hardly varies
