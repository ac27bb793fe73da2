"""Where time goes: seconds of named parts, added up over the threads that ask for it.

Code that is timed says only `with timed("read"):`. It costs a look at one variable unless somebody around it measures.
"""

import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token

_MEASURING: ContextVar["Seconds | None"] = ContextVar("measuring", default=None)


class Seconds:
    """Seconds of each part, added up from any thread. As a context manager: what this thread does within is measured."""

    def __init__(self) -> None:
        self._lock, self._spent = threading.Lock(), dict[str, float]()

    def add(self, part: str, seconds: float) -> None:
        """Add to a part."""
        with self._lock:
            self._spent[part] = self._spent.get(part, 0.0) + seconds

    def spent(self) -> Mapping[str, float]:
        """All parts so far."""
        with self._lock:
            return dict(self._spent)

    def measure(self) -> "_Measuring":
        """A context within which this thread's `timed` parts are added here."""
        return _Measuring(self)


class _Measuring:
    __slots__ = ("_into", "_token")

    def __init__(self, into: Seconds) -> None:
        self._into = into

    def __enter__(self) -> None:
        self._token: Token[Seconds | None] = _MEASURING.set(self._into)

    def __exit__(self, *_: object) -> None:
        _MEASURING.reset(self._token)


class timed:
    """A part, as a context manager. Parts must not lie within each other, or the time counts twice."""

    __slots__ = ("_begin", "_into", "_part")

    def __init__(self, part: str) -> None:
        self._part, self._into = part, _MEASURING.get()

    def __enter__(self) -> None:
        if self._into is not None:
            self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._into is not None:
            self._into.add(self._part, time.perf_counter() - self._begin)
