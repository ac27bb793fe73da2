"""`extract`: the one pass of the teacher over the views of a store. The only step that needs the teacher.

For every block and view that is not decided yet: replay or draw the view's parameters, render its pixels, run the
teacher, encode its tokens, commit. Whatever is decided is never done again.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from stillhouse.core.config import parse_config
from stillhouse.core.errors import SpecMismatchError
from stillhouse.core.events import Reporter, Task
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.codecs import CodeType, stored_type
from stillhouse.storage.extent import extend
from stillhouse.storage.records import Record
from stillhouse.storage.redo import noted_redo
from stillhouse.storage.room import require_room, require_writable
from stillhouse.storage.seal import Seal, seal
from stillhouse.storage.specs import TRAIN, TeacherSpec, spec_differences
from stillhouse.storage.store import Store

from .config import ExtractConfig, TeacherConfig
from .fitting import fit_codecs, identity
from .policies import ViewPolicyConfig
from .teachers import Teacher
from .tour import Tour
from .units import TeacherPass, Unit, is_done


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """What `extract` did for one teacher."""

    num_units_written: int
    num_units_found: int
    num_images: int
    seconds: float
    seal: Seal


def extract(store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter) -> ExtractResult:
    """Write every missing unit of one teacher, then seal the store.

    Raises:
        SpecMismatchError: the store holds another teacher, or another setting of it, under that name.
        CorruptError: a view renders to other pixels than were recorded: another Pillow or damaged images.
    """
    extend(store)
    num_units = len(store.plan.blocks_of(TRAIN)) * store.spec.num_views
    record = _codecs_record(store, config.name)
    same = record is not None and record.facts["config"] == identity(config) and store.has_teacher(config.name)
    if same and not undecided(store, config.name):
        return ExtractResult(0, num_units, 0, 0.0, seal(store))
    num_written, task = write_features(store, config, run, reporter)
    return ExtractResult(num_written, num_units - num_written, task.done, task.seconds, seal(store))


def undecided(store: Store, teacher: str, *, only_noted: bool = False) -> list[Unit]:
    """The units of a teacher that are still to do, publishing any that a crash left half-way.

    Args:
        only_noted: just those that are noted to be made anew.
    """
    units = [Unit(block, view) for block in store.plan.blocks_of(TRAIN) for view in range(store.spec.num_views)]
    if store.done(layout.codecs_unit(teacher)):
        units = [unit for unit in units if not is_done(store, teacher, unit)]
    if only_noted:
        named = {unit: layout.features_unit(teacher, unit.view, unit.block) for unit in units}
        units = [unit for unit in units if noted_redo(store.root, named[unit])]
    return units


def write_features(
    store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter, *, only_noted: bool = False
) -> tuple[int, Task]:
    """Run the teacher over the units that are missing; (how many were written here, how far and how long).

    Args:
        only_noted: just over those that are noted to be made anew.
    """
    require_writable(store.root)
    with worker_threads(run.threads, "render") as pool:
        work = ready_pass(store, config, run, pool)
        for remark in work.teacher.encoder.remarks:
            reporter.say(f"teacher {config.name}: {remark}")
        fit_codecs(work, reporter)
        todo = undecided(store, config.name, only_noted=only_noted)
        require_room(store.root, bytes_to_write(store, work.teacher.spec, todo), f"extract {config.name}")
        with reporter.task(f"extract {config.name}", num_images(store, todo)) as task:
            num_written = write_units(work, todo, task.advance, reporter)
    return num_written, task


def ready_pass(store: Store, config: TeacherConfig, run: ExtractConfig, pool: ThreadPoolExecutor) -> TeacherPass:
    """The teacher, loaded and found to be the one that the store's features are of, if it has any."""
    policy = parse_config(ViewPolicyConfig, store.spec.views, where=f"spec of {store.root}")
    teacher = Teacher(config, view_size=policy.size, device=run.device)
    store.add_teacher(teacher.spec)
    _require_same_args(store, config)
    return TeacherPass(store, teacher, policy, pool)


def write_units(work: TeacherPass, todo: Sequence[Unit], on_images: Callable[[int], None], reporter: Reporter) -> int:
    """Write units that others may be writing too; how many were written here.

    First what the fit of the codecs has begun, then wherever nobody else is at work.
    """
    name, num_written = work.teacher.spec.name, 0

    def done(unit: Unit) -> bool:
        return is_done(work.store, name, unit)

    begun = [unit for unit in todo if unit in work.kept]
    tour = Tour([unit for unit in todo if unit not in work.kept], done)

    def on_unit(unit: Unit, first: bool) -> None:
        nonlocal num_written
        if first:
            num_written += 1
            reporter.event("block", step="extract", teacher=name, block=unit.block, view=unit.view)
        else:
            tour.jump()

    work.write(itertools.chain((unit for unit in begun if not done(unit)), tour), on_images, on_unit)
    return num_written


def num_images(store: Store, units: Sequence[Unit]) -> int:
    """Views that units have, those of samples in quarantine left out."""
    return sum(len(store.good_rows(unit.block)) for unit in units)


def bytes_to_write(store: Store, spec: TeacherSpec, units: Sequence[Unit]) -> int:
    """What the shards of units will take, uncompressed."""

    def row_bytes(level: str, code_type: CodeType) -> int:
        return spec.levels[level].num_tokens * code_type.width * np.dtype(code_type.dtype).itemsize

    row = sum(row_bytes(level, stored_type(store.codec(spec.name, level))) for level in spec.levels)
    return num_images(store, units) * row


def _codecs_record(store: Store, teacher: str) -> Record | None:
    """The decision about a teacher's codecs; None if they are to be made anew."""
    unit = layout.codecs_unit(teacher)
    return None if noted_redo(store.root, unit) else store.record(unit)


def _require_same_args(store: Store, config: TeacherConfig) -> None:
    """Arguments that change no weight may still change features (an activation, a pooling)."""
    record = _codecs_record(store, config.name)
    stored = {} if record is None else record.facts["config"]["model_args"]
    differences = [] if record is None else list(spec_differences(stored, config.model_args, "model_args"))
    if differences:
        message = f"store {store.root} holds features of another {config.name!r}: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="give this teacher another name")
