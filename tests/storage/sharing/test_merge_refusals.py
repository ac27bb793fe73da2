"""Merging: what is refused is refused before a byte is written, and what others decide meanwhile mixes nothing."""

import io
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stillhouse.core.errors import DataError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.dropped import drop
from stillhouse.storage.seal import seal
from stillhouse.storage.sharing.merge import merge
from stillhouse.storage.specs import TRAIN, StoreSpec, TeacherSpec
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store, write_codecs, write_images

QUIET = Reporter(quiet=True)


class Others(StoreShape):
    """Other samples, and tokens that other codecs fit."""

    def key(self, block: int, row: int) -> str:
        return f"others/{block}/{row}.png"

    def tokens(self, teacher: str, level: str, view: int, block: int) -> npt.NDArray[np.float32]:
        return StoreShape.tokens(self, teacher, level, view, block) * 3 - 1


class OtherPixels(StoreShape):
    """Other images under the names of the first ones."""

    def image(self, block: int, row: int) -> bytes:
        pixels = self._random("other", block, row).integers(0, 256, (12 + row, 16, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()


class OneNameInTwoBlocks(StoreShape):
    def key(self, block: int, row: int) -> str:
        return f"twice/{row}.png"


class FromElsewhere(StoreShape):
    def key(self, block: int, row: int) -> str:
        return f"elsewhere/{block}/{row}.png"

    @property
    def spec(self) -> StoreSpec:
        return StoreSpec(ingest={"source": "elsewhere"}, views=StoreShape().spec.views)


def tree(root: Path) -> list[tuple[str, int]]:
    """Every file and when it was written to."""
    return sorted((path.relative_to(root).as_posix(), path.stat().st_mtime_ns) for path in root.rglob("*"))


def test_other_codecs_are_refused_before_the_store_grows(tmp_path: Path) -> None:
    ours = make_store(tmp_path / "a", StoreShape(teachers={"packed": "klt:2"}))
    theirs = make_store(tmp_path / "b", Others(teachers={"packed": "klt:2"}))
    before = tree(ours.root)
    for dry_run in (True, False):
        with pytest.raises(SpecMismatchError, match="fitted apart"):
            merge(ours.root, theirs, QUIET, dry_run=dry_run)
    assert tree(ours.root) == before


def test_other_pixels_are_refused_before_the_store_grows(tmp_path: Path) -> None:
    ours = make_store(tmp_path / "a", StoreShape(teachers={}))
    more = ((TRAIN, 4), (TRAIN, 3), ("test", 2), (TRAIN, 1))
    theirs = make_store(tmp_path / "b", OtherPixels(teachers={}, blocks=more))
    before = tree(ours.root)
    with pytest.raises(DataError, match="has other pixels than in store"):
        merge(ours.root, theirs, QUIET)
    assert tree(ours.root) == before


def test_a_sample_that_the_other_has_twice(tmp_path: Path) -> None:
    ours = make_store(tmp_path / "a", StoreShape(teachers={}))
    shape = OneNameInTwoBlocks(teachers={}, blocks=((TRAIN, 4), (TRAIN, 3)), bad_rows=frozenset())
    theirs, before = make_store(tmp_path / "b", shape), tree(ours.root)
    with pytest.raises(DataError, match=r"image 'twice/0.png' of store"):
        merge(ours.root, theirs, QUIET)
    assert tree(ours.root) == before


def test_images_that_came_after_the_seal(tmp_path: Path) -> None:
    ours = make_store(tmp_path / "a", Others(teachers={}, bad_rows=frozenset()))
    shape = StoreShape(teachers={}, blocks=((TRAIN, 4), (TRAIN, 3)), bad_rows=frozenset())
    theirs = Store.create(tmp_path / "b", shape.spec, shape.plan)
    write_images(theirs, shape, 0)
    seal(theirs)
    write_images(theirs, shape, 1)
    before = tree(ours.root)
    with pytest.raises(UsageError, match=r"images of block 1 of store .* are not in its seal"):
        merge(ours.root, theirs, QUIET)
    assert tree(ours.root) == before
    seal(theirs)
    assert merge(ours.root, theirs, QUIET).num_blocks == 2


def test_a_teacher_that_was_dropped_here(random_store: Store, tmp_path: Path) -> None:
    shutil.copytree(random_store.root, tmp_path / "a")
    drop(Store.open(tmp_path / "a"), "tiny-int8")
    seal(Store.open(tmp_path / "a"))
    before = tree(tmp_path / "a")
    with pytest.raises(UsageError, match=r"'tiny-int8' was dropped from store .*; `stillhouse drop --undo`"):
        merge(tmp_path / "a", random_store, QUIET)
    assert tree(tmp_path / "a") == before


def test_blocks_keep_saying_where_they_are_from(tmp_path: Path) -> None:
    """A store that had itself grown is merged: each of its sources is one that `ingest` knows afterwards."""
    ours = make_store(tmp_path / "a", StoreShape(teachers={}))
    theirs = make_store(tmp_path / "b", Others(teachers={}, bad_rows=frozenset()))
    merge(theirs.root, make_store(tmp_path / "c", FromElsewhere(teachers={})), QUIET)
    merge(ours.root, Store.open(theirs.root), QUIET)
    found = Store.open(ours.root)
    assert [(one.blocks, one.ingest) for one in found.generations] == [
        (range(3), ours.spec.ingest),
        (range(3, 6), Others().spec.ingest),
        (range(6, 9), {"source": "elsewhere"}),
    ]
    assert found.samples(6)[0].key == "elsewhere/0/0.png"


def test_codecs_that_another_process_fits_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features must not come to lie under codecs that they were not made with."""
    theirs = make_store(tmp_path / "b", StoreShape(teachers={"packed": "int8"}))
    ours = make_store(tmp_path / "a", StoreShape(teachers={}))
    enter = Store.add_teacher

    def enter_and_lose(store: Store, spec: TeacherSpec) -> None:
        enter(store, spec)
        write_codecs(store, Others(teachers={"packed": "int8"}), "packed")

    monkeypatch.setattr(Store, "add_teacher", enter_and_lose)
    with pytest.raises(SpecMismatchError, match=r"features/packed/codecs/.* is not that of store"):
        merge(ours.root, theirs, QUIET)
    assert Store.open(ours.root).record(layout.features_unit("packed", 0, 0)) is None
