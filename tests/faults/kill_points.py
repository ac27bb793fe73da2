"""Where a process can be killed: every call that changes what is on disk.

`Points` counts those calls below one folder and, if asked, sends the process a signal at one of them: before the call;
at a write after half of its bytes, so that files are torn; and once more just after a file was made, while it is empty.
It keeps a trace, one line a call, written past the hooks and so whole whatever happens to the process; what a process
was told is done stands there too.
"""

import builtins
import io
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hooked_files import absolute, counts, half, opening

from stillhouse.storage.commit import Attempt

CALLS = ("fsync", "ftruncate", "link", "mkdir", "rename", "replace", "rmdir", "symlink", "truncate", "unlink")
NOWHERE = Path("/nowhere")
"""Below it no call is made: a process whose points are there is never stopped by its own hooks."""

DEADLINE_S = 120.0
"""No child of ours works for so long: it hangs."""


class Points:
    """Counts the calls on `root` and below; `install` puts it in place for the rest of the process's life.

    Args:
        trace: the file that lines are appended to.
        at: the call, counted from 1, that the signal comes at; 0 for never.
        number: SIGKILL, or SIGSTOP to be continued later.
    """

    def __init__(self, root: Path, trace: Path, at: int = 0, number: int = signal.SIGKILL) -> None:
        self._root, self._at, self._number, self._count = str(root), at, number, 0
        self._write = os.write
        self._trace = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def install(self) -> None:
        """Hook the calls, and tell of every commit that returns."""
        for name in CALLS:
            setattr(os, name, self._before(name, getattr(os, name)))
        os.remove = os.unlink
        os.write = self._written(os.write)
        os.open = self._made(os.open)
        builtins.open = io.open = self._opened(open)  # pathlib takes the one of io
        self.tell_of(Attempt, "commit", lambda record: f"{record.unit} {record.attempt}")

    def tell(self, text: str) -> None:
        """Something is done, and this process was told so."""
        self._line(f"done {text}")

    def tell_of(self, owner: Any, name: str, say: Callable[[Any], str]) -> None:
        """`tell` what every call of `owner.name` returned."""
        real = getattr(owner, name)

        def telling(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            self.tell(say(result))
            return result

        setattr(owner, name, telling)

    def failed(self, text: str) -> None:
        """The process came to an end that it should not have."""
        self._line(f"failed {text!r}")

    def point(self, name: str, path: str, torn: Callable[[], object] = lambda: None) -> bool:
        """One call; True if it counts. `torn` does what of it is done when the signal comes."""
        if not counts():
            return False
        below = path.removeprefix(self._root)
        if (path != self._root and below[:1] != "/") or len(below) == len(path):
            return False
        self._count += 1
        self._line(f"point {name} {below[1:] or '.'}")
        if self._count == self._at:
            if self._number == signal.SIGKILL:  # what is stopped goes on with the whole call
                torn()
            os.kill(os.getpid(), self._number)
        return True

    def _line(self, text: str) -> None:
        self._write(self._trace, f"{text}\n".encode())

    def _before(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*args: Any, **kwargs: Any) -> Any:
            path = args[1] if name in ("link", "rename", "replace", "symlink") else args[0]
            counted = self.point(name, absolute(path, kwargs.get("dir_fd")))
            try:
                return real(*args, **kwargs)
            except OSError:
                if counted:
                    self._line("void")
                raise

        return hooked

    def _written(self, real: Callable[..., int]) -> Callable[..., int]:
        def hooked(fd: int, data: Any) -> int:
            self.point("write", absolute(fd), lambda: real(fd, half(data)))
            return real(fd, data)

        return hooked

    def _made(self, real: Callable[..., int]) -> Callable[..., int]:
        def hooked(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            new = bool(flags & os.O_CREAT) and not os.path.exists(path)
            fd = real(path, flags, mode, dir_fd=dir_fd)
            if new:
                self.point("create", absolute(path, dir_fd))
            return fd

        return hooked

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        points = self

        class Raw(io.FileIO):
            """A file whose every write(2) is a point."""

            def write(self, data: Any) -> Any:
                points.point("write", absolute(self.fileno()), lambda: super(Raw, self).write(half(data)))
                return super().write(data)

        def make(file: Any, mode: str, closefd: bool, opener: Any) -> Raw:
            raw = Raw(file, mode, closefd, opener)
            if not isinstance(file, int) and set(mode) & set("wax"):
                self.point("create", absolute(file))
            return raw

        return opening(real, make)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a process did: its points in order, what it was told is done, and how it failed.

    `changing` has the numbers, from 1, of the points whose call changed something: a mkdir of what is there does not,
    and a kill there is the same as one at the point after it.
    """

    points: tuple[str, ...]
    changing: tuple[int, ...]
    done: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def commits(self) -> dict[str, str]:
        """The attempt that each commit returned, by unit."""
        pairs = [line.split(" ") for line in self.done]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and len(pair[1]) == 32}


def read_trace(path: Path) -> Trace:
    """The trace that a process left; empty if it came to nothing."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found: dict[str, list[str]] = {"point": [], "done": [], "failed": []}
    void = set()
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "void":
            void.add(len(found["point"]))
        else:
            found[kind].append(rest)
    changing = [number for number in range(1, len(found["point"]) + 1) if number not in void]
    return Trace(tuple(found["point"]), tuple(changing), tuple(found["done"]), tuple(found["failed"]))


def fork(body: Callable[[Points], object], root: Path, trace: Path, at: int = 0, number: int = signal.SIGKILL) -> int:
    """Start `body` in a child with its points hooked; returns its process id. The child does no clean-up of ours."""
    with warnings.catch_warnings():  # Python 3.12 warns of threads; the child starts none and ends at once
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _run_and_exit(body, root, trace, at, number)
    return pid


def _run_and_exit(body: Callable[[Points], object], root: Path, trace: Path, at: int, number: int) -> NoReturn:
    status = 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(DEADLINE_S))  # nobody is left behind, not even when the parent is killed
    try:
        points = Points(root, trace, at, number)
        try:
            points.install()
            body(points)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the trace tells
            points.failed(traceback.format_exc())
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """The exit status of a child, minus the signal that killed it. One that hangs is killed, and that is an error."""
    return _waited(pid, 0)


def stopped(pid: int) -> bool:
    """Wait until a child is stopped (True), or over and waited for (False)."""
    return _waited(pid, os.WUNTRACED) == _STOPPED


def go_on(pids: list[int]) -> Iterator[int]:
    """Continue stopped children one after the other, each to its end: their exit statuses. The list gets empty."""
    try:
        while pids:
            pid = pids.pop(0)
            os.kill(pid, signal.SIGCONT)
            yield ended(pid)
    finally:
        kill_all(pids)


def kill_all(pids: list[int]) -> None:
    """Leave none of these children behind."""
    while pids:
        pid = pids.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


_STOPPED = 1 << 16


def _waited(pid: int, flags: int) -> int:
    limit, pause = time.monotonic() + DEADLINE_S, 0.0002
    while time.monotonic() < limit:
        found, status = os.waitpid(pid, flags | os.WNOHANG)
        if found:
            return _STOPPED if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} was at work for {DEADLINE_S:.0f} s")
