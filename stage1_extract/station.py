"""One process with a teacher: it is loaded once, and used for as many units as there are."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from stillhouse.core.config import parse_config
from stillhouse.core.errors import SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.storage.specs import spec_differences
from stillhouse.storage.store import Store

from .config import ExtractConfig, TeacherConfig
from .policies import ViewPolicyConfig
from .remaining import codecs_record
from .teachers import Teacher
from .tour import Tour
from .units import TeacherPass, Unit, is_done


def ready_pass(store: Store, config: TeacherConfig, run: ExtractConfig, pool: ThreadPoolExecutor) -> TeacherPass:
    """The teacher, loaded and found to be the one that the store's features are of, if it has any."""
    policy = parse_config(ViewPolicyConfig, store.spec.views, where=f"spec of {store.root}")
    teacher = Teacher(config, view_size=policy.size, device=run.device)
    store.add_teacher(teacher.spec)
    _require_same_args(store, config)
    return TeacherPass(store, teacher, policy, pool)


def _require_same_args(store: Store, config: TeacherConfig) -> None:
    """Arguments that change no weight may still change features (an activation, a pooling)."""
    record = codecs_record(store, config.name)
    stored = {} if record is None else record.facts["config"]["model_args"]
    differences = [] if record is None else list(spec_differences(stored, config.model_args, "model_args"))
    if differences:
        message = f"store {store.root} holds features of another {config.name!r}: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="give this teacher another name")


def write_units(work: TeacherPass, todo: Sequence[Unit], on_images: Callable[[int], None], reporter: Reporter) -> int:
    """Write units that others may be writing too; how many were written here.

    First what the fit of the codecs has begun, then wherever nobody else is at work.
    """
    name, num_written = work.teacher.spec.name, 0

    def done(unit: Unit) -> bool:
        return is_done(work.store, name, unit)

    begun = Tour([unit for unit in todo if unit in work.kept], done)
    others = Tour([unit for unit in todo if unit not in work.kept], done)

    def on_unit(unit: Unit, first: bool) -> None:
        nonlocal num_written
        if first:
            num_written += 1
            reporter.event("block", step="extract", teacher=name, block=unit.block, view=unit.view)
        else:
            others.jump()

    work.write(itertools.chain(begun, others), on_images, on_unit)
    return num_written
