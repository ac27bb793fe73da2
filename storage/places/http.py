"""A static HTTP server as a place: GET and HEAD of whole files, nothing else is asked of it.

Stricter than browsers: no redirect is followed, an answer in another encoding than asked for is refused, a body shorter than
it was announced is no answer.
"""

import http.client
import ssl
import threading
import weakref
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from stillhouse.core.errors import RemoteError
from stillhouse.storage.foreign import is_member, refuse

from .base import READ_BYTES, Piece, Told, redacted
from .patience import Passing

TIMEOUT_S = 30.0
GONE = (404, 410)
BUSY = (408, 425, 429)
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "stillhouse"}


class HttpServer:
    """Files below a URL. One connection a thread is kept open."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path, self._timeout_s = parts.path.rstrip("/"), timeout_s
        self.name = redacted(url).rstrip("/")
        self._mine = threading.local()
        self._open = set[http.client.HTTPConnection]()
        weakref.finalize(self, _close_all, self._open)

    def told(self, path: str) -> Told | None:
        answer = self._ask("HEAD", path)
        if answer is None:
            return None
        answer.read()
        size = answer.getheader("Content-Length")
        if size is None or not size.isdecimal():
            raise RemoteError(f"{self.name}/{path}: the server does not tell its size", hint="use a static file server")
        return Told(int(size))

    def stream(self, path: str) -> Iterator[Piece] | None:
        answer = self._ask("GET", path)
        return None if answer is None else self._pieces(answer, path)

    def _pieces(self, answer: http.client.HTTPResponse, path: str) -> Iterator[Piece]:
        """The body; the connection is given up unless all of it was taken."""
        whole = False
        try:
            while piece := answer.read(READ_BYTES):
                yield piece
            whole = not answer.length  # a body that ends early: `read` of so many bytes does not say so
            if not whole:
                raise Passing(f"the answer ended {answer.length} bytes early")
        except (OSError, http.client.HTTPException) as error:
            raise Passing(_said(error)) from error
        finally:
            if not whole:
                self._hang_up()

    def _ask(self, method: str, path: str) -> http.client.HTTPResponse | None:
        """The answer to a request, its body not read yet; None for a file that is not there."""
        if not is_member(path):
            refuse(self.name, f"is asked for {path[:200]!r}, which is no name in a store")
        where = f"{self.name}/{path}"
        try:
            answer = self._send(method, f"{quote(self._path, safe='/%')}/{quote(path)}")
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            if isinstance(error, ssl.SSLCertVerificationError):
                message = f"{where}: its certificate is not trusted: {error.verify_message}"
                raise RemoteError(message, hint="ask who runs the server") from error
            raise Passing(_said(error)) from error
        if answer.status == 200:
            self._require_plain(answer, where)
            return answer
        with_body = method == "GET"
        if with_body and (answer.length is None or answer.length > READ_BYTES):
            self._hang_up()  # an error page nobody will read
        else:
            try:
                answer.read()
            except (OSError, http.client.HTTPException):
                self._hang_up()
        if answer.status in GONE:
            return None
        if answer.status >= 500 or answer.status in BUSY:
            raise Passing(f"the server answers {answer.status} {answer.reason}", _retry_after(answer))
        if 300 <= answer.status < 400:
            target = redacted(answer.getheader("Location", ""))
            message = f"{where}: the server sends us on to {target}"
            raise RemoteError(message, hint="a place is one host: name the address that holds the store")
        message = f"{where}: the server answers {answer.status} {answer.reason}"
        raise RemoteError(message, hint="may you read it? ask who runs the server")

    def _send(self, method: str, target: str) -> http.client.HTTPResponse:
        """One request; once more on a new connection where the server had closed the one that was kept."""
        kept = getattr(self._mine, "connection", None) is not None
        try:
            return self._send_once(method, target)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not kept:
                raise
            self._hang_up()
            return self._send_once(method, target)

    def _send_once(self, method: str, target: str) -> http.client.HTTPResponse:
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = self._mine.connection = kind(self._host, self._port, timeout=self._timeout_s)
            self._open.add(connection)
        connection.request(method, target, headers=HEADERS)
        return connection.getresponse()

    def _hang_up(self) -> None:
        connection, self._mine.connection = getattr(self._mine, "connection", None), None
        if connection is not None:
            connection.close()
            self._open.discard(connection)

    def _require_plain(self, answer: http.client.HTTPResponse, where: str) -> None:
        encoding = answer.getheader("Content-Encoding", "identity")
        if encoding != "identity":
            self._hang_up()
            message = f"{where}: the server sends {encoding} although plain bytes were asked for"
            raise RemoteError(message, hint="switch compression off there")


def _close_all(connections: set[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _retry_after(answer: http.client.HTTPResponse) -> float | None:
    given = answer.getheader("Retry-After", "")
    return float(given) if given.isdecimal() else None


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
