"""Asking again: how often, and how long between.

Waits double from a quarter of a second and are drawn from the whole interval ("full jitter"), so that many readers that a
server has turned away do not come back together.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stillhouse.core.errors import RemoteError

R = TypeVar("R")

TELL_AFTER = 3
"""Failures: fewer are a hiccup."""


class Passing(Exception):
    """A place did not answer, or not whole, or not now. What was asked for may have happened.

    Args:
        after_s: the place named a time to come back.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is asked for, and how long is waited at most between two times.

    Args:
        wait: what waits, in seconds; tests wait otherwise.
        tell: is told, once for what is asked, that it takes longer.
    """

    tries: int = 8
    first_s: float = 0.25
    most_s: float = 20.0
    wait: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] | None = None

    def ask(self, what: str, action: Callable[[], R]) -> R:
        """What `action` returns in the end.

        Raises:
            RemoteError: it was `Passing` every time.
        """
        for number in range(self.tries):
            try:
                return action()
            except Passing as error:
                last = error
            if number + 1 == TELL_AFTER and self.tell is not None:
                self.tell(f"{what}: {last}; asking again, {self.tries} times in all")
            if number + 1 < self.tries:
                self.wait(self.pause(number, last.after_s))
        message = f"{what}: asked {self.tries} times, at last: {last}"
        raise RemoteError(message, hint="is the server up? then run the same command again, it goes on where it was")

    def pause(self, number: int, after_s: float | None = None) -> float:
        """Seconds to wait after the failure of that number."""
        drawn = random.uniform(0, min(self.most_s, self.first_s * 2**number))
        return drawn if after_s is None else min(self.most_s, after_s) + drawn
