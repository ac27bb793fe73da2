"""A fault at the n-th call that changes the disk, and what a person is told of it."""

import builtins
import errno
import io
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hooked_files import absolute, counts, half, opening

from stillhouse.testing import Ended

NAMES = frozenset({"link", "rename", "replace", "mkdir", "unlink", "rmdir"})


@dataclass(frozen=True, slots=True)
class Fault:
    """An errno that some calls end with.

    Args:
        lasting: all of these calls fail from the first one on, as on a disk that stays full.
    """

    name: str
    number: int
    calls: frozenset[str]
    lasting: bool = True


_GROWING = frozenset({"open", "write", "mkdir", "link", "rename", "replace"})
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("full", errno.ENOSPC, _GROWING | {"fsync", "close"}),
        Fault("quota", errno.EDQUOT, _GROWING | {"fsync", "close"}),
        Fault("broken", errno.EIO, NAMES | {"open", "write", "fsync", "close"}, lasting=False),
        Fault("stale", errno.ESTALE, NAMES | {"open", "write", "fsync"}),
        Fault("read-only", errno.EROFS, NAMES | {"open"}),
        Fault("denied", errno.EACCES, NAMES | {"open"}),
        Fault("many files", errno.EMFILE, frozenset({"open"}), lasting=False),
        Fault("no links", errno.EOPNOTSUPP, frozenset({"link"})),
        Fault("no links (FAT)", errno.EPERM, frozenset({"link"})),
    )
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a run that changes the disk; the `number`-th, counted from 1."""

    number: int
    name: str
    path: str

    @property
    def place(self) -> str:
        """The kind of place: the same for every block, step and attempt."""
        return f"{self.name} {re.sub(r'[0-9a-f]{16,}|[0-9]+', '#', self.path)}"


class Injected:
    """Counts the calls that change something below `root`, and lets one of them fail.

    A write that fails has written half of its bytes, a file that fails to close is closed. A context manager.

    Args:
        at: the call that fails first, counted from 1; 0 for none.
        trace: a file that gets a line a call, for another process to read.
    """

    def __init__(self, root: Path, fault: Fault | None = None, at: int = 0, trace: Path | None = None) -> None:
        self._root, self._fault, self._at = f"{root}/", fault, at
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._real: list[tuple[Any, str, Any]] = []
        self._unsynced: set[tuple[int, int]] = set()
        self.calls: list[Call] = []
        self.unsynced: list[str] = []
        """Paths whose fsync failed."""
        self.synced_again: list[str] = []
        """Of these, what was synced once more as if that would help."""

    def __enter__(self) -> Self:
        for name in sorted(NAMES):
            self._put(os, name, self._named(name, getattr(os, name)))
        self._put(os, "fsync", self._fsync(os.fsync))
        self._put(os, "open", self._os_open(os.open))
        opened = self._opened(builtins.open)
        self._put(builtins, "open", opened)
        self._put(io, "open", opened)  # the one that pathlib takes
        return self

    def __exit__(self, *_: object) -> None:
        while self._real:
            owner, name, real = self._real.pop()
            setattr(owner, name, real)
        if self._trace is not None:
            os.close(self._trace)

    def _put(self, owner: Any, name: str, hook: Any) -> None:
        self._real.append((owner, name, getattr(owner, name)))
        setattr(owner, name, hook)

    def fails(self, name: str, path: str) -> OSError | None:
        """Count a call; the error that it is to end with."""
        if not counts() or not path.startswith(self._root):
            return None
        call = Call(len(self.calls) + 1, name, path.removeprefix(self._root))
        self.calls.append(call)
        if self._trace is not None:
            os.write(self._trace, f"{name} {call.path}\n".encode())
        fault = self._fault
        if fault is None or name not in fault.calls or not self._at:
            return None
        if call.number == self._at or (fault.lasting and call.number > self._at):
            return OSError(fault.number, os.strerror(fault.number))
        return None

    def _named(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*args: Any, **kwargs: Any) -> Any:
            target = args[1] if name in ("link", "rename", "replace") else args[0]
            path = absolute(target, kwargs.get("dir_fd"))
            there = name == "mkdir" and os.path.isdir(path)  # the kernel says so first, whatever the disk
            gone = name in ("rename", "replace", "unlink", "rmdir") and not os.path.lexists(
                absolute(args[0], kwargs.get("dir_fd"))
            )
            error = self.fails(name, path)
            if error is not None and not there and not gone:
                error.filename = path
                raise error
            return real(*args, **kwargs)

        return hooked

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def hooked(fd: int) -> None:
            path, status = absolute(fd), os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            error = self.fails("fsync", path)
            if error is not None:
                self._unsynced.add(key)
                self.unsynced.append(path)
                raise error
            real(fd)
            if key in self._unsynced and not os.path.isdir(path):
                self.synced_again.append(path)

        return hooked

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def hooked(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                self._raise("open", absolute(path, dir_fd))
            return real(path, flags, mode, dir_fd=dir_fd)

        return hooked

    def _raise(self, name: str, path: str) -> None:
        error = self.fails(name, path)
        if error is not None:
            error.filename = path
            raise error

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        injected = self

        class Raw(io.FileIO):
            """A file whose writes and whose end may fail."""

            def write(self, data: Any) -> Any:
                error = injected.fails("write", absolute(self.fileno()))
                if error is not None:
                    super().write(half(data))
                    raise error
                return super().write(data)

            def close(self) -> None:
                if self.closed:
                    return
                error = injected.fails("close", absolute(self.fileno()))
                super().close()
                if error is not None:
                    raise error

        def make(file: Any, mode: str, closefd: bool, opener: Any) -> Raw | None:
            if isinstance(file, int):
                return None
            self._raise("open", absolute(file))
            return Raw(file, mode, closefd, opener)

        return opening(real, make)


def cases_of(calls: Sequence[Call]) -> list[tuple[Call, Fault]]:
    """Every call with every fault that it can have."""
    return [(call, fault) for call in calls for fault in FAULTS.values() if call.name in fault.calls]


def spread(cases: Sequence[tuple[Call, Fault]], num: int, seed: int) -> list[tuple[Call, Fault]]:
    """`num` of the cases; no kind of place with one fault comes twice before all have come once."""
    shuffled = random.Random(seed).sample(list(cases), len(cases))
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for call, fault in shuffled:
        kind = (call.place, fault.name)
        ranked.append((seen[kind], (call, fault)))
        seen[kind] += 1
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])[:num]]


# --- what a person is told -------------------------------------------------------------------------------------------


def wrong_in_message(text: str, root: Path) -> Iterator[str]:
    """What an error lacks: one line, a path below `root` that is not of our making only, and what to do."""
    if "\n" in text.strip():
        yield f"more than one line: {text!r}"
    found = re.search(rf"{re.escape(str(root))}(/[^;:\s]*)?", text)
    if found is None:
        yield f"names no path below {root}: {text!r}"
    elif re.search(r"/\.|[0-9a-f]{16}|writing$", found.group(1) or ""):
        yield f"names a temporary file: {text!r}"
    if "; " not in text:
        yield f"says not what to do: {text!r}"


def wrong_in_end(ended: Ended, root: Path, codes: Iterable[int] = (6,)) -> Iterator[str]:
    """What is wrong with how a command ended that was to end with an error, or could."""
    if ended.status == 0:
        return
    if ended.status not in codes:
        yield f"status {ended.status}: {ended.err[-600:]!r}"
        return
    if "Traceback" in ended.err or "Exception" in ended.err:
        yield f"a traceback: {ended.err[-600:]!r}"
    if not ended.last.startswith("error: "):
        yield f"the last line is no error: {ended.last!r}"
    yield from wrong_in_message(ended.last, root)
