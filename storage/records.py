"""Decision records: which attempt's objects are the content of a unit."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import CorruptError

from . import foreign
from .disk import disk_errors
from .layout import record_path
from .signed_json import read_signed_json

VERIFY = "stillhouse verify"
_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_PATH = re.compile(r"[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)+", re.ASCII)  # relative, and no part starts with a dot


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One published object: its path in the store, its size and its sha256 in hex."""

    path: str
    num_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "bytes": self.num_bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Record:
    """The decision about one unit: which attempt's objects are its content."""

    unit: str
    attempt: str
    objects: tuple[ObjectEntry, ...]
    facts: dict[str, Any]


def read_record(root: Path, unit: str) -> Record | None:
    """The decision about `unit`, or None when it is undecided.

    Raises:
        CorruptError: the record is not the bytes that were written.
    """
    path = root / record_path(unit)
    hint = f"run `{VERIFY} {root}`"
    body = read_signed_json(path, hint, root=root, max_bytes=foreign.MAX_RECORD_BYTES)
    if body is None:
        return None
    try:
        objects = tuple(ObjectEntry(o["path"], o["bytes"], o["sha256"]) for o in body["objects"])
        record = Record(body["unit"], body["attempt"], objects, body["facts"])
        named = all(_PATH.fullmatch(entry.path) for entry in objects) and _ATTEMPT.fullmatch(record.attempt)
    except (KeyError, TypeError) as error:
        raise CorruptError(f"record {path} lacks {error}", hint=hint) from error
    if record.unit != unit or not named:
        raise CorruptError(f"record {path} is about {record.unit!r} or names objects outside the store", hint=hint)
    for entry in objects:
        foreign.check_object(entry.path, entry.num_bytes, entry.sha256, f"record {path}")
    foreign.check_facts(unit, record.facts, f"record {path}")
    foreign.number(body.get("seconds", 0), 0, foreign.MAX_SECONDS, f"record {path}", "seconds")
    return record


def record_sha256(root: Path, unit: str) -> str | None:
    """sha256 of the file of a unit's record as it is now, readable or not; None when there is none."""
    path = root / record_path(unit)
    try:
        with disk_errors(path):
            return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
