"""`ingest`: bad images go to quarantine, any stop is resumed, a complete store needs no source."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import DataError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import ingest as module
from stillhouse.stage1_extract.config import IngestConfig
from stillhouse.stage1_extract.ingest import IngestResult, image_format, ingest, read_sample
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage1_extract.sources import FolderSource, Item, open_source
from stillhouse.stage1_extract.testing import TINY_VIEWS, Stop, Stopping, tiny_images, tiny_ingest
from stillhouse.storage import commit, layout
from stillhouse.storage.decode import decode, encode_png, pixel_hash
from stillhouse.storage.seal import content_digest, records
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

PNG = encode_png(np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3))
BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "empty"),
    "text.jpg": (b"<html>404 not found</html>", "not-an-image"),
    "short.png": (PNG[: len(PNG) // 2], "truncated"),
    "picture.gif": (b"II*\0" + bytes(64), "format"),
}


def run(root: Path, config: IngestConfig, reporter: Reporter | None = None) -> IngestResult:
    return ingest(root, config, TINY_VIEWS, reporter or Reporter(quiet=True))


def digest(root: Path) -> str:
    return content_digest([entry for record in records(root) for entry in record.objects])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 images and four files that are none."""
    folder = tiny_images(tmp_path_factory.mktemp("images"), 28)
    for name, (data, _) in BAD.items():
        (folder / "a" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def config(images: Path) -> IngestConfig:
    """Five blocks: four of train, of which the last has some rows, and one of test."""
    return tiny_ingest(images, split={"test": 0.15})


@pytest.fixture(scope="module")
def whole(config: IngestConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that nothing disturbed. Shared: do not write to it."""
    root = tmp_path_factory.mktemp("whole") / "store"
    run(root, config)
    return root


def test_the_store_holds_the_source(whole: Path, images: Path) -> None:
    store = Store.open(whole)
    found = {}
    for block in range(len(store.plan.blocks)):
        for row, sample in enumerate(store.samples(block)):
            found[sample.key] = sample
            data = (images / sample.key).read_bytes()
            assert sample.source_sha256 == hashlib.sha256(data).hexdigest()
            assert sample.label == sample.key.split("/")[0]
            if sample.reason is None:
                image = decode(data)
                assert store.image_bytes(block, row) == data
                assert (sample.width, sample.height) == image.size
                assert (sample.format, sample.pixel_hash) == ("png", pixel_hash(image))
    assert len(found) == store.plan.num_samples == 32
    assert {store.plan.blocks[block].split for block in range(len(store.plan.blocks))} == {TRAIN, "test"}


def test_bad_images_go_to_quarantine_with_a_reason(whole: Path, config: IngestConfig) -> None:
    result = run(whole, config)
    assert result.quarantined == {reason: 1 for _, reason in BAD.values()}
    store = Store.open(whole)
    reasons = {s.key: s.reason for b in range(len(store.plan.blocks)) for s in store.samples(b) if s.reason}
    assert reasons == {f"a/{name}": reason for name, (_, reason) in BAD.items()}
    for block in range(len(store.plan.blocks)):
        facts = store.require(layout.images_unit(block), "images").facts
        listed = {row for row, sample in enumerate(store.samples(block)) if sample.reason}
        assert {bad["row"] for bad in facts["quarantined"]} == listed
        assert set(store.good_rows(block)) == set(range(len(store.samples(block)))) - listed


def test_files_that_cannot_be_read_go_to_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_images(tmp_path / "images", 9)
    source = open_source(FolderSource(path=images))
    victim = source.items()[3]
    (images / victim.key).unlink()
    sample = read_sample(source, victim)
    assert (sample.row.reason, sample.data) == ("unreadable", None)

    def fail(item: Item) -> bytes:
        raise OSError("the disk is gone")

    monkeypatch.setattr(source, "read", fail)
    assert read_sample(source, victim).row.reason == "unreadable"


def test_a_second_call_never_opens_the_source(
    whole: Path, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("the source was opened")

    monkeypatch.setattr(module, "open_source", refuse)
    before = digest(whole)
    result = run(whole, config)
    assert (result.num_blocks_written, result.num_blocks_found) == (0, 5)
    assert result.num_samples == 32
    assert digest(whole) == before


@pytest.mark.parametrize("blocks", range(1, 6))
def test_a_stopped_ingest_goes_on_to_the_same_content(
    whole: Path, config: IngestConfig, tmp_path: Path, blocks: int
) -> None:
    root = tmp_path / "store"
    with pytest.raises(Stop):
        run(root, config, Stopping(blocks))
    result = run(root, config)
    assert (result.num_blocks_written, result.num_blocks_found) == (5 - blocks, blocks)
    assert digest(root) == digest(whole)
    assert_nothing_is_staged(root)


def assert_nothing_is_staged(root: Path) -> None:
    assert not list((root / layout.STAGE).iterdir())


@pytest.mark.parametrize("function", ["write_synced", "decide", "publish"])
@pytest.mark.parametrize("call", [1, 3, 6])
def test_a_stop_inside_a_commit_goes_on_to_the_same_content(
    whole: Path, config: IngestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    """Before the bytes, before the decision, and between the decision and publication."""
    root, original, calls = tmp_path / "store", getattr(commit, function), 0

    def stopping(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return original(*args)

    monkeypatch.setattr(commit, function, stopping)
    with pytest.raises(Stop):
        run(root, config)
    monkeypatch.undo()
    run(root, config)
    assert digest(root) == digest(whole)


def test_a_store_whose_images_are_all_bad_is_refused_every_time(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        (images / f"{i}.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DataError, match=r"images of store .*/store can be read \(5 not-an-image\); `stillhouse"):
            run(tmp_path / "store", tiny_ingest(images))


def test_only_bad_images_in_training_is_refused_too(tmp_path: Path) -> None:
    images = tiny_images(tmp_path / "images", 12)
    config = tiny_ingest(images, split={"test": 0.3})
    run(tmp_path / "first", config)
    store = Store.open(tmp_path / "first")
    for block in store.plan.blocks_of(TRAIN):
        for sample in store.samples(block):
            (images / sample.key).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the training images"):
        run(tmp_path / "second", config)


def add(images: Path) -> None:
    shutil.copy(images / "a" / "0000.png", images / "a" / "new.png")


def remove(images: Path) -> None:
    (images / "a" / "0003.png").unlink()


def rename(images: Path) -> None:
    (images / "a" / "0003.png").rename(images / "a" / "0003-b.png")


@pytest.mark.parametrize("change", [add, remove, rename])
def test_a_source_that_changed_half_way_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    images = tiny_images(tmp_path / "images", 20)
    with pytest.raises(Stop):
        run(tmp_path / "store", tiny_ingest(images), Stopping(1))
    change(images)
    with pytest.raises(SpecMismatchError, match=r"the source of store .*/store has other samples than when .* begun"):
        run(tmp_path / "store", tiny_ingest(images))


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"seed": 1}, "ingest.seed: stored 0, asked for 1"),
        ({"block_samples": 9}, "ingest.block_samples: stored 8, asked for 9"),
        ({"split": {"test": 0.2}}, "ingest.split.test: stored 0.15, asked for 0.2"),
        ({"order": "source"}, "ingest.order: stored 'hashed', asked for 'source'"),
    ],
)
def test_another_config_is_refused_and_the_field_named(
    whole: Path, config: IngestConfig, fields: dict[str, Any], difference: str
) -> None:
    with pytest.raises(SpecMismatchError) as caught:
        run(whole, config.model_copy(update=fields))
    assert caught.value.message == f"store {whole} was made from another spec: {difference}"


def test_another_view_policy_is_refused(whole: Path, config: IngestConfig) -> None:
    with pytest.raises(SpecMismatchError, match=r"views.flip: stored 0.5, asked for 0.25"):
        ingest(whole, config, ViewPolicyConfig(**TINY_VIEWS.model_dump() | {"flip": 0.25}), Reporter(quiet=True))


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n", "png"),
        (b"RIFF....WEBP", "webp"),
        (b"BM..", "bmp"),
        (b"GIF89a", "gif"),
        (b"????", "bin"),
    ],
)
def test_file_endings_come_from_the_content(data: bytes, ending: str) -> None:
    assert image_format(data) == ending
