"""Stores that somebody made to do harm: each is refused with an error of ours, or reads as the honest store does.

Every case is a copy of a small store with one malice in it, signed anew where a signature would stop it early, read from
end to end in a child process: little memory, five seconds, no sockets, no code, and nothing outside the store opened.
"""

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import stat
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from outcome import Outcome, Size
from rich.console import Console

from stillhouse.core.config import parse_config
from stillhouse.core.errors import StillhouseError
from stillhouse.core.events import Reporter
from stillhouse.inspection import inspect_store, print_inspection
from stillhouse.storage import foreign, layout, zarr_rules
from stillhouse.storage.crc import with_crc
from stillhouse.storage.index import SCHEMA
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import latest_seal, store_id
from stillhouse.storage.signed_json import canonical_json, signed_json
from stillhouse.storage.specs import StorePlan, StoreSpec, TeacherSpec
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify

SHAPE = StoreShape()
MEMORY_BYTES = 300 << 20
SECONDS = 5.0
MUTATIONS: Mapping[Size, int] = {"quick": 2_000, "full": 100_000}
QUICK_CASES = 90
QUARANTINED, ZARR = "image 0/2", "zarr"
CANARY = b"the canary is alive\n"

SPEC, PLAN, ID, TEACHER = layout.SPEC, layout.PLAN, layout.ID, layout.teacher_path("tiny")
SEAL = f"{layout.SEALS}/0001.json"
UNITS = ("layout", "images/000000", "views/000/000000", "codecs/tiny-int8", "features/tiny/000/000000")
LOGS = (SPEC, PLAN, ID, TEACHER, SEAL, *map(layout.record_path, UNITS))
ARRAYS = (
    "views/params/zarr.json",
    "views/hash/zarr.json",
    "features/tiny/patch/zarr.json",
    "features/tiny-int8/codecs/patch/scale/zarr.json",
)
GROUPS = ("views/zarr.json", "features/tiny/zarr.json", "features/tiny-int8/codecs/patch/zarr.json")
OBJECTS = (
    "images/000000.tar",
    "index/000000.parquet",
    "views/params/c/0/0/0",
    "views/hash/c/0/0",
    "features/tiny/patch/c/0/0/0/0",
    "features/tiny-int8/codecs/patch/scale/c/0",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One crafted store.

    Args:
        name: says what is wrong with it, and finds it again.
        craft: does the harm to a copy of the honest store; told of the canary outside.
        unseen: our readers need not notice it, for they never look there.
        altered: what it holds may differ from the honest store; only harm is looked for.
    """

    name: str
    craft: Callable[[Path, Path], None]
    unseen: bool = False
    altered: bool = False


# --- crafting ------------------------------------------------------------------------------------------------------


def body_of(root: Path, path: str) -> dict[str, Any]:
    """A signed document without its signature."""
    body = json.loads((root / path).read_bytes())
    body.pop("self_sha256", None)
    return dict(body)


def sign(root: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a document of the log and sign it again."""
    body = body_of(root, path)
    change(body)
    (root / path).write_bytes(signed_json(body))


def unit_of(path: str) -> str:
    unit = layout.unit_of(path)
    assert unit is not None, path
    return unit


def put(root: Path, path: str, data: bytes) -> None:
    """Give an object other bytes, and say so in its record."""
    (root / path).write_bytes(data)
    entry = {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def change(body: dict[str, Any]) -> None:
        body["objects"] = [entry if one["path"] == path else one for one in body["objects"]]

    sign(root, layout.record_path(unit_of(path)), change)


def put_json(root: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a zarr.json, and say so in its record."""
    metadata = json.loads((root / path).read_bytes())
    change(metadata)
    put(root, path, json.dumps(metadata).encode())


def index(columns: Mapping[str, Sequence[Any]]) -> Callable[[Path, Path], None]:
    """Other columns in the index of block 0."""

    def write(root: Path) -> bytes:
        table = pq.read_table(root / OBJECTS[1])
        values = {field.name: table.column(field.name).to_pylist() for field in SCHEMA} | dict(columns)
        sink = io.BytesIO()
        pq.write_table(pa.table(values, schema=SCHEMA), sink, compression="zstd", write_page_checksum=True)
        return sink.getvalue()

    return written(write)


def written(write: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    """Another index of block 0."""
    return lambda root, canary: put(root, OBJECTS[1], write(root))


def set_at(tree: Any, path: Sequence[str | int], value: Any) -> None:
    """Put a value at a place in a JSON tree."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def places(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON tree; of a long list its first two."""
    if path:
        yield path
    children: list[tuple[str | int, Any]] = []
    if isinstance(tree, dict):
        children = list(tree.items())
    elif isinstance(tree, list):
        children = list(enumerate(tree[:2]))
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(root: Path, path: str, make: Callable[[Path], None]) -> None:
    """Put something else in the place of a file or a folder."""
    place = root / path
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    make(place)


# --- what is crafted -----------------------------------------------------------------------------------------------

DOCUMENTS: Mapping[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "text": b"nothing",
    "deep lists": b'{"a":' + b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a key twice": b'{"a":1,"a":1,"self_sha256":""}',
    "NaN": b'{"a":NaN}',
    "an infinite number": b'{"a":1e999}',
    "an endless number": b'{"a":' + b"9" * 100_000 + b"}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "no UTF-8": b'{"a":"\xff\xfe"}',
    "half a character": b'{"a":"\\ud800"}',
    "a million lists": b'{"a":[' + b"[]," * 1_000_000 + b"[]]}",
    "quotes": b'{"a":' + b'"\\"' * 1_000_000,
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
    "rare characters": ('{"a":"\U0001f600' + "x" * (15 << 20) + '"}').encode(),
}

VALUES: Mapping[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "0": 0,
    "2^63": 2**63,
    "10^300": 10**300,
    "1.5": 1.5,
    "no text": "",
    "long text": "x" * 100_000,
    "a path out": "../../canary",
    "a whole path": "/etc/passwd",
    "a control character": "\x1b[2J\nerror: \x00",
    "no list": [],
    "a long list": [0] * 10_000,
    "no object": {},
}


def others(canary: Path) -> Mapping[str, Callable[[Path], None]]:
    """What may stand in the place of a file without being one."""
    return {
        "a link out": lambda place: place.symlink_to(canary),
        "a link to /dev/zero": lambda place: place.symlink_to("/dev/zero"),
        "a link to itself": lambda place: place.symlink_to(place),
        "a folder": lambda place: place.mkdir(),
        "a pipe": os.mkfifo,
        "a large hole": lambda place: hole(place, 1 << 40),
    }


OTHERS = tuple(others(Path()))


def hole(place: Path, num_bytes: int) -> None:
    with open(place, "wb") as file:
        file.truncate(num_bytes)


def log_cases() -> Iterator[Case]:
    """Every document of the log: other bytes, other kinds of file, other values with a good signature."""

    def document(path: str, data: bytes) -> Callable[[Path, Path], None]:
        return lambda root, canary: put_bytes(root / path, data)

    def other(path: str, kind: str) -> Callable[[Path, Path], None]:
        return lambda root, canary: replaced(root, path, others(canary)[kind])

    def value(path: str, place: tuple[str | int, ...], new: Any) -> Callable[[Path, Path], None]:
        return lambda root, canary: sign(root, path, lambda body: set_at(body, place, new))

    for path in LOGS:
        for name, data in DOCUMENTS.items():
            yield Case(f"{path}: {name}", document(path, data))
        for name in OTHERS:
            yield Case(f"{path}: {name}", other(path, name))
    for path, body in sample_documents().items():
        for place in places(body):
            where = ".".join(map(str, place))
            for name, new in VALUES.items():
                yield Case(f"{path}: {where} is {name}", value(path, place, new), unseen=True)


def put_bytes(place: Path, data: bytes) -> None:
    place.write_bytes(data)


def sample_documents() -> dict[str, dict[str, Any]]:
    """The documents of an honest store, to say what can be changed in them."""
    seal = {"generation": 1, "format_version": 1, "spec_sha256": "0", "content_sha256": "0", "objects": [["a", 1, "0"]]}
    entry = {"path": "a", "bytes": 1, "sha256": "0"}
    facts: dict[str, dict[str, Any]] = {
        "layout": {},
        "images/000000": {"rows": 4, "quarantined": [{"row": 2, "key": "k", "reason": "r"}], "keys_sha256": "0"},
        "views/000/000000": {"rows": 4},
        "codecs/tiny-int8": {
            "levels": {"patch": {"codec": "int8", "dim": 6, "arrays": ["offset", "scale"]}},
            "fitted_on": {"block": 0, "view": 0},
        },
        "features/tiny/000/000000": {"rows": 3, "fingerprints": {"cls": [1, 2]}},
    }
    records = {
        layout.record_path(unit): {"unit": unit, "attempt": "0" * 32, "objects": [entry], "facts": facts[unit]}
        for unit in UNITS
    }
    return {
        SPEC: SHAPE.spec.model_dump(mode="json"),
        PLAN: SHAPE.plan.model_dump(mode="json"),
        ID: {"store_id": "0"},
        TEACHER: SHAPE.teacher("tiny").model_dump(mode="json"),
        SEAL: seal,
        **records,
    }


def metadata_cases() -> Iterator[Case]:
    """Every kind of zarr.json, with records that vouch for it."""

    def change(path: str, place: tuple[str | int, ...], new: Any) -> Callable[[Path, Path], None]:
        return lambda root, canary: put_json(root, path, lambda metadata: set_at(metadata, place, new))

    def document(path: str, data: bytes) -> Callable[[Path, Path], None]:
        return lambda root, canary: put(root, path, data)

    def beside(path: str, name: str) -> Callable[[Path, Path], None]:
        return lambda root, canary: put_bytes((root / path).parent / name, b'{"zarr_format":2}')

    def other(path: str, kind: str) -> Callable[[Path, Path], None]:
        return lambda root, canary: replaced(root, path, others(canary)[kind])

    for path in (*ARRAYS, *GROUPS):
        for name, data in DOCUMENTS.items():
            yield Case(f"{path}: {name}", document(path, data))
        for name in OTHERS:
            yield Case(f"{path}: {name}", other(path, name))
        for name in zarr_rules.ZARR_2:
            yield Case(f"{path}: beside {name}", beside(path, name))
        for place, values in (ARRAY_CHANGES if path in ARRAYS else GROUP_CHANGES).items():
            for new in values:
                yield Case(f"{path}: {'.'.join(map(str, place))} is {json.dumps(new)[:300]}", change(path, place, new))
    for place, values in GROUP_CHANGES.items():
        for new in values:
            text = f"zarr.json: {'.'.join(map(str, place))} is {json.dumps(new)[:300]}"
            yield Case(text, card(place, new), unseen=place != ("zarr_format",))
    members = {"": {}, "..": {}, "../canary": {}, "/etc": {}, "views/params": {"zarr_format": 3, "node_type": "group"}}
    for name, member in members.items():
        yield Case(f"zarr.json: a member {name!r}", card(("consolidated_metadata", "metadata", name), member))


def card(place: tuple[str | int, ...], new: Any) -> Callable[[Path, Path], None]:
    """A change of the root's zarr.json, which no record vouches for."""

    def craft(root: Path, canary: Path) -> None:
        metadata = json.loads((root / "zarr.json").read_bytes())
        set_at(metadata, place, new)
        (root / "zarr.json").write_bytes(canonical_json(metadata))

    return craft


CRC, BYTES = {"name": "crc32c"}, {"name": "bytes", "configuration": {"endian": "little"}}
PICKLE = {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}
INNER: dict[str, Any] = {"chunk_shape": [1, 1, 4, 6], "codecs": [BYTES, CRC], "index_codecs": [BYTES, CRC]}
ARRAY_CHANGES: Mapping[tuple[str | int, ...], Sequence[Any]] = {
    ("zarr_format",): [2, 1, "3", True, None, 3.0, 10**30],
    ("node_type",): ["group", "table", None, ["array"]],
    ("shape",): [[], [0], [2**62] * 4, [2**63, 2, 2], [-1, 12, 14], [1.5], "12", [2, 10**9, 14], [1] * 40, [True, 12]],
    ("data_type",): ["object", "r64", "string", "bool", "complex64", "float64", {"name": "numpy.datetime64"}, "|O", 7],
    ("chunk_grid",): [{}, {"name": "rectangular"}, {"name": "regular", "configuration": {"chunk_shape": [2**40] * 3}}],
    ("chunk_grid", "configuration", "chunk_shape"): [[0, 0, 0], [2**32, 2**32, 1], [-1], [], [1] * 9, ["1"], None],
    ("chunk_key_encoding",): [{"name": "v2"}, {"name": "default", "configuration": {"separator": "../"}}, None],
    ("fill_value",): ["0x7ff", None, 10**400, {}, [0], True, "a" * 1000, -(2**70)],
    ("codecs",): [
        [],
        [BYTES],
        [PICKLE, BYTES, CRC],
        [BYTES, PICKLE, CRC],
        [{"name": "numcodecs.blosc"}, BYTES, CRC],
        [BYTES, {"name": "blosc", "configuration": {}}, CRC],
        [BYTES, {"name": "gzip", "configuration": {"level": 1}}, CRC],
        [BYTES, {"name": "zstd", "configuration": {"level": 10**9}}, CRC],
        [{"name": "vlen-utf8"}, CRC],
        [{"name": "transpose", "configuration": {"order": [0, 0, 0, 0]}}, BYTES, CRC],
        [{"name": "bytes", "configuration": {"endian": "big"}}, CRC],
        [BYTES, CRC] * 5,
        [{"name": "sharding_indexed", "configuration": {**INNER, "chunk_shape": [1, 3, 4, 6]}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "chunk_shape": [0, 0, 0, 0]}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "index_codecs": [PICKLE]}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "index_location": "start"}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "codecs": [{"name": "sharding_indexed"}]}}],
        [{"name": 5}],
        ["bytes"],
        {"name": "bytes"},
    ],
    ("storage_transformers",): [[{"name": "os.system"}], {"a": 1}, "x"],
    ("attributes",): [[], "x", {"a": "x" * (2 << 20)}],
    ("dimension_names",): [["a"], "view", [1, 2, 3], ["x" * 9999] * 3, [None] * 20],
    ("consolidated_metadata",): [{}],
    ("must_understand",): [True],
}
GROUP_CHANGES: Mapping[tuple[str | int, ...], Sequence[Any]] = {
    ("zarr_format",): [2, "3", True, None],
    ("node_type",): ["array", None, 3],
    ("attributes",): [[], "x", {"a": "x" * (17 << 20)}],
    ("storage_transformers",): [[]],
    ("consolidated_metadata",): [
        [],
        {"kind": "pickle", "metadata": {}},
        {"kind": "inline", "metadata": {"../../canary": {"zarr_format": 3, "node_type": "group"}}},
        {"kind": "inline", "metadata": {"a": {"zarr_format": 2, "node_type": "group"}}},
        {"kind": "inline", "metadata": {f"m{n}": {"zarr_format": 3, "node_type": "group"} for n in range(5000)}},
    ],
}


def object_cases() -> Iterator[Case]:
    """Objects that records vouch for."""

    def other(path: str, kind: str) -> Callable[[Path, Path], None]:
        return lambda root, canary: replaced(root, path, others(canary)[kind])

    def data(path: str, make: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
        return lambda root, canary: put(root, path, make((root / path).read_bytes()))

    def vouched_hole(path: str, num_bytes: int) -> Callable[[Path, Path], None]:
        def craft(root: Path, canary: Path) -> None:
            put(root, path, b"")
            hole(root / path, num_bytes)
            unit = layout.record_path(unit_of(path))
            entry = {"path": path, "bytes": num_bytes, "sha256": "0" * 64}
            sign(root, unit, lambda body: set_at(body, ("objects",), [*body["objects"], entry][::-1]))

        return craft

    for path in OBJECTS:
        for name in OTHERS:
            yield Case(f"{path}: {name}", other(path, name))
        for name, make in BYTES_OF.items():
            yield Case(f"{path}: {name}", data(path, make))
        yield Case(f"{path}: a hole of 256 MB with a record", vouched_hole(path, 256 << 20))
    for name, make in SHARDS.items():
        yield Case(f"shard: {name}", data("features/tiny/patch/c/0/0/0/0", make))
    for name, columns in INDEXES.items():
        yield Case(f"index: {name}", index(columns), altered=True)
    for name, write in PARQUETS.items():
        yield Case(f"parquet: {name}", written(write))


BYTES_OF: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "a whole crc of something else": lambda data: with_crc(b"\xff" * 23),
    "64 MB": lambda data: with_crc(bytes(64 << 20)),
}
STRIDE = 4 * 6 * 2 + 4


def shard_with(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        index = np.frombuffer(data[-68:-4], "<u8").reshape(4, 2).copy()
        change(index)
        return data[:-68] + with_crc(index.tobytes())

    return make


def entry(row: int, offset: int, length: int) -> Callable[[bytes], bytes]:
    def change(index: Any) -> None:
        index[row] = offset, length

    return shard_with(change)


SHARDS: Mapping[str, Callable[[bytes], bytes]] = {
    "overlapping rows": entry(1, 8, STRIDE),
    "the same row twice": entry(1, 0, STRIDE),
    "an offset past the end": entry(0, 1 << 40, STRIDE),
    "an offset of 2^63": entry(0, 1 << 63, STRIDE),
    "an offset that overflows": entry(0, 2**64 - STRIDE, STRIDE),
    "a length of 2^63": entry(0, 0, 1 << 63),
    "a length of 0": entry(0, 0, 0),
    "a length that overflows": entry(0, STRIDE, 2**64 - STRIDE),
    "a row in the index": entry(0, 3 * STRIDE, STRIDE),
    "half an absent row": entry(0, 2**64 - 1, 0),
    "no row at all": shard_with(lambda index: index.fill(2**64 - 1)),
    "an index of half the rows": lambda data: data[:-68] + with_crc(data[-68:-36]),
    "an index of many rows": lambda data: data[:-68] + with_crc(data[-68:-4] * 1000),
    "a zstd bomb for a row": lambda data: (
        (frame := with_crc(bomb())) + with_crc(struct.pack("<8Q", 0, len(frame), *[2**64 - 1] * 6))
    ),
}


def bomb(num_bytes: int = 1 << 30) -> bytes:
    """A zstd frame of some 32 KB that holds a gigabyte of zeros."""
    block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"  # a run of 128 KB, not the last
    last = struct.pack("<I", (128 << 10) << 3 | 1 << 1 | 1)[:3] + b"\0"
    head = struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x70, num_bytes)
    return head + block * (num_bytes // (128 << 10) - 1) + last


INDEXES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "offsets below zero": {"offset": [-5, -(2**62), -1, -2]},
    "offsets past the end": {"offset": [2**62, 2**63 - 1, -1, 10**9]},
    "lengths of everything": {"length": [2**63 - 1, 2**40, 0, 2**31]},
    "lengths below zero": {"length": [-1, -(2**63), 0, -512]},
    "offset and length that overflow": {"offset": [2**63 - 1, 512, -1, 1], "length": [2**63 - 1, 2**63 - 600, 0, 1]},
    "keys with control characters": {"key": ["\x1b[31mred\x1b[0m", "a\nerror: fine", "\u202egnp.exe", "a\r\x07\x08\0"]},
    "keys with markup": {"key": ["[bold]", "<script>alert(1)</script>", "[link=file:///etc/passwd]x", "{{ 7 * 7 }}"]},
    "keys that lead out": {"key": ["../../canary", "/etc/passwd", "C:\\a", "a\0b"]},
    "long keys": {"key": ["k" * 100_000] * 4},
    "long labels": {"label": ["l" * 10_000_000] * 4},
    "reasons with control characters": {"reason": ["\x1b]0;title\x07", "\n\n", None, "\x9b2J"]},
    "all in quarantine": {"reason": ["x"] * 4},
    "none in quarantine": {"reason": [None] * 4},
    "sizes below zero": {"width": [-1] * 4, "height": [-(2**31)] * 4},
    "too few rows": {field.name: [] for field in SCHEMA},
}


def parquet(root: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(root / OBJECTS[1])), sink, **{"compression": "zstd", **options})
    return sink.getvalue()


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name).with_type(values.type), values)


def many_rows(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table] * 100_000)


def bad_text(table: pa.Table) -> pa.Table:
    return with_column(
        table, "key", pa.array([b"\xff\xfe", b"\xc0\x80", b"a", b"\xed\xa0\x80"]).cast(pa.binary()).view("string")
    )


def long_label(table: pa.Table) -> pa.Table:
    return with_column(table, "label", pa.array(["l" * 150_000_000, None, None, None]))


def one_label(table: pa.Table) -> pa.Table:
    """A page that is small enough, whose one text every row repeats."""
    return with_column(table, "label", pa.array(["l" * 100_000] * 4))


def patched(old: bytes, new: bytes) -> Callable[[Path], bytes]:
    """Other bytes in the footer, of the same length."""

    def write(root: Path) -> bytes:
        data = (root / OBJECTS[1]).read_bytes()
        at = data.rindex(old)
        return data[:at] + new + data[at + len(old) :]

    return write


PARQUETS: Mapping[str, Callable[[Path], bytes]] = {
    "another column": lambda root: parquet(root, lambda table: table.append_column("x", pa.array([1] * 4))),
    "a column less": lambda root: parquet(root, lambda table: table.drop_columns(["crc32c"])),
    "columns in another order": lambda root: parquet(root, lambda table: table.select(table.schema.names[::-1])),
    "a column of another type": lambda root: parquet(
        root, lambda table: with_column(table, "width", pa.array([1.5] * 4))
    ),
    "a row more": lambda root: parquet(root, lambda table: pa.concat_tables([table, table.slice(0, 1)])),
    "400,000 rows": lambda root: parquet(root, many_rows),
    "a row group each": lambda root: parquet(root, lambda table: table, row_group_size=1),
    "no UTF-8": lambda root: parquet(root, bad_text),
    "a label of 150 MB": lambda root: parquet(root, long_label),
    "a label of 150 MB, plain": lambda root: parquet(root, long_label, use_dictionary=False),
    "one label for every row": lambda root: parquet(root, one_label, use_dictionary=["label"]),
    "prefixes": lambda root: parquet(
        root, lambda t: t, use_dictionary=False, column_encoding={"key": "DELTA_BYTE_ARRAY"}
    ),
    "gzip": lambda root: parquet(root, lambda table: table, compression="gzip"),
    "pages of version 2": lambda root: parquet(root, lambda table: table, data_page_version="2.0"),
    "a footer of 2 GB": lambda root: (root / OBJECTS[1]).read_bytes()[:-8] + b"\xff\xff\xff\x7fPAR1",
    "an encrypted footer": lambda root: (root / OBJECTS[1]).read_bytes()[:-4] + b"PARE",
    "another name in the footer": patched(b"crc32c", b"crc32d"),
}


def place_cases() -> Iterator[Case]:
    """Folders that lead elsewhere, and names that no store has."""

    def linked(path: str) -> Callable[[Path, Path], None]:
        def craft(root: Path, canary: Path) -> None:
            moved = canary.parent / path.replace("/", "-")
            shutil.move(root / path, moved)
            (root / path).symlink_to(moved)

        return craft

    def named(path: str, data: bytes = b"{}") -> Callable[[Path, Path], None]:
        def craft(root: Path, canary: Path) -> None:
            place = Path(os.fsdecode(os.fsencode(root) + b"/" + path.encode("utf-8", "surrogateescape")))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

        return craft

    for path in (
        "_log",
        "_log/units",
        "_log/teachers",
        "_log/units/images",
        "images",
        "index",
        "views",
        "views/params/c",
    ):
        yield Case(f"{path} is a link", linked(path))
    for path in ("features", "features/tiny", "features/tiny/patch/c/0", "features/tiny-int8/codecs", "_log/seal"):
        yield Case(f"{path} is a link", linked(path))
    for name in ("A.json", "..json", "x" * 200 + ".json", "a\nb.json", "\x1b[2J.json", "\udcff.json", " .json"):
        hidden = name.startswith(".")  # as our own temporary files are
        yield Case(f"a teacher named {name!r}", named(f"_log/teachers/{name}"), unseen=hidden)
        yield Case(f"a unit named {name!r}", named(f"_log/units/images/{name}"), unseen=hidden)
        yield Case(f"a seal named {name!r}", named(f"_log/seal/{name}"), unseen=True)
    for name in ("9" * 200, "0002", "\u0663", "-1", "1e3"):
        yield Case(f"a seal named {name!r}", named(f"_log/seal/{name}.json"), unseen=True)
    yield Case("many teachers", many_teachers)
    for name in ("../../canary", "images/000000", "/etc/passwd"):
        yield Case(f"a note to make {name} again", redo(name))
    yield Case("the root is a link", root_link, unseen=True)


def redo(dependent: str) -> Callable[[Path, Path], None]:
    """A note that another unit is to be made again, which names a third one."""

    def craft(root: Path, canary: Path) -> None:
        record = (root / layout.record_path("images/000000")).read_bytes()
        body = {"unit": "images/000000", "record_sha256": hashlib.sha256(record).hexdigest(), "why": "\x1b[2J\n"}
        place = root / layout.redo_path("images/000000")
        place.parent.mkdir(parents=True)
        place.write_bytes(signed_json({**body, "dependents": [dependent]}))

    return craft


def many_teachers(root: Path, canary: Path) -> None:
    for number in range(foreign.MAX_TEACHERS + 1):
        body = SHAPE.teacher("tiny").model_dump(mode="json") | {"name": f"t{number}"}
        (root / layout.teacher_path(f"t{number}")).write_bytes(signed_json(body))


def root_link(root: Path, canary: Path) -> None:
    moved = root.with_name("moved")
    root.rename(moved)
    root.symlink_to(moved)


def every_case() -> list[Case]:
    """All crafted stores, in one order."""
    return [*place_cases(), *object_cases(), *metadata_cases(), *log_cases()]


# --- reading -------------------------------------------------------------------------------------------------------


def parts(root: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything that can be read of a store, each by itself, so that one refusal does not hide the next part."""
    store = Store.open(root)
    for block in range(min(len(store.plan.blocks), len(SHAPE.blocks))):
        yield f"samples {block}", partial(samples, store, block)
        for row in range(min(store.plan.blocks[block].num_rows, SHAPE.block_samples)):
            yield f"image {block}/{row}", partial(store.image_bytes, block, row)
    for block in SHAPE.train_blocks:
        for view in range(SHAPE.num_views):
            yield f"params {view}/{block}", partial(array_bytes, store.view_params, view, block)
            yield f"hashes {view}/{block}", partial(array_bytes, store.view_hashes, view, block)
    yield "teachers", lambda: nothing(store.teachers())
    for name in SHAPE.teachers:
        for level in ("cls", "patch"):
            yield f"codec {name}/{level}", partial(codec_bytes, store, name, level)
            for block in SHAPE.train_blocks:
                yield f"codes {name}/{level}/{block}", partial(code_bytes, store, name, level, block)
    yield "id", lambda: nothing(store_id(root))
    yield "seal", lambda: nothing(latest_seal(root))
    yield "verify", partial(whole, store)
    yield "inspect", lambda: told(lambda: print_inspection(inspect_store(Store.open(root))))
    yield ZARR, partial(read_by_zarr, store)


def samples(store: Store, block: int) -> list[str]:
    return [repr(sample) for sample in store.samples(block)]


def array_bytes(read: Callable[[int, int], Any], view: int, block: int) -> bytes:
    return bytes(read(view, block).tobytes())


def code_bytes(store: Store, teacher: str, level: str, block: int) -> bytes:
    return store.codes(teacher, level, 0, block, store.good_rows(block)).tobytes()


def nothing(_: object) -> None:
    """Stands for what need only be read: it may differ from the honest store."""


def codec_bytes(store: Store, teacher: str, level: str) -> bytes:
    arrays = [*store.codec(teacher, level).arrays().values(), *store.statistics(teacher, level)]
    return b"".join(array.tobytes() for array in arrays)


def whole(store: Store) -> None:
    """StillhouseError if `verify` finds anything."""
    problems = verify(store).problems
    if problems:
        raise StillhouseError(f"{len(problems)} problems")


def told(show: Callable[[], None]) -> None:
    """What is printed for a person holds nothing that a terminal would obey."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show()
    for line in out.getvalue().split("\n"):
        if not line.isprintable():
            raise ValueError(f"printed {line[:100]!r}")


def read_by_zarr(store: Store) -> list[bytes]:
    """The first row of every array as zarr-python reads it, once our validator has passed the store."""
    store.check_metadata()
    group = zarr.open_group(store.root, mode="r", zarr_format=3)
    found = []
    for name in ("views/params", "views/hash", "features/tiny/patch", "features/tiny-int8/cls"):
        array = group[name]
        assert isinstance(array, zarr.Array)
        found.append(np.asarray(array[:1, :1]).tobytes())
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a store: a digest of each part, the error of each that was refused, and what went wrong."""

    digests: Mapping[str, str]
    refused: Mapping[str, str]
    wrong: Sequence[str]
    seconds: float = 0.0
    memory_bytes: int = 0


def fork() -> int:
    """os.fork; Python 3.12 warns of threads, but a child here uses none of its parent's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def craft(case: Case, root: Path, canary: Path) -> None:
    """In a child process: what crafting takes must not pass for what reading takes."""
    child = fork()
    if child == 0:
        try:
            case.craft(root, canary)
        except BaseException:  # noqa: BLE001 - the child must end here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"{case.name}: it could not be crafted")


def read(root: Path, canary: Path) -> Reading:
    """Read a store from end to end in a child process."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        try:
            said = _read_here(root, canary)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            said = {"digests": {}, "refused": {}, "wrong": [f"{type(error).__name__}: {str(error)[:300]}"]}
        with open(writing, "wb") as out:
            out.write(json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        text = answer.read()
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    if status != 0 or not text:
        how = (
            "hung"
            if -os.waitstatus_to_exitcode(status) in (signal.SIGALRM, signal.SIGPROF)
            else f"ended with status {status}"
        )
        return Reading({}, {}, [how], seconds)
    return Reading(**json.loads(text), seconds=seconds)


def _read_here(root: Path, canary: Path) -> dict[str, Any]:
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(
        signal.ITIMER_REAL, 6 * SECONDS
    )  # of a clock, for what waits; other work on the machine counts there
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    wrong: list[str] = []
    outside = canary.parent.resolve()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            opened = Path(os.fsdecode(arguments[0]))
            if outside in (resolved := opened.resolve()).parents:
                wrong.append(f"opened {resolved.name} outside")
            if root in opened.parents and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                wrong.append(f"wrote {opened}")
        elif event in FORBIDDEN:
            wrong.append(event)

    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = _resident()
    resource.setrlimit(resource.RLIMIT_AS, (memory + MEMORY_BYTES + THREADS_BYTES,) * 2)
    sys.addaudithook(hear)
    digests: dict[str, str] = {}
    refused: dict[str, str] = {}
    reporter = Reporter(console=Console(file=io.StringIO(), width=200, soft_wrap=True))

    def refuse(part: str, error: StillhouseError) -> None:
        refused[part] = str(error)[:300]
        told(lambda: reporter.say(f"error: {error}"))

    found = parts(root)
    while True:
        try:
            part, make = next(found)
        except StopIteration:
            break
        except StillhouseError as error:
            refuse("open", error)
            break
        try:
            digests[part] = hashlib.sha256(repr(make()).encode("utf-8", "surrogatepass")).hexdigest()
        except StillhouseError as error:
            refuse(part, error)
        except Exception as error:  # noqa: BLE001 - that is what we look for
            if part == ZARR and not isinstance(error, MemoryError):
                refused[part] = str(error)[:300]  # it may refuse objects in its own words
            else:
                wrong.append(f"{part}: {type(error).__name__}: {str(error)[:200]}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _resident() - before
    if grown > MEMORY_BYTES:
        wrong.append(f"took {grown >> 20} MB")
    return {"digests": digests, "refused": refused, "wrong": wrong, "memory_bytes": grown}


FORBIDDEN = {f"socket.{name}" for name in ("connect", "bind", "getaddrinfo", "gethostbyname", "sendto", "sendmsg")}
FORBIDDEN |= {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
THREADS_BYTES = 200 << 20
"""Room in the address space, which is not memory, for the stacks of the threads that zarr-python starts."""


def _resident() -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) << 10


def judge(case: Case, found: Reading, honest: Reading) -> list[str]:
    """How a crafted store broke the promise, one line each."""
    broken = list(found.wrong)
    noticed = found.refused.keys() - {QUARANTINED}
    if not case.altered:
        differs = [part for part, digest in found.digests.items() if honest.digests.get(part) != digest]
        broken += [f"{part} differs" for part in differs if not (noticed and part == ZARR)]
    if not (noticed or broken or case.unseen or case.altered):
        broken.append("nothing noticed")
    if found.seconds > SECONDS:
        broken.append(f"took {found.seconds:.1f} s of a processor")
    return [f"{case.name}: {line}" for line in broken]


def run_case(case: Case, base: Path, folder: Path, honest: Reading) -> tuple[list[str], Reading]:
    """Craft, read and judge one store in a folder of its own, which is gone afterwards."""
    folder.mkdir()
    try:
        outside = folder / "outside"
        outside.mkdir()
        canary = outside / "canary"
        canary.write_bytes(CANARY)
        root = folder / "store"
        shutil.copytree(base, root)
        craft(case, root, canary)
        found = read(root, canary)
        broken = judge(case, found, honest)
        if canary.read_bytes() != CANARY or stat.S_ISLNK(canary.lstat().st_mode):
            broken.append(f"{case.name}: the canary was touched")
        return broken, found
    finally:
        shutil.rmtree(folder)


def honest_store(folder: Path) -> tuple[Path, Reading]:
    """A whole store and what is read of it; nothing of it may be refused."""
    base = folder / "base"
    make_store(base, SHAPE)
    honest = read(base, folder / "nowhere" / "canary")
    if honest.wrong or honest.refused.keys() != {QUARANTINED}:
        raise RuntimeError(f"the honest store: {honest.wrong} {honest.refused}")
    return base, honest


def crafted_stores(folder: Path, cases: Sequence[Case]) -> Outcome:
    """Run some cases."""
    base, honest = honest_store(folder)
    violations: list[str] = []
    memory, seconds, refused = 0, 0.0, 0
    for number, case in enumerate(cases):
        broken, found = run_case(case, base, folder / str(number), honest)
        violations += broken
        memory, seconds = max(memory, found.memory_bytes), max(seconds, found.seconds)
        refused += found.refused.keys() != {QUARANTINED}
    what = "crafted stores: refused with a rule, or read as the honest one; no code, no escape"
    facts = {"refused": refused, "MB at most": memory >> 20, "seconds at most": round(seconds, 1)}
    return Outcome(what, len(cases), tuple(violations), facts)


# --- metadata by the thousand --------------------------------------------------------------------------------------


def mutated_documents(folder: Path, num: int, seed: int = 0) -> Outcome:
    """Random changes of every kind of document, through what reads it: an error of ours, or a pass."""
    base = folder / "documents"
    store = make_store(base, SHAPE)
    sizes = zarr_rules.Sizes(SHAPE.num_views, SHAPE.plan.num_rows, SHAPE.block_samples, 14)
    logs = {path: body_of(base, path) for path in LOGS}
    nodes = {path: json.loads((base / path).read_bytes()) for path in (*ARRAYS, *GROUPS, "zarr.json")}
    readers: dict[str, Callable[[Any], Any]] = {
        SPEC: lambda body: parse_config(StoreSpec, body, where="spec"),
        PLAN: lambda body: parse_config(StorePlan, body, where="plan"),
        TEACHER: lambda body: parse_config(TeacherSpec, body, where="teacher"),
        SEAL: lambda body: foreign.check_seal(body, "seal"),
        ID: lambda body: foreign.text(body.get("store_id"), "id", "store_id", 64),
    }
    violations: list[str] = []
    refused = 0
    documents = [*logs.items(), *nodes.items()]
    for number in range(num):
        path, honest = documents[number % len(documents)]
        generator = random.Random(f"{seed}/{number}")
        tree = mutate_tree(copy.deepcopy(honest), generator)
        data = json.dumps(tree, ensure_ascii=generator.random() < 0.5).encode("utf-8", "surrogatepass")
        if generator.random() < 0.3:
            data = mutate_bytes(data, generator)
        try:
            if path.startswith(layout.UNITS):
                unit = path.removeprefix(f"{layout.UNITS}/").removesuffix(".json")
                body = foreign.mapping(foreign.parse_json(data, path), path, "body")
                with contextlib.suppress(UnicodeEncodeError):
                    data = signed_json(body)
                (base / path).write_bytes(data)
                read_record(base, unit)
            elif path in readers:
                readers[path](foreign.mapping(foreign.parse_json(data, path), path, "body"))
            else:
                place = path.removesuffix("zarr.json").rstrip("/")
                zarr_rules.check_place(place, zarr_rules.check_node(foreign.parse_json(data, path), path), sizes, path)
        except StillhouseError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - that is what we look for
            violations.append(f"{path}, seed {seed}/{number}: {type(error).__name__}: {str(error)[:200]}")
    del store
    what = "mutated metadata: refused with a rule, or passed; no other error"
    return Outcome(what, num, tuple(violations), {"refused": refused})


_ODD: Sequence[Any] = (
    *VALUES.values(),
    1,
    2,
    3,
    4,
    2**31,
    2**62,
    -(2**63),
    1e300,
    "NaN",
    "3",
    [[]],
    {"a": None},
    "\ud800",
)


def mutate_tree(tree: Any, generator: random.Random) -> Any:
    """One to three changes: another value, a field gone, one more, two that change places."""
    for _ in range(generator.randint(1, 3)):
        found = list(places(tree))
        if not found:
            return tree
        path = generator.choice(found)
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        match generator.randrange(4):
            case 0:
                parent[path[-1]] = copy.deepcopy(generator.choice(_ODD))
            case 1:
                del parent[path[-1]]
            case 2 if isinstance(parent, dict):
                parent[generator.choice(["x", "shape", "codecs", "name", "\x00", "", "attributes"])] = generator.choice(
                    _ODD
                )
            case _:
                other = generator.choice(found)
                value = tree
                for key in other:
                    value = value[key]
                parent[path[-1]] = copy.deepcopy(value)
    return tree


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, taken out, put in or repeated."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(out) + 1)
        match generator.randrange(4):
            case 0 if out:
                out[at % len(out)] = generator.randrange(256)
            case 1:
                del out[at : at + generator.randint(1, 20)]
            case 2:
                out[at:at] = generator.choice(
                    [b"{", b"[", b'"', b"\\", b",", b":", b"9" * 50, b"\xff", b"null", b"1e9999"]
                )
            case _:
                out[at:at] = out[at : at + 30] * generator.randint(1, 60)
    return bytes(out)


# --- the part ------------------------------------------------------------------------------------------------------


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Crafted stores, then mutated metadata."""
    cases = every_case()
    if size == "quick":
        cases = sorted(random.Random(0).sample(cases, QUICK_CASES), key=lambda case: case.name)
    return [crafted_stores(folder, cases), mutated_documents(folder, MUTATIONS[size])]
