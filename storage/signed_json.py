"""JSON in one byte form, with its own sha256 in it: what every file in `_log` is."""

import hashlib
import json
from pathlib import Path
from typing import Any

from stillhouse.core.errors import CorruptError

from . import foreign
from .disk import disk_errors

MAX_JSON_BYTES = 64 << 20


def canonical_json(value: Any) -> bytes:
    """One byte form for one value: sorted keys, no spaces, UTF-8, newline at the end."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def signed_json(body: dict[str, Any]) -> bytes:
    """`canonical_json` of a body with the body's own sha256 in it, for `read_signed_json`."""
    return canonical_json(body | {"self_sha256": hashlib.sha256(canonical_json(body)).hexdigest()})


def read_signed_json(
    path: Path, hint: str, *, root: Path | None = None, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any] | None:
    """The body that `signed_json` was given, or None when there is no such file.

    Args:
        root: as for `read_json`.

    Raises:
        CorruptError: the file is not the bytes that were written; `hint` says what to do then.
    """
    found = _json_file(path, hint, root, max_bytes)
    if found is None:
        return None
    data, body = found
    body.pop("self_sha256", None)
    try:
        whole = signed_json(body)
    except (ValueError, RecursionError):
        whole = b""  # it holds what we never write, such as NaN
    if data != whole:  # to the last newline, so that a cut of one byte counts too
        raise CorruptError(f"{path} does not match its own sha256", hint=hint)
    return body


def read_json(
    path: Path,
    hint: str = "restore it from a copy",
    *,
    root: Path | None = None,
    max_bytes: int = MAX_JSON_BYTES,
) -> dict[str, Any] | None:
    """A JSON object from disk, or None when there is no such file. Limited in size and depth; `hint` goes into errors.

    Args:
        root: the store that the file is part of: no link below it is followed.
    """
    found = _json_file(path, hint, root, max_bytes)
    return None if found is None else found[1]


def _json_file(path: Path, hint: str, root: Path | None, max_bytes: int) -> tuple[bytes, dict[str, Any]] | None:
    """The bytes of a JSON file and the object that they hold; None when there is no such file."""
    with disk_errors(path):
        place = path if root is None else foreign.regular_file(root, path.relative_to(root).as_posix())
        data = foreign.read_capped(place, max_bytes)
    if data is None:
        return None
    value = foreign.parse_json(data, str(path), hint)
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds {type(value).__name__}, expected an object", hint=hint)
    return data, value
