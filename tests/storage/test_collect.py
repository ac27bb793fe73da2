"""Garbage collection: only what nothing names, only when it is old by the store's clock, and nothing on a doubt."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.core.errors import CorruptError, MissingError, ResourceError
from stillhouse.storage import collect as module
from stillhouse.storage import commit, layout
from stillhouse.storage.collect import MIN_AGE_S, Collection, collect, collected_line
from stillhouse.storage.commit import Attempt
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import records, seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, write_features, write_missing
from stillhouse.storage.verify import forget, verify

DAY_S = 24 * 3600
UNIT = "features/tiny/000/000001"


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def aged(path: Path, seconds: float) -> Path:
    """Make a file, or a folder with its files, that much older."""
    for one in (path, *(path.iterdir() if path.is_dir() else ())):
        stat = one.stat()
        os.utime(one, (stat.st_atime - seconds, stat.st_mtime - seconds))
    return path


def attempt(store: Store, seconds: float, number: int = 1) -> Path:
    """What an attempt of that age left that died while it staged."""
    folder = store.root / layout.STAGE / f"{number:032x}"
    folder.mkdir(parents=True)
    (folder / "images__000000.tar").write_bytes(b"x" * 1000)
    return aged(folder, seconds)


def removed(found: Collection) -> set[str]:
    return {leftover.path for leftover in found.removed}


def test_nothing_is_left_in_a_whole_store(own_store: Store) -> None:
    before = files(own_store.root)
    assert collect(own_store, older_than_s=0).leftovers == ()
    assert files(own_store.root) == before


def test_attempts_go_by_age(own_store: Store) -> None:
    before = files(own_store.root)
    young, old = attempt(own_store, DAY_S - 60), attempt(own_store, DAY_S + 60, number=2)
    found = collect(own_store)
    assert removed(found) == {f"_stage/{old.name}"} and found.num_bytes == 1000
    (kept,) = [leftover for leftover in found.leftovers if not leftover.removed]
    assert kept.path == f"_stage/{young.name}" and not kept.old and kept.age_s == pytest.approx(DAY_S - 60, abs=30)
    assert collected_line(found) == "removed 1 leftover of unfinished work, 1,000 bytes; 1 kept"
    assert collect(own_store, older_than_s=3600).num_bytes == 1000
    assert files(own_store.root) == before and not list((own_store.root / layout.STAGE).iterdir())


def test_an_attempt_that_still_writes_is_young(own_store: Store) -> None:
    folder = attempt(own_store, 5 * DAY_S)
    (folder / "index__000000.parquet").write_bytes(b"just now")
    aged(folder / "index__000000.parquet", 60)
    os.utime(folder, (0, 0))
    assert removed(collect(own_store)) == set()


def test_the_longest_unit_sets_the_age(own_store: Store) -> None:
    path = own_store.root / layout.record_path(UNIT)
    record = read_record(own_store.root, UNIT)
    assert record is not None
    body = {"unit": UNIT, "attempt": record.attempt, "objects": [entry.to_json() for entry in record.objects]}
    path.write_bytes(signed_json({**body, "facts": record.facts, "seconds": 2.0 * DAY_S}))
    old = attempt(own_store, 4 * DAY_S + 60)
    attempt(own_store, 4 * DAY_S - 60, number=2)
    found = collect(own_store)
    assert found.min_age_s == 4 * DAY_S and removed(found) == {f"_stage/{old.name}"}


def test_the_clock_is_that_of_the_store(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is another machine's, and two days behind ours: what looks old to us is not."""
    attempt(own_store, 2 * DAY_S)
    real = Path.touch

    def touch(path: Path, *args: object, **kwargs: bool) -> None:
        real(path, **kwargs)
        aged(path, 2 * DAY_S)

    monkeypatch.setattr(Path, "touch", touch)
    assert removed(collect(own_store)) == set()
    monkeypatch.undo()
    assert len(removed(collect(own_store))) == 1


def test_an_attempt_that_a_record_names_is_never_removed(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided, and not published: its publication is still to come."""
    forget(own_store, UNIT)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "publish", lambda root, record: None)
        write_features(own_store, StoreShape(), "tiny", 0, 1)
    record = own_store.record(UNIT)
    assert record is not None
    aged(own_store.root / layout.STAGE / record.attempt, 100 * DAY_S)
    for entry in record.objects:
        (own_store.root / entry.path).unlink()
    assert collect(own_store, older_than_s=0).leftovers == ()
    assert own_store.done(UNIT) and verify(own_store).problems == ()


def test_temporary_files_anywhere(own_store: Store) -> None:
    names = ["_log/units/images/.000000.json.0123456789abcdef", ".zarr.json.0123456789abcdef"]
    kept = ["images/.hidden", "images/notes.txt", ".zarr.json.0123", "_log/redo/.lock", "README.md"]
    for name in (*names, *kept):
        (own_store.root / name).parent.mkdir(exist_ok=True, parents=True)
        (own_store.root / name).write_bytes(b"")
        aged(own_store.root / name, 2 * DAY_S)
    before = files(own_store.root)
    assert removed(collect(own_store)) == set(names)
    assert files(own_store.root) == {name: data for name, data in before.items() if name not in names}


def orphans(store: Store) -> list[str]:
    """Objects of units that lost their record and are in no seal."""
    second = StoreShape(teachers={"second": "fp16"})
    write_missing(store, second)
    units = [record.unit for record in records(store.root) if "second" in record.unit]
    objects = [entry.path for record in records(store.root) if record.unit in units for entry in record.objects]
    for unit in units:
        (store.root / layout.record_path(unit)).unlink()
    return objects


def test_objects_that_no_record_names(own_store: Store) -> None:
    before = files(own_store.root)
    objects = orphans(own_store)
    found = collect(own_store)
    assert {leftover.path for leftover in found.leftovers} == set(objects) and found.removed == []
    dry = collect(own_store, older_than_s=0, dry_run=True)
    assert {leftover.path for leftover in dry.leftovers if leftover.old} == set(objects) and dry.removed == []
    assert removed(collect(own_store, older_than_s=0)) == set(objects)
    after = files(own_store.root)
    after.pop("_log/teachers/second.json")
    assert after == before


def test_what_the_seal_names_stays(own_store: Store) -> None:
    """Its records have vanished: nobody knows why, so nothing is thrown away."""
    shutil.rmtree(own_store.root / layout.UNITS / "features")
    before = files(own_store.root)
    assert collect(own_store, older_than_s=0).leftovers == ()
    assert files(own_store.root) == before


def doubts(root: Path) -> Iterator[Path]:
    yield root / layout.record_path("images/000001")
    yield root / layout.SEALS / "0001.json"


def test_nothing_is_removed_on_a_doubt(own_store: Store) -> None:
    attempt(own_store, 9 * DAY_S)
    for path in doubts(own_store.root):
        whole = path.read_bytes()
        flip_bit(path, 500)
        before = files(own_store.root)
        with pytest.raises(CorruptError, match="nothing was removed; mend it first: run `stillhouse verify"):
            collect(own_store, older_than_s=0)
        assert files(own_store.root) == before
        path.write_bytes(whole)
    shutil.move(own_store.root / layout.UNITS, own_store.root / "elsewhere")
    with pytest.raises(CorruptError, match=r"has no record _log/units/layout\.json"):
        collect(own_store, older_than_s=0)
    shutil.move(own_store.root / "elsewhere", own_store.root / layout.UNITS)
    assert len(collect(own_store, older_than_s=0).removed) == 1


def test_a_records_folder_that_cannot_be_listed(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty listing is no proof: everything would seem unnamed."""
    attempt(own_store, 9 * DAY_S)
    real, before = os.scandir, files(own_store.root)

    def scandir(path: str | Path) -> object:
        if str(path).endswith("units/features"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises((ResourceError, PermissionError)):
        collect(own_store, older_than_s=0)
    monkeypatch.undo()
    assert files(own_store.root) == before


def test_who_decides_at_the_last_moment_keeps_its_files(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asleep for days, it wakes up and decides while its leftovers are being removed."""
    forget(own_store, UNIT)
    real, sleeper = module._remove, Attempt(own_store.root, UNIT)
    codes = own_store.codes("tiny", "cls", 0, 1, own_store.good_rows(1))

    def remove(root: Path, paths: list[str]) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(commit, "publish", lambda root, record: None)
            sleeper.commit({"rows": 3})
        return real(root, paths)

    with sleeper:
        path = layout.features_chunk("tiny", "cls", 0, 1)
        sleeper.add(path, [(own_store.root / path).read_bytes()])
        aged(own_store.root / layout.STAGE / sleeper.id, 2 * DAY_S)
        monkeypatch.setattr(module, "_remove", remove)
        found = collect(own_store)
    assert found.removed == [] and len(found.leftovers) == 1
    assert own_store.done(UNIT)
    again = Store.open(own_store.root)
    assert (again.codes("tiny", "cls", 0, 1, again.good_rows(1)) == codes).all()


def test_who_decides_too_late_fails(own_store: Store) -> None:
    """Its files are gone before it decides: there is no record without bytes."""
    forget(own_store, UNIT)
    before = own_store.record(UNIT)
    late = Attempt(own_store.root, UNIT)
    with pytest.raises(MissingError, match="what was staged of unit"), late:
        late.add(layout.features_chunk("tiny", "cls", 0, 1), [b"bytes"])
        aged(own_store.root / layout.STAGE / late.id, 2 * DAY_S)
        assert len(collect(own_store).removed) == 1
        late.commit({"rows": 3})
    assert own_store.record(UNIT) == before


def test_a_collection_that_was_killed_is_carried_on(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(own_store, 2 * DAY_S)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect(own_store)
    (aside,) = (own_store.root / layout.STAGE).iterdir()
    assert aside.name.startswith(".")
    assert len(collect(own_store).removed) == 1 and not list((own_store.root / layout.STAGE).iterdir())


def test_a_new_object_under_an_old_name_is_not_removed(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the removal the unit was made again."""
    objects = orphans(own_store)
    real = module._remove

    def remove(root: Path, paths: list[str]) -> set[str]:
        write_missing(Store.open(root), StoreShape(teachers={"second": "fp16"}))
        return real(root, paths)

    monkeypatch.setattr(module, "_remove", remove)
    found = collect(own_store, older_than_s=0)
    assert found.removed == [] and {leftover.path for leftover in found.leftovers} == set(objects)
    assert verify(own_store).problems == () and seal(own_store).generation == 2


def test_what_is_published_while_the_old_one_is_removed_stays(
    own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is made again between the moment when its old objects were taken away and the look at the records."""
    objects = orphans(own_store)
    real, calls = module._named, 0

    def named(root: Path) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            write_missing(Store.open(root), StoreShape(teachers={"second": "fp16"}, seed=3))
        return real(root)

    shutil.rmtree(own_store.root / "_log/teachers", ignore_errors=False)
    for teacher in StoreShape().teachers:
        own_store.add_teacher(StoreShape().teacher(teacher))
    monkeypatch.setattr(module, "_named", named)
    found = collect(own_store, older_than_s=0)
    assert calls == 2 and found.removed == [] and {leftover.path for leftover in found.leftovers} == set(objects)
    assert verify(own_store).problems == () and not list((own_store.root / layout.STAGE).iterdir())


def test_the_default_is_a_day() -> None:
    assert MIN_AGE_S == DAY_S
