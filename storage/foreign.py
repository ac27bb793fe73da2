"""Limits on what a store may say: it may come from anybody, and what it says decides what we allocate and open.

JSON is measured before it is parsed, names and numbers are bounded before they are used, a path is followed only over
real folders to a real file, and a zarr.json holds what format 1 holds and nothing else. So a crafted store costs a
bounded time and memory, leads nowhere outside its own folder, and runs no code: it is refused with the rule it broke.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from stillhouse.core.errors import CorruptError

MAX_JSON_DEPTH = 48
MAX_JSON_VALUES = 1_000_000
MAX_ARRAY_JSON_BYTES = 1 << 20
MAX_GROUP_JSON_BYTES = 16 << 20
MAX_SPEC_BYTES = 1 << 20
MAX_PLAN_BYTES = 16 << 20
MAX_RECORD_BYTES = 16 << 20
MAX_OBJECT_BYTES = 1 << 40
MAX_INNER_CHUNK_BYTES = 64 << 20
MAX_SHARD_BYTES = 64 << 30
"""A block of 4096 samples, 256 patch tokens of 1536 half floats, is 3 GiB. Nobody reads a shard in one piece."""
MAX_VALUES = 1 << 62
"""Of one array: so that sizes fit int64 wherever they go."""
MAX_DIMENSIONS = 8
MAX_MEMBERS = 4096
MAX_TEACHERS = 256
MAX_LEVELS = 256
MAX_BLOCK_ROWS = 1 << 20
MAX_DIM = 1 << 16
MAX_TOKENS = 1 << 20
MAX_TEXT = 1024

ITEM_BYTES: Final[Mapping[str, int]] = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "uint8": 1,
    "uint16": 2,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint64": 8,
}
ZARR_2: Final = (".zarray", ".zgroup", ".zattrs", ".zmetadata")

_STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # possessive, and it never fails: linear
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{1,64}")

WRITTEN = "it was not written by stillhouse: ask who made it, or restore it from a copy"


def refuse(where: str, rule: str, hint: str = WRITTEN) -> NoReturn:
    """CorruptError: what at `where` breaks a rule."""
    raise CorruptError(f"{where} {rule}", hint=hint)


# --- JSON ----------------------------------------------------------------------------------------------------------


def parse_json(data: bytes, where: str, hint: str = WRITTEN) -> Any:
    """The value of a JSON document whose depth and number of values are within limits.

    Raises:
        CorruptError: it is none, too deep or too large, gives a key twice, or holds NaN or an infinite number.
    """
    many = data.count(b'"') > 4 * MAX_JSON_VALUES  # four quotes are a key and its value
    structure = b"" if many else _STRING.sub(b"", data).translate(None, _NO_STRUCTURE)
    if many or len(structure) > MAX_JSON_VALUES:
        refuse(where, f"holds more than {MAX_JSON_VALUES} values", hint)
    if (
        len(data) > MAX_GROUP_JSON_BYTES and not data.isascii()
    ):  # one rare character makes text of it four times as large
        refuse(where, f"is larger than {MAX_GROUP_JSON_BYTES} bytes and not plain ASCII", hint)
    depth = int(_STEPS[np.frombuffer(structure, np.uint8)].cumsum(dtype=np.int64).max(initial=0))
    del structure
    if depth > MAX_JSON_DEPTH:
        refuse(where, f"is nested {depth} deep; at most {MAX_JSON_DEPTH} is read", hint)
    try:
        decoded = (
            data.decode()
        )  # `json.loads` would guess UTF-16 and 32 from bytes, which the measure above does not read
        return json.loads(decoded, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is not valid JSON: {str(error)[:200]}", hint=hint) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {counts.most_common(1)[0][0][:80]!r} is given twice")
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


# --- paths ---------------------------------------------------------------------------------------------------------


def regular_file(root: Path, path: str) -> Path:
    """`root / path`, if only real folders lie between and it is no link, device or pipe. It need not be there.

    The root itself may be a link: its user named it. Hard links are files like any other.

    Raises:
        CorruptError: a part of the path is a name that no store has, or leads elsewhere.
    """
    place, parts = root, path.split("/")
    for number, part in enumerate(parts):
        if not _PART.fullmatch(part):
            refuse(str(root), f"is asked for {path[:200]!r}, which is no name in a store")
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return root / path
        if number < len(parts) - 1 and not stat.S_ISDIR(mode):
            refuse(str(place), f"is {_kind(mode)}, expected a folder", "put the real folder there")
        if number == len(parts) - 1 and not stat.S_ISREG(mode):
            refuse(str(place), f"is {_kind(mode)}, expected a file", "put the real file there")
    return place


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")


_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def read_capped(path: Path, max_bytes: int, hint: str = WRITTEN) -> bytes | None:
    """The bytes of a file, or None when it is not there; CorruptError when it is larger than `max_bytes`."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                refuse(str(path), f"is larger than {max_bytes} bytes", hint)
            return file.read(size + 1)[:size]
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- values --------------------------------------------------------------------------------------------------------


def whole(value: Any, low: int, high: int, where: str, name: str) -> int:
    """`value` if it is an integer from low to high."""
    if type(value) is not int or not low <= value <= high:
        refuse(where, f"has {name} {_short(value)}, expected a whole number from {low} to {high}")
    return value


def text(value: Any, where: str, name: str, most: int = MAX_TEXT) -> str:
    """`value` if it is a string of at most so many characters, all of which UTF-8 can hold."""
    if not isinstance(value, str) or len(value) > most or _SURROGATE.search(value):
        refuse(where, f"has {name} {_short(value)}, expected text of at most {most} characters")
    return value


def mapping(value: Any, where: str, name: str) -> dict[str, Any]:
    """`value` if it is a JSON object."""
    if not isinstance(value, dict):
        refuse(where, f"has {name} {_short(value)}, expected an object")
    return value


def items(value: Any, where: str, name: str, most: int) -> list[Any]:
    """`value` if it is a list of at most so many."""
    if not isinstance(value, list) or len(value) > most:
        refuse(where, f"has {name} {_short(value)}, expected a list of at most {most}")
    return value


def _short(value: Any) -> str:
    """A value as it may stand in a message: escaped, and never long."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a number of more than 64 bits"
    shown = repr(value[:80] if isinstance(value, str) else value)
    return shown


# --- decision records ----------------------------------------------------------------------------------------------


def check_object(path: Any, num_bytes: Any, digest: Any, where: str) -> None:
    """What a record or a seal says about one object."""
    if not isinstance(path, str) or not is_member(path):
        refuse(where, f"names an object {_short(path)}, which is no name in a store")
    whole(num_bytes, 0, MAX_OBJECT_BYTES, where, "bytes")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        refuse(where, f"has sha256 {_short(digest)}, expected up to 64 hex digits")


def check_facts(unit: str, value: Any, where: str) -> None:
    """Hold the facts of a unit's record that readers use against what they should be."""
    facts = mapping(value, where, "facts")
    match unit.split("/"):
        case ["images", _]:
            _keys(facts, {"quarantined"}, set(facts), where)
            for bad in items(facts["quarantined"], where, "quarantined", MAX_BLOCK_ROWS):
                _keys(mapping(bad, where, "a quarantined sample"), {"row", "key", "reason"}, set(), where)
                whole(bad["row"], 0, MAX_BLOCK_ROWS - 1, where, "a quarantined row")
                text(bad["key"], where, "the key of a quarantined sample")
                text(bad["reason"], where, "the reason of a quarantined sample")
        case ["features", *_]:
            if "rows" in facts:
                whole(facts["rows"], 0, MAX_BLOCK_ROWS, where, "rows")
            for level, crcs in mapping(facts.get("fingerprints", {}), where, "fingerprints").items():
                for crc in items(crcs, where, f"fingerprints of {_short(level)}", MAX_TEXT):
                    whole(crc, 0, (1 << 32) - 1, where, "a fingerprint")
        case ["codecs", _]:
            _keys(facts, {"levels"}, set(facts), where)
            levels = mapping(facts["levels"], where, "levels")
            if len(levels) > MAX_LEVELS:
                refuse(where, f"has {len(levels)} levels; at most {MAX_LEVELS} are read")
            for level in levels.values():
                _keys(mapping(level, where, "a level"), {"codec", "dim", "arrays"}, set(level), where)
                text(level["codec"], where, "codec", 64)
                whole(level["dim"], 1, MAX_DIM, where, "dim")
                for name in items(level["arrays"], where, "arrays", MAX_DIMENSIONS):
                    text(name, where, "the name of an array", 64)


# --- zarr.json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """What a zarr.json of an array says of sizes. `inner` is the chunk that is decoded at once; in a shard, a part."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    inner: tuple[int, ...]
    dtype: str
    sharded: bool


_ARRAY_KEYS = {"zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value"}
_ARRAY_KEYS |= {"codecs"}
_ARRAY_EXTRA = {"attributes", "dimension_names", "storage_transformers"}
_GROUP_KEYS = {"zarr_format", "node_type"}
_GROUP_EXTRA = {"attributes", "consolidated_metadata"}
_FLOAT_FILLS = ("NaN", "Infinity", "-Infinity")
_INDEX_CODECS = ({"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"})


def check_node(metadata: Any, where: str, *, inside: bool = False) -> ArrayShape | None:
    """Hold the zarr.json of one array or group against the rules; the sizes of an array, None for a group.

    Args:
        inside: it stands in the consolidated metadata of another one, where it may hold none itself.
    """
    metadata = mapping(metadata, where, "metadata")
    if metadata.get("zarr_format") != 3 or type(metadata["zarr_format"]) is not int:
        refuse(where, f"has zarr_format {_short(metadata.get('zarr_format'))}, expected 3")
    kind = metadata.get("node_type")
    if kind == "array":
        return _check_array(metadata, where)
    if kind != "group":
        refuse(where, f"has node_type {_short(kind)}, expected array or group")
    _keys(metadata, _GROUP_KEYS, _GROUP_EXTRA, where)
    mapping(metadata.get("attributes", {}), where, "attributes")
    if metadata.get("consolidated_metadata") is not None and inside:
        refuse(where, "has consolidated_metadata inside consolidated_metadata")
    if metadata.get("consolidated_metadata") is not None:
        for path, member in _consolidated(metadata, where).items():
            check_node(member, f"{where}, member {path}", inside=True)
    return None


def _consolidated(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """The members in a group's consolidated metadata, by path."""
    held = mapping(metadata.get("consolidated_metadata") or {"metadata": {}}, where, "consolidated_metadata")
    if "consolidated_metadata" in metadata and held.get("kind") != "inline":
        refuse(where, f"has consolidated_metadata of kind {_short(held.get('kind'))}, expected inline")
    _keys(held, {"metadata"}, {"kind", "must_understand"}, where)
    members = mapping(held["metadata"], where, "consolidated_metadata")
    if len(members) > MAX_MEMBERS:
        refuse(where, f"has {len(members)} members; at most {MAX_MEMBERS} are read")
    for path in members:
        if not is_member(path):
            refuse(where, f"has a member {_short(path)}, which is no name in a store")
    return members


def is_member(path: str) -> bool:
    """True for a relative POSIX path of plain names, as a group names its members."""
    parts = path.split("/")
    return len(path) <= MAX_TEXT and len(parts) <= MAX_DIMENSIONS and all(map(_PART.fullmatch, parts))


def _check_array(metadata: dict[str, Any], where: str) -> ArrayShape:
    _keys(metadata, _ARRAY_KEYS, _ARRAY_EXTRA, where)
    if metadata.get("storage_transformers"):
        refuse(where, "has storage_transformers, which no store has")
    mapping(metadata.get("attributes", {}), where, "attributes")
    dtype = metadata["data_type"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(where, f"has data_type {_short(dtype)}, expected one of {', '.join(ITEM_BYTES)}")
    _check_fill(metadata["fill_value"], dtype, where)
    shape = _sizes(metadata["shape"], 0, where, "shape")
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) > MAX_VALUES:
        refuse(where, f"has more than {MAX_DIMENSIONS} dimensions or {MAX_VALUES} values")
    chunk = _regular(metadata["chunk_grid"], where)
    if len(chunk) != len(shape):
        refuse(where, f"has chunks of {len(chunk)} dimensions for a shape of {len(shape)}")
    wanted = {"name": "default", "configuration": {"separator": "/"}}
    if metadata["chunk_key_encoding"] != wanted:
        refuse(where, f"has another chunk_key_encoding than {wanted}")
    names = metadata.get("dimension_names")
    if names is not None:
        for name in items(names, where, "dimension_names", MAX_DIMENSIONS):
            if name is not None:
                text(name, where, "a dimension name", 64)
        if len(names) != len(shape):
            refuse(where, f"has {len(names)} dimension_names for {len(shape)} dimensions")
    inner, sharded = _check_codecs(metadata["codecs"], chunk, dtype, where)
    _bounded(inner, dtype, MAX_INNER_CHUNK_BYTES, where, "chunks")
    _bounded(chunk, dtype, MAX_SHARD_BYTES if sharded else MAX_INNER_CHUNK_BYTES, where, "shards")
    return ArrayShape(shape, chunk, inner, dtype, sharded)


def _keys(found: dict[str, Any], needed: set[str], extra: set[str], where: str) -> None:
    if missing := sorted(needed - found.keys()):
        refuse(where, f"lacks {missing[0]}")
    if unknown := sorted(found.keys() - needed - extra):
        refuse(where, f"has an unknown field {_short(unknown[0])}")


def _sizes(value: Any, low: int, where: str, name: str) -> tuple[int, ...]:
    sizes = items(value, where, name, MAX_DIMENSIONS)
    return tuple(whole(size, low, MAX_VALUES, where, name) for size in sizes)


def _bounded(chunk: Sequence[int], dtype: str, most: int, where: str, what: str) -> None:
    num_bytes = math.prod(chunk) * ITEM_BYTES[dtype]
    if num_bytes > most:
        refuse(where, f"has {what} of {num_bytes} bytes; at most {most} are read")


def _regular(grid: Any, where: str) -> tuple[int, ...]:
    grid = mapping(grid, where, "chunk_grid")
    _keys(grid, {"name", "configuration"}, set(), where)
    if grid["name"] != "regular":
        refuse(where, f"has a chunk_grid named {_short(grid['name'])}, expected regular")
    configuration = mapping(grid["configuration"], where, "chunk_grid")
    _keys(configuration, {"chunk_shape"}, set(), where)
    return _sizes(configuration["chunk_shape"], 1, where, "chunk_shape")


def _check_fill(value: Any, dtype: str, where: str) -> None:
    if "float" in dtype:
        good = value in _FLOAT_FILLS if isinstance(value, str) else type(value) in (int, float) and abs(value) < 1 << 16
    else:
        bits = 8 * ITEM_BYTES[dtype]
        low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        good = type(value) is int and low <= value <= high
    if not good:
        refuse(where, f"has fill_value {_short(value)}, which is no {dtype}")


def _check_codecs(codecs: Any, chunk: tuple[int, ...], dtype: str, where: str) -> tuple[tuple[int, ...], bool]:
    """The chunk that is decoded at once, and whether it lies in a shard."""
    chain = [_codec(codec, where) for codec in items(codecs, where, "codecs", MAX_DIMENSIONS)]
    if [name for name, _ in chain] != ["sharding_indexed"]:
        _check_chain(chain, chunk, dtype, where)
        return chunk, False
    configuration = chain[0][1]
    _keys(configuration, {"chunk_shape", "codecs"}, {"index_codecs", "index_location"}, where)
    inner = _sizes(configuration["chunk_shape"], 1, where, "the chunk_shape in a shard")
    if len(inner) != len(chunk) or any(outer % part for outer, part in zip(chunk, inner, strict=True)):
        refuse(where, f"has chunks of {inner} in shards of {chunk}")
    held = [_codec(codec, where) for codec in items(configuration["codecs"], where, "codecs", MAX_DIMENSIONS)]
    _check_chain(held, inner, dtype, where)
    if configuration.get("index_codecs") != list(_INDEX_CODECS) or configuration.get("index_location", "end") != "end":
        refuse(where, "has another shard index than little-endian numbers with a crc32c at the end")
    return inner, True


def _codec(codec: Any, where: str) -> tuple[str, dict[str, Any]]:
    codec = mapping(codec, where, "a codec")
    _keys(codec, {"name"}, {"configuration"}, where)
    name = text(codec["name"], where, "a codec name", 64)
    if name not in ("transpose", "bytes", "zstd", "crc32c", "sharding_indexed"):
        refuse(where, f"has codec {name!r}; expected bytes, crc32c, zstd, transpose or sharding_indexed")
    return name, mapping(codec.get("configuration", {}), where, f"the configuration of {name}")


def _check_chain(chain: list[tuple[str, dict[str, Any]]], chunk: tuple[int, ...], dtype: str, where: str) -> None:
    """transpose, then bytes, then zstd, then crc32c; the first and the third may be left out."""
    order = ["transpose", "bytes", "zstd", "crc32c"]
    names = [name for name, _ in chain]
    if names != [name for name in order if name in names] or not {"bytes", "crc32c"} <= set(names):
        refuse(where, f"has codecs {names}, expected some of {order} in this order, bytes and crc32c among them")
    for name, configuration in chain:
        if name == "transpose":
            _keys(configuration, {"order"}, set(), where)
            if sorted(_sizes(configuration["order"], 0, where, "order")) != list(range(len(chunk))):
                refuse(where, "has a transpose whose order is no permutation of the dimensions")
        elif name == "bytes":
            _keys(configuration, set(), {"endian"}, where)
            if configuration.get("endian", "little" if ITEM_BYTES[dtype] == 1 else None) != "little":
                refuse(where, f"has bytes of endian {_short(configuration.get('endian'))}, expected little")
        elif name == "zstd":
            _keys(configuration, {"level"}, {"checksum"}, where)
            whole(configuration["level"], -(1 << 17), 22, where, "zstd level")
            if type(configuration.get("checksum", False)) is not bool:
                refuse(where, f"has zstd checksum {_short(configuration['checksum'])}, expected true or false")
        else:
            _keys(configuration, set(), set(), where)


# --- the whole tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """What spec and plan fix of every array: V views, N rows, B rows of a block, P fields of a view."""

    num_views: int
    num_rows: int
    block_rows: int
    num_fields: int


def check_place(path: str, found: ArrayShape | None, sizes: Sizes, where: str) -> None:
    """Hold an array (None: a group) against what the plan says of the place where it lies."""
    parts = path.split("/") if path else []
    match parts:
        case [] | ["views"] | ["features"] | ["features", _] | ["features", _, "codecs"] | ["features", _, "codecs", _]:
            if found is not None:
                refuse(where, "is an array, expected a group")
            return
    if found is None:
        return
    views, rows, block = sizes.num_views, sizes.num_rows, sizes.block_rows
    expected: tuple[Any, ...] | None = None
    match parts:
        case ["views", "params"]:
            expected = ((views, rows, sizes.num_fields), (1, block, sizes.num_fields), None, "int32")
        case ["views", "hash"]:
            expected = ((views, rows), (1, block), None, "uint64")
        case ["features", _, _] if len(found.shape) == 4:
            token, code = found.shape[2:]
            expected = ((views, rows, token, code), (1, block, token, code), (1, 1, token, code), found.dtype)
        case ["features", _, _]:
            refuse(where, f"has {len(found.shape)} dimensions, expected view, row, token, code")
        case ["features", _, "codecs", _, _]:
            expected = (found.shape, found.shape, None, found.dtype)
    if expected is not None:
        actual = (found.shape, found.chunk, found.inner if found.sharded else None, found.dtype)
        for name, has, wants in zip(
            ("shape", "chunks", "chunks in a shard", "data_type"), actual, expected, strict=True
        ):
            if has != wants:
                refuse(where, f"has {name} {has}, the plan says {wants}")


def check_tree(root: Path, sizes: Sizes, recorded: Mapping[str, str], *, damaged: bool = False) -> None:
    """Hold every zarr.json of a store against the rules, and against its record. Nothing else of the store is read.

    Args:
        recorded: sha256 of each object that a decision record names, by path. What is not there yet is not missed.
        damaged: let pass what is not what its record says, and the root's zarr.json, which has none.

    Raises:
        CorruptError: names the file and the rule.
    """
    budget = MAX_GROUP_JSON_BYTES * 2
    documents = {path: digest for path, digest in recorded.items() if path.endswith("/zarr.json")}
    if len(documents) > MAX_MEMBERS:
        refuse(str(root), f"has {len(documents)} arrays and groups; at most {MAX_MEMBERS} are read")
    parsed: dict[str, Any] = {}
    for path, digest in sorted(documents.items()):
        data = _read_node(root, path, budget)
        if data is None:
            continue
        budget -= len(data)
        place = root / path
        if hashlib.sha256(data).hexdigest() != digest:
            if damaged:
                continue
            refuse(str(place), "does not match the sha256 in its record", f"run `stillhouse verify {root} --repair`")
        parsed[path.removesuffix("/zarr.json")] = _check_file(data, path.removesuffix("/zarr.json"), sizes, str(place))
    card = None if damaged else _read_node(root, "zarr.json", budget, most=MAX_GROUP_JSON_BYTES)
    if card is None:
        return
    where, hint = str(root / "zarr.json"), "delete that file; the next `stillhouse extract` writes it again"
    try:
        found = _check_file(card, "", sizes, where)
        for path, member in _consolidated(found, where).items():
            check_place(
                path, check_node(member, f"{where}, member {path}", inside=True), sizes, f"{where}, member {path}"
            )
            if parsed.get(path, member) != member:
                refuse(where, f"has a member {path} that is not what {path}/zarr.json says")
    except CorruptError as error:
        raise CorruptError(error.message, hint=hint) from error


def _read_node(root: Path, path: str, budget: int, most: int = MAX_ARRAY_JSON_BYTES) -> bytes | None:
    folder = regular_file(root, path).parent
    for name in ZARR_2:
        if os.path.lexists(folder / name):
            refuse(str(folder / name), "is of Zarr 2, which no store holds", "remove it")
    return read_capped(folder / "zarr.json", min(most, budget))


def _check_file(data: bytes, path: str, sizes: Sizes, where: str) -> dict[str, Any]:
    metadata = parse_json(data, where)
    check_place(path, check_node(metadata, where), sizes, where)
    return dict(metadata)
