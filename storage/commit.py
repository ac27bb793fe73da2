"""Units of work appear in three steps: stage, decide, publish.

A unit (the images of a block, the features of one view of a block) becomes visible like this:

1. its objects are written below `_stage/<attempt>/` and synced to disk;
2. a decision record naming them, with sizes and sha256, is created at its final name by link(2), which fails if a
   record is already there: exactly one attempt wins, whoever else tried;
3. the decided objects are renamed to their final names. Any process may repeat this step for a decided unit, and it
   moves the same bytes each time, so a crash between 2 and 3 costs nothing and no lock is needed.

What no record names does not exist for a reader.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from stillhouse.core.errors import CorruptError, MissingError, ResourceError

from .disk import disk_errors, sync_folder, write_synced
from .layout import STAGE, record_path, staged_path
from .records import VERIFY, ObjectEntry, Record, read_record
from .redo import Redo, decide, replace_record
from .signed_json import signed_json


class Attempt:
    """One try at a unit: collects staged objects, then commits them together.

    Use as a context manager; leaving it removes what was staged and not published.
    """

    def __init__(self, root: Path, unit: str) -> None:
        self.unit = unit
        self.id = secrets.token_hex(16)
        self._root = root
        self._folder = root / STAGE / self.id
        self._objects: list[ObjectEntry] = []
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        with disk_errors(self._folder.parent):
            self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._may_be_decided():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _may_be_decided(self) -> bool:
        """True when the record names this attempt, or cannot be read: what is staged is then all there is of the unit."""
        try:
            record = read_record(self._root, self.unit)
        except (CorruptError, ResourceError, OSError):
            return True
        return record is not None and record.attempt == self.id

    def add(self, path: str, chunks: Iterable[bytes | memoryview]) -> ObjectEntry:
        """Stage one object that will be published at `path`."""
        with disk_errors(self._root / path):
            num_bytes, sha256 = write_synced(self._root / staged_path(self.id, path), chunks)
        entry = ObjectEntry(path, num_bytes, sha256)
        self._objects.append(entry)
        return entry

    def keep(self, entry: ObjectEntry) -> None:
        """Name an object that is published already, and stays as it is."""
        self._objects.append(entry)

    def commit(self, facts: dict[str, Any], *, replacing: str | None = None) -> Record:
        """Decide and publish; returns the record that won, which may be another attempt's.

        Args:
            replacing: sha256 of the record that this one takes the place of, if it is still the one; None: of none.
        """
        try:
            with disk_errors(self._folder.parent):
                sync_folder(self._folder)
                sync_folder(self._folder.parent)
        except FileNotFoundError as error:
            message = f"what was staged of unit {self.unit} is gone from {self._folder}"
            raise MissingError(message, hint="it took longer than `stillhouse gc` waits; run again") from error
        body: dict[str, Any] = {
            "unit": self.unit,
            "attempt": self.id,
            "objects": [entry.to_json() for entry in self._objects],
            "facts": facts,
            "seconds": round(time.monotonic() - self._begin, 3),
        }
        if replacing is None:
            decide(self._root, self.unit, self._objects, signed_json(body))
        else:
            replace_record(self._root, Redo(self.unit, replacing, "the store grew"), self._objects, signed_json(body))
        record = publish_decided(self._root, self.unit)
        if record is None:
            raise MissingError(f"record {record_path(self.unit)} vanished", hint="is something else deleting files?")
        return record


def publish_decided(root: Path, unit: str) -> Record | None:
    """Publish what the record of a unit names, and return it; None when the unit is undecided.

    Raises:
        MissingError: an object is neither staged nor published.
    """
    while True:
        record = read_record(root, unit)
        if record is None:
            return None
        try:
            publish(root, record)
        except MissingError:
            if read_record(root, unit) == record:
                raise
            continue  # it was made anew meanwhile: what is published now is not this record's
        return record


def publish(root: Path, record: Record) -> None:
    """Bring every decided object to its final name, replacing whatever an older decision left there.

    Raises:
        MissingError: an object is neither staged nor published.
    """
    stage = root / STAGE / record.attempt
    unfinished = stage.is_dir()  # then whoever renamed some of them may not have come to sync their folders
    for entry in record.objects:
        final = root / entry.path
        staged = root / staged_path(record.attempt, entry.path)
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(staged, final)
            except FileNotFoundError:
                if final.exists() and final.stat().st_size == entry.num_bytes:
                    continue  # published before, by us or by another process
                raise MissingError(
                    f"{entry.path} of unit {record.unit} is neither published nor staged", hint=f"run `{VERIFY} {root}`"
                ) from None
    for folder in sorted({(root / entry.path).parent for entry in record.objects} if unfinished else ()):
        with disk_errors(folder):
            sync_folder(folder)
    with contextlib.suppress(OSError):  # an attempt that died after deciding leaves its folder empty
        os.rmdir(stage)
