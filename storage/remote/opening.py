"""Opening a store wherever it lies."""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from stillhouse.core.errors import CorruptError
from stillhouse.core.events import Reporter
from stillhouse.storage.disk import disk_errors, one_at_a_time, publish_folder
from stillhouse.storage.places.base import Access, Place, is_url, open_place
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.store import Store

from .cache import DEAD_S, ObjectCache, RemoteObjects, default_cache
from .documents import Card, fetch_documents, read_card
from .pin import require_pinned, require_sealed

GB = 10**9
UNUSED_S = 90 * 86_400.0
"""Since a mirror was opened last, until it goes; a training that is longer opens it anew after each stop."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How stores elsewhere are reached, and what of them is kept here.

    Args:
        cache: the folder for what is fetched; None: `~/.cache/stillhouse`.
        cache_gb: what stays there, in 10^9 bytes.
    """

    access: Access = field(default_factory=Access)
    cache: Path | None = None
    cache_gb: float = 50.0
    patience: Patience = field(default_factory=Patience)

    @property
    def folder(self) -> Path:
        return self.cache or default_cache()

    def telling(self, reporter: Reporter) -> "Reach":
        """The same, and whoever waits for a place is told so."""
        return replace(self, patience=replace(self.patience, tell=reporter.say))


def open_store(where: str, reach: Reach, reporter: Reporter, *, expect: str | None = None) -> Store:
    """The store in a folder or at a URL. Of one elsewhere the documents are fetched now, objects when they are read.

    Args:
        expect: the pin that its seal must have.

    Raises:
        UsageError: there is no store; or none that was sealed, at a URL.
        CorruptError: it is not what its seal says, or not what was expected.
        RemoteError: the place does not answer.
    """
    if not is_url(where):
        store = Store.open(Path(where))
        if expect is not None:
            sealed = latest_seal(store.root)
            require_pinned(store, sealed, expect, where)
            assert sealed is not None
            require_sealed(store, sealed, where)
        return store
    place, reach = open_place(where, reach.access), reach.telling(reporter)
    mirror = _mirror(place, reach, reporter)
    cache = ObjectCache(reach.folder, int(reach.cache_gb * GB))
    store = Store.open(mirror, RemoteObjects(place, cache, reach.patience))
    if expect is not None:
        require_pinned(store, latest_seal(mirror), expect, place.name)
    return store


def _mirror(place: Place, reach: Reach, reporter: Reporter) -> Path:
    """The folder with the documents of the store that is at a place now. They are fetched once for a seal."""
    card = read_card(place, reach.patience)
    stores = reach.folder / "stores"
    digests = (hashlib.sha256(data).hexdigest() for data in (place.name.encode(), card.data))
    mirror = stores / "-".join(digest[:32] for digest in digests)  # the card names the seal, and so all that there is
    with one_at_a_time(stores):
        if mirror.is_dir():
            try:
                Store.open(mirror).check_metadata()
                os.utime(mirror)
                return mirror
            except CorruptError as error:
                reporter.say(
                    f"the documents of {place.name} kept here are damaged ({error.message}); fetching them again"
                )
                with disk_errors(mirror):
                    shutil.rmtree(mirror)
        with fetched(place, card, stores, reach.patience, reporter) as fresh:
            publish_folder(fresh, mirror)
        _remove_unused(stores)
    return mirror


def _remove_unused(stores: Path) -> None:
    """Mirrors that nobody has opened for long, and what processes that were killed have left."""
    now = time.time()
    for folder in stores.iterdir():
        with contextlib.suppress(FileNotFoundError):
            unused_s = now - folder.stat().st_mtime
            if folder.is_dir() and unused_s > (DEAD_S if folder.name.startswith(".") else UNUSED_S):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fetched(place: Place, card: Card, beside: Path, patience: Patience, reporter: Reporter) -> Iterator[Path]:
    """A folder in `beside` with the documents of the store at a place, checked; gone afterwards unless it was moved."""
    fresh = beside / f".{secrets.token_hex(8)}"
    try:
        with disk_errors(fresh):
            fresh.mkdir(parents=True)
        sealed = fetch_documents(place, card, fresh, patience, reporter)
        store = Store.open(fresh)
        store.check_metadata()
        require_sealed(store, sealed, place.name)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
