"""What a part of the fault campaign reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Size = Literal["quick", "full"]
"""`quick`: a fair draw of the cases, in at most about a minute. `full`: all that docs/reliability.md promises."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table: how many cases were tried, and which of them broke the promise.

    Args:
        what: the fault and the promise, such as "bit flips in a shard: detected when read".
        cases: how many were tried.
        violations: one line for each case that broke the promise, enough to run it again; empty = the promise held.
        facts: figures that stand beside it, such as {"clean reads": 1000000, "false alarms": 0}.
    """

    what: str
    cases: int
    violations: tuple[str, ...] = ()
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
