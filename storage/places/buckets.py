"""Object storage as a place: S3 and what speaks its language, Google Cloud Storage, Azure.

`obstore` carries the bytes. Its own retries are off: it asks again without saying so, and whoever asked for a conditional
PUT then takes the answer to the second request for that to the first.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from stillhouse.core.errors import RemoteError, missing_package
from stillhouse.storage.foreign import is_member, refuse

from .base import READ_BYTES, Access, Piece, Told, redacted
from .patience import Passing

TIMEOUT_S = 30.0
"""Without a byte."""
LONGEST = "6h"
"""Of one request, however large the object is."""
SHA256 = "sha256"
"""The note that goes with every file."""

R = TypeVar("R")


class Bucket:
    """Objects below a prefix. Keys come from where the provider's own tools find them."""

    def __init__(self, url: str, access: Access = Access(), *, timeout_s: float = TIMEOUT_S) -> None:  # noqa: B008
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ModuleNotFoundError as error:
            raise missing_package("obstore") from error
        self._obstore, self._errors = obstore, obstore.exceptions
        self.name = redacted(url).rstrip("/")
        options: dict[str, Any] = {}
        if urlsplit(url).scheme == "s3":
            told = {"endpoint": access.endpoint, "region": access.region}
            options = {key: value for key, value in told.items() if value is not None}
            if access.anonymous:
                options["skip_signature"] = True
        client = {"read_timeout": f"{timeout_s:g}s", "timeout": LONGEST, "connect_timeout": "10s", "allow_http": True}
        make: Any = obstore.store.from_url
        self._store = make(self.name, client_options=client, retry_config={"max_retries": 0}, **options)

    def told(self, path: str) -> Told | None:
        got = self._ask(path, lambda key: self._obstore.get(self._store, key, options={"head": True}))
        return None if got is None else Told(got.meta["size"], got.attributes.get(SHA256))

    def stream(self, path: str) -> Iterator[Piece] | None:
        got = self._ask(path, lambda key: self._obstore.get(self._store, key))
        if got is None:
            return None
        if encoding := got.attributes.get("Content-Encoding"):  # its bytes are not those of the object
            message = f"{self.name}/{path}: it is stored or sent as {encoding}"
            raise RemoteError(message, hint="a bucket has to keep files as they are")
        return self._pieces(path, got.stream(min_chunk_size=READ_BYTES))

    def _pieces(self, path: str, pieces: Iterator[Any]) -> Iterator[Piece]:
        while (piece := self._ask(path, lambda key: next(pieces, b""))) is not None and len(piece):
            yield memoryview(piece)

    def write(self, path: str, file: Path, sha256: str) -> None:
        def put(key: str) -> bool:
            self._obstore.put(self._store, key, file, attributes={SHA256: sha256}, mode="overwrite")
            return True

        self._require(path, self._ask(path, put))

    def create(self, path: str, data: bytes) -> bool:
        def put(key: str) -> bool:
            try:
                self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except self._errors.AlreadyExistsError:
                return False
            return True

        created = self._require(path, self._ask(path, put))
        if not created and self.told(path) is None:  # S3 says so too while another request about the key is under way
            raise Passing("there and not there")
        return created

    def _require(self, path: str, done: bool | None) -> bool:
        if done is None:
            raise RemoteError(
                f"{self.name}/{path} cannot be written: there is no such bucket", hint="make the bucket first"
            )
        return done

    def _ask(self, path: str, action: Callable[[str], R]) -> R | None:
        """What an action on a key returns; None where there is no such object."""
        if not is_member(path):
            refuse(self.name, f"is asked for {path[:200]!r}, which is no name in a store")
        where = f"{self.name}/{path}"
        try:
            return action(path)
        except FileNotFoundError:
            return None
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            message = f"{where}: you may not: {_said(error)}"
            raise RemoteError(message, hint="are the keys there, and for this bucket?") from error
        except (self._errors.NotSupportedError, self._errors.UnknownConfigurationKeyError) as error:
            raise RemoteError(f"{where}: {_said(error)}", hint="use another place for the store") from error
        except (self._errors.BaseError, OSError) as error:
            raise Passing(_said(error)) from error


def _said(error: BaseException) -> str:
    """The first line of what obstore says: below it comes how it got there."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
