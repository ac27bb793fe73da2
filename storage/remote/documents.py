"""The documents of a store elsewhere, found without listing: everything but images, indexes, views, codes and parameters.

The root's zarr.json names the seal, the seal names every object, objects name their units of work, and every unit has a record.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import CorruptError, MissingError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage import foreign, layout
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.places.arrival import bring, read_whole
from stillhouse.storage.places.base import Place
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import Seal, latest_seal

THREADS = 16
"""Documents are small: fetching them is waiting."""
MAX_SEAL_BYTES = 64 << 20
MIDWAY = "it is being written to; try again, or ask who shares it to seal it"


def is_document(path: str) -> bool:
    """True for objects that are metadata: they come with the documents."""
    return path.endswith("/zarr.json")


@dataclass(frozen=True, slots=True)
class Card:
    """The root's zarr.json, and which seal it names."""

    data: bytes
    generation: int
    content_sha256: str


def read_card(place: Place, patience: Patience) -> Card:
    """What a place says it holds now.

    Raises:
        UsageError: there is no store, or it was never sealed.
    """
    data = read_whole(place, layout.CARD, foreign.MAX_GROUP_JSON_BYTES, patience)
    if data is None:
        raise UsageError(f"no store at {place.name}", hint="give the address of the folder that holds its zarr.json")
    where = f"{place.name}/{layout.CARD}"
    told = foreign.mapping(foreign.parse_json(data, where), where, "metadata")
    attributes = foreign.mapping(told.get("attributes", {}), where, "attributes")
    if "stillhouse" not in attributes:
        raise UsageError(
            f"{place.name} holds no sealed store", hint="only sealed stores are shared: `stillhouse extract` seals"
        )
    facts = foreign.mapping(attributes["stillhouse"], where, "stillhouse")
    named = foreign.mapping(facts.get("seal", {}), where, "seal")
    generation = foreign.whole(named.get("generation"), 1, foreign.MAX_VALUES, where, "generation")
    return Card(data, generation, foreign.text(named.get("content_sha256"), where, "content_sha256", 64))


def fetch_documents(place: Place, card: Card, root: Path, patience: Patience, reporter: Reporter) -> Seal:
    """Write the documents of a store to the folder `root`; returns its seal.

    Raises:
        UsageError: there is no sealed store.
        CorruptError, MissingError: a document is gone, or its seal is another one than its zarr.json says.
    """
    with worker_threads(THREADS, "documents") as pool:

        def fetch(path: str, most: int, *, needed: bool = True) -> None:
            data = read_whole(place, path, most, patience)
            if data is not None:
                _write(root / path, data)
            elif needed:
                raise MissingError(f"{place.name}/{path} is not there", hint="ask who shared the store")

        _write(root / layout.CARD, card.data)
        fetch(layout.seal_path(card.generation), MAX_SEAL_BYTES)
        sealed = latest_seal(root)
        if sealed is None or (sealed.generation, sealed.content_sha256) != (card.generation, card.content_sha256):
            raise CorruptError(f"the seal of {place.name} is not the one that its zarr.json names", hint=MIDWAY)
        wanted = [*_documents(sealed)]

        def metadata(entry: ObjectEntry) -> None:
            bring(place, entry.path, entry, root / entry.path, patience)

        waiting: list[Future[None]] = [pool.submit(fetch, path, most) for path, most in wanted]
        waiting += [
            pool.submit(fetch, layout.seal_path(number), MAX_SEAL_BYTES, needed=False)
            for number in range(1, card.generation)
        ]
        waiting += [pool.submit(metadata, entry) for entry in sealed.objects if is_document(entry.path)]
        with reporter.task(f"documents of {place.name}", len(waiting), "file") as task:
            for one in waiting:
                one.result()
                task.advance(1)
    return sealed


def _write(path: Path, data: bytes) -> None:
    """Not synced: the folder is new, every document carries or has its sha256, and a damaged mirror is fetched again."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _documents(sealed: Seal) -> Iterator[tuple[str, int]]:
    """(path, most bytes) of each document that the store of a seal has."""
    yield layout.SPEC, foreign.MAX_SPEC_BYTES
    yield layout.PLAN, foreign.MAX_PLAN_BYTES
    yield layout.ID, foreign.MAX_SPEC_BYTES
    for number in range(1, sealed.growths + 1):
        yield layout.growth_path(number), foreign.MAX_PLAN_BYTES
    for unit in units_of(sealed):
        yield layout.record_path(unit), foreign.MAX_RECORD_BYTES
        if unit.startswith("codecs/"):
            yield layout.teacher_path(unit.removeprefix("codecs/")), foreign.MAX_SPEC_BYTES


def units_of(sealed: Seal) -> list[str]:
    """Every unit of work that a seal names objects of.

    Raises:
        CorruptError: it names an object that no unit has.
    """
    units: dict[str, None] = {}
    for entry in sealed.objects:
        unit = layout.unit_of(entry.path)
        if unit is None:
            raise CorruptError(f"a seal names {entry.path}, which no store has", hint=foreign.WRITTEN)
        units[unit] = None
    return list(units)
