"""The facts of a card: what a sealed store says of itself. The same for every copy of it: no paths, no clock, no host."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from stillhouse.core.errors import UsageError
from stillhouse.core.licences import licence_warnings
from stillhouse.storage import layout
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.remote.documents import units_of
from stillhouse.storage.seal import Seal, latest_seal
from stillhouse.storage.sharing.origin import Origin, read_origin
from stillhouse.storage.specs import TeacherSpec
from stillhouse.storage.store import Store


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """One column of features.

    Args:
        num_bytes: of its shards.
        bits: a dimension on disk, indexes of shards and checksums included; None: there are no features yet.
        nmse: squared error of the codec, as a share of the variance, on the views that it was fitted on; None: not measured.
    """

    name: str
    num_tokens: int
    dim: int
    codec: str
    num_bytes: int
    bits: float | None
    nmse: float | None


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    spec: TeacherSpec
    levels: tuple[LevelFacts, ...]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """All that a card tells.

    Args:
        source: the kind of the source, and its name where that is no path.
        licence: of the images, as whoever makes the card states it.
        num_bytes: by column.
        warnings: what whoever passes the store on has to know.
    """

    sealed: Seal
    source: str
    licence: str
    splits: dict[str, int]
    quarantined: dict[str, int]
    num_blocks: int
    views: dict[str, Any]
    teachers: tuple[TeacherFacts, ...]
    num_bytes: dict[str, int]
    origin: Origin | None
    warnings: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.sealed.objects)


def facts_of(store: Store, licence: str = "") -> CardFacts:
    """What a sealed store says of itself.

    Args:
        licence: of the images; a store does not know it.

    Raises:
        UsageError: it was never sealed.
    """
    sealed = latest_seal(store.root)
    if sealed is None:
        raise UsageError(f"store {store.name} was never sealed", hint="run `stillhouse extract`: it seals at the end")
    store = store.at(sealed.growths)
    bad: Counter[str] = Counter()
    for block in range(len(store.plan.blocks)):
        record = store.require(layout.images_unit(block), f"images of block {block}")
        bad.update(one["reason"] for one in record.facts["quarantined"])
    names = [unit.removeprefix("codecs/") for unit in units_of(sealed) if unit.startswith("codecs/")]
    specs = [store.teacher(name) for name in sorted(names)]
    warnings = [line for spec in specs for line in licence_warnings(spec.name, spec.licence)]
    if not licence.strip():
        warnings.insert(
            0, "no licence is stated for the images: find out what their source allows before you pass this on"
        )
    return CardFacts(
        sealed=sealed,
        source=_source(store.spec.ingest.get("source")),
        licence=licence.strip(),
        splits=store.plan.num_samples_of(),
        quarantined=dict(sorted(bad.items())),
        num_blocks=len(store.plan.blocks),
        views=dict(store.spec.views),
        teachers=tuple(_teacher(store, spec, sealed) for spec in specs),
        num_bytes=_by_column(sealed.objects),
        origin=read_origin(store.root),
        warnings=tuple(warnings),
    )


def _source(source: object) -> str:
    """What kind of source it was; paths say nothing to others and stay where they are."""
    if not isinstance(source, dict):
        return "unknown"
    named = [str(source[key]) for key in ("package", "name") if source.get(key)]
    return f"{source.get('kind', 'unknown')}{': ' if named else ''}{', '.join(named)}"


def _teacher(store: Store, spec: TeacherSpec, sealed: Seal) -> TeacherFacts:
    facts = store.require(layout.codecs_unit(spec.name), f"codecs of {spec.name}").facts
    errors = facts.get("nmse", {})
    units = [unit for unit in units_of(sealed) if unit.startswith(f"features/{spec.name}/")]
    rows = sum(store.require(unit, unit).facts.get("rows", 0) for unit in units)
    levels = []
    for name, shape in spec.levels.items():
        folder = f"{layout.features_array(spec.name, name)}/c/"
        num_bytes = sum(entry.num_bytes for entry in sealed.objects if entry.path.startswith(folder))
        nmse = errors.get(name) if isinstance(errors, dict) else None
        codec = facts["levels"][name]["codec"]
        bits = 8 * num_bytes / (rows * shape.num_tokens * shape.dim) if rows else None
        error = nmse if isinstance(nmse, float) else None
        levels.append(LevelFacts(name, shape.num_tokens, shape.dim, codec, num_bytes, bits, error))
    return TeacherFacts(spec, tuple(levels))


def _by_column(objects: tuple[ObjectEntry, ...]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for entry in objects:
        parts = entry.path.split("/")
        sizes["/".join(parts[:3]) if parts[0] == "features" and len(parts) > 3 else parts[0]] += entry.num_bytes
    return dict(sorted(sizes.items()))
