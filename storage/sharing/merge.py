"""`merge`: what another store has and this one lacks comes into this one: teachers, views, blocks of other samples.

Blocks that both have are found by the digest of their keys. Those that only the other one has are appended by a growth, so
they get new numbers; no byte of an object changes but of the metadata of arrays, which says how many views and rows there
are. Everything is committed as any unit is: what is decided here stays, and the same command goes on after a kill.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from stillhouse.core.errors import BusyError, CorruptError, DataError, MissingError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.commit import Attempt
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.extent import extend
from stillhouse.storage.growth import Growth, add_growth
from stillhouse.storage.records import ObjectEntry, Record
from stillhouse.storage.remote.documents import is_document
from stillhouse.storage.remote.pin import require_sealed
from stillhouse.storage.room import require_room, require_writable
from stillhouse.storage.seal import Seal, latest_seal, seal
from stillhouse.storage.signed_json import canonical_json
from stillhouse.storage.specs import TRAIN, BlockPlan, TeacherSpec, spec_differences
from stillhouse.storage.store import Store
from stillhouse.storage.writer import keys_digest
from stillhouse.storage.zarr_rules import grows

from .renaming import renamed

READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did, or would do.

    Args:
        units: that came over; `num_bytes` of their objects.
        num_blocks, num_views, teachers: by which the store grew.
        missing: units that the store has nobody's features of yet: `extract` makes them.
    """

    units: int
    num_bytes: int
    num_blocks: int
    num_views: int
    teachers: tuple[str, ...]
    missing: int
    seal: Seal | None


def merge(root: Path, other: Store, reporter: Reporter, *, dry_run: bool = False) -> Merged:
    """Bring what `other` has sealed into the store at `root`.

    All that can be refused is looked at before anything is written: a store that has grown by blocks stays so.

    Raises:
        UsageError: `other` was never sealed, or lacks images in its seal; a teacher of it was dropped here.
        SpecMismatchError: views are drawn otherwise, or a teacher or its codecs are others under one name.
        DataError: a sample of the other store is here already, in another block or with other pixels.
        CorruptError: an object of the other store is not what was sealed.
    """
    store, sealed = Store.open(root), latest_seal(other.root)
    if sealed is None:
        raise UsageError(f"store {other.name} was never sealed", hint="run `stillhouse extract`: it seals at the end")
    for one in (store, other):
        one.check_metadata()
    require_sealed(other, sealed, other.name)
    other = other.at(sealed.growths)
    _require_like(store, other)
    here = _numbers(store)
    added = [number for number, block in enumerate(other.plan.blocks) if _identity(block) not in here]
    units = _Units(store, other, sealed)
    units.require_sealed_images(added)
    _require_new(store, other, added)
    more_views = max(0, other.spec.num_views - store.spec.num_views)
    new = [spec.name for spec in other.teachers() if not store.has_teacher(spec.name)]
    for spec in other.teachers():
        units.require_same_codecs(spec)
    todo = list(units.missing())
    num_bytes = sum(entry.num_bytes for record, _ in todo for entry in record.objects)
    found = Merged(len(todo), num_bytes, len(added), more_views, tuple(new), 0, None)
    if dry_run:
        return found
    require_writable(root)
    require_room(root, num_bytes, f"merge {other.name}")
    store = _grown(store, other, added, reporter)
    extend(store)
    units = _Units(store, other, sealed)
    for spec in other.teachers():
        units.bring_teacher(spec)
    with reporter.task("merge", num_bytes, "B") as task:
        for record, unit in todo:
            units.take(record, unit)
            task.advance(sum(entry.num_bytes for entry in record.objects))
    missing = [unit for unit in _planned(store) if store.record(unit) is None]
    return Merged(len(todo), num_bytes, len(added), more_views, tuple(new), len(missing), seal(Store.open(root)))


def _require_like(store: Store, other: Store) -> None:
    ours, theirs = ({**one.spec.views, "num": 0} for one in (store, other))
    differing = list(spec_differences(ours, theirs))
    if store.plan.block_samples != other.plan.block_samples:
        differing.append(f"block_samples: stored {store.plan.block_samples}, asked for {other.plan.block_samples}")
    if differing:
        message = f"store {other.name} was made otherwise than store {store.name}: {'; '.join(differing)}"
        raise SpecMismatchError(message, hint="only stores of the same views and block size are merged")
    for spec in other.teachers():
        if spec.name in store.dropped:
            store.teacher(spec.name)  # which says what helps
        if store.has_teacher(spec.name):
            differing = list(spec_differences(store.teacher(spec.name).deciding(), spec.deciding()))
            if differing:
                message = f"store {store.name} holds features of another {spec.name!r}: {'; '.join(differing)}"
                raise SpecMismatchError(message, hint="pull the other store without it (`--columns`), and merge that")


def _identity(block: BlockPlan) -> tuple[str, str]:
    return block.split, block.keys_sha256


def _numbers(store: Store) -> dict[tuple[str, str], int]:
    """The number of each block by what is in it."""
    return {_identity(block): number for number, block in enumerate(store.plan.blocks)}


def _require_new(store: Store, other: Store, added: Sequence[int]) -> None:
    """DataError if a sample of a block that is to be added is here already, or in an earlier block of these."""
    if not added:
        return
    keys = {sample.key for block in range(len(store.plan.blocks)) for sample in store.samples(block)}
    for block in added:
        samples = other.samples(block)
        if keys_digest(sample.key for sample in samples) != other.plan.blocks[block].keys_sha256:
            message = f"{layout.index_path(block)} of store {other.name} holds other samples than its plan says"
            raise CorruptError(message, hint=f"run `stillhouse verify {other.name}`")
        for sample in samples:
            if sample.key in keys:
                message = f"image {sample.key!r} of store {other.name} is in store {store.name} too, in another block"
                raise DataError(
                    message, hint="stores are merged by whole blocks: make both with one plan, or of other images"
                )
            keys.add(sample.key)


def _grown(store: Store, other: Store, added: Sequence[int], reporter: Reporter) -> Store:
    """The store with the other's blocks and views planned. Blocks keep saying what they were ingested with."""
    asked = []
    if other.spec.num_views > store.spec.num_views:
        asked.append(Growth(views=other.spec.num_views))
    for one in other.generations:
        if blocks := tuple(other.plan.blocks[block] for block in added if block in one.blocks):
            asked.append(Growth(blocks=blocks, ingest=one.ingest))
    for growth in asked:
        number = len(store.growths) + 1
        add_growth(store.root, number, growth)
        store = Store.open(store.root)
        if store.growths[number - 1] != growth:
            message = f"another process has made store {store.root} grow meanwhile"
            raise BusyError(message, hint="wait until it is done, then run the same command again")
    if added:
        reporter.say(f"store {store.root} grows by {len(added):,} blocks of store {other.name}")
    return store


def _planned(store: Store) -> Iterator[str]:
    """The units that hold features, of every teacher and view."""
    for spec in store.teachers():
        for block in store.plan.blocks_of(TRAIN):
            yield from (layout.features_unit(spec.name, view, block) for view in range(store.spec.num_views))


def _pieces(store: Store, entry: ObjectEntry) -> Iterator[bytes]:
    """The bytes of an object of a store, wherever that lies; whoever takes them compares them."""

    def opened(path: Path) -> FileIO:
        try:
            with disk_errors(path):
                return open(path, "rb", buffering=0)
        except FileNotFoundError as error:
            raise MissingError(f"{path} is not there", hint=f"run `stillhouse verify {store.name}`") from error

    with store.opened(entry, opened) as file:
        while piece := file.read(READ_BYTES):
            yield piece


class _Units:
    """The units of another store, under the numbers that their blocks have here."""

    def __init__(self, store: Store, other: Store, sealed: Seal) -> None:
        self._store, self._other = store, other
        self._sealed = {entry.path: entry for entry in sealed.objects}
        here, last = _numbers(store), len(store.plan.blocks)
        self._blocks: dict[int, int] = {}
        for block, plan in enumerate(other.plan.blocks):
            self._blocks[block] = here.get(_identity(plan), last)
            last += self._blocks[block] == last

    def require_sealed_images(self, blocks: Sequence[int]) -> None:
        """UsageError if the images of one of these blocks came after the seal, or are still to come."""
        for block in blocks:
            record = self._other.record(layout.images_unit(block))
            if record is None or not self._is_sealed(record):
                message = f"the images of block {block} of store {self._other.name} are not in its seal"
                raise UsageError(message, hint="let its `ingest` end and run `stillhouse extract` there: it seals")

    def bring_teacher(self, spec: TeacherSpec) -> None:
        """Enter a teacher with its codecs.

        Raises:
            SpecMismatchError: it has others here, if only since a moment ago.
        """
        unit = layout.codecs_unit(spec.name)
        if self._store.record(unit) is None:
            self._store.add_teacher(spec)
            self._commit(self._other.require(unit, unit), unit)
        self.require_same_codecs(spec)

    def require_same_codecs(self, spec: TeacherSpec) -> None:
        """SpecMismatchError where the teacher is here with other codecs."""
        unit = layout.codecs_unit(spec.name)
        theirs, ours = self._other.require(unit, unit), self._store.record(unit)
        had = {} if ours is None else {entry.path: entry.sha256 for entry in ours.objects}
        for entry in theirs.objects if ours is not None else ():
            if not is_document(entry.path) and had.get(entry.path) != entry.sha256:
                message = f"{entry.path} of store {self._other.name} is not that of store {self._store.name}"
                hint = "features of codecs that were fitted apart are not mixed: extract with this store's teacher"
                raise SpecMismatchError(message, hint=hint)

    def missing(self) -> Iterator[tuple[Record, str]]:
        """(record there, unit here) of what is sealed there and undecided here, each after what it rests on.

        Raises:
            DataError, SpecMismatchError: a block's images, or a view of it, are others.
        """
        for block, here in self._blocks.items():
            yield from self._unit(layout.images_unit(block), layout.images_unit(here))
            for view in range(self._other.spec.num_views if self._other.plan.blocks[block].split == TRAIN else 0):
                yield from self._unit(layout.views_unit(view, block), layout.views_unit(view, here))
                for spec in self._other.teachers():
                    units = (layout.features_unit(spec.name, view, one) for one in (block, here))
                    yield from self._unit(*units)

    def _unit(self, unit: str, here: str) -> Iterator[tuple[Record, str]]:
        theirs = self._other.record(unit)
        if theirs is None or not self._is_sealed(theirs):
            return
        ours = self._store.record(here)
        if ours is None:
            yield theirs, here
        else:
            self._require_same(theirs, ours)

    def _is_sealed(self, theirs: Record) -> bool:
        return all(self._sealed.get(entry.path) == entry for entry in theirs.objects)

    def _require_same(self, theirs: Record, ours: Record) -> None:
        """What features rest on must be the same; of features themselves, ours stay."""
        if theirs.unit.startswith("images/"):
            self._require_same_images(*(int(record.unit.rpartition("/")[2]) for record in (theirs, ours)))
        elif theirs.unit.startswith("views/"):
            self._require_same_view(theirs, ours)

    def _require_same_images(self, block: int, here: int) -> None:
        for theirs, ours in zip(self._other.samples(block), self._store.samples(here), strict=True):
            if (theirs.reason, theirs.pixel_hash) != (ours.reason, ours.pixel_hash):
                message = f"image {theirs.key!r} of store {self._other.name} has other pixels than in store {self._store.name}"
                raise DataError(message, hint="they are of other images: give these other keys")

    def _require_same_view(self, theirs: Record, ours: Record) -> None:
        for entry, other in zip(ours.objects, theirs.objects, strict=True):
            if entry.sha256 != other.sha256:
                message = f"{other.path} of store {self._other.name} is not {entry.path} of store {self._store.name}"
                raise SpecMismatchError(message, hint="their views were drawn or rendered otherwise: extract anew")

    def take(self, record: Record, unit: str) -> None:
        """Commit a unit of the other store here.

        Raises:
            DataError, SpecMismatchError: another process has decided it meanwhile, otherwise.
        """
        self._require_same(record, self._store.record(unit) or self._commit(record, unit))

    def _commit(self, record: Record, unit: str) -> Record:
        """The record that won, which may be another process's."""
        with Attempt(self._store.root, unit) as attempt:
            for entry in record.objects:
                path = renamed(entry.path, self._blocks)
                if grows(entry.path.removesuffix("/zarr.json")):
                    attempt.add(path, [canonical_json(self._metadata(record.unit, entry.path))])
                else:
                    self._require_whole(attempt.add(path, _pieces(self._other, entry)), entry)
            return attempt.commit(record.facts)

    def _metadata(self, unit: str, path: str) -> Mapping[str, object]:
        metadata = self._other.metadata(unit, path)
        shape = [self._store.spec.num_views, self._store.plan.num_rows, *metadata["shape"][2:]]
        return metadata | {"shape": shape}

    def _require_whole(self, staged: ObjectEntry, entry: ObjectEntry) -> None:
        if (staged.num_bytes, staged.sha256) != (entry.num_bytes, entry.sha256):
            message = f"{entry.path} of store {self._other.name} has sha256 {staged.sha256[:12]}, its record says {entry.sha256[:12]}"
            raise CorruptError(message, hint=f"run `stillhouse verify {self._other.name}`")
