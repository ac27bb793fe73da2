"""Bringing a file here from a place: whole and what it should be, or not at all.

Bytes go to a temporary file beside the final name while they are hashed; only what matches gets the name. An answer that
ends early, is too long or is something else is asked for again.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage.disk import arriving
from stillhouse.storage.records import ObjectEntry

from .base import Place
from .patience import Passing, Patience

DIFFERENT_TRIES = 3
"""How often an object that comes whole and is another one is fetched again: some cache between may have kept an old one."""


def read_whole(place: Place, path: str, most: int, patience: Patience) -> bytes | None:
    """A small file; None when it is not there.

    Raises:
        CorruptError: it is larger than `most` bytes.
        RemoteError: the place does not give it.
    """

    return patience.ask(f"{place.name}/{path}", lambda: read_once(place, path, most))


def read_once(place: Place, path: str, most: int) -> bytes | None:
    """As `read_whole`, asked for once: raises `Passing` when the place cannot say now."""
    pieces = place.stream(path)
    if pieces is None:
        return None
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > most:
            message = f"{place.name}/{path} is larger than {most} bytes"
            raise CorruptError(message, hint="is that a store? ask who shared it")
    return bytes(data)


def bring(
    place: Place,
    path: str,
    entry: ObjectEntry,
    to: Path,
    patience: Patience,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Fetch `path` to the local file `to`, which is durable afterwards and has the size and sha256 of `entry`.

    Args:
        on_bytes: told of bytes as they come; taken back, with a minus, when they have to come again.

    Raises:
        MissingError: it is not there.
        CorruptError: it is there, and another object.
        RemoteError: the place does not give it.
    """
    where, came = f"{place.name}/{path}", 0

    def try_once() -> None:
        nonlocal came
        on_bytes(-came)
        came = 0
        pieces = place.stream(path)
        if pieces is None:
            raise MissingError(f"{where} is not there", hint="ask who shared the store")
        digest = hashlib.sha256()
        with arriving(to) as file:
            for piece in pieces:
                came += len(piece)
                on_bytes(len(piece))
                if came > entry.num_bytes:
                    raise _Different(f"more than the {entry.num_bytes} bytes of its record came")
                file.write(piece)
                digest.update(piece)
            if came < entry.num_bytes:
                raise Passing(f"{came} bytes of {entry.num_bytes} came")
            if digest.hexdigest() != entry.sha256:
                raise _Different(f"sha256 {digest.hexdigest()[:12]} came, its record says {entry.sha256[:12]}")

    for number in range(DIFFERENT_TRIES):
        try:
            return patience.ask(where, try_once)
        except _Different as error:
            if number == DIFFERENT_TRIES - 1:
                message = f"{where} is not what its record says: {error}"
                raise CorruptError(message, hint="ask who shared the store") from error


def difference(place: Place, entry: ObjectEntry, patience: Patience) -> str:
    """What is wrong with an object at its place, or nothing. It is read and not kept."""

    def read() -> str:
        pieces = place.stream(entry.path)
        if pieces is None:
            return "is missing"
        digest, came = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            came += len(piece)
            if came > entry.num_bytes:
                return f"more than {entry.num_bytes} bytes"
        if came < entry.num_bytes:
            told = place.told(entry.path)
            if told is None or told.num_bytes == entry.num_bytes:
                raise Passing(f"{came} bytes of {entry.num_bytes} came")
            return f"{told.num_bytes} bytes, expected {entry.num_bytes}"
        if digest.hexdigest() != entry.sha256:
            return f"sha256 {digest.hexdigest()[:12]}, expected {entry.sha256[:12]}"
        return ""

    return patience.ask(f"{place.name}/{entry.path}", read)


class _Different(Exception):
    """What came is whole, and another object."""
