"""An HTTP/1.1 proxy between a client and one server of ours that breaks chosen requests on purpose.

The client speaks to `FaultProxy.url` as if it were the server. Head and body go on byte for byte, the Host header
included, so signed requests stay valid as long as the server checks the signature against the Host it was sent. What
comes back is read whole before it is passed on: keep objects small.
"""

import gzip
import http.client
import socket
import struct
import threading
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from faults import (
    CutBody,
    DropAnswer,
    Fault,
    FlipBit,
    GzipBody,
    Plan,
    Redirect,
    Refuse,
    Request,
    Reset,
    SlowBody,
    StaleETag,
    Stall,
    WrongRange,
    none,
)
from loopback import Handler, LoopbackServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"}
UPSTREAM_TIMEOUT = 60.0  # s; a server of ours that takes longer is broken


@dataclass(frozen=True)
class Exchange:
    """What happened to one request. `status`: what the server answered; None: it never heard of the request."""

    request: Request
    fault: Fault | None
    status: int | None


@dataclass(frozen=True)
class Answer:
    """`length`: what Content-Length says, whatever the body (HEAD has none)."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    length: int

    def with_header(self, name: str, value: str) -> "Answer":
        kept = tuple((key, held) for key, held in self.headers if key.lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def with_body(self, body: bytes) -> "Answer":
        return replace(self, body=body, length=len(body))

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{key}: {value}" for key, value in self.headers)]
        if self.status != 304 and self.status >= 200:
            lines.append(f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class FaultProxy(LoopbackServer):
    """Passes requests on to `server` (a URL); `plan` says what each meets and may be replaced at any time."""

    def __init__(self, server: str, plan: Plan | None = None):
        self.upstream = urlsplit(server).netloc
        self.plan = plan or none()
        self._exchanges: list[Exchange] = []
        self._record = threading.Lock()
        super().__init__(ProxyHandler)

    @property
    def exchanges(self) -> list[Exchange]:
        """In the order in which the requests were decided on; each is there before its client sees an answer."""
        with self._record:
            return list(self._exchanges)

    def record(self, exchange: Exchange) -> None:
        with self._record:
            self._exchanges.append(exchange)

    def forget(self) -> None:
        with self._record:
            self._exchanges.clear()


class ProxyHandler(Handler):
    server: FaultProxy

    def handle_any(self) -> None:
        if "transfer-encoding" in self.headers:
            self.send_error(501, "the proxy reads bodies by Content-Length alone")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        fault = self.server.plan.fault(request)
        match fault:
            case Reset() | Refuse() | Redirect() | Stall(after=None):
                done = isinstance(fault, Refuse) and fault.done
                self.server.record(Exchange(request, fault, self.forward(body).status if done else None))
                self.answer_alone(fault)
            case _:
                whole = fault == WrongRange("whole") and "authorization" not in request.headers
                answer = self.forward(body, without_range=whole)
                self.server.record(Exchange(request, fault, answer.status))
                self.deliver(changed(answer, fault), fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = do_PROPFIND = handle_any

    def forward(self, body: bytes, without_range: bool = False) -> Answer:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=UPSTREAM_TIMEOUT)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if not (without_range and key.lower() == "range"):
                    upstream.putheader(key, value)
            upstream.endheaders(body or None)
            got = upstream.getresponse()
            held = got.read()
            headers = tuple((key, value) for key, value in got.getheaders() if key.lower() not in HOP_BY_HOP)
            length = int(got.getheader("Content-Length") or len(held))
            return Answer(got.status, got.reason, headers, held, length)
        except (OSError, http.client.HTTPException) as error:
            told = f"the fault proxy has no answer of {self.server.upstream}: {error!r}\n".encode()
            return Answer(502, "Bad Gateway", (), told, len(told))
        finally:
            upstream.close()

    def answer_alone(self, fault: Reset | Refuse | Redirect | Stall) -> None:
        match fault:
            case Reset():
                self.abort()
            case Stall():
                self.wait_for_the_client()
            case Refuse(status, retry_after):
                headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
                told = b"refused by the fault proxy\n"
                reason = http.client.responses.get(status, "Fault")
                self.deliver(Answer(status, reason, headers, told, len(told)), None)
            case Redirect(base):
                headers = (("Location", base + self.path),)
                self.deliver(Answer(307, "Temporary Redirect", headers, b"", 0), None)

    def deliver(self, answer: Answer, fault: Fault | None) -> None:
        if self.command == "HEAD":
            answer = replace(answer, body=b"")
        match fault:
            case DropAnswer("close"):
                self.close_connection = True
            case DropAnswer("reset"):
                self.abort()
            case DropAnswer("silence"):
                self.wait_for_the_client()
            case Stall(after=int() as after):
                self.wfile.write(answer.head() + answer.body[:after])
                self.wait_for_the_client()
            case CutBody(after):
                self.wfile.write(answer.head() + answer.body[:after])
                self.close_connection = True
            case SlowBody(rate):
                self.drip(answer, rate)
            case _:
                self.wfile.write(answer.head() + answer.body)

    def drip(self, answer: Answer, bytes_per_second: int) -> None:
        """Twenty pieces a second, or one byte at a time where the rate is lower than that."""
        piece = max(1, bytes_per_second // 20)
        self.wfile.write(answer.head())
        for start in range(0, len(answer.body), piece):
            self.wfile.write(answer.body[start : start + piece])
            if self.server.stopping.wait(piece / bytes_per_second):
                break

    def wait_for_the_client(self) -> None:
        """Until it closes its side or the proxy stops."""
        self.close_connection = True
        while self.connection.recv(65536):
            pass

    def abort(self) -> None:
        """Close with RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open otherwise, and a FIN would go first
        self.connection.close()


def changed(answer: Answer, fault: Fault | None) -> Answer:
    """The answer that the fault makes of the server's."""
    match fault:
        case CutBody(after, honest=False):
            return replace(answer, length=min(after, answer.length))
        case FlipBit(at) if answer.body:
            flipped = bytearray(answer.body)
            flipped[at % len(flipped)] ^= 1
            return answer.with_body(bytes(flipped))
        case WrongRange("bytes") if answer.status == 206:
            return answer.with_body(answer.body[1:] + answer.body[:1])
        case WrongRange("header") if answer.status == 206:
            first, _, rest = answer.header("content-range").removeprefix("bytes ").partition("-")
            last, _, size = rest.partition("/")
            return answer.with_header("Content-Range", f"bytes {int(first) + 1}-{int(last) + 1}/{size}")
        case WrongRange("whole") if answer.status == 206:
            kept = tuple((key, held) for key, held in answer.headers if key.lower() != "content-range")
            return replace(answer, status=200, reason="OK", headers=kept)
        case StaleETag(e_tag):
            return answer.with_header("ETag", e_tag)
        case GzipBody() if answer.body:
            return answer.with_body(gzip.compress(answer.body)).with_header("Content-Encoding", "gzip")
    return answer
