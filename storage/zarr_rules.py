"""What the zarr.json files of a store may say: format 1 and nothing else, within limits, and what the plan says.

Pure functions on parsed JSON, then two walks: over the files that records name, and over all names for links.
"""

import hashlib
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillhouse.core.errors import CorruptError

from .foreign import (
    MAX_ARRAY_JSON_BYTES,
    MAX_DIMENSIONS,
    MAX_GROUP_JSON_BYTES,
    MAX_INNER_CHUNK_BYTES,
    MAX_VALUES,
    fields,
    is_member,
    items,
    kind_of,
    mapping,
    parse_json,
    read_capped,
    refuse,
    regular_file,
    short,
    text,
    whole,
)

MAX_MEMBERS = 4096
MAX_SHARD_BYTES = 64 << 30
"""A block of 4096 samples, 256 patch tokens of 1536 half floats, is 3 GiB. Nobody reads a shard in one piece."""

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
        refuse(where, f"has zarr_format {short(metadata.get('zarr_format'))}, expected 3")
    kind = metadata.get("node_type")
    if kind == "array":
        return _check_array(metadata, where)
    if kind != "group":
        refuse(where, f"has node_type {short(kind)}, expected array or group")
    fields(metadata, _GROUP_KEYS, _GROUP_EXTRA, where)
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
        refuse(where, f"has consolidated_metadata of kind {short(held.get('kind'))}, expected inline")
    fields(held, {"metadata"}, {"kind", "must_understand"}, where)
    members = mapping(held["metadata"], where, "consolidated_metadata")
    if len(members) > MAX_MEMBERS:
        refuse(where, f"has {len(members)} members; at most {MAX_MEMBERS} are read")
    for path in members:
        if not is_member(path):
            refuse(where, f"has a member {short(path)}, which is no name in a store")
    return members


def _check_array(metadata: dict[str, Any], where: str) -> ArrayShape:
    fields(metadata, _ARRAY_KEYS, _ARRAY_EXTRA, where)
    if metadata.get("storage_transformers"):
        refuse(where, "has storage_transformers, which no store has")
    mapping(metadata.get("attributes", {}), where, "attributes")
    dtype = metadata["data_type"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(where, f"has data_type {short(dtype)}, expected one of {', '.join(ITEM_BYTES)}")
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


def _sizes(value: Any, low: int, where: str, name: str) -> tuple[int, ...]:
    sizes = items(value, where, name, MAX_DIMENSIONS)
    return tuple(whole(size, low, MAX_VALUES, where, name) for size in sizes)


def _bounded(chunk: Sequence[int], dtype: str, most: int, where: str, what: str) -> None:
    num_bytes = math.prod(chunk) * ITEM_BYTES[dtype]
    if num_bytes > most:
        refuse(where, f"has {what} of {num_bytes} bytes; at most {most} are read")


def _regular(grid: Any, where: str) -> tuple[int, ...]:
    grid = mapping(grid, where, "chunk_grid")
    fields(grid, {"name", "configuration"}, set(), where)
    if grid["name"] != "regular":
        refuse(where, f"has a chunk_grid named {short(grid['name'])}, expected regular")
    configuration = mapping(grid["configuration"], where, "chunk_grid")
    fields(configuration, {"chunk_shape"}, set(), where)
    return _sizes(configuration["chunk_shape"], 1, where, "chunk_shape")


def _check_fill(value: Any, dtype: str, where: str) -> None:
    if "float" in dtype:
        good = value in _FLOAT_FILLS if isinstance(value, str) else type(value) in (int, float) and abs(value) < 1 << 16
    else:
        bits = 8 * ITEM_BYTES[dtype]
        low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        good = type(value) is int and low <= value <= high
    if not good:
        refuse(where, f"has fill_value {short(value)}, which is no {dtype}")


def _check_codecs(codecs: Any, chunk: tuple[int, ...], dtype: str, where: str) -> tuple[tuple[int, ...], bool]:
    """The chunk that is decoded at once, and whether it lies in a shard."""
    chain = [_codec(codec, where) for codec in items(codecs, where, "codecs", MAX_DIMENSIONS)]
    if [name for name, _ in chain] != ["sharding_indexed"]:
        _check_chain(chain, chunk, dtype, where)
        return chunk, False
    configuration = chain[0][1]
    fields(configuration, {"chunk_shape", "codecs"}, {"index_codecs", "index_location"}, where)
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
    fields(codec, {"name"}, {"configuration"}, where)
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
            fields(configuration, {"order"}, set(), where)
            if sorted(_sizes(configuration["order"], 0, where, "order")) != list(range(len(chunk))):
                refuse(where, "has a transpose whose order is no permutation of the dimensions")
        elif name == "bytes":
            fields(configuration, set(), {"endian"}, where)
            if configuration.get("endian", "little" if ITEM_BYTES[dtype] == 1 else None) != "little":
                refuse(where, f"has bytes of endian {short(configuration.get('endian'))}, expected little")
        elif name == "zstd":
            fields(configuration, {"level"}, {"checksum"}, where)
            whole(configuration["level"], -(1 << 17), 22, where, "zstd level")
            if type(configuration.get("checksum", False)) is not bool:
                refuse(where, f"has zstd checksum {short(configuration['checksum'])}, expected true or false")
        else:
            fields(configuration, set(), set(), where)


# --- the whole tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """What spec and plan fix of every array: V views, N rows, B rows of a block, P fields of a view.

    Args:
        earlier: (V, N) before each growth of the store: an array has those until its metadata is written anew.
    """

    num_views: int
    num_rows: int
    block_rows: int
    num_fields: int
    earlier: tuple[tuple[int, int], ...] = ()


def grows(path: str) -> bool:
    """True for an array of views and rows."""
    match path.split("/"):
        case ["views", "params" | "hash"]:
            return True
        case ["features", _, level]:
            return level != "codecs"
    return False


def _without_extent(path: str, metadata: Any) -> Any:
    """A member's metadata but for the views and rows that it has, which are more once the store has grown."""
    return metadata | {"shape": metadata["shape"][2:]} if grows(path) and "shape" in metadata else metadata


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
    block, (views, rows) = sizes.block_rows, (sizes.num_views, sizes.num_rows)
    if grows(path) and found.shape[:2] in sizes.earlier:
        views, rows = found.shape[:2]
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


def check_files(root: Path) -> None:
    """Refuse links, devices and pipes, which other readers would follow, and chunks that are too large to read."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = Path(folder) / name
            mode = place.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                refuse(repr(str(place)), f"is {kind_of(mode)}, expected a file", "put the real file there")
            parts = place.relative_to(root).parts
            in_one_piece = parts[0] == "views" or (parts[0] == "features" and "codecs" in parts[2:3])
            if in_one_piece and place.lstat().st_size > 2 * MAX_INNER_CHUNK_BYTES:
                refuse(str(place), f"is larger than {2 * MAX_INNER_CHUNK_BYTES} bytes")


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
            refuse(str(place), "does not match the sha256 in its record", f"run `stillhouse verify {root}`")
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
            if _without_extent(path, parsed.get(path, member)) != _without_extent(path, member):
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
