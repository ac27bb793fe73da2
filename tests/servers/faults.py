"""What may go wrong with one request, and plans of which request it happens to.

A plan is asked once a request, in order of arrival, and counts only the requests it is about. It draws nothing from a
global generator: the same seed and the same order of requests give the same faults.
"""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Refuse:
    """An answer of the proxy's own: 503 by default, 429 and `retry_after` (s) at will. Nothing reaches the server,
    unless `done`: then it did what was asked, as behind a gateway that says 502 or 504."""

    status: int = 503
    retry_after: int | None = None
    done: bool = False


@dataclass(frozen=True)
class Reset:
    """The connection is reset (RST) before the server hears of the request."""


@dataclass(frozen=True)
class DropAnswer:
    """The server does what was asked; its answer is lost. The connection is closed (FIN), reset (RST), or silent until
    the client gives up."""

    end: Literal["close", "reset", "silence"] = "close"


@dataclass(frozen=True)
class Stall:
    """A black hole: `after` bytes of the body, or not even a head (None), then nothing until the client gives up."""

    after: int | None = None


@dataclass(frozen=True)
class CutBody:
    """The connection closes after `after` bytes of the body. `honest`: Content-Length still says the whole length;
    otherwise it says `after`, and the answer looks whole."""

    after: int
    honest: bool = True


@dataclass(frozen=True)
class SlowBody:
    """The body drips at this rate."""

    bytes_per_second: int


@dataclass(frozen=True)
class WrongRange:
    """To a ranged GET: the right Content-Range over `bytes` that are others, a `header` one byte off over the right
    bytes, or status 200 as if Range had not been there: with the `whole` object, or, where the request is signed and so
    must not be changed, with what was asked for. Other requests pass."""

    what: Literal["bytes", "header", "whole"]


@dataclass(frozen=True)
class FlipBit:
    """One bit of the body differs, the length does not; `at` is a byte, modulo the length."""

    at: int = 0


@dataclass(frozen=True)
class StaleETag:
    """The ETag of another version of the object."""

    e_tag: str = '"00000000000000000000000000000000"'


@dataclass(frozen=True)
class Redirect:
    """307 to `base` + the path that was asked for; nothing reaches the server."""

    base: str


@dataclass(frozen=True)
class GzipBody:
    """Content-Encoding: gzip, although nobody asked for it."""


Fault = (
    Refuse | Reset | DropAnswer | Stall | CutBody | SlowBody | WrongRange | FlipBit | StaleETag | Redirect | GzipBody
)


@dataclass(frozen=True)
class Request:
    """What a plan sees. Header names are lower-case."""

    method: str
    path: str
    headers: dict[str, str]


def any_request(_: Request) -> bool:
    return True


class Plan:
    """Which fault, if any, the n-th request (from 0) among those that `about` names meets."""

    def __init__(self, choose: Callable[[int], Fault | None], about: Callable[[Request], bool] = any_request):
        self._choose = choose
        self._about = about
        self._count = 0
        self._lock = threading.Lock()

    def fault(self, request: Request) -> Fault | None:
        if not self._about(request):
            return None
        with self._lock:
            number, self._count = self._count, self._count + 1
        return self._choose(number)


def script(*faults: Fault | None, about: Callable[[Request], bool] = any_request) -> Plan:
    """These faults in this order, one a request, and none after them."""
    return Plan(lambda number: faults[number] if number < len(faults) else None, about)


def always(fault: Fault, about: Callable[[Request], bool] = any_request) -> Plan:
    return Plan(lambda _: fault, about)


def storm(share: float, faults: Iterable[Fault], seed: int, about: Callable[[Request], bool] = any_request) -> Plan:
    """Of all requests, this share meet one of the faults, drawn by the seed and the number of the request."""
    kinds = tuple(faults)

    def choose(number: int) -> Fault | None:
        drawn = random.Random(f"{seed} {number}")
        return drawn.choice(kinds) if drawn.random() < share else None

    return Plan(choose, about)


def none() -> Plan:
    return script()


def method(*names: str) -> Callable[[Request], bool]:
    """Requests with one of these methods."""
    return lambda request: request.method in names
