"""What a reader sees of a store that processes were killed in, and what of it is lost or wrong."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from stillhouse.core.errors import StillhouseError, UsageError
from stillhouse.storage import layout
from stillhouse.storage.collect import collect
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import latest_seal, records
from stillhouse.storage.signed_json import read_json, read_signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.verify import SEAL, UNPUBLISHED, verify


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a store that nobody disturbed."""

    digest: str
    objects: dict[str, ObjectEntry]
    unit_of: dict[str, str]
    """By the path of an object."""


def content(root: Path) -> Content:
    """The content of a whole, sealed store."""
    result, sealed = verify(Store.open(root)), latest_seal(root)
    assert not result.problems and sealed is not None and sealed.content_sha256 == result.content_sha256
    named = [(entry, record.unit) for record in records(root) for entry in record.objects]
    objects, unit_of = {entry.path: entry for entry, _ in named}, {entry.path: unit for entry, unit in named}
    return Content(result.content_sha256, objects, unit_of)


def attempts(root: Path) -> dict[str, str]:
    """Which attempt made each unit that is decided."""
    return {record.unit: record.attempt for record in records(root)}


def wrong_in_files(root: Path, expected: Content, damage: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Files at final names that are not, byte for byte, what belongs there.

    Args:
        damage: the sha256 of objects that were damaged on purpose and may still be.
    """
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.name.startswith(".") or name.startswith(f"{layout.STAGE}/"):
            continue
        try:
            if name == "zarr.json":
                read_json(path)
            elif name.startswith(f"{layout.LOG}/"):
                read_signed_json(path, "")
            elif name not in expected.objects:
                yield f"{name} is a name that nothing should have"
            elif sha256_of(path) not in (expected.objects[name].sha256, damage.get(name)):
                yield f"{name} holds other bytes"
        except StillhouseError as error:
            yield error.message


def names_below(root: Path) -> list[str]:
    """Every file, by its path in the store."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wrong_for_reader(
    root: Path,
    expected: Content,
    done: Sequence[str],
    acknowledged: Mapping[str, str],
    mending: frozenset[str] = frozenset(),
) -> Iterator[str]:
    """What a reader who opens the store now would find lost or wrong.

    Args:
        done: what the killed process was told is done.
        acknowledged: the attempt of every unit whose commit returned, in this run or before.
        mending: units that were damaged on purpose; until they are acknowledged again nothing is said of them.
    """
    try:
        store = Store.open(root)
    except UsageError:
        if done or acknowledged:
            yield f"no store, although it was told: {done[-1:] or list(acknowledged)[-1:]}"
        return
    decided = attempts(root)
    for unit, attempt in acknowledged.items():
        if decided.get(unit) != attempt:
            yield f"{unit} was acknowledged as {attempt}, the record says {decided.get(unit)}"
    for record in records(root):
        for entry in record.objects:
            if expected.objects.get(entry.path) != entry:
                yield f"the record of {record.unit} names {entry}"
    half_way = set()
    for problem in verify(store).problems:
        if problem.unit == SEAL:  # the card is derived: written last, and again by the next that seals
            if ("seal" in done) or (problem.path != "zarr.json" and expected.unit_of.get(problem.path) not in mending):
                yield f"verify: {problem}"
        elif problem.unit in acknowledged or (problem.found != UNPUBLISHED and problem.unit not in mending):
            yield f"verify: {problem}"
        elif problem.unit not in mending:
            half_way.add(problem.unit)
    if len(half_way) > 1:
        yield f"more than one unit is decided and not published: {sorted(half_way)}"


def unfinished(root: Path) -> list[str]:
    """What the dead have left: staged attempts and temporary files."""
    staged = (root / layout.STAGE).iterdir() if (root / layout.STAGE).is_dir() else ()
    hidden = (path for path in root.rglob(".*") if path.is_file() and path.name != ".lock")
    return sorted(path.relative_to(root).as_posix() for path in {*staged, *hidden})


def collected(root: Path) -> Iterator[str]:
    """Collect the garbage whatever its age; what is wrong with that. What is decided must be there after it."""
    try:
        store = Store.open(root)
    except UsageError:  # the store was not begun
        return
    decided = attempts(root)
    if "layout" not in decided:  # not begun either; to collect is refused
        return
    collect(store, older_than_s=0.0)
    for unit in decided:
        store.done(unit)  # publishes what is decided and staged: raises when that is gone
    if attempts(root) != decided:
        yield "collecting changed a decision"
