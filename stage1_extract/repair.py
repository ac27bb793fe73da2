"""`repair`: make some units of a store again, and no others.

What is damaged is noted, and then the ordinary steps make just what is noted. Readers keep the old record of a unit until
the new one takes its place, so a repair may be killed at any point, and run twice at once: whoever comes next goes on.
"""

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, DataError, MissingError, ResourceError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.commit import publish_decided
from stillhouse.storage.decode import decode
from stillhouse.storage.extent import commit_layout
from stillhouse.storage.records import record_sha256
from stillhouse.storage.redo import drop_redo, noted_redo
from stillhouse.storage.seal import Seal, latest_seal, seal
from stillhouse.storage.specs import StoreSpec
from stillhouse.storage.store import Store
from stillhouse.storage.verify import (
    RESEAL,
    Problem,
    check_unit,
    contents,
    forget,
    noted_units,
    planned_units,
    read_records,
    verify,
)
from stillhouse.storage.views import render, view_hash
from stillhouse.storage.writer import commit_codecs, commit_view

from .config import ExtractConfig, IngestConfig, TeacherConfig
from .extract import write_features
from .grow import require_spec
from .ingest import ingest
from .policies import ViewPolicyConfig
from .units import drawn


@dataclass(frozen=True, slots=True)
class Plant:
    """What a store was made with, and so can be made again with."""

    root: Path
    ingest: IngestConfig
    views: ViewPolicyConfig
    teachers: Sequence[TeacherConfig]
    run: ExtractConfig


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did.

    Args:
        asked: the units that were damaged, or named.
        redone: those that were made again: `asked`, and what was made from any that came out otherwise.
        changed: those of them that have other bytes now.
        left: what making a unit again does not mend.
        seal: the seal after it; None if the store was never sealed.
    """

    asked: tuple[str, ...]
    redone: tuple[str, ...]
    changed: tuple[str, ...]
    left: tuple[Problem, ...]
    seal: Seal | None


def repair(plant: Plant, names: Sequence[str], reporter: Reporter) -> Repair:
    """Make units again; without names, those that `verify` finds damaged.

    Raises:
        UsageError: a name that no unit of this store has, or a teacher that is not in the config.
        SpecMismatchError: the store was made from another config.
        MissingError: images are damaged and cannot be read from their source again.
    """
    root = plant.root
    store = Store.open(root)
    spec = StoreSpec(ingest=plant.ingest.spec(), views=plant.views.model_dump(mode="json"))
    require_spec(store, spec)
    sealed = latest_seal(root)
    planned = planned_units(store)
    _publish_staged(store)
    _drop_mended(store)
    problems = () if names else _verified(store, reporter)
    asked = _named(planned, names) if names else _damaged(planned, problems)
    _require_teachers(plant, [*asked, *noted_units(root)])
    before = {unit: (record_sha256(root, unit), contents(store, unit)) for unit in planned}
    for unit, why in asked.items():
        reporter.say(f"repair {unit}: {why}")
        forget(store, unit, why, damaged=not names)
    _make_noted(plant, reporter)
    redone = [unit for unit, (sha256, _) in before.items() if record_sha256(root, unit) != sha256]
    changed = [unit for unit in redone if contents(store, unit) != before[unit][1]]
    for unit in redone:
        for problem in check_unit(store, unit):
            hint = "is the disk sound? then run the same command again"
            raise CorruptError(f"{problem.path} of unit {unit} is damaged again: {problem.found}", hint=hint)
    resealed = seal(Store.open(root)) if sealed else None
    left = [p for p in problems if p.redone_by is None and not (resealed and p.remedy == RESEAL)]
    return Repair(tuple(asked), tuple(redone), tuple(changed), tuple(left), resealed)


def _publish_staged(store: Store) -> None:
    """What was decided and staged when its writer was killed is not damaged: it only lacks its last step."""
    for record in read_records(store.root)[0]:
        if (store.root / layout.STAGE / record.attempt).is_dir():
            with contextlib.suppress(MissingError):  # not all of it is there: damaged after all
                publish_decided(store.root, record.unit)


def _drop_mended(store: Store) -> None:
    """What was damaged, noted, and then put back from a copy, needs nothing."""
    for unit in noted_units(store.root):
        redo = noted_redo(store.root, unit)
        if redo is not None and redo.damaged and all(p.path == layout.redo_path(unit) for p in check_unit(store, unit)):
            drop_redo(store.root, unit)


def _verified(store: Store, reporter: Reporter) -> tuple[Problem, ...]:
    total = sum(entry.num_bytes for record in read_records(store.root)[0] for entry in record.objects)
    with reporter.task("verify", total, "byte") as task:
        return verify(store, task.advance).problems


def _damaged(planned: Sequence[str], problems: Sequence[Problem]) -> dict[str, str]:
    """What is wrong with each damaged unit, in the order of `planned`."""
    found: dict[str, str] = {}
    for problem in problems:
        if problem.redone_by is not None:
            found.setdefault(problem.redone_by, f"{problem.path}: {problem.found}")
    return {unit: found[unit] for unit in planned if unit in found}


def _named(planned: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The units of these names; the path of an object stands for its unit."""
    units = [layout.unit_of(name) or name for name in names]
    for unit in units:
        if unit not in planned:
            near = difflib.get_close_matches(unit, planned, 1)
            raise UsageError(f"no unit {unit!r} in this store", hint=f"did you mean {near[0]}?" if near else "")
    return {unit: "it was asked for" for unit in planned if unit in units}


def _require_teachers(plant: Plant, units: Sequence[str]) -> None:
    known = {teacher.name for teacher in plant.teachers}
    for unit in units:
        kind, _, rest = unit.partition("/")
        name = rest.partition("/")[0]
        if kind in ("codecs", "features") and name not in known:
            message = (
                f"{unit} of store {plant.root} needs teacher {name!r}, and the config has {', '.join(sorted(known))}"
            )
            raise UsageError(message, hint="add it to `teachers`")


def _make_noted(plant: Plant, reporter: Reporter) -> None:
    """The ordinary steps over what is noted, each on a store that was opened after the one before."""
    root = plant.root
    commit_layout(Store.open(root))
    noted = [unit for unit in noted_units(root) if unit.startswith("images/")]
    if noted:
        try:
            ingest(root, plant.ingest, plant.views, reporter, only_noted=True)
        except (DataError, ResourceError, SpecMismatchError) as error:
            paths = " and ".join(path for path in _paths(noted[0]))
            hint = (
                f"bring the source back, or put {paths} back from a copy of the store, then run the same command again"
            )
            more = f" and {len(noted) - 1} more" if len(noted) > 1 else ""
            raise MissingError(
                f"{noted[0]}{more} of store {root} cannot be made again: {error.message}", hint=hint
            ) from error
    _make_views(plant, reporter)
    for teacher in plant.teachers:
        _keep_codecs(root, teacher.name)
        parts = (f"codecs/{teacher.name}", f"features/{teacher.name}/")
        if any(unit == parts[0] or unit.startswith(parts[1]) for unit in noted_units(root)):
            write_features(Store.open(root), teacher, plant.run, reporter, only_noted=True)


def _paths(unit: str) -> tuple[str, str]:
    block = int(unit.partition("/")[2])
    return layout.images_path(block), layout.index_path(block)


def _make_views(plant: Plant, reporter: Reporter) -> None:
    """Views need the images alone, no teacher."""
    store = Store.open(plant.root)
    noted = [unit.split("/")[1:] for unit in noted_units(plant.root) if unit.startswith("views/")]
    places = [(int(view), int(block)) for view, block in noted]
    total = sum(len(store.good_rows(block)) for _, block in places)
    if not places:
        return
    with worker_threads(plant.run.threads, "render") as pool, reporter.task("views", total) as task:
        for view, block in places:
            params, rows = drawn(store, plant.views, block, view), store.good_rows(block)

            def one(row: int, params: npt.NDArray[np.int32] = params, block: int = block) -> int:
                pixels = render(decode(store.image_bytes(block, row)), params[row], plant.views.size)
                return view_hash(pixels)

            hashes = np.full(len(params), layout.MISSING_HASH, np.uint64)
            for row, found in zip(rows, pool.map(one, rows.tolist()), strict=True):
                hashes[row] = found
                task.advance(1)
            commit_view(store, view, block, params, hashes)


def _keep_codecs(root: Path, teacher: str) -> None:
    """Where only the metadata of a teacher's codecs is damaged, their arrays stay: what they encoded is still right."""
    store, unit = Store.open(root), layout.codecs_unit(teacher)
    if noted_redo(root, unit) is None:
        return
    try:
        spec, facts = store.teacher(teacher), store.require(unit, f"codec of teacher {teacher}").facts
        codecs = {level: store.codec(teacher, level) for level in spec.levels}
        statistics = {
            level: dict(zip(("mean", "std"), store.statistics(teacher, level), strict=True)) for level in spec.levels
        }
    except CorruptError:
        return  # they are fitted anew, with the teacher
    commit_codecs(store, spec, codecs, statistics, {name: fact for name, fact in facts.items() if name != "levels"})
