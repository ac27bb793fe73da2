"""Objects of stores elsewhere, kept on this disk under their sha256: each is fetched once, whatever store names it.

A file appears under its name when it is whole and is what its record says. Many processes share one cache: an object is
fetched by one of them while the others wait for it. What was used longest ago goes first when there is too much.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from stillhouse.core.errors import StillhouseError, UsageError
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.places.arrival import bring, difference
from stillhouse.storage.places.base import Place
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.records import ObjectEntry

AHEAD = 4
"""Objects that are fetched at once ahead of their use."""
KEEP = 0.9
"""Of the bound is left when something had to go."""
DEAD_S = 86_400
"""A file that has been arriving for so long is what a process that was killed has left."""
OFTEN = 16
"""A process looks at the size of the whole cache after it has brought this part of the bound."""


class ObjectCache:
    """A bounded folder of objects. Safe for many threads and many processes.

    Args:
        folder: made if it is not there, for its owner alone.
        most_bytes: what may stay; while processes fetch, a sixteenth more for each of them.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self._most, self._brought = folder, most_bytes, 0
        self._lock = threading.Lock()
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.trim()

    def path(self, sha256: str) -> Path:
        return self.folder / "objects" / sha256[:2] / sha256

    def has(self, entry: ObjectEntry) -> bool:
        """True when the object is here, and counts as used now."""
        path = self.path(entry.sha256)
        try:
            os.utime(path)
            return path.stat().st_size == entry.num_bytes
        except FileNotFoundError:
            return False

    def bring(
        self, place: Place, entry: ObjectEntry, patience: Patience, on_bytes: Callable[[int], None] = lambda num: None
    ) -> Path:
        """Where the object is on this disk; fetched first unless it is there."""
        path = self.path(entry.sha256)
        if not self.has(entry):
            with self._alone(entry.sha256):
                if not self.has(entry):
                    bring(place, entry.path, entry, path, patience, on_bytes)
                    self._count(entry.num_bytes)
        return path

    def trim(self) -> None:
        """Remove what was used longest ago until the rest is within the bound."""
        found = []
        with disk_errors(self.folder):
            for folder, _, names in os.walk(self.folder / "objects"):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        place = Path(folder, name)
                        told = place.stat()
                        if not name.startswith("."):
                            found.append((told.st_mtime, told.st_size, place))
                        elif time.time() - told.st_mtime > DEAD_S:
                            place.unlink()
            total = sum(size for _, size, _ in found)
            if total <= self._most:
                return
            for _, size, place in sorted(found):
                if total <= KEEP * self._most:
                    return
                place.unlink(missing_ok=True)
                total -= size

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._brought += num_bytes
            much = self._brought > self._most // OFTEN
            if much:
                self._brought = 0
        if much:
            self.trim()

    @contextlib.contextmanager
    def _alone(self, sha256: str) -> Iterator[None]:
        """One thread of one process at a time for an object; few other objects share its lock."""
        locks = self.folder / "locks"
        with disk_errors(locks):
            locks.mkdir(exist_ok=True)
            descriptor = os.open(locks / sha256[:3], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class RemoteObjects:
    """The objects of one store elsewhere, through a cache. `Store` asks it where an object is."""

    def __init__(self, place: Place, cache: ObjectCache, patience: Patience) -> None:
        self.place, self.cache, self._patience, self.name = place, cache, patience, place.name
        self._pool = ThreadPoolExecutor(AHEAD, "ahead")
        self._coming: dict[str, Future[Path]] = {}
        self._lock = threading.Lock()

    def bring(self, entry: ObjectEntry) -> Path:
        """Where an object is on this disk. It may go as soon as others need the room: open it at once."""
        with self._lock:
            coming = self._coming.get(entry.sha256)
        if coming is not None and not coming.cancel():
            with contextlib.suppress(StillhouseError):  # it is asked for once more below, and told of there
                return coming.result()
        return self.cache.bring(self.place, entry, self._patience)

    def bring_again(self, entry: ObjectEntry) -> Path:
        """As `bring`, after the file that was here turned out to be damaged or gone."""
        with disk_errors(self.cache.folder):
            self.cache.path(entry.sha256).unlink(missing_ok=True)
        return self.bring(entry)

    def ahead(self, entry: ObjectEntry) -> None:
        """Begin to fetch an object that is going to be asked for. What goes wrong is told when it is."""
        with self._lock:
            if entry.sha256 in self._coming or self.cache.has(entry):
                return
            coming = self._pool.submit(self.cache.bring, self.place, entry, self._patience)
            self._coming[entry.sha256] = coming
        coming.add_done_callback(lambda done: self._came(entry.sha256))

    def drop(self) -> None:
        """Fetch nothing more that was only asked for ahead."""
        with self._lock:
            coming = list(self._coming.values())
        for one in coming:
            one.cancel()

    def _came(self, sha256: str) -> None:
        with self._lock:
            self._coming.pop(sha256, None)

    def check(self, entry: ObjectEntry) -> str:
        """What is wrong with an object at its place, or nothing; it is read there, whatever is kept here."""
        return difference(self.place, entry, self._patience)


def default_cache() -> Path:
    """Where objects are kept unless another folder is named."""
    try:
        return Path.home() / ".cache" / "stillhouse"
    except RuntimeError as error:
        raise UsageError(
            "this user has no home folder to keep objects in", hint="name a folder: `remote.cache`"
        ) from error
