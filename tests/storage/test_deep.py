"""Deep checks: what was written whole and wrong is found, and the first level at which pixels differ is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse.storage import deep, layout
from stillhouse.storage.commit import Attempt
from stillhouse.storage.decode import BadImage, decode
from stillhouse.storage.deep import DECODED, SOURCE, VIEW, decoder_versions, deep_problems, pixel_problems
from stillhouse.storage.index import SampleRow, encode_index
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import records
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, write_features, write_images
from stillhouse.storage.verify import SEAL, Problem, verify
from stillhouse.storage.views import render
from stillhouse.storage.writer import commit_codecs, commit_features, commit_view

SHAPE = StoreShape()
PATCH = layout.features_chunk("tiny", "patch", 0, 0)


def decoded(store: Store) -> list[Problem]:
    """The deep problems of a store whose every object is what was written."""
    store = Store.open(store.root)
    assert [problem for problem in verify(store).problems if problem.unit != SEAL] == []
    return [problem for record in records(store.root) for problem in deep_problems(store, record, lambda num: None)]


def undecide(store: Store, unit: str) -> None:
    """As if the unit had never been made: what was made from it stays as it is."""
    (store.root / layout.record_path(unit)).unlink()


def pixels(store: Store) -> list[Problem]:
    store = Store.open(store.root)
    blocks = range(len(store.plan.blocks))
    return [problem for block in blocks for problem in pixel_problems(store, block, 2, lambda num: None)]


def recommit(store: Store, unit: str, objects: dict[str, bytes], **facts: Any) -> None:
    """Give a unit other objects or facts in a record that says so: whole, and wrong."""
    record = read_record(store.root, unit)
    assert record is not None
    undecide(store, unit)
    with Attempt(store.root, unit) as attempt:
        for entry in record.objects:
            attempt.add(entry.path, [objects.get(entry.path, (store.root / entry.path).read_bytes())])
        attempt.commit(record.facts | facts)


def test_a_whole_store(random_store: Store) -> None:
    told: list[int] = []
    for record in records(random_store.root):
        assert list(deep_problems(random_store, record, told.append)) == []
    assert sum(told) == verify(random_store).num_bytes
    images: list[int] = []
    for block in range(3):
        assert list(pixel_problems(random_store, block, 2, images.append)) == []
    assert sum(images) == 8


def fill(value: float) -> Callable[[Store], None]:
    """A row of the store's codes that no encoder would give."""

    def write(store: Store) -> None:
        rows = store.good_rows(0)
        codes = {level: store.codes("tiny", level, 0, 0, rows).copy() for level in ("cls", "patch")}
        codes["patch"][1, 2, 3] = value
        undecide(store, "features/tiny/000/000000")
        commit_features(store, "tiny", 0, 0, codes, rows, {})

    return write


def other_rows(*rows: int) -> Callable[[Store], None]:
    """Rows of other samples than the good ones."""

    def write(store: Store) -> None:
        codes = {
            level: store.codec("tiny", level).encode(SHAPE.tokens("tiny", level, 0, 0)[: len(rows)])
            for level in ("cls", "patch")
        }
        undecide(store, "features/tiny/000/000000")
        commit_features(store, "tiny", 0, 0, codes, np.array(rows), {})

    return write


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (fill(np.nan), {(PATCH, "1 rows are not finite, first row 1")}),
        (fill(np.inf), {(PATCH, "1 rows are not finite, first row 1")}),
        (
            other_rows(0, 1, 2, 3),
            {("record", "says 4 rows"), ("cls", "1 rows too many, first row 2"), ("patch", "too")},
        ),
        (other_rows(0, 1), {("record", "says 2 rows"), ("cls", "has no row 3"), ("patch", "has no row 3")}),
        (other_rows(0, 1, 2), {("cls", "has no row 3"), ("patch", "has no row 3")}),
    ],
)
def test_features_that_were_written_wrong(
    own_store: Store, write: Callable[[Store], None], found: set[tuple[str, str]]
) -> None:
    places = {"record": layout.record_path("features/tiny/000/000000"), "patch": PATCH}
    places["cls"] = layout.features_chunk("tiny", "cls", 0, 0)
    write(own_store)
    problems = decoded(own_store)
    assert len(problems) == len(found) and {problem.unit for problem in problems} == {"features/tiny/000/000000"}
    for path, text in found:
        assert any(problem.path == places.get(path, path) and text in problem.found for problem in problems), problems


def index_of(store: Store, change: Callable[[list[SampleRow]], list[SampleRow]]) -> bytes:
    return encode_index(change(list(store.samples(0))))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rows: rows[:-1], "has 3 "),
        (lambda rows: [*rows[:-1], replace(rows[-1], key="another")], "4 samples, and not those of the plan"),
        (lambda rows: [replace(rows[0], reason="corrupt"), *rows[1:]], "2 samples in quarantine"),
        (lambda rows: [replace(rows[0], crc32c=1), *rows[1:]], "does not match its crc32c"),
        (lambda rows: [replace(rows[0], offset=10**9), *rows[1:]], "at offset 1000000000"),
        (lambda rows: [replace(rows[0], length=rows[0].length - 1), *rows[1:]], "does not match its crc32c"),
    ],
)
def test_an_index_that_was_written_wrong(
    own_store: Store, change: Callable[[list[SampleRow]], list[SampleRow]], found: str
) -> None:
    recommit(own_store, "images/000000", {layout.index_path(0): index_of(own_store, change)})
    problems = [problem for problem in decoded(own_store) if problem.unit == "images/000000"]
    assert len(problems) == 1 and found in problems[0].found
    assert problems[0].path == (layout.images_path(0) if found.startswith(("does", "at")) else layout.index_path(0))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda params, hashes: params.__setitem__((0, 2), 10**6), "row 0: crop_w is 1000000"),
        (lambda params, hashes: params.__setitem__((2, 0), 1), "parameters of samples in quarantine"),
        (lambda params, hashes: hashes.__setitem__(1, 0), "hashes of other samples"),
        (lambda params, hashes: hashes.__setitem__(2, 5), "hashes of other samples"),
    ],
)
def test_views_that_were_written_wrong(own_store: Store, change: Callable[..., None], found: str) -> None:
    params, hashes = own_store.view_params(1, 0).copy(), own_store.view_hashes(1, 0).copy()
    change(params, hashes)
    undecide(own_store, "views/001/000000")
    commit_view(own_store, 1, 0, params, hashes)
    (problem,) = [problem for problem in decoded(own_store) if problem.unit == "views/001/000000"]
    assert found in problem.found


def test_codecs_that_were_written_wrong(own_store: Store) -> None:
    codecs = {level: own_store.codec("tiny", level) for level in ("cls", "patch")}
    good = {"mean": np.zeros(6, np.float32), "std": np.ones(6, np.float32)}
    nan = {"mean": np.full(6, np.nan, np.float32), "std": np.ones(5, np.float32)}
    undecide(own_store, "codecs/tiny")
    commit_codecs(own_store, SHAPE.teacher("tiny"), codecs, {"cls": good, "patch": nan}, {})
    problems = [problem for problem in decoded(own_store) if problem.unit == "codecs/tiny"]
    assert {(problem.path.removeprefix("features/tiny/codecs/"), problem.found) for problem in problems} == {
        ("patch/std/zarr.json", "has 5 values for a teacher of width 6"),
        ("patch/mean/c/0", "has values that are not finite"),
    }


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_the_first_level_that_differs_is_named(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_decode(data: bytes) -> Image.Image:
        return decode(data).point(lambda level: level ^ 1)

    def other_render(image: Image.Image, params: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
        pixels = render(image, params, size)
        if params[4]:  # mirrored: view 1
            pixels[0, 0, 0] ^= 1
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr(deep, "render", other_render)
        first, second = pixels(own_store)
    assert (first.unit, second.unit) == ("views/001/000000", "views/001/000001")
    assert first.found == f"3 of 3 samples differ in their {VIEW}, first 'künstlich/0/0.png'"
    assert first.redone_by is None and decoder_versions() in first.remedy and "Pillow" in first.remedy
    with monkeypatch.context() as patch:
        patch.setattr(deep, "decode", other_decode)
        patch.setattr(deep, "render", other_render)
        problems = pixels(own_store)
    assert [problem.unit for problem in problems] == ["images/000000", "images/000001", "images/000002"]
    assert all(DECODED in problem.found and problem.redone_by is None for problem in problems)

    def refuse(data: bytes) -> Image.Image:
        raise BadImage("corrupt", "PNG: a decoder that is stricter than the one before")

    with monkeypatch.context() as patch:
        patch.setattr(deep, "decode", refuse)
        assert {problem.found.partition(", ")[0] for problem in pixels(own_store)} == {
            f"{rows} of {rows} samples differ in their {DECODED}" for rows in (3, 2)
        }
    write_other_image(own_store)
    (problem,) = [problem for problem in pixels(own_store) if problem.unit == "images/000001"]
    assert problem.found == f"1 of 3 samples differ in their {SOURCE}, first 'künstlich/1/1.png'"
    assert problem.redone_by == "images/000001"


def write_other_image(store: Store) -> None:
    """An index whose sha256 of one image is another image's."""
    rows = list(store.samples(1))
    rows[1] = replace(rows[1], source_sha256=rows[0].source_sha256)
    recommit(store, "images/000001", {layout.index_path(1): encode_index(rows)})


def test_images_of_another_store(own_store: Store) -> None:
    """The same keys and other pixels: the views that were recorded do not render."""
    undecide(own_store, "images/000001")
    write_images(Store.open(own_store.root), replace(SHAPE, seed=5), 1)
    problems = pixels(own_store)
    assert {problem.unit for problem in problems} == {"views/000/000001"}, "the first view that differs is told"
    assert all(VIEW in problem.found for problem in problems)


def test_a_damaged_block_is_told_and_the_others_are_checked(own_store: Store) -> None:
    (own_store.root / layout.index_path(0)).write_bytes(b"")
    path = own_store.root / layout.images_path(1)
    path.write_bytes(bytes(path.stat().st_size))
    problems = pixels(own_store)
    assert [(problem.unit, problem.redone_by) for problem in problems] == [
        ("images/000000", "images/000000"),
        ("images/000001", "images/000001"),
    ]
    assert f"3 of 3 samples differ in their {SOURCE}" in problems[1].found


def test_an_unfinished_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan)
    write_images(store, SHAPE, 0)
    assert pixels(store) == [] and decoded(store) == []


def test_rows_are_decoded_in_pieces(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(np.nan)(own_store)
    monkeypatch.setattr(deep, "PIECE_BYTES", 1)
    (problem,) = decoded(own_store)
    assert problem.found == "1 rows are not finite, first row 1"


def test_features_that_follow_nothing(own_store: Store) -> None:
    """A unit of other tokens is whole and finite: only asking the teacher again tells (see `recompute`)."""
    undecide(own_store, "features/tiny/000/000001")
    write_features(own_store, replace(SHAPE, seed=9), "tiny", 0, 1)
    assert decoded(own_store) == []
