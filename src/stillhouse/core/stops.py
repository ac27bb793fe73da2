"""What a stop waits for, and what it does not."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
"""The command line stops on the first two, and asks again by the third."""


@contextlib.contextmanager
def stops_wait(*numbers: signal.Signals) -> Iterator[None]:
    """A first signal waits for the end of the block and is raised then; a second one is not waited with.

    Holds what has a handler in Python. Does nothing outside the main thread, where no signal arrives.

    Args:
        numbers: which signals; all `STOPS` when none is given.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in numbers or STOPS}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    came: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            give_back()
            held[signal.Signals(number)](number, frame)

    def give_back() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)

    try:
        for number in held:
            signal.signal(number, wait)
        yield
    finally:
        give_back()
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def worker_threads(num: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that drops at its end what they have not begun: a stop waits for no more than is being done."""
    pool = ThreadPoolExecutor(num, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
