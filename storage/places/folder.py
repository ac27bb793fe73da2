"""A folder of this machine as a place."""

from collections.abc import Iterator
from pathlib import Path

from stillhouse.storage.disk import arriving, create_once, disk_errors
from stillhouse.storage.foreign import regular_file

from .base import READ_BYTES, Piece, Told


class Folder:
    """Files below a folder; links below it are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        return str(self.root)

    def told(self, path: str) -> Told | None:
        place = regular_file(self.root, path)
        try:
            with disk_errors(place):
                return Told(place.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stream(self, path: str) -> Iterator[Piece] | None:
        place = regular_file(self.root, path)
        try:
            with disk_errors(place):
                file = open(place, "rb", buffering=0)  # noqa: SIM115 - the generator closes it
        except (FileNotFoundError, NotADirectoryError):
            return None

        def pieces() -> Iterator[Piece]:
            with file, disk_errors(place):
                while piece := file.read(READ_BYTES):
                    yield piece

        return pieces()

    def write(self, path: str, file: Path, sha256: str) -> None:
        with open(file, "rb", buffering=0) as source, arriving(regular_file(self.root, path)) as copy:
            while piece := source.read(READ_BYTES):
                copy.write(piece)

    def create(self, path: str, data: bytes) -> bool:
        return create_once(regular_file(self.root, path), data)
