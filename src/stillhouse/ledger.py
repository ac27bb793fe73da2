"""What a pipeline has cost so far, and how its steps tell what they did."""

import contextlib
from pathlib import Path

from stillhouse.core.errors import CorruptError
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import canonical_json, read_json


class Ledger:
    """Seconds that each step took, summed over the sittings of a run and kept in `<out>/ledger.json`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.json"
        self.seconds: dict[str, float] = {}
        with contextlib.suppress(CorruptError):  # no more than a log: what a damaged one knew is lost
            self.seconds = dict(read_json(self._path) or {})
        self.idle = True

    def enter(self, step: str, seconds: float, worked: bool) -> None:
        """Add a step's time, if it did anything."""
        if worked:
            self.idle = False
            self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 3)
            replace_file(self._path, canonical_json(self.seconds))


def counted(num: int, what: str) -> str:
    """A number and what it counts: 1 image, 2 images."""
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def already(found: bool) -> str:
    """The end of a line about a step that had nothing to do."""
    return " (already done)" if found else ""
