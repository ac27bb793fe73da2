"""Verify and repair: every object is looked at, every kind of damage is named, and what is dropped can be made again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.core.errors import CorruptError
from stillhouse.storage import layout
from stillhouse.storage.commit import create_once, signed_json
from stillhouse.storage.seal import records, seal
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, write_missing
from stillhouse.storage.verify import SEAL, Problem, forget, raise_problems, verify

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
    raise_problems(random_store, result)


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


def test_the_error_names_object_unit_and_remedy(own_store: Store) -> None:
    os.truncate(own_store.root / "images/000001.tar", 0)
    (own_store.root / "index/000001.parquet").unlink()
    result = verify(own_store)
    size = next(e.num_bytes for r in records(own_store.root) for e in r.objects if e.path == "images/000001.tar")
    with pytest.raises(CorruptError) as caught:
        raise_problems(own_store, result)
    root = own_store.root
    assert str(caught.value) == (
        f"images/000001.tar of unit images/000001 in {root}: 0 bytes, expected {size} (and 1 more); "
        f"run `stillhouse verify {root} --repair` to drop the damaged units, then the same step again"
    )


def repair(store: Store) -> list[str]:
    """What `stillhouse verify --repair` drops."""
    units = sorted({problem.unit for problem in problems(store)} - {SEAL})
    for unit in units:
        forget(store, unit)
    return units


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
    if path.startswith("_log") and gone:
        assert {problem.unit for problem in found} == {SEAL}, "a vanished record is known by its seal only"
        assert repair(own_store) == []
    else:
        assert {(problem.unit, problem.path) for problem in found if problem.unit != SEAL} == {(unit, path)}
        assert repair(own_store) == [unit]
        aside = list((own_store.root / "_log" / "forgotten").iterdir())
        assert len(aside) == 1 and aside[0].name.startswith(unit.replace("/", "__"))
    again = Store.create(own_store.root, SHAPE.spec, SHAPE.plan)
    redone = write_missing(again, SHAPE)
    assert redone == ([] if unit == "layout" else [unit])
    after = verify(Store.open(own_store.root))
    assert after.problems == () and after.content_sha256 == before.content_sha256
    assert seal(again).generation == 1, "equal content needs no new seal"


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
        "_log/teachers/tiny-int8.json": ("_log", lambda path: flip_bit(path, 999)),
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
    assert problem.path == "zarr.json" and problem.found.endswith("the next `stillhouse extract` writes it again")


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

    def failing(file: str | Path, mode: str = "r") -> object:
        if str(file).endswith(".tar"):
            raise OSError(5, "Input/output error")
        return real(file, mode)

    monkeypatch.setattr(builtins, "open", failing)
    found = verify(own_store).problems
    assert [problem.found for problem in found] == ["cannot be read: Input/output error"] * 3
