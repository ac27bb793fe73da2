"""Damage to every class of object, a draw of the campaign; and that the campaign sees a store that does not look."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bit_flips import Damage, ObjectClass, Range, attack, classes, clean_reads, make_range, try_damage

from stillhouse.core.errors import CorruptError
from stillhouse.storage import layout
from stillhouse.storage.index import SampleRow
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape
from stillhouse.storage.verify import Verification


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Range:
    return make_range(tmp_path_factory.mktemp("range"))


NAMES = (
    "shard",
    "chunk of view parameters and hashes",
    "codec array",
    "tar",
    "Parquet index",
    "decision record",
    "zarr.json",
    "seal",
    "spec",
    "plan",
    "store id",
    "teacher spec",
)


def named(place: Range, name: str) -> ObjectClass:
    return next(kind for kind in classes(place.store) if kind.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_seen(place: Range, name: str) -> None:
    outcome = attack(named(place, name), place, 60)
    assert outcome.violations == ()
    assert outcome.cases >= 60 and sum(map(int, outcome.facts.values())) == outcome.cases


def test_every_file_of_a_store_is_in_a_class(place: Range) -> None:
    kinds = classes(place.store)
    files = {path.relative_to(place.root).as_posix() for path in place.root.rglob("*") if path.is_file()}
    assert files == {path for kind in kinds for path in kind.reads}
    assert tuple(kind.name for kind in kinds) == NAMES


def test_the_store_is_whole_again_after_each_case(place: Range) -> None:
    kind = named(place, "shard")
    one, other, *_ = sorted(kind.reads)
    before = {path: (place.root / path).read_bytes() for path in (one, other)}
    attack(kind, place, 0)
    for damage in (Damage(one, "flip", 9), Damage(one, "deleted"), Damage(one, "swapped", other=other)):
        try_damage(kind, damage, place)
        assert {path: (place.root / path).read_bytes() for path in before} == before


def test_whole_objects_raise_no_alarm(tmp_path: Path) -> None:
    clean = make_range(tmp_path, StoreShape(block_samples=16, blocks=(("train", 16), ("train", 9))))
    kinds = classes(clean.store)
    for kind in kinds:
        attack(kind, clean, 0)
    outcome = clean_reads(clean, kinds, 2000)
    assert outcome.violations == () and outcome.facts["false alarms"] == 0 and outcome.cases > 2000
    clean.expected[layout.ID] = "another"
    assert any("A WRONG VALUE" in line for line in clean_reads(clean, kinds, 2000).violations)


# --- the campaign sees a store that is broken ------------------------------------------------------------------------


def broken_with(place: Range, read: Callable[[Store], Any]) -> list[str]:
    """What the campaign says of a store that reads its indexes like that."""
    path = layout.index_path(0)
    return list(attack(ObjectClass("index, read badly", {path: read}), place, 60).violations)


def test_a_read_that_checks_nothing(place: Range) -> None:
    told = broken_with(place, lambda store: (store.root / layout.index_path(0)).read_bytes())
    assert len([line for line in told if line.endswith("A WRONG VALUE was returned")]) >= 60
    assert any(": bit " in line for line in told) and any("a copy from another store" in line for line in told)


def test_a_read_that_fills_in(place: Range) -> None:
    def filling(store: Store) -> list[SampleRow]:
        try:
            return list(store.samples(0))
        except CorruptError:
            return []

    assert len(broken_with(place, filling)) >= 60


def test_a_read_that_looks_away(place: Range) -> None:
    told = broken_with(place, lambda store: 1)
    assert len(told) >= 60 and all(line.endswith("the read does not see it") for line in told)


def test_errors_that_do_not_help(place: Range) -> None:
    def saying(*words: str, hint: str = "") -> list[str]:
        def read(store: Store) -> int:
            try:
                return len(list(store.samples(0)))
            except CorruptError:
                raise CorruptError(" ".join(words), hint=hint) from None

        return broken_with(place, read)

    assert all("does not name it" in line for line in saying("something is wrong", hint="run `stillhouse verify`"))
    assert all("names no remedy" in line for line in saying(layout.index_path(0), hint="good luck"))
    assert saying(layout.index_path(0), hint="run `stillhouse verify`") == []

    def crashing(store: Store) -> int:
        try:
            return len(list(store.samples(0)))
        except CorruptError:
            raise ValueError("bad") from None

    assert all(line.endswith("ValueError: bad") for line in broken_with(place, crashing))


def test_objects_whose_sha256_is_not_compared(place: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(store: Store, entry: ObjectEntry, *limits: object) -> bytes:
        return (store.root / entry.path).read_bytes()

    monkeypatch.setattr(Store, "_object", trusting)
    for name in ("Parquet index", "codec array", "chunk of view parameters and hashes"):
        assert attack(named(place, name), place, 60).violations


def test_a_verify_that_sees_nothing(place: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bit_flips.verify", lambda store: Verification(0, 0, 0, (), "", True))
    told = attack(named(place, "tar"), place, 60).violations
    assert told and all("verify does not name it" in line for line in told)
