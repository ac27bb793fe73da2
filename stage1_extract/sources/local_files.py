"""Local files: the ones that a pattern names, and their bytes by position."""

import glob
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.storage.decode import MAX_ENCODED_BYTES


def expand_patterns(
    patterns: Iterable[str], where: str, expand_braces: Callable[[str], list[str]] = lambda pattern: [pattern]
) -> list[str]:
    """The files that paths, brace patterns and globs name, in order, each once; a name that exists is never a pattern.

    Raises:
        DataError: a URL, a pipe or a variable in place of a path; no such file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if os.path.isfile(pattern):
            found[pattern] = None
            continue
        if "::" in pattern or "://" in pattern or "${" in pattern or pattern.startswith("pipe:"):
            raise DataError(f"{where}: {pattern!r} is not a local path", hint="copy the files to a local disk")
        try:
            names = expand_braces(pattern)
        except ValueError as error:
            raise DataError(
                f"{where}: the pattern {pattern!r} is not valid: {error}", hint="balance its braces"
            ) from error
        for name in names:
            matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
            files = [match for match in matches if os.path.isfile(match)]
            if not files:
                raise DataError(f"{where}: no file {name!r}", hint=f"correct the path {pattern!r}")
            found.update(dict.fromkeys(files))
    return list(found)


def read_bytes(path: str | Path, where: str, offset: int = 0, length: int | None = None) -> bytes:
    """`length` bytes of a file from `offset`, without a length the whole file.

    What is longer than `decode` accepts is cut one byte behind that, so that `decode` refuses it and memory is bounded.
    Opens the file for each call: no descriptor is shared between threads or kept across a fork.

    Raises:
        DataError: the file cannot be read, or ends before the range does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = min(os.fstat(descriptor).st_size if length is None else length, MAX_ENCODED_BYTES + 1)
            pieces: list[bytes] = []
            while wanted and (piece := os.pread(descriptor, wanted, offset)):
                pieces.append(piece)
                offset, wanted = offset + len(piece), wanted - len(piece)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, where, error) from error
    if wanted and length is not None:
        raise DataError(f"{where}: {path} ends at byte {offset}, {wanted} too early", hint="copy the file again")
    return b"".join(pieces)


def unreadable(path: str | Path, where: str, error: OSError) -> DataError:
    """The error for a file or folder that the system does not let us read."""
    remedy = {
        FileNotFoundError: "correct the path, or restore the file",
        PermissionError: f"give user {os.getuid()} the right to read it",
    }.get(type(error), "check the file and its disk")
    return DataError(f"{where}: cannot read {path}: {error.strerror or error}", hint=remedy)
