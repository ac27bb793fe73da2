"""What a place is, and which one a name means.

Paths are relative POSIX names as `foreign.is_member` allows them; a place never lists, never follows a redirect, and
leads to no other host than the one that its user named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from stillhouse.core.errors import UsageError

READ_BYTES = 1 << 20
OBJECT_SCHEMES = ("s3", "gs", "az")
HTTP_SCHEMES = ("http", "https")

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Told:
    """What a place says of a file without sending it.

    Args:
        num_bytes: its size.
        sha256: as whoever wrote it noted it there, in hex; None where a place keeps no notes.
    """

    num_bytes: int
    sha256: str | None = None


class Place(Protocol):
    """Files by relative path. Safe for many threads, not across fork."""

    @property
    def name(self) -> str:
        """As a person knows it, without secrets."""
        ...

    def told(self, path: str) -> Told | None:
        """What is known of a file; None when it is not there."""
        ...

    def stream(self, path: str) -> Iterator[Piece] | None:
        """The bytes of a file as they come; None when it is not there.

        Raises:
            Passing: the place cannot say now; asking again may help.
            RemoteError: it will not say.
        """
        ...


@runtime_checkable
class WritablePlace(Place, Protocol):
    """A place that takes files."""

    def write(self, path: str, file: Path, sha256: str) -> None:
        """Put a local file there, whole or not at all, replacing what was there."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Put a small file there unless there is one; True if this call did it. May raise when it did, see `Passing`."""
        ...


def is_url(where: str) -> bool:
    """True for what names a place elsewhere; anything else is a folder here."""
    return "://" in where


@dataclass(frozen=True, slots=True)
class Access:
    """How object storage is reached. Keys and passwords are found where its own tools find them, never written here.

    Args:
        endpoint: of servers other than the big providers', such as http://127.0.0.1:8333.
        region: of the bucket.
        anonymous: send no signature: a public bucket.
    """

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False


def open_place(where: str, access: Access = Access()) -> Place:
    """The place that `where` names: a folder, http(s)://host/path, s3://bucket/path, gs://…, az://…

    Raises:
        UsageError: a scheme that is not known, or a URL with more in it than host and path.
    """
    if not is_url(where):
        from .folder import Folder

        return Folder(Path(where))
    url = urlsplit(where)
    if url.scheme not in (*HTTP_SCHEMES, *OBJECT_SCHEMES) or not url.hostname:
        known = ", ".join(f"{scheme}://" for scheme in (*OBJECT_SCHEMES, *HTTP_SCHEMES))
        raise UsageError(
            f"{url.scheme}:// is no place for a store, got {redacted(where)}", hint=f"use a folder or {known}"
        )
    if url.username is not None or url.query or url.fragment:
        message = f"{redacted(where)} holds a name, a password or a query"
        raise UsageError(message, hint="leave them out: a place is a host and a path")
    if url.scheme in HTTP_SCHEMES:
        from .http import HttpServer

        return HttpServer(where)
    from .buckets import Bucket

    return Bucket(where, access)


def redacted(where: str) -> str:
    """A URL without what may be secret in it."""
    url = urlsplit(where)
    host = url.hostname or ""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{host}{port}{url.path}"
