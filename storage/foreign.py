"""Limits on what a store may say: it may come from anybody, and what it says decides what we allocate and open.

JSON is measured before it is parsed, names and numbers are bounded before they are used, a path is followed only over
real folders to a real file. `zarr_rules.py` holds a zarr.json to format 1 in the same way. So a crafted store costs a
bounded time and memory, leads nowhere outside its own folder, and runs no code: it is refused with the rule it broke.
"""

import json
import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stillhouse.core.errors import CorruptError

MAX_JSON_DEPTH = 48
MAX_JSON_VALUES = 1_000_000
MAX_JSON_FIELDS = 8192
"""Of one object; the longest is the list of a group's members."""
MAX_ARRAY_JSON_BYTES = 1 << 20
MAX_GROUP_JSON_BYTES = 16 << 20
MAX_SPEC_BYTES = 1 << 20
MAX_PLAN_BYTES = 16 << 20
MAX_RECORD_BYTES = 8 << 20
MAX_OBJECT_BYTES = 1 << 40
MAX_INNER_CHUNK_BYTES = 64 << 20
MAX_VALUES = 1 << 62
"""Of one array: so that sizes fit int64 wherever they go."""
MAX_DIMENSIONS = 8
MAX_ARRAYS = 32
MAX_PATH_PARTS = 12
MAX_TEACHERS = 256
MAX_LEVELS = 256
MAX_BLOCK_ROWS = 1 << 20
MAX_DIM = 1 << 16
MAX_TOKENS = 1 << 20
MAX_TEXT = 1024
MAX_SECONDS = 1e9

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
    if len(pairs) > MAX_JSON_FIELDS:
        raise ValueError(f"an object of {len(pairs)} fields; at most {MAX_JSON_FIELDS} are read")
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
    if not all(map(_PART.fullmatch, parts)):
        refuse(str(root), f"is asked for {path[:200]!r}, which is no name in a store")
    for number, part in enumerate(parts):
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return root / path
        if number < len(parts) - 1 and not stat.S_ISDIR(mode):
            refuse(str(place), f"is {kind_of(mode)}, expected a folder", "put the real folder there")
        if number == len(parts) - 1 and not stat.S_ISREG(mode):
            refuse(str(place), f"is {kind_of(mode)}, expected a file", "put the real file there")
    return place


def kind_of(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")


_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def is_member(path: str) -> bool:
    """True for a relative POSIX path of plain names, as a group names its members."""
    parts = path.split("/")
    return len(path) <= MAX_TEXT and len(parts) <= MAX_PATH_PARTS and all(map(_PART.fullmatch, parts))


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
        refuse(where, f"has {name} {short(value)}, expected a whole number from {low} to {high}")
    return value


def number(value: Any, low: float, high: float, where: str, name: str) -> float:
    """`value` if it is a number from low to high."""
    if type(value) not in (int, float) or not low <= value <= high:
        refuse(where, f"has {name} {short(value)}, expected a number from {low} to {high}")
    return float(value)


def text(value: Any, where: str, name: str, most: int = MAX_TEXT) -> str:
    """`value` if it is a string of at most so many characters, all of which UTF-8 can hold."""
    if not isinstance(value, str) or len(value) > most or _SURROGATE.search(value):
        refuse(where, f"has {name} {short(value)}, expected text of at most {most} characters")
    return value


def mapping(value: Any, where: str, name: str) -> dict[str, Any]:
    """`value` if it is a JSON object."""
    if not isinstance(value, dict):
        refuse(where, f"has {name} {short(value)}, expected an object")
    return value


def items(value: Any, where: str, name: str, most: int) -> list[Any]:
    """`value` if it is a list of at most so many."""
    if not isinstance(value, list) or len(value) > most:
        refuse(where, f"has {name} {short(value)}, expected a list of at most {most}")
    return value


def fields(found: dict[str, Any], needed: set[str], extra: set[str], where: str) -> None:
    if missing := sorted(needed - found.keys()):
        refuse(where, f"lacks {missing[0]}")
    if unknown := sorted(found.keys() - needed - extra):
        refuse(where, f"has an unknown field {short(unknown[0])}")


def short(value: Any) -> str:
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
        refuse(where, f"names an object {short(path)}, which is no name in a store")
    whole(num_bytes, 0, MAX_OBJECT_BYTES, where, "bytes")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        refuse(where, f"has sha256 {short(digest)}, expected up to 64 hex digits")


def check_seal(body: dict[str, Any], where: str) -> None:
    """What a seal says."""
    fields(body, {"generation", "content_sha256", "objects"}, set(body), where)
    whole(body["generation"], 1, MAX_VALUES, where, "generation")
    text(body["content_sha256"], where, "content_sha256", 64)
    whole(body.get("growths", 0), 0, 9999, where, "growths")
    text(body.get("facts_sha256", ""), where, "facts_sha256", 64)
    for entry in items(body["objects"], where, "objects", MAX_JSON_VALUES):
        if len(items(entry, where, "an object", 3)) != 3:
            refuse(where, f"has an object of {len(entry)} facts, expected path, bytes and sha256")
        check_object(entry[0], entry[1], entry[2], where)


def check_facts(unit: str, value: Any, where: str) -> None:
    """Hold the facts of a unit's record that readers use against what they should be."""
    facts = mapping(value, where, "facts")
    match unit.split("/"):
        case ["images", _]:
            fields(facts, {"quarantined"}, set(facts), where)
            for bad in items(facts["quarantined"], where, "quarantined", MAX_BLOCK_ROWS):
                fields(mapping(bad, where, "a quarantined sample"), {"row", "key", "reason"}, set(), where)
                whole(bad["row"], 0, MAX_BLOCK_ROWS - 1, where, "a quarantined row")
                text(bad["key"], where, "the key of a quarantined sample")
                text(bad["reason"], where, "the reason of a quarantined sample")
        case ["features", *_]:
            if "rows" in facts:
                whole(facts["rows"], 0, MAX_BLOCK_ROWS, where, "rows")
            for level, crcs in mapping(facts.get("fingerprints", {}), where, "fingerprints").items():
                for crc in items(crcs, where, f"fingerprints of {short(level)}", MAX_TEXT):
                    whole(crc, 0, (1 << 32) - 1, where, "a fingerprint")
        case ["codecs", _]:
            fields(facts, {"levels"}, set(facts), where)
            levels = mapping(facts["levels"], where, "levels")
            if len(levels) > MAX_LEVELS:
                refuse(where, f"has {len(levels)} levels; at most {MAX_LEVELS} are read")
            for level in levels.values():
                fields(mapping(level, where, "a level"), {"codec", "dim", "arrays"}, set(level), where)
                text(level["codec"], where, "codec", 64)
                whole(level["dim"], 1, MAX_DIM, where, "dim")
                for name in items(level["arrays"], where, "arrays", MAX_ARRAYS):
                    text(name, where, "the name of an array", 64)
