"""What hooks on the calls of a process share: an `open` that writes through files of ours, and what a call is about."""

import io
import os
import threading
from collections.abc import Callable
from typing import Any

Maker = Callable[[Any, str, bool, Any], io.FileIO | None]


def opening(real: Callable[..., Any], make: Maker) -> Callable[..., Any]:
    """An `open` whose files for writing stand on what `make` returns; `real` opens the others, and where that is None.

    Args:
        make: takes the arguments of `io.FileIO`: file, mode, closefd, opener.
    """

    def hooked(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        writes = set(mode) & set("wax+")
        raw = make(file, mode.replace("b", "").replace("t", ""), closefd, opener) if writes else None
        if raw is None:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    return hooked


def counts() -> bool:
    """Whether this thread's calls are counted: the main one's, and those of the one that commits behind a teacher.

    The two never write at the same time, so a run's calls come in the same order each time.
    """
    thread = threading.current_thread()
    return thread is threading.main_thread() or thread.name.startswith("write")


def half(data: Any) -> memoryview:
    """The first half of some bytes."""
    view = memoryview(data).cast("B")
    return view[: len(view) // 2]


def absolute(path: Any, dir_fd: int | None = None) -> str:
    """The path of a call's argument: a name, below `dir_fd` if that is given, or an open file."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    if dir_fd is not None:
        text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
    return os.path.abspath(text)
