"""What goes from a store to another place, made ready: every document in a folder, every object in a list."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.places.base import Place, is_url, open_place
from stillhouse.storage.places.folder import Folder
from stillhouse.storage.remote.documents import read_card
from stillhouse.storage.remote.opening import Reach, fetched
from stillhouse.storage.remote.pin import require_pinned, require_sealed
from stillhouse.storage.seal import Seal, latest_seal, read_seal, seal, seal_generations
from stillhouse.storage.store import Store

from .origin import Origin, read_origin
from .part import Move, part_of, whole_of
from .selection import Selection, choose


@dataclass(frozen=True, slots=True)
class Cargo:
    """A store on its way.

    Args:
        place: where its objects are now.
        folder: its documents, under the names that they are to have.
        paths: of the documents, in the order in which they are to appear: the root's zarr.json, which names the seal, last.
        sealed: the seal that it has on arrival.
    """

    place: Place
    folder: Path
    paths: tuple[str, ...]
    moves: tuple[Move, ...]
    sealed: Seal
    origin: Origin

    @property
    def num_bytes(self) -> int:
        return sum(move.entry.num_bytes for move in self.moves)


@contextmanager
def ready(
    where: str, asked: Selection, reach: Reach, expect: str | None, reporter: Reporter, *, within: Path | None = None
) -> Iterator[Cargo]:
    """The cargo of a store in a folder or at a URL, while the block lasts.

    Args:
        within: the `_stage` of a store, for its documents meanwhile; None: where the system keeps temporary files.

    Raises:
        UsageError: there is no sealed store, or it has not what was asked for.
        CorruptError: it is not what its seal says, or not what was expected.
    """
    with tempfile.TemporaryDirectory(prefix="stillhouse-") if within is None else attempt(within) as temporary:
        if is_url(where):
            place = open_place(where, reach.access)
            card = read_card(place, reach.patience)
            with fetched(place, card, Path(temporary), reach.patience, reporter) as root:
                yield _load(place, Store.open(root), Path(temporary, "documents"), asked, expect)
        else:
            store = Store.open(Path(where))
            store.check_metadata()
            yield _load(Folder(store.root), store, Path(temporary, "documents"), asked, expect)


@contextmanager
def attempt(stage: Path) -> Iterator[str]:
    """A folder as unfinished work has, which `gc` removes if the process cannot."""
    folder = stage / secrets.token_hex(16)
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True)
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(place: Place, store: Store, folder: Path, asked: Selection, expect: str | None) -> Cargo:
    sealed = latest_seal(store.root)
    if expect is not None:
        require_pinned(store, sealed, expect, place.name)
    if sealed is None:
        raise UsageError(f"store {place.name} was never sealed", hint="run `stillhouse extract`: it seals at the end")
    require_sealed(store, sealed, place.name)
    store = store.at(sealed.growths)
    part = whole_of(store, sealed) if asked.is_everything else part_of(store, sealed, asked, choose(store, asked))
    for path, data in part.documents.items():
        with disk_errors(folder / path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    paths = list(part.documents)
    if not asked.is_everything:
        sealed = seal(Store.open(folder))
        paths += [layout.seal_path(number) for number in seal_generations(folder)] + [layout.CARD]
        assert read_seal(folder, sealed.generation) == sealed
    origin = read_origin(folder)
    assert origin is not None
    return Cargo(place, folder, tuple(sorted(paths, key=_rank)), part.moves, sealed, origin)


def _rank(path: str) -> tuple[int, str]:
    """The note of origin first, seals after all that they name, the root's zarr.json last."""
    order = (path == layout.ORIGIN, not path.startswith((layout.SEALS, layout.CARD)), path.startswith(layout.SEALS))
    return order.index(True) if True in order else len(order), path
