"""Verify and repair: every object is looked at, every kind of damage is named, and what is dropped can be made again."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import commit, layout
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.commit import Attempt
from stillhouse.storage.disk import create_once
from stillhouse.storage.seal import records, seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, write_features, write_images, write_missing
from stillhouse.storage.verify import (
    RESEAL,
    SEAL,
    Problem,
    check_unit,
    dependents,
    forget,
    noted_units,
    planned_units,
    verify,
)
from stillhouse.storage.writer import commit_codecs

SHAPE = StoreShape()


def problems(store: Store) -> tuple[Problem, ...]:
    """By a freshly opened store, as another process would see it."""
    return verify(Store.open(store.root)).problems


def every_object() -> list[str]:
    """Paths of one small store, without making one."""
    chunks = [
        *(layout.features_chunk(t, level, 0, 0) for t in SHAPE.teachers for level in ("cls", "patch")),
        *(f"{layout.features_array(t, level)}/zarr.json" for t in SHAPE.teachers for level in ("cls", "patch")),
    ]
    codec = "features/tiny-int8/codecs/patch"
    return [
        *chunks,
        *("views/zarr.json", "views/params/zarr.json", "views/hash/zarr.json", "features/zarr.json"),
        *("views/params/c/1/1/0", "views/hash/c/0/0", "images/000002.tar", "index/000000.parquet"),
        *(f"{codec}/zarr.json", f"{codec}/scale/zarr.json", f"{codec}/scale/c/0", f"{codec}/std/c/0"),
    ]


@pytest.fixture(scope="module")
def mended_store(random_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One copy for many tests: each mends what it damages."""
    root = tmp_path_factory.mktemp("mended") / "store"
    shutil.copytree(random_store.root, root)
    return Store.open(root)


def test_a_whole_store(random_store: Store) -> None:
    told: list[int] = []
    result = verify(random_store, told.append)
    assert result.problems == () and result.sealed
    assert (result.num_units, result.num_objects, result.num_bytes) == (18, len(told), sum(told))
    assert result.num_bytes == sum(
        (random_store.root / entry.path).stat().st_size
        for record in records(random_store.root)
        for entry in record.objects
    )


@pytest.mark.parametrize("path", every_object())
def test_damage_of_every_kind_of_object(mended_store: Store, path: str) -> None:
    file = mended_store.root / path
    whole = file.read_bytes()
    damages: list[tuple[Callable[[], None], str]] = [
        (lambda: flip_bit(file, 8 * len(whole) // 3), "sha256"),
        (lambda: flip_bit(file, 0), "sha256"),
        (lambda: flip_bit(file, 8 * len(whole) - 1), "sha256"),
        (lambda: os.truncate(file, len(whole) - 1), f"{len(whole) - 1} bytes, expected {len(whole)}"),
        (lambda: os.truncate(file, 0), f"0 bytes, expected {len(whole)}"),
        (lambda: os.truncate(file, len(whole) + 1), f"{len(whole) + 1} bytes, expected {len(whole)}"),
        (lambda: file.unlink(), "is missing"),
    ]
    for damage, text in damages:
        damage()
        (problem,) = problems(mended_store)
        assert problem.path == path and text in problem.found
        assert path in {e.path for r in records(mended_store.root) if r.unit == problem.unit for e in r.objects}
        file.write_bytes(whole)
    assert problems(mended_store) == ()


def test_a_folder_in_the_place_of_an_object(own_store: Store) -> None:
    path = own_store.root / "views/hash/c/0/0"
    path.unlink()
    path.mkdir()
    ((problem,),) = (problems(own_store),)
    assert problem.path == "views/hash/c/0/0" and "expected" in problem.found


def repair(store: Store) -> list[str]:
    """What `stillhouse repair` has made again: the units that are damaged."""
    units = sorted({problem.redone_by for problem in problems(store)} - {None}, key=str)
    for unit in units:
        assert unit is not None
        forget(store, unit)
    return [str(unit) for unit in units]


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("images/000000.tar", "images/000000"),
        ("index/000002.parquet", "images/000002"),
        ("views/params/c/1/0/0", "views/001/000000"),
        ("features/tiny/patch/c/0/1/0/0", "features/tiny/000/000001"),
        ("features/tiny-int8/codecs/cls/scale/c/0", "codecs/tiny-int8"),
        ("features/tiny/cls/zarr.json", "codecs/tiny"),
        ("views/hash/zarr.json", "layout"),
        (layout.record_path("features/tiny/001/000000"), "features/tiny/001/000000"),
        (layout.record_path("images/000001"), "images/000001"),
        (layout.record_path("layout"), "layout"),
    ],
)
@pytest.mark.parametrize("gone", [False, True], ids=["a bit", "gone"])
def test_repair_and_the_same_step_again(own_store: Store, path: str, unit: str, gone: bool) -> None:
    before = verify(own_store)
    file = own_store.root / path
    if gone:
        file.unlink()
    else:
        flip_bit(file, 555 if file.stat().st_size > 70 else 7)
    found = problems(own_store)
    assert found
    assert {problem.redone_by for problem in found} == {unit}
    if path.startswith("_log") and gone:
        assert {problem.unit for problem in found} == {SEAL}, "a vanished record is known by its seal only"
    else:
        assert {(problem.unit, problem.path) for problem in found if problem.unit != SEAL} == {(unit, path)}
    assert repair(own_store) == [unit]
    noted = {p.path: p.found for p in problems(own_store) if p.unit == unit}
    assert noted[layout.redo_path(unit)] == "is to be made again: it was asked for"
    redone = write_missing(Store.create(own_store.root, SHAPE.spec, SHAPE.plan), SHAPE)
    assert redone == ([] if unit == "layout" else [unit])
    aside = list((own_store.root / "_log" / "forgotten").glob("*"))
    if path.startswith("_log") and gone:
        assert aside == []
    else:
        assert len(aside) == 1 and aside[0].name.startswith(unit.replace("/", "__"))
    after = verify(Store.open(own_store.root))
    assert after.problems == () and after.content_sha256 == before.content_sha256
    assert noted_units(own_store.root) == []
    assert seal(Store.open(own_store.root)).generation == 1, "equal content needs no new seal"


def test_a_unit_can_be_forgotten_twice(own_store: Store) -> None:
    """Each old record is kept under a name of its own."""
    for _ in range(2):
        forget(own_store, "views/000/000000")
        write_missing(Store.open(own_store.root), SHAPE)
    assert len(list((own_store.root / "_log" / "forgotten").iterdir())) == 2
    assert problems(own_store) == ()


def test_other_units_are_still_checked_beside_a_damaged_record(own_store: Store) -> None:
    flip_bit(own_store.root / layout.record_path("views/000/000000"), 900)
    (own_store.root / "images/000001.tar").unlink()
    found = {problem.path: problem for problem in problems(own_store)}
    record = layout.record_path("views/000/000000")
    assert found[record].unit == "views/000/000000" and found["images/000001.tar"].unit == "images/000001"
    assert {found["views/params/c/0/0/0"].unit, found["views/hash/c/0/0"].unit} == {SEAL}
    assert found["views/hash/c/0/0"].found == "is in seal 1, but no record has it with that sha256"


def test_vanished_records_of_a_sealed_store_are_missed(own_store: Store) -> None:
    shutil.rmtree(own_store.root / layout.UNITS / "features" / "tiny-int8")
    assert {problem.path for problem in problems(own_store)} == {
        layout.features_chunk("tiny-int8", level, view, block)
        for level in ("cls", "patch")
        for view in (0, 1)
        for block in (0, 1)
    }


def test_the_seal_the_card_and_the_teachers_are_checked(own_store: Store) -> None:
    targets: dict[str, tuple[str, Callable[[Path], None]]] = {
        "_log/seal/0001.json": ("_log", lambda path: flip_bit(path, 999)),
        "_log/id.json": ("_log", lambda path: path.unlink()),
        "_log/teachers/tiny.json": ("_log/teachers/tiny.json", lambda path: path.unlink()),
        "_log/teachers/tiny-int8.json": ("_log/teachers/tiny-int8.json", lambda path: flip_bit(path, 999)),
        "zarr.json": ("zarr.json", lambda path: flip_bit(path, 999)),
    }
    for path, (told, damage) in targets.items():
        whole = (own_store.root / path).read_bytes()
        damage(own_store.root / path)
        (problem,) = problems(own_store)
        assert problem.unit == SEAL and problem.path == told
        assert Path(path).name in problem.path + problem.found
        (own_store.root / path).write_bytes(whole)
    (own_store.root / "zarr.json").unlink()
    (problem,) = problems(own_store)
    assert problem.path == "zarr.json" and problem.remedy == RESEAL


def test_images_of_another_listing_are_found(own_store: Store) -> None:
    """A whole record, with other keys than the plan promised: files of another store."""
    path = own_store.root / layout.record_path("images/000002")
    record = own_store.record("images/000002")
    assert record is not None
    path.unlink()
    body = {
        "unit": record.unit,
        "attempt": record.attempt,
        "objects": [entry.to_json() for entry in record.objects],
        "facts": record.facts | {"keys_sha256": "another"},
    }
    create_once(path, signed_json(body))
    (problem,) = problems(own_store)
    assert problem == Problem("images/000002", "images/000002.tar", "holds other samples than the plan says")


def test_an_unfinished_store_is_whole_so_far(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan)
    result = verify(store)
    assert (result.problems, result.sealed, result.num_units) == ((), False, 1)


def test_unreadable_objects_are_told_apart(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = open

    def failing(file: str | Path, mode: str = "r", buffering: int = -1) -> object:
        if str(file).endswith(".tar"):
            raise OSError(5, "Input/output error")
        return real(file, mode, buffering)

    monkeypatch.setattr(builtins, "open", failing)
    found = verify(own_store).problems
    assert [problem.found for problem in found] == ["cannot be read: Input/output error"] * 3


# --- made anew -------------------------------------------------------------------------------------------------------


def other_features(store: Store, unit: str) -> None:
    """Write a unit of features with other tokens than `write_missing` would."""
    _, teacher, view, block = unit.split("/")
    write_features(store, replace(SHAPE, seed=7), teacher, int(view), int(block))


UNIT = "features/tiny/000/000001"


def test_readers_keep_the_old_record_until_the_new_one_is_there(own_store: Store) -> None:
    rows = own_store.good_rows(1)
    before = own_store.record(UNIT)
    codes = own_store.codes("tiny", "patch", 0, 1, rows)
    forget(own_store, UNIT)
    assert not own_store.done(UNIT) and own_store.record(UNIT) == before
    np.testing.assert_array_equal(Store.open(own_store.root).codes("tiny", "patch", 0, 1, rows), codes)
    other_features(Store.open(own_store.root), UNIT)
    assert own_store.done(UNIT) and own_store.record(UNIT) != before
    # A reader of the old seal holds the old file; a new one reads the new one; and the seal says so.
    np.testing.assert_array_equal(own_store.codes("tiny", "patch", 0, 1, rows), codes)
    assert (Store.open(own_store.root).codes("tiny", "patch", 0, 1, rows) != codes).any()
    assert {p.path for p in problems(own_store)} == {layout.features_chunk("tiny", lv, 0, 1) for lv in ("cls", "patch")}
    sealed = seal(Store.open(own_store.root))
    assert sealed.generation == 2 and problems(own_store) == ()


def test_a_reader_of_the_old_record_never_gets_the_new_rows(own_store: Store) -> None:
    """It knows the old record and meets the new file: an error that names it, no mixture."""
    reader = Store.open(own_store.root)
    rows = reader.good_rows(1)
    reader.require(UNIT, "features")
    forget(own_store, UNIT)
    other_features(Store.open(own_store.root), UNIT)
    with pytest.raises(CorruptError, match="holds other rows than its record says"):
        reader.codes("tiny", "patch", 0, 1, rows)


def test_who_comes_second_leaves_the_first_ones_work(own_store: Store) -> None:
    """Two repairs at once, one slower: its attempt loses, and the note is gone."""
    forget(own_store, UNIT)
    slow = Attempt(own_store.root, UNIT)
    with slow:
        slow.add(layout.features_chunk("tiny", "cls", 0, 1), [b"from the slow one"])
        other_features(Store.open(own_store.root), UNIT)
        first = own_store.record(UNIT)
        assert slow.commit({"rows": 0}) == first
    assert own_store.record(UNIT) == first and check_unit(own_store, UNIT) == []
    assert noted_units(own_store.root) == [] and not list((own_store.root / layout.STAGE).iterdir())


def test_a_note_is_about_one_record(own_store: Store) -> None:
    """A second repair that verified before the first one was done asks for nothing."""
    note = own_store.root / layout.redo_path(UNIT)
    forget(own_store, UNIT)
    late = note.read_bytes()
    other_features(Store.open(own_store.root), UNIT)
    note.write_bytes(late)
    assert own_store.done(UNIT) and check_unit(own_store, UNIT) == []
    flip_bit(note, 99)
    with pytest.raises(CorruptError, match="delete that file"):
        own_store.done(UNIT)
    (problem,) = check_unit(own_store, UNIT)
    assert problem.path == layout.redo_path(UNIT) and "delete that file" in problem.remedy


def test_a_sleeper_cannot_publish_what_was_forgotten(own_store: Store) -> None:
    """An attempt decided, slept before it published, was forgotten and made anew; then it wakes up."""
    forget(own_store, UNIT)
    asleep = Attempt(own_store.root, UNIT)
    with pytest.MonkeyPatch.context() as patch, asleep:
        patch.setattr(commit, "publish", lambda root, record: None)
        asleep.add(layout.features_chunk("tiny", "cls", 0, 1), [b"old bytes"])
        asleep.commit({"rows": 0})
    old = own_store.record(UNIT)
    assert old is not None and old.attempt == asleep.id
    forget(own_store, UNIT)
    other_features(Store.open(own_store.root), UNIT)
    with contextlib.suppress(MissingError):
        commit.publish(own_store.root, old)
    assert check_unit(own_store, UNIT) == []


@pytest.mark.parametrize("damaged", [False, True], ids=["a readable record", "an unreadable record"])
def test_what_was_made_from_a_changed_unit_follows_it(own_store: Store, damaged: bool) -> None:
    """Equal bytes: nothing else is touched. Other bytes: views and features of that block are to be made again."""
    unit = "images/000001"
    for shape, follow in ((SHAPE, []), (replace(SHAPE, seed=7), dependents(own_store, unit))):
        if damaged:
            flip_bit(own_store.root / layout.record_path(unit), 999)
        forget(own_store, unit)
        write_images(Store.open(own_store.root), shape, 1)
        assert noted_units(own_store.root) == sorted(follow)
    assert len(follow) == 6 and {problem.unit for problem in problems(own_store)} == {SEAL, *follow}
    assert all(not own_store.done(name) for name in follow) and own_store.done(unit)


def test_statistics_change_no_features(own_store: Store) -> None:
    unit = "codecs/tiny"
    store = Store.open(own_store.root)
    codecs = {level: store.codec("tiny", level) for level in ("cls", "patch")}
    zeros = {"mean": np.zeros(6, np.float32), "std": np.ones(6, np.float32)}
    forget(own_store, unit)
    commit_codecs(store, SHAPE.teacher("tiny"), codecs, {"cls": zeros, "patch": zeros}, {})
    assert noted_units(own_store.root) == []
    unit = "codecs/tiny-int8"
    other = {level: fit_codec("int8", SHAPE.tokens("tiny", level, 1, 1)) for level in codecs}
    forget(own_store, unit)
    commit_codecs(store, SHAPE.teacher("tiny-int8"), other, {"cls": zeros, "patch": zeros}, {})
    assert noted_units(own_store.root) == sorted(dependents(own_store, unit))


def test_every_planned_unit_is_there_and_every_object_belongs_to_one(random_store: Store) -> None:
    found = records(random_store.root)
    assert sorted(planned_units(random_store)) == [record.unit for record in found]
    for record in found:
        assert {layout.unit_of(entry.path) for entry in record.objects} == {record.unit}
    for path in ("zarr.json", "_log/spec.json", "images/notes.txt", "views/params/c/a/0/0", "features/t/x", ""):
        assert layout.unit_of(path) is None


def test_what_is_mended_meanwhile_is_no_problem(own_store: Store) -> None:
    """Verify looks twice: an extraction may just be publishing."""
    path = own_store.root / "images/000001.tar"
    whole = path.read_bytes()
    os.truncate(path, 5)
    told = 0

    def mend(num_bytes: int) -> None:
        nonlocal told
        told += 1
        if told == 70:
            path.write_bytes(whole)

    assert verify(own_store, mend).problems == ()
