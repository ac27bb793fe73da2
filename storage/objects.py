"""Where objects come from: what a store asks for that has just its documents here."""

from pathlib import Path
from typing import Protocol

from .records import ObjectEntry


class Objects(Protocol):
    """Where the objects of a store come from that are not at its root."""

    name: str

    def bring(self, entry: ObjectEntry) -> Path:
        """A file here of the size and sha256 of `entry`; it may go again at any time."""

    def bring_again(self, entry: ObjectEntry) -> Path:
        """As `bring`, after the file that was here turned out to be damaged or gone."""

    def ahead(self, entry: ObjectEntry) -> None:
        """It is going to be asked for."""

    def drop(self) -> None:
        """Fetch nothing more that was only asked for ahead."""

    def check(self, entry: ObjectEntry) -> str:
        """What is wrong with it where it lies, or nothing."""
