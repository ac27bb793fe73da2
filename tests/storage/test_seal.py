"""Seals: what they say, when there is a new one, and that two who seal at once do no harm."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import layout
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import content_digest, decided_units, latest_seal, records, seal, store_id
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, make_store, write_missing

SHAPE = StoreShape()


def test_a_seal_lists_every_object(random_store: Store) -> None:
    sealed = latest_seal(random_store.root)
    objects = [entry for record in records(random_store.root) for entry in record.objects]
    assert sealed is not None and sealed.generation == 1
    assert sorted(entry.path for entry in objects) == [entry.path for entry in sealed.objects]
    assert set(objects) == set(sealed.objects)
    assert sealed.num_objects == len(objects) == 70
    assert sealed.num_bytes == sum((random_store.root / entry.path).stat().st_size for entry in objects)
    assert sealed.content_sha256 == content_digest(objects)
    body = json.loads((random_store.root / layout.SEALS / "0001.json").read_bytes())
    assert body["spec_sha256"] == random_store.spec.sha256() and body["format_version"] == 1


def test_the_digest_is_of_the_content_only() -> None:
    """printf 'a/x 1 00\\nb/y 22 ff\\n' | sha256sum"""
    entries = [ObjectEntry("b/y", 22, "ff"), ObjectEntry("a/x", 1, "00")]
    expected = "efc86aae6426d3028e467ee1b501106c38aff9955117a314560f217df1f0208d"
    assert content_digest(entries) == content_digest(entries[::-1]) == expected


def test_sealing_again_changes_nothing(own_store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_store.root.rglob("*") if path.is_file()}
    assert seal(own_store) == latest_seal(own_store.root)
    assert {path: path.stat().st_mtime_ns for path in own_store.root.rglob("*") if path.is_file()} == before


def test_generations_count_up_and_stay(own_store: Store) -> None:
    first = latest_seal(own_store.root)
    for number in range(2, 5):
        write_missing(own_store, replace(SHAPE, teachers={f"teacher-{number}": "fp16"}))
        sealed = seal(own_store)
        assert sealed.generation == number == latest_seal(own_store.root).generation  # type: ignore[union-attr]
        card = json.loads((own_store.root / "zarr.json").read_bytes())["attributes"]["stillhouse"]
        pinned = {"content_sha256": sealed.content_sha256, "sha256": sealed.root_sha256}
        assert card["seal"] == {"generation": number, **pinned}
        assert f"teacher-{number}" in card["teachers"]
    assert [path.name for path in sorted((own_store.root / layout.SEALS).iterdir())] == [
        "0001.json",
        "0002.json",
        "0003.json",
        "0004.json",
    ]
    assert first is not None
    kept = json.loads((own_store.root / layout.SEALS / "0001.json").read_bytes())
    assert kept["content_sha256"] == first.content_sha256


def test_the_ten_thousandth_is_after_the_one_before(own_store: Store) -> None:
    for generation in (9999, 10000):
        body: dict[str, Any] = {"generation": generation, "content_sha256": "0", "objects": []}
        (own_store.root / layout.SEALS / f"{generation:04d}.json").write_bytes(signed_json(body))
    sealed = latest_seal(own_store.root)
    assert sealed is not None and sealed.generation == 10000


def test_stray_names_are_no_seals(own_store: Store) -> None:
    for name in (".0002.json.0123456789abcdef", "notes.txt", "x.json"):
        (own_store.root / layout.SEALS / name).write_text("{}")
    assert latest_seal(own_store.root) == seal(own_store)


def test_an_unsealed_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan)
    assert latest_seal(store.root) is None
    assert decided_units(store.root) == ["layout"]
    assert json.loads((store.root / "zarr.json").read_bytes()) == {
        "attributes": {},
        "node_type": "group",
        "zarr_format": 3,
    }


def test_eight_seal_at_once(own_store: Store) -> None:
    write_missing(own_store, replace(SHAPE, teachers={"another": "int8"}))
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda _: seal(Store.open(own_store.root)), range(8)))
    assert len(set(sealed)) == 1 and sealed[0].generation == 2
    assert sorted(path.name for path in (own_store.root / layout.SEALS).iterdir()) == ["0001.json", "0002.json"]


def test_a_crash_between_seal_and_card_is_made_up_for(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_missing(own_store, replace(SHAPE, teachers={"another": "int8"}))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        seal(own_store)
    assert latest_seal(own_store.root) is not None
    sealed = seal(own_store)
    assert sealed.generation == 2
    card = json.loads((own_store.root / "zarr.json").read_bytes())["attributes"]["stillhouse"]
    assert card["seal"]["generation"] == 2


def test_a_lost_or_damaged_card_is_written_again(own_store: Store) -> None:
    path = own_store.root / "zarr.json"
    whole = path.read_bytes()
    path.unlink()
    seal(own_store)
    assert path.read_bytes() == whole
    flip_bit(path, 100)
    seal(own_store)
    assert path.read_bytes() == whole


def test_damage_of_a_seal_is_found(own_store: Store) -> None:
    path = own_store.root / layout.SEALS / "0001.json"
    for bit in range(0, path.stat().st_size * 8, 101):
        flip_bit(path, bit)
        with pytest.raises(CorruptError, match=str(path)) as caught:
            latest_seal(own_store.root)
        assert caught.value.hint == "delete that file; the next `stillhouse extract` seals again"
        flip_bit(path, bit)
    before = latest_seal(own_store.root)
    path.unlink()  # as the hint says
    assert seal(own_store) == before


def test_the_name_of_a_store_stays_and_differs(own_store: Store, tmp_path: Path) -> None:
    name = store_id(own_store.root)
    assert len(name) == 32
    Store.create(own_store.root, SHAPE.spec, SHAPE.plan)
    assert store_id(own_store.root) == name
    assert store_id(Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan).root) != name
    (own_store.root / layout.ID).unlink()
    with pytest.raises(MissingError, match=r"_log/id.json is not in store"):
        store_id(own_store.root)


def test_half_made_files_are_no_records(own_store: Store) -> None:
    before = decided_units(own_store.root)
    folder = own_store.root / layout.UNITS / "images"
    (folder / ".000000.json.0123456789abcdef").write_text("half")
    (folder / ".hidden.json").write_text("half")
    assert decided_units(own_store.root) == before
    assert len(before) == len(set(before)) == 18 and before == sorted(before)


def test_the_content_does_not_depend_on_the_order_of_work(tmp_path: Path, random_store: Store) -> None:
    """A store that grew teacher by teacher ends as the one that was made at once."""
    one = replace(SHAPE, teachers={"tiny-int8": "int8"})
    store = make_store(tmp_path / "s", one)
    write_missing(store, SHAPE)
    sealed, at_once = seal(store), latest_seal(random_store.root)
    assert at_once is not None
    assert sealed.generation == 2 and sealed.content_sha256 == at_once.content_sha256
