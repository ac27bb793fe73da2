"""Sealing: one digest over the content of a store, from its decision records."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import CorruptError, MissingError

from . import foreign, layout
from .commit import publish_decided
from .disk import create_once, names_in, replace_file
from .dropped import dropped_teachers, is_of
from .growth import RESTORE, read_growths
from .records import ObjectEntry, Record, read_record
from .signed_json import canonical_json, read_json, read_signed_json, signed_json
from .store import Store
from .zarr_rules import grows


@dataclass(frozen=True, slots=True)
class Seal:
    """A numbered statement: these objects are the store.

    Args:
        growths: how often the store had grown by then, for `Store.at`.
        facts_sha256: `facts_digest` of it; "" in seals of earlier versions.
        root_sha256: of the seal itself: it covers the content and the facts. What a reader pins.
    """

    generation: int
    content_sha256: str
    objects: tuple[ObjectEntry, ...]
    growths: int = 0
    facts_sha256: str = ""
    root_sha256: str = ""

    @property
    def num_objects(self) -> int:
        return len(self.objects)

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.objects)


def decided_units(root: Path) -> list[str]:
    """The name of every unit that has a decision record, damaged ones included."""
    base = root / layout.UNITS
    units = []

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a store without any record yet
            raise error

    for folder, _, names in os.walk(base, onerror=unreadable):
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                units.append((Path(folder) / name).relative_to(base).with_suffix("").as_posix())
    return sorted(units)


def records(root: Path) -> list[Record]:
    """Every decision record of a store, by unit name."""
    found = [read_record(root, unit) for unit in decided_units(root)]
    return [record for record in found if record is not None]


def content_digest(objects: list[ObjectEntry]) -> str:
    """sha256 over 'path bytes sha256' lines in path order; attempts and times do not enter."""
    lines = sorted(f"{entry.path} {entry.num_bytes} {entry.sha256}\n" for entry in objects)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def facts_digest(store: Store, found: list[Record]) -> str:
    """sha256 over what is said of a store and is in none of its objects: spec, plan, the facts of records.

    A codec's record has the sha256 of its teacher's spec. Which attempt made a unit, and how long it took, does not enter.
    """
    said: dict[str, Any] = {
        "spec": store.spec.model_dump(mode="json"),
        "plan": store.plan.model_dump(mode="json"),
        **{f"unit {record.unit}": record.facts for record in found},
    }
    digest = hashlib.sha256()
    for what in sorted(said):
        digest.update(f"{what} {hashlib.sha256(canonical_json(said[what])).hexdigest()}\n".encode())
    return digest.hexdigest()


def latest_seal(root: Path) -> Seal | None:
    """The newest seal, or None for a store that was never sealed.

    Raises:
        CorruptError: the seal is not the bytes that were written.
    """
    generations = seal_generations(root)
    return read_seal(root, generations[-1]) if generations else None


def seal_generations(root: Path) -> list[int]:
    """The numbers of all seals, in order."""
    names = [name for name in names_in(root / layout.SEALS) if name.endswith(".json")]
    return sorted(int(name[:-5]) for name in names if name[:-5].isdecimal())


def read_seal(root: Path, generation: int) -> Seal:
    """One seal by its number.

    Raises:
        CorruptError: the seal is not the bytes that were written.
    """
    path = root / layout.seal_path(generation)
    hint = "delete that file; the next `stillhouse extract` seals again"
    body = read_signed_json(path, hint, root=root)
    if body is None:
        raise CorruptError(f"{path.parent} holds a seal of another name than {path.name}", hint=hint)
    foreign.check_seal(body, str(path))
    objects = tuple(ObjectEntry(*entry) for entry in body["objects"])
    root_sha256 = hashlib.sha256(canonical_json(body)).hexdigest()
    return Seal(
        body["generation"],
        body["content_sha256"],
        objects,
        body.get("growths", 0),
        body.get("facts_sha256", ""),
        root_sha256,
    )


def seal(store: Store) -> Seal:
    """Seal what is decided now. Sealing the same content again changes nothing.

    Others may decide and seal meanwhile. Seals are read before records, so a seal made since takes the number we would,
    and we look again: no seal lists less than the one before it, and the one returned has all that was decided before.
    """
    root = store.root
    while True:
        last = latest_seal(root)
        dropped = dropped_teachers(root)
        found = [record for record in records(root) if not is_of(record.unit, dropped)]
        growths = len(read_growths(root))  # after the records: a growth is decided before its units
        _publish_staged(root, found)
        objects = sorted((entry for record in found for entry in record.objects), key=lambda entry: entry.path)
        then = store.at(growths)
        digest, facts = content_digest(objects), facts_digest(then, found)
        if last is None or last.content_sha256 != digest or last.facts_sha256 not in ("", facts):
            generation = 1 if last is None else last.generation + 1
            body: dict[str, Any] = {
                "generation": generation,
                "format_version": layout.FORMAT_VERSION,
                "spec_sha256": then.spec.sha256(),
                "content_sha256": digest,
                "facts_sha256": facts,
                "objects": [[entry.path, entry.num_bytes, entry.sha256] for entry in objects],
            }
            body |= {"growths": growths} if growths else {}
            if not create_once(root / layout.seal_path(generation), signed_json(body)):
                continue
        sealed = latest_seal(root)
        assert sealed is not None
        metadata = root_metadata(store, sealed)
        path = root / "zarr.json"
        if not path.exists() or path.read_bytes() != metadata:
            replace_file(path, metadata)
        if latest_seal(root) == sealed:  # else our card may have replaced a newer one
            return sealed


def _publish_staged(root: Path, found: list[Record]) -> None:
    """Publish what a process that died, or is slow, has decided and not published: a sealed store is all there."""
    for record in found:
        if (root / layout.STAGE / record.attempt).is_dir():
            publish_decided(root, record.unit)


def root_metadata(store: Store, sealed: Seal | None) -> bytes:
    """The bytes of the store's zarr.json: a card for people and foreign readers, made from what is written elsewhere."""
    if sealed is None:
        return canonical_json(layout.group_metadata())
    store = store.at(sealed.growths)
    pinned = (
        {"sha256": sealed.root_sha256} if sealed.facts_sha256 else {}
    )  # seals of earlier versions are told as they were
    codecs = [entry.path.split("/") for entry in sealed.objects if entry.path.endswith("/codecs/zarr.json")]
    facts = {
        "store_id": store_id(store.root),
        "format_version": layout.FORMAT_VERSION,
        "spec_sha256": store.spec.sha256(),
        "seal": {"generation": sealed.generation, "content_sha256": sealed.content_sha256, **pinned},
        "teachers": sorted(parts[1] for parts in codecs),
        "samples": store.plan.num_samples,
    }
    return canonical_json(layout.group_metadata({"stillhouse": facts}, _member_metadata(store.root, sealed)))


def _member_metadata(root: Path, sealed: Seal) -> dict[str, Any]:
    """Every member's zarr.json by path, as it was sealed, so that foreign readers list no folder.

    Damaged ones are for `verify` to name.
    """
    members = {}
    for entry in sealed.objects:
        if entry.path.endswith("/zarr.json"):
            path = layout.kept_path(entry.path, entry.sha256) if is_kept(root, entry) else entry.path
            with contextlib.suppress(CorruptError):
                members[entry.path.removesuffix("/zarr.json")] = read_json(
                    root / path, RESTORE, root=root, max_bytes=foreign.MAX_ARRAY_JSON_BYTES
                )
    return members


def is_kept(root: Path, entry: ObjectEntry) -> bool:
    """True for the metadata of an array that has grown since: it stays readable as `entry` says."""
    if not grows(entry.path.removesuffix("/zarr.json")):
        return False
    try:
        path = foreign.regular_file(root, layout.kept_path(entry.path, entry.sha256))
        data = foreign.read_capped(path, foreign.MAX_ARRAY_JSON_BYTES)
    except CorruptError:
        return False
    return data is not None and hashlib.sha256(data).hexdigest() == entry.sha256


def store_id(root: Path) -> str:
    """The random name that the store got when it was made; copies keep it."""
    body = read_signed_json(root / layout.ID, RESTORE, root=root)
    if body is None:
        raise MissingError(f"{layout.ID} is not in store {root}", hint=RESTORE)
    return foreign.text(body.get("store_id"), str(root / layout.ID), "store_id", 64)
