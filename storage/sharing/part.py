"""A part of a store as a store in itself: its documents, and which object goes where.

Blocks are numbered anew, so objects change their names; no byte of an object changes, and what says how many there are (spec,
plan, teachers, records, the metadata of arrays) is written anew. Pure but for reading the documents of the store.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.core.errors import CorruptError
from stillhouse.storage import foreign, layout
from stillhouse.storage.records import ObjectEntry, Record
from stillhouse.storage.remote.documents import is_document, units_of
from stillhouse.storage.seal import Seal, read_seal, seal_generations
from stillhouse.storage.signed_json import MAX_JSON_BYTES, canonical_json, signed_json
from stillhouse.storage.specs import TRAIN, StorePlan, StoreSpec, TeacherSpec
from stillhouse.storage.store import Store
from stillhouse.storage.zarr_rules import grows

from .origin import Origin
from .renaming import renamed
from .selection import Chosen, Selection


@dataclass(frozen=True, slots=True)
class Move:
    """One object: its path where it is, and what it is to be."""

    source: str
    entry: ObjectEntry


@dataclass(frozen=True, slots=True)
class Part:
    """What a place has to hold to be this store.

    Args:
        documents: by path. Those of a part that was chosen lack the seal and the root's zarr.json, which follow from them.
        moves: the objects that are no documents.
    """

    documents: dict[str, bytes]
    moves: tuple[Move, ...]

    @property
    def num_bytes(self) -> int:
        return sum(move.entry.num_bytes for move in self.moves)


def part_of(store: Store, sealed: Seal, asked: Selection, chosen: Chosen) -> Part:
    """The part of a sealed store that was chosen.

    Raises:
        CorruptError: an object is not the one that was sealed.
    """
    return _Making(store, sealed, asked, chosen).part()


def whole_of(store: Store, sealed: Seal) -> Part:
    """All of a sealed store, its documents as they are: with growths, earlier seals, and what those name."""
    documents = {layout.ORIGIN: Origin.of(store, sealed, Selection()).to_bytes()}
    moves = []

    def take(path: str, most: int = MAX_JSON_BYTES) -> None:
        data = foreign.read_capped(foreign.regular_file(store.root, path), most)
        if data is not None:
            documents[path] = data

    for path in (layout.SPEC, layout.PLAN, layout.ID, layout.CARD):
        take(path)
    for number in range(1, sealed.growths + 1):
        take(layout.growth_path(number))
    for number in seal_generations(store.root):
        take(layout.seal_path(number))
        for entry in read_seal(store.root, number).objects:
            if grows(entry.path.removesuffix("/zarr.json")):
                take(layout.kept_path(entry.path, entry.sha256))
    for unit in units_of(sealed):
        take(layout.record_path(unit))
        if unit.startswith("codecs/"):
            take(layout.teacher_path(unit.removeprefix("codecs/")))
    for entry in sealed.objects:
        if is_document(entry.path):
            take(entry.path)
        else:
            moves.append(Move(entry.path, entry))
    return Part(documents, tuple(moves))


class _Making:
    """Collects the documents and moves of a part."""

    def __init__(self, store: Store, sealed: Seal, asked: Selection, chosen: Chosen) -> None:
        self._store, self._sealed, self._asked, self._chosen = store, sealed, asked, chosen
        self._known = {entry.path: entry for entry in sealed.objects}
        self._documents: dict[str, bytes] = {}
        self._moves: list[Move] = []

    def part(self) -> Part:
        origin = Origin.of(self._store, self._sealed, self._asked)
        name = hashlib.sha256(origin.to_bytes()).hexdigest()[:32]
        blocks = tuple(self._store.plan.blocks[block] for block in self._chosen.blocks)
        spec = StoreSpec(
            ingest=self._store.spec.ingest | {"part_of": origin.model_dump(mode="json", exclude_none=True)},
            views=self._store.spec.views | {"num": self._chosen.num_views},
        )
        plan = StorePlan(block_samples=self._store.plan.block_samples, blocks=blocks)
        self._documents[layout.ORIGIN] = origin.to_bytes()
        self._documents[layout.SPEC] = signed_json(spec.model_dump(mode="json"))
        self._documents[layout.PLAN] = signed_json(plan.model_dump(mode="json"))
        self._documents[layout.ID] = signed_json({"store_id": name})
        self._layout()
        for teacher, levels in self._chosen.levels.items():
            self._teacher(teacher, levels)
        for block, was in enumerate(self._chosen.blocks):
            self._block(block, was)
        return Part(self._documents, tuple(self._moves))

    def _layout(self) -> None:
        record = self._store.require("layout", "layout")
        self._record(record, [self._metadata("layout", entry.path) for entry in record.objects], record.facts)

    def _teacher(self, name: str, levels: tuple[str, ...]) -> None:
        """A teacher with some of its levels; with all of them its spec stays as it is."""
        spec = self._store.teacher(name)
        kept = {level: one for level, one in spec.levels.items() if level in levels}
        spec = TeacherSpec.model_validate(spec.model_dump() | {"levels": kept})
        self._documents[layout.teacher_path(name)] = signed_json(spec.entry())
        unit = layout.codecs_unit(name)
        record = self._store.require(unit, f"codecs of {name}")
        facts = record.facts | {"levels": {level: record.facts["levels"][level] for level in levels}}
        if "teacher_sha256" in facts:
            facts["teacher_sha256"] = spec.sha256()
        gone = [level for level in self._store.teacher(name).levels if level not in levels]
        folders = tuple(
            f"{place(name, level)}/" for level in gone for place in (layout.features_array, layout.codec_group)
        )
        entries = []
        for entry in record.objects:
            if entry.path.startswith(folders):
                continue
            entries.append(
                self._metadata(unit, entry.path) if entry.path.endswith("/zarr.json") else self._move(entry, entry.path)
            )
        self._record(record, entries, facts)

    def _block(self, block: int, was: int) -> None:
        images = self._store.require(layout.images_unit(was), f"images of block {was}")
        self._moved(images, layout.images_unit(block), {was: block})
        if self._store.plan.blocks[was].split != TRAIN:
            return
        for view in range(self._chosen.num_views):
            self._moved(self._store.record(layout.views_unit(view, was)), layout.views_unit(view, block), {was: block})
            for teacher, levels in self._chosen.levels.items():
                self._features(teacher, levels, view, {was: block})

    def _features(self, teacher: str, levels: tuple[str, ...], view: int, blocks: dict[int, int]) -> None:
        ((was, block),) = blocks.items()
        record = self._store.record(layout.features_unit(teacher, view, was))
        if record is not None:
            facts, folders = dict(record.facts), tuple(f"{layout.features_array(teacher, one)}/" for one in levels)
            if "fingerprints" in facts:
                facts["fingerprints"] = {level: facts["fingerprints"][level] for level in levels}
            kept = tuple(entry for entry in record.objects if entry.path.startswith(folders))
            record = replace(record, objects=kept, facts=facts)
        self._moved(record, layout.features_unit(teacher, view, block), blocks)

    def _moved(self, record: Record | None, unit: str, blocks: dict[int, int]) -> None:
        """A unit under its new name; nothing where it was not sealed: a teacher that has not seen all of them yet."""
        if record is not None and any(entry.path in self._known for entry in record.objects):
            entries = [self._move(entry, renamed(entry.path, blocks)) for entry in record.objects]
            self._record(replace(record, unit=unit), entries, record.facts)

    def _move(self, entry: ObjectEntry, path: str) -> ObjectEntry:
        if self._known.get(entry.path) != entry:
            message = f"{entry.path} of store {self._store.root} is not the one that was sealed"
            raise CorruptError(message, hint="seal the store anew (`stillhouse extract`), or restore it from a copy")
        moved = replace(entry, path=path)
        self._moves.append(Move(entry.path, moved))
        return moved

    def _metadata(self, unit: str, path: str) -> ObjectEntry:
        """The zarr.json of an array or a group, with as many views and rows as there are."""
        metadata = self._store.metadata(unit, path)
        if grows(path.removesuffix("/zarr.json")):
            rows = len(self._chosen.blocks) * self._store.plan.block_samples
            metadata = metadata | {"shape": [self._chosen.num_views, rows, *metadata["shape"][2:]]}
        data = self._documents[path] = canonical_json(metadata)
        return ObjectEntry(path, len(data), hashlib.sha256(data).hexdigest())

    def _record(self, record: Record, entries: list[ObjectEntry], facts: dict[str, Any]) -> None:
        body = {
            "unit": record.unit,
            "attempt": record.attempt,
            "objects": [entry.to_json() for entry in entries],
            "facts": facts,
        }
        self._documents[layout.record_path(record.unit)] = signed_json(body)
