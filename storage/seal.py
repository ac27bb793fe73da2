"""Sealing: one digest over the content of a store, from its decision records."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import MissingError

from . import layout
from .commit import ObjectEntry, Record, canonical_json, create_once, read_json, read_record, replace_file
from .store import Store


@dataclass(frozen=True, slots=True)
class Seal:
    """A numbered statement: these objects are the store."""

    generation: int
    content_sha256: str
    num_objects: int
    num_bytes: int


def records(root: Path) -> list[Record]:
    """Every decision record of a store, by unit name."""
    base = root / layout.LOG / "units"
    units = []
    for folder, _, names in os.walk(base):
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                units.append((Path(folder) / name).relative_to(base).with_suffix("").as_posix())
    found = [read_record(root, unit) for unit in sorted(units)]
    return [record for record in found if record is not None]


def content_digest(objects: list[ObjectEntry]) -> str:
    """sha256 over 'path bytes sha256' lines in path order; attempts and times do not enter."""
    lines = sorted(f"{entry.path} {entry.num_bytes} {entry.sha256}\n" for entry in objects)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def latest_seal(root: Path) -> Seal | None:
    """The newest seal, or None for a store that was never sealed."""
    folder = root / layout.SEALS
    names = sorted(path.name for path in folder.glob("[0-9]*.json")) if folder.is_dir() else []
    body = read_json(folder / names[-1]) if names else None
    if body is None:
        return None
    objects = body["objects"]
    return Seal(body["generation"], body["content_sha256"], len(objects), sum(size for _, size, _ in objects))


def seal(store: Store) -> Seal:
    """Seal what is decided now. Sealing the same content again changes nothing."""
    found = records(store.root)
    objects = sorted((entry for record in found for entry in record.objects), key=lambda entry: entry.path)
    digest = content_digest(objects)
    last = latest_seal(store.root)
    if last is None or last.content_sha256 != digest:
        generation = 1 if last is None else last.generation + 1
        body: dict[str, Any] = {
            "generation": generation,
            "format_version": layout.FORMAT_VERSION,
            "spec_sha256": store.spec.sha256(),
            "content_sha256": digest,
            "objects": [[entry.path, entry.num_bytes, entry.sha256] for entry in objects],
        }
        create_once(store.root / layout.SEALS / f"{generation:04d}.json", canonical_json(body))
    sealed = latest_seal(store.root)
    assert sealed is not None
    root_path = store.root / "zarr.json"
    facts = {
        "store_id": store_id(store.root),
        "format_version": layout.FORMAT_VERSION,
        "spec_sha256": store.spec.sha256(),
        "seal": {"generation": sealed.generation, "content_sha256": sealed.content_sha256},
        "teachers": [teacher.name for teacher in store.teachers()],
        "samples": store.plan.num_samples,
    }
    root_metadata = canonical_json(layout.group_metadata({"stillhouse": facts}))
    if root_path.read_bytes() != root_metadata:
        replace_file(root_path, root_metadata)
    return sealed


def store_id(root: Path) -> str:
    """The random name that the store got when it was made; copies keep it."""
    metadata = read_json(root / "zarr.json")
    if metadata is None:
        raise MissingError(f"{root}/zarr.json is not there", hint="run `stillhouse verify` on the store")
    return str(metadata["attributes"]["stillhouse"]["store_id"])
