"""A store as its readers see it: ours, and any Zarr reader with numpy. Damage is found where it is read."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from stillhouse.core.errors import CorruptError, MissingError, SpecMismatchError, StillhouseError, UsageError
from stillhouse.storage import layout
from stillhouse.storage.seal import latest_seal, records, seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.specs import BlockPlan, StorePlan
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape, flip_bit, make_store, write_missing
from stillhouse.storage.verify import verify
from stillhouse.storage.views import FIELDS

SHAPE = StoreShape()
Damage = Callable[[Path, Random], None]


def array(root: Path, path: str) -> npt.NDArray[Any]:
    """All of an array, by zarr-python alone."""
    group = zarr.open_group(root, mode="r")
    found = group[path]
    assert isinstance(found, zarr.Array)
    return np.asarray(found[...])


# --- any Zarr reader -------------------------------------------------------------------------------------------------


def test_the_root_is_a_group_with_a_card(random_store: Store) -> None:
    group = zarr.open_group(random_store.root, mode="r")
    card = group.attrs["stillhouse"]
    assert isinstance(card, dict)
    assert card["format_version"] == 1 and card["samples"] == 9 and card["teachers"] == ["tiny", "tiny-int8"]
    assert card["spec_sha256"] == SHAPE.spec.sha256()
    sealed = latest_seal(random_store.root)
    assert sealed is not None and sealed.content_sha256 == verify(random_store).content_sha256
    pinned = {"content_sha256": sealed.content_sha256, "sha256": sealed.root_sha256}
    assert card["seal"] == {"generation": 1, **pinned}


def test_every_array_opens_with_the_promised_shape_and_names(random_store: Store) -> None:
    group = zarr.open_group(random_store.root, mode="r")
    expected: dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]] = {
        "views/params": ((2, 12, len(FIELDS)), "int32", ("view", "row", "field")),
        "views/hash": ((2, 12), "uint64", ("view", "row")),
        "features/tiny/cls": ((2, 12, 1, 6), "float16", ("view", "row", "token", "code")),
        "features/tiny/patch": ((2, 12, 4, 6), "float16", ("view", "row", "token", "code")),
        "features/tiny-int8/cls": ((2, 12, 1, 6), "int8", ("view", "row", "token", "code")),
        "features/tiny-int8/patch": ((2, 12, 4, 6), "int8", ("view", "row", "token", "code")),
    }
    for path, (shape, dtype, names) in expected.items():
        found = group[path]
        assert isinstance(found, zarr.Array)
        assert (found.shape, str(found.dtype), found.metadata.dimension_names) == (shape, dtype, names)  # type: ignore[union-attr]
    assert group["views/params"].attrs["fields"] == list(FIELDS)
    patch = dict(group["features/tiny/patch"].attrs)
    codecs = "features/tiny/codecs/patch"
    assert patch == {"teacher": "tiny", "level": "patch", "codec": "fp16", "codec_group": codecs, "grid": [2, 2]}
    assert dict(group[codecs].attrs) == {"codec": "fp16", "dim": 6}


def rows_of(block: int) -> slice:
    start = block * SHAPE.block_samples
    return slice(start, start + SHAPE.blocks[block][1])


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("teacher", sorted(SHAPE.teachers))
def test_numpy_alone_decodes_the_features(random_store: Store, teacher: str, level: str) -> None:
    """The five lines of docs/format.md."""
    codes = array(random_store.root, f"features/{teacher}/{level}")
    if SHAPE.teachers[teacher] == "fp16":
        tokens = codes.astype(np.float32)
    else:
        group = f"features/{teacher}/codecs/{level}"
        scale, offset = array(random_store.root, f"{group}/scale"), array(random_store.root, f"{group}/offset")
        tokens = codes.astype(np.float32) * scale + offset
    codec = random_store.codec(teacher, level)
    for block in SHAPE.train_blocks:
        for view in range(SHAPE.num_views):
            good = random_store.good_rows(block)
            ours = codec.decode(random_store.codes(teacher, level, view, block, good))
            np.testing.assert_array_equal(tokens[view, rows_of(block)][good], ours)
            truth = SHAPE.tokens(teacher, level, view, block)[good]
            np.testing.assert_allclose(ours, truth, atol=2e-3 if codec.name == "fp16" else 3.0)


def test_what_does_not_exist_reads_as_the_fill_value(random_store: Store) -> None:
    absent = np.ones(12, np.bool_)
    for block in SHAPE.train_blocks:
        absent[block * SHAPE.block_samples + random_store.good_rows(block)] = False
    assert absent.tolist() == [False, False, True, False, False, False, False, True, True, True, True, True]
    root = random_store.root
    assert np.isnan(array(root, "features/tiny/patch")[:, absent]).all()
    assert (array(root, "features/tiny-int8/patch")[:, absent] == -128).all()
    assert (array(root, "views/params")[:, absent] == layout.MISSING_PARAM).all()
    assert (array(root, "views/hash")[:, absent] == layout.MISSING_HASH).all()
    assert not np.isnan(array(root, "features/tiny/patch")[:, ~absent]).any()
    assert (array(root, "views/hash")[:, ~absent] != 0).all()


def test_views_are_read_alike(random_store: Store) -> None:
    params, hashes = array(random_store.root, "views/params"), array(random_store.root, "views/hash")
    for block in SHAPE.train_blocks:
        for view in range(SHAPE.num_views):
            ours = random_store.view_params(view, block)
            assert ours.dtype == np.int32
            np.testing.assert_array_equal(ours, params[view, rows_of(block)])
            np.testing.assert_array_equal(ours, SHAPE.params(view, block))
            np.testing.assert_array_equal(random_store.view_hashes(view, block), hashes[view, rows_of(block)])


def test_statistics_are_plain_arrays(random_store: Store) -> None:
    mean, std = random_store.statistics("tiny", "patch")
    np.testing.assert_array_equal(mean, array(random_store.root, "features/tiny/codecs/patch/mean"))
    np.testing.assert_array_equal(std, array(random_store.root, "features/tiny/codecs/patch/std"))
    np.testing.assert_allclose(mean, SHAPE.tokens("tiny", "patch", 0, 0).mean(axis=(0, 1)), rtol=1e-6)


# --- making and opening ----------------------------------------------------------------------------------------------


def test_two_stores_of_one_shape_have_one_content(random_store: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", SHAPE)
    mine, theirs = records(random_store.root), records(other.root)
    assert {r.attempt for r in mine}.isdisjoint(r.attempt for r in theirs)
    assert [(r.unit, r.objects, r.facts) for r in mine] == [(r.unit, r.objects, r.facts) for r in theirs]
    assert seal(other).content_sha256 == verify(random_store).content_sha256
    for entry in (entry for record in mine for entry in record.objects):
        assert (other.root / entry.path).read_bytes() == (random_store.root / entry.path).read_bytes()


def test_making_it_again_does_nothing(own_store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_store.root.rglob("*") if path.is_file()}
    again = Store.create(own_store.root, SHAPE.spec, SHAPE.plan)
    assert write_missing(again, SHAPE) == []
    seal(again)
    assert {path: path.stat().st_mtime_ns for path in own_store.root.rglob("*") if path.is_file()} == before


def test_a_later_teacher_changes_no_object(own_store: Store) -> None:
    before = {entry for record in records(own_store.root) for entry in record.objects}
    wider = StoreShape(teachers={**SHAPE.teachers, "second": "fp16"})
    written = write_missing(own_store, wider)
    assert {unit.split("/")[1] for unit in written} == {"second"}
    assert before < {entry for record in records(own_store.root) for entry in record.objects}
    assert verify(own_store).problems == (), "half-way to the next seal is no damage"
    assert seal(own_store).generation == 2
    assert [teacher.name for teacher in own_store.teachers()] == ["second", "tiny", "tiny-int8"]


def test_spec_differences_are_named(own_store: Store) -> None:
    other = StoreShape(seed=3, num_views=4)
    with pytest.raises(SpecMismatchError) as caught:
        Store.create(own_store.root, other.spec, other.plan)
    assert str(caught.value) == (
        f"store {own_store.root} was made from another spec: ingest.seed: stored 0, asked for 3; "
        "views.num: stored 2, asked for 4; undo the change, or name another folder as `store`"
    )


def test_another_listing_is_refused(own_store: Store) -> None:
    block = BlockPlan(split="train", num_rows=1, keys_sha256="0")
    with pytest.raises(SpecMismatchError, match="has other samples than when the store was begun"):
        Store.create(own_store.root, SHAPE.spec, StorePlan(block_samples=4, blocks=(block,)))


def test_another_teacher_of_that_name_is_refused(own_store: Store) -> None:
    spec = SHAPE.teacher("tiny")
    changed = spec.model_copy(update={"weights_sha256": "0", "precision": "bf16"})
    with pytest.raises(SpecMismatchError) as caught:
        own_store.add_teacher(changed)
    assert str(caught.value) == (
        f"store {own_store.root} holds features of another 'tiny': precision: stored 'fp32', asked for 'bf16'; "
        f"weights_sha256: stored '{spec.weights_sha256}', asked for '0'; give this teacher another name"
    )
    own_store.add_teacher(spec)


def test_another_format_is_refused(own_store: Store) -> None:
    spec = SHAPE.spec.model_dump(mode="json") | {"format_version": 2, "invented_later": True}
    (own_store.root / layout.SPEC).write_bytes(signed_json(spec))
    with pytest.raises(SpecMismatchError) as caught:
        Store.open(own_store.root)
    assert str(caught.value) == (
        f"store {own_store.root} has format 2, this stillhouse reads format 1; use the stillhouse that made it"
    )


def test_unknown_fields_of_a_spec_are_corrupt(own_store: Store) -> None:
    (own_store.root / layout.SPEC).write_bytes(signed_json(SHAPE.spec.model_dump(mode="json") | {"colour": 1}))
    with pytest.raises(CorruptError, match=r"spec.json: unknown key 'colour'"):
        Store.open(own_store.root)


def test_places_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UsageError) as caught:
            Store.open(place)
        assert str(caught.value) == f"no store at {place}; run `stillhouse ingest` first"
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError) as caught:
            Store.create(place, SHAPE.spec, SHAPE.plan)
        assert str(caught.value) == f"{place} is not empty and not a store; name an empty folder for the store"


def test_a_crash_while_making_it_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout is decided and nothing of it is published."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan)
    assert not (tmp_path / "s" / "views" / "zarr.json").exists()
    store = make_store(tmp_path / "s", SHAPE)
    assert verify(store).problems == ()


@pytest.mark.parametrize("name", ["a", "dinov2-g", "vit_b.16", "0", "a" * 64])
def test_good_names(name: str) -> None:
    assert layout.check_name(name, "teacher") == name


@pytest.mark.parametrize(
    "name", ["", "A", "ü", "a b", "a/b", "..", ".a", "-a", "_a", "a..b", "a" * 65, "a\n", "a\0", "zarr.json"]
)
def test_bad_names(name: str, random_store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        layout.check_name(name, "teacher")
    assert str(caught.value) == f"teacher name {name!r}; use 1-64 of a-z, 0-9, '_', '-', '.', starting with a-z or 0-9"
    with pytest.raises(UsageError):
        random_store.teacher(name)


# --- asking for what is not there ------------------------------------------------------------------------------------


def test_quarantined_samples(random_store: Store) -> None:
    assert random_store.good_rows(0).tolist() == [0, 1, 3]
    assert random_store.samples(0)[2].reason == "truncated"
    with pytest.raises(MissingError) as caught:
        random_store.image_bytes(0, 2)
    assert str(caught.value) == "sample 'künstlich/0/2.png' is in quarantine (truncated) and has no image"
    with pytest.raises(MissingError, match="has no row 2; quarantined samples have no features"):
        random_store.codes("tiny", "cls", 0, 0, [0, 2])
    facts = random_store.require("images/000000", "images").facts
    assert facts["quarantined"] == [{"row": 2, "key": "künstlich/0/2.png", "reason": "truncated"}]


def test_rows_beyond_the_samples_of_a_block(random_store: Store) -> None:
    assert len(random_store.view_hashes(0, 1)) == 3
    with pytest.raises(MissingError, match="has no row 3"):
        random_store.codes("tiny", "cls", 0, 1, [3])


def test_steps_that_did_not_happen(random_store: Store) -> None:
    with pytest.raises(MissingError) as caught:
        random_store.codes("tiny", "patch", 0, 2, [0])
    assert str(caught.value) == (
        f"store {random_store.root} has no features of tiny/patch for view 0 of block 2; "
        "run the step that makes it again"
    )
    with pytest.raises(MissingError, match="has no view 7 of block 0"):
        random_store.view_params(7, 0)
    with pytest.raises(MissingError, match="has no images of block 9"):
        random_store.samples(9)
    with pytest.raises(MissingError, match="has no codec of teacher nobody"):
        random_store.codec("nobody", "cls")


def test_unknown_teachers_and_levels_are_answered_with_the_known(random_store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        random_store.teacher("nobody")
    root = random_store.root
    assert str(caught.value) == f"store {root} has no teacher 'nobody'; teachers in it: tiny, tiny-int8"
    with pytest.raises(UsageError) as caught:
        random_store.codes("tiny", "pooled", 0, 0, [0])
    assert str(caught.value) == "teacher 'tiny' has no level 'pooled'; levels: cls, patch"


def test_a_teacher_is_the_one_that_the_features_are_of(own_store: Store) -> None:
    path = own_store.root / layout.teacher_path("tiny")
    whole = path.read_bytes()
    for damage in (
        lambda: path.unlink(),
        lambda: path.write_bytes(signed_json(StoreShape(seed=9).teacher("tiny").model_dump(mode="json"))),
        lambda: path.write_bytes((path.parent / "tiny-int8.json").read_bytes()),
    ):
        damage()
        with pytest.raises(CorruptError, match=r"teachers/tiny.json (is not there|is another teacher's).*; restore"):
            own_store.teacher("tiny")
        path.write_bytes(whole)
    assert own_store.teacher("tiny").name == "tiny"


def test_reading_writes_nothing(own_store: Store) -> None:
    before = sorted(own_store.root.rglob("*"))
    read_everything(Store.open(own_store.root))
    assert sorted(own_store.root.rglob("*")) == before


# --- one store, many readers -----------------------------------------------------------------------------------------


def test_many_threads_read_one_store(random_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two open files, so that files are closed while others read."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr("stillhouse.storage.store.OPEN_FILES", 2)
    store = Store.open(random_store.root)
    expected = read_everything(Store.open(random_store.root))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: read_everything(store), range(24)):
            assert found == expected


def test_open_files_are_bounded(random_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.storage.store.OPEN_FILES", 3)
    store = Store.open(random_store.root)
    before = len(os.listdir("/proc/self/fd"))
    read_everything(store)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    del store
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_store_from_before_a_fork_says_so(random_store: Store) -> None:
    store = Store.open(random_store.root)
    read_everything(store)
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of threads; the child starts none and ends at once
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            store.codes("tiny", "cls", 0, 0, [0])
            os.write(writing, b"read")
        except StillhouseError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    assert said == "this Store was opened before a fork; open it again in the worker process"


# --- damage ----------------------------------------------------------------------------------------------------------


def read_everything(store: Store) -> list[Any]:
    """What every reading method gives."""
    found: list[Any] = []
    for block in range(len(store.plan.blocks)):
        found.append(list(store.samples(block)))
        found += [store.image_bytes(block, int(row)) for row in store.good_rows(block)]
    for teacher in store.teachers():
        for level in teacher.levels:
            found += [array.tobytes() for array in store.statistics(teacher.name, level)]
            found += [array.tobytes() for array in store.codec(teacher.name, level).arrays().values()]
            for block in store.plan.blocks_of("train"):
                for view in range(store.spec.num_views):
                    found.append(store.view_params(view, block).tobytes())
                    found.append(store.view_hashes(view, block).tobytes())
                    found.append(store.codes(teacher.name, level, view, block, store.good_rows(block)).tobytes())
    return found


OBJECTS = {
    "fp16 shard": "features/tiny/patch/c/1/0/0/0",
    "int8 shard": "features/tiny-int8/cls/c/0/1/0/0",
    "view parameters": "views/params/c/0/1/0",
    "view hashes": "views/hash/c/1/0",
    "codec scale": "features/tiny-int8/codecs/patch/scale/c/0",
    "codec mean": "features/tiny/codecs/cls/mean/c/0",
    "index": "index/000001.parquet",
    "tar": "images/000000.tar",
}
LOGGED = {
    "spec": layout.SPEC,
    "plan": layout.PLAN,
    "teacher": layout.teacher_path("tiny"),
    "images record": layout.record_path("images/000001"),
    "views record": layout.record_path("views/001/000000"),
    "features record": layout.record_path("features/tiny/000/000001"),
    "codecs record": layout.record_path("codecs/tiny-int8"),
}


DAMAGES: dict[str, Damage] = {
    "a bit": lambda path, random: flip_bit(path, random.randrange(path.stat().st_size * 8)),
    "cut": lambda path, random: os.truncate(path, random.randrange(path.stat().st_size - 1)),
    "empty": lambda path, random: os.truncate(path, 0),
    "gone": lambda path, random: path.unlink(),
}


@pytest.fixture(scope="module")
def mended_store(random_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One copy for many tests: each mends what it damages."""
    root = tmp_path_factory.mktemp("mended") / "store"
    shutil.copytree(random_store.root, root)
    return Store.open(root)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", [*OBJECTS.values(), *LOGGED.values()], ids=[*OBJECTS, *LOGGED])
def test_damage_is_found_when_read(mended_store: Store, path: str, damage: str) -> None:
    """Whatever the damage, no wrong value comes out, and the error names the object."""
    expected, random = read_everything(mended_store), Random(f"{path} {damage}")
    for _ in range(1 if damage in ("empty", "gone") else 4):
        whole = (mended_store.root / path).read_bytes()
        DAMAGES[damage](mended_store.root / path, random)
        try:
            found = read_everything(Store.open(mended_store.root))
        except CorruptError as error:
            assert path in str(error) or (damage == "gone" and path in LOGGED.values()), error
            assert error.hint
        else:
            # The headers and the ends of a tar are foreign readers' concern: verify checks them.
            told = path.endswith(".tar") or (path.endswith("tiny.json") and damage == "gone")
            assert told, f"{damage} in {path} went unseen"
            assert path.endswith("tiny.json") or found == expected
            assert path in {problem.path for problem in verify(Store.open(mended_store.root)).problems}
        (mended_store.root / path).write_bytes(whole)
    assert read_everything(Store.open(mended_store.root)) == expected


def test_every_bit_of_small_objects(own_store: Store) -> None:
    """As above, but each single bit of one object of each kind that is small enough."""
    readers: dict[str, Callable[[Store], object]] = {
        "views/hash/c/1/0": lambda store: store.view_hashes(1, 0),
        "views/params/c/0/1/0": lambda store: store.view_params(0, 1),
        "features/tiny/codecs/cls/mean/c/0": lambda store: store.statistics("tiny", "cls"),
        "features/tiny/cls/c/0/0/0/0": lambda store: store.codes("tiny", "cls", 0, 0, [0, 1, 3]),
        layout.SPEC: lambda store: Store.open(store.root),
        layout.ID: lambda store: seal(store),
    }
    for path, read in readers.items():
        file = own_store.root / path
        for bit in range(file.stat().st_size * 8):
            flip_bit(file, bit)
            with pytest.raises(CorruptError, match=path):
                read(Store(own_store.root, own_store.spec, own_store.plan))
            flip_bit(file, bit)
        read(Store(own_store.root, own_store.spec, own_store.plan))


def test_missing_logs_say_what_is_gone(own_store: Store) -> None:
    (own_store.root / layout.SPEC).unlink()
    with pytest.raises(MissingError) as caught:
        Store.open(own_store.root)
    assert str(caught.value) == f"_log/spec.json is not in store {own_store.root}; restore it from a copy of the store"


def test_a_chunk_of_another_place_is_found(own_store: Store) -> None:
    """Two chunks of equal size change places: each is whole, and neither is what its record says."""
    one, two = own_store.root / "views/params/c/0/0/0", own_store.root / "views/params/c/1/0/0"
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    with pytest.raises(CorruptError, match="does not match the sha256 in its record"):
        own_store.view_params(0, 0)


def test_a_shard_of_another_place_is_found_by_verify(own_store: Store) -> None:
    """A shard's rows carry no place, so only its sha256 tells; reading does not hash whole shards."""
    one, two = own_store.root / "features/tiny/cls/c/0/0/0/0", own_store.root / "features/tiny/cls/c/1/0/0/0"
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    assert [problem.path for problem in verify(own_store).problems] == [
        "features/tiny/cls/c/0/0/0/0",
        "features/tiny/cls/c/1/0/0/0",
    ]


def test_a_record_that_names_less_is_found(own_store: Store) -> None:
    path = own_store.root / layout.record_path("views/000/000000")
    body = json.loads(path.read_bytes())
    del body["self_sha256"]
    body["objects"] = body["objects"][1:]
    path.write_bytes(signed_json(body))
    with pytest.raises(CorruptError, match="does not name views/params/c/0/0/0"):
        Store.open(own_store.root).view_params(0, 0)


def test_a_notice_changes_no_teacher(tmp_path: Path) -> None:
    """Entries without one are as they were before there were any; one that comes later is no other teacher."""
    store = make_store(tmp_path / "S", StoreShape())
    spec = store.teachers()[0]
    assert "notice" not in json.loads((store.root / layout.teacher_path(spec.name)).read_text())
    noticed = spec.model_copy(update={"notice": "Copyright"})
    store.add_teacher(noticed)
    assert store.teacher(spec.name) == spec
    store.add_teacher(noticed.model_copy(update={"name": "other"}))
    assert store.teacher("other").notice == "Copyright"
    with pytest.raises(SpecMismatchError, match="precision"):
        store.add_teacher(spec.model_copy(update={"precision": "bf16"}))
