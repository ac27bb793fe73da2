"""What a store of somebody else may say: limits on JSON, on paths, on every zarr.json, and that ours are within them."""

import copy
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillhouse.core.errors import CorruptError
from stillhouse.core.events import printable
from stillhouse.storage import foreign, layout, zarr_rules
from stillhouse.storage.foreign import parse_json, regular_file
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import latest_seal, store_id
from stillhouse.storage.signed_json import canonical_json, signed_json
from stillhouse.storage.specs import BlockPlan, LevelSpec, StorePlan, StoreSpec
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape
from stillhouse.storage.verify import verify
from stillhouse.storage.zarr_rules import Sizes, check_node, check_place

SHAPE = StoreShape()
SIZES = Sizes(SHAPE.num_views, SHAPE.plan.num_rows, SHAPE.block_samples, 14)

# --- JSON ------------------------------------------------------------------------------------------------------------

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(trees)
def test_what_json_says_is_what_is_parsed(tree: Any) -> None:
    if "\\ud" not in json.dumps(tree):  # half a character, which UTF-8 cannot hold
        assert parse_json(json.dumps(tree, ensure_ascii=False).encode(), "x") == tree
    assert parse_json(json.dumps(tree).encode(), "x") == tree


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth_is_limited() -> None:
    assert parse_json(nested(foreign.MAX_JSON_DEPTH), "x") == json.loads(nested(foreign.MAX_JSON_DEPTH))
    with pytest.raises(CorruptError) as caught:
        parse_json(nested(foreign.MAX_JSON_DEPTH + 1), "S/zarr.json")
    assert str(caught.value).startswith("S/zarr.json is nested 49 deep; at most 48 is read; it was not written by")


def test_brackets_in_text_are_text() -> None:
    for text in ("[" * 1000, '\\"[' * 300, "\\", '\\\\"' * 9 + "{" * 300):
        assert parse_json(json.dumps({"a": text, text: [1]}).encode(), "x") == {"a": text, text: [1]}


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b"[" + b"[]," * 2_000_000 + b"[]]",
        b'"' * 10_000_000,
        b'"' + b'\\"' * 5_000_000,
        b'"' + b"\\" * 9_999_999,
        b'["' + b"\\" * 10_000_000,
        ("[" + '"\U0001f600"' + " " * (17 << 20) + "]").encode(),
        b"9" * 10_000_000,
        b"{" + b'"a":1,' * 150_000 + b'"a":1}',
        b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
    ],
)
def test_measuring_takes_no_time(data: bytes) -> None:
    """Whatever it is, linear in its size: a second is a hundred times what it takes."""
    began = time.process_time()
    with pytest.raises(CorruptError):
        parse_json(data, "x")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b'{"a":1,"b":{"c":1,"c":2}}', "key 'c' is given twice"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"[1e999]", "1e999 is too large a number"),
        ('{"a":1}'.encode("utf-16"), "is not valid JSON"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        (b'"\xff"', "is not valid JSON"),
        (b"{} x", "is not valid JSON"),
    ],
)
def test_what_is_no_json(data: bytes, rule: str) -> None:
    with pytest.raises(CorruptError, match=rule):
        parse_json(data, "x")


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "..", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", "ä", ".hidden", "x" * 129]
)
def test_names_that_no_store_has(tmp_path: Path, path: str) -> None:
    assert not foreign.is_member(path)
    with pytest.raises(CorruptError, match="which is no name in a store"):
        regular_file(tmp_path, path)


def test_only_real_folders_and_files_are_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    root = tmp_path / "store"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    os.link(secret / "file", root / "hard")
    (root / "link").symlink_to(secret / "file")
    (root / "folder").symlink_to(secret)
    os.mkfifo(root / "pipe")
    (tmp_path / "root").symlink_to(root)
    assert regular_file(root, "a/b/file") == root / "a/b/file"
    assert regular_file(tmp_path / "root", "a/b/file").read_text() == "x"
    assert regular_file(root, "hard").read_text() == "secret"
    for absent in ("none", "a/none/file", "a/b/none"):
        assert regular_file(root, absent) == root / absent
    for path, kind in {"link": "a link", "folder/file": "a link", "pipe": "a pipe", "a/b": "a folder"}.items():
        with pytest.raises(CorruptError, match=f"is {kind}, expected a"):
            regular_file(root, path)
    with pytest.raises(CorruptError, match="is a file, expected a folder"):
        regular_file(root, "a/b/file/below")


# --- zarr.json -------------------------------------------------------------------------------------------------------


def array(**changes: Any) -> dict[str, Any]:
    metadata = layout.array_metadata(
        shape=(2, 12, 4, 6),
        chunk=(1, 4, 4, 6),
        inner_chunk=(1, 1, 4, 6),
        dtype="float16",
        fill_value="NaN",
        dimension_names=("view", "row", "token", "code"),
    )
    return copy.deepcopy(metadata) | changes


@pytest.mark.parametrize("zstd", [False, True])
def test_what_we_write_is_allowed(zstd: bool) -> None:
    metadata = array() | {
        "codecs": layout.array_metadata(
            shape=(2, 12, 4, 6),
            chunk=(1, 4, 4, 6),
            inner_chunk=(1, 1, 4, 6),
            dtype="float16",
            fill_value="NaN",
            dimension_names=("view", "row", "token", "code"),
            compressed=zstd,
        )["codecs"]
    }
    found = check_node(metadata, "x")
    assert found is not None and found.inner == (1, 1, 4, 6) and found.chunk == (1, 4, 4, 6) and found.sharded
    check_place("features/tiny/patch", found, SIZES, "x")


def test_a_shard_may_be_larger_than_memory() -> None:
    """A block of 4096 samples of ViT-g/14 in half floats is 3 GiB; only its rows are ever read at once."""
    (sharded,) = array()["codecs"]
    sharded["configuration"]["chunk_shape"] = [1, 1, 256, 1536]
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 4096, 256, 1536]}}
    assert check_node(array(shape=[5, 4096, 256, 1536], chunk_grid=grid, codecs=[sharded]), "x") is not None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"zarr_format": 2}, "has zarr_format 2, expected 3"),
        ({"zarr_format": True}, "has zarr_format True, expected 3"),
        ({"node_type": "table"}, "has node_type 'table', expected array or group"),
        ({"data_type": "object"}, "has data_type 'object', expected one of float16, bfloat16"),
        ({"storage_transformers": [{"name": "x"}]}, "has storage_transformers"),
        ({"shape": [2**31] * 4}, "has more than 8 dimensions or"),
        ({"shape": [2, 12, 4]}, "has chunks of 4 dimensions for a shape of 3"),
        ({"shape": [2, -1, 4, 6]}, "has shape -1, expected a whole number"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "has codec 'numcodecs.pickle'; expected bytes"),
        (
            {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
            r"has codecs \['bytes'\], expected some",
        ),
        ({"fill_value": 10**400}, "has fill_value a number of more than 64 bits, which is no float16"),
        ({"chunk_key_encoding": {"name": "v2"}}, "has another chunk_key_encoding"),
        ({"invented": 1}, "has an unknown field 'invented'"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2**40, 4, 6]}}}, "has shards of"),
    ],
)
def test_what_no_store_has(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(CorruptError, match=f"^S/zarr.json {rule}"):
        check_node(array(**changes), "S/zarr.json")


def test_inner_chunks_are_limited() -> None:
    (sharded,) = array()["codecs"]
    sharded["configuration"]["chunk_shape"] = [1, 1, 1 << 13, 1 << 13]
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 4, 1 << 13, 1 << 13]}}
    with pytest.raises(CorruptError, match="has chunks of 134217728 bytes; at most 67108864 are read"):
        check_node(array(shape=[2, 12, 1 << 13, 1 << 13], chunk_grid=grid, codecs=[sharded]), "x")


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("features/tiny", "is an array, expected a group"),
        ("views/params", r"has shape \(2, 12, 4, 6\), the plan says \(2, 12, 14\)"),
        ("features/tiny/codecs/patch/scale", r"has chunks \(1, 4, 4, 6\), the plan says \(2, 12, 4, 6\)"),
    ],
)
def test_places_have_their_arrays(path: str, rule: str) -> None:
    with pytest.raises(CorruptError, match=rule):
        check_place(path, check_node(array(), "x"), SIZES, "x")


# --- whole stores ----------------------------------------------------------------------------------------------------


def test_our_own_store_passes(random_store: Store) -> None:
    random_store.check_metadata()


def vouch(root: Path, path: str, data: bytes) -> None:
    """Give an object other bytes and a record that vouches for them."""
    (root / path).write_bytes(data)
    unit = layout.unit_of(path)
    assert unit is not None
    record = root / layout.record_path(unit)
    body = json.loads(record.read_bytes())
    del body["self_sha256"]
    entry = {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    body["objects"] = [entry if one["path"] == path else one for one in body["objects"]]
    record.write_bytes(signed_json(body))


def test_bad_metadata_with_a_good_record_is_refused_at_open(own_store: Store) -> None:
    path = "features/tiny/patch/zarr.json"
    metadata = json.loads((own_store.root / path).read_bytes()) | {"data_type": "object"}
    vouch(own_store.root, path, canonical_json(metadata))
    with pytest.raises(CorruptError) as caught:
        Store.open(own_store.root)
    assert str(caught.value).startswith(f"{own_store.root}/{path} has data_type 'object', expected one of")


def test_damaged_metadata_is_for_verify(own_store: Store) -> None:
    """Or nothing could mend it: our readers read nothing by a zarr.json. Other readers are not let in."""
    path = own_store.root / "views/params/zarr.json"
    path.write_bytes(path.read_bytes().replace(b"int32", b"int64"))
    store = Store.open(own_store.root)
    assert [problem.path for problem in verify(store).problems] == ["views/params/zarr.json"]
    with pytest.raises(CorruptError, match=r"views/params/zarr.json does not match the sha256 in its record"):
        store.check_metadata()


@pytest.mark.parametrize("name", zarr_rules.ZARR_2)
def test_zarr_2_beside_zarr_3_is_refused(own_store: Store, name: str) -> None:
    (own_store.root / "views" / name).write_text("{}")
    with pytest.raises(CorruptError, match=f"{name} is of Zarr 2, which no store holds"):
        Store.open(own_store.root)


def test_the_root_must_say_what_its_members_say(own_store: Store) -> None:
    path = own_store.root / "zarr.json"
    metadata = json.loads(path.read_bytes())
    members = metadata["consolidated_metadata"]["metadata"]
    members["views/hash"] |= {"fill_value": 1}
    path.write_bytes(canonical_json(metadata))
    with pytest.raises(CorruptError) as caught:
        Store.open(own_store.root).check_metadata()
    assert caught.value.message == f"{path} has a member views/hash that is not what views/hash/zarr.json says"
    assert caught.value.hint == "delete that file; the next `stillhouse extract` writes it again"


def test_links_are_refused_for_other_readers(own_store: Store) -> None:
    chunk = own_store.root / "views/hash/c/0/0"
    chunk.unlink()
    chunk.symlink_to("/etc/passwd")
    with pytest.raises(CorruptError, match="is a link, expected a file"):
        own_store.check_metadata()
    with pytest.raises(CorruptError, match="is a link, expected a file"):
        Store.open(own_store.root).view_hashes(0, 0)
    assert "is a link" in verify(own_store).problems[0].found


def test_opening_costs_the_same_for_any_number_of_samples(own_store: Store) -> None:
    """Only spec, plan, and what names or describes arrays is opened."""
    opened: list[str] = []
    real = foreign.read_capped

    def counting(path: Path, max_bytes: int, hint: str = "") -> bytes | None:
        opened.append(path.relative_to(own_store.root).as_posix())
        return real(path, max_bytes, hint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "read_capped", counting)
        patch.setattr(zarr_rules, "read_capped", counting)
        Store.open(own_store.root)
    assert not [path for path in opened if "/c/" in path or "units/features" in path or "units/images" in path]
    assert len(opened) == len(set(opened))


# --- records, seals, specs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "facts", "rule"),
    [
        ("images/000000", {}, "lacks quarantined"),
        ("images/000000", {"quarantined": [{"row": -1, "key": "a", "reason": "b"}]}, "has a quarantined row -1"),
        ("images/000000", {"quarantined": [{"row": 0, "key": 5, "reason": "b"}]}, "the key of a quarantined sample 5"),
        ("features/tiny/000/000000", {"rows": "3"}, "has rows '3'"),
        ("features/tiny/000/000000", {"rows": 3, "fingerprints": {"cls": [2**32]}}, "has a fingerprint 4294967296"),
        ("codecs/tiny", {"levels": {"cls": {"codec": "fp16", "dim": 2**40, "arrays": []}}}, "has dim 1099511627776"),
    ],
)
def test_facts_are_what_readers_use(own_store: Store, unit: str, facts: dict[str, Any], rule: str) -> None:
    path = own_store.root / layout.record_path(unit)
    body = json.loads(path.read_bytes()) | {"facts": facts}
    del body["self_sha256"]
    path.write_bytes(signed_json(body))
    with pytest.raises(CorruptError, match=rule):
        read_record(own_store.root, unit)


def test_seals_and_ids_are_what_readers_use(own_store: Store) -> None:
    path = own_store.root / layout.SEALS / "0001.json"
    for objects in ([["a", 1]], [["../a", 1, "0"]], [["a", -1, "0"]], "x", [5]):
        path.write_bytes(signed_json({"generation": 1, "content_sha256": "0", "objects": objects}))
        with pytest.raises(CorruptError, match=r"0001.json (has|names)"):
            latest_seal(own_store.root)
    (own_store.root / layout.ID).write_bytes(signed_json({"store_id": 5}))
    with pytest.raises(CorruptError, match="has store_id 5, expected text"):
        store_id(own_store.root)


def test_numbers_of_a_spec_are_bounded() -> None:
    for views in ({}, {"num": 0, "size": 8}, {"num": "2", "size": 8}, {"num": 2, "size": 10**9}):
        with pytest.raises(ValidationError, match=r"views\.(num|size) must be a whole number"):
            StoreSpec(ingest={}, views=views)
    with pytest.raises(ValidationError, match="valid integer"):
        BlockPlan.model_validate({"split": "train", "num_rows": True, "keys_sha256": "0"})
    block = BlockPlan(split="train", num_rows=5, keys_sha256="0")
    with pytest.raises(ValidationError, match="block 0 has 5 rows; a block has at most 4"):
        StorePlan(block_samples=4, blocks=(block,))
    with pytest.raises(ValidationError, match="more than a row may hold"):
        LevelSpec(num_tokens=1 << 14, dim=1 << 14)
    with pytest.raises(ValidationError, match="a grid of 2 x 3 is not one of 4 tokens"):
        LevelSpec(num_tokens=4, dim=4, grid=(2, 3))


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("künstlich/[bold] <b>") == "künstlich/[bold] <b>"
    assert printable("a\n\x1b[31m\x9b\u202e\udcff") == r"a\n\x1b[31m\x9b\u202e\udcff"
