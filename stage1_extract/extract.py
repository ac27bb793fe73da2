"""`extract`: the one pass of the teacher over the views of a store. The only step that needs the teacher.

For every block and view that is not decided yet: replay or draw the view's parameters, render its pixels, run the
teacher, encode its tokens, commit. Whatever is decided is never done again.
"""

from dataclasses import dataclass

from stillhouse.core.events import Reporter, Task
from stillhouse.core.stops import worker_threads
from stillhouse.storage.extent import extend
from stillhouse.storage.room import require_room, require_writable
from stillhouse.storage.seal import Seal, seal
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

from .config import ExtractConfig, TeacherConfig
from .devices import num_workers
from .fitting import fit_codecs, identity
from .remaining import bytes_to_write, codecs_record, num_images, undecided
from .station import ready_pass, write_units


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
    if config.name in store.dropped:
        store.teacher(config.name)  # which says what helps
    extend(store)
    num_units = len(store.plan.blocks_of(TRAIN)) * store.spec.num_views
    record = codecs_record(store, config.name)
    same = record is not None and record.facts["config"] == identity(config) and store.has_teacher(config.name)
    if same and not undecided(store, config.name):
        return ExtractResult(0, num_units, 0, 0.0, seal(store))
    num_written, task = write_features(store, config, run, reporter)
    return ExtractResult(num_written, num_units - num_written, task.done, task.seconds, seal(store))


def write_features(
    store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter, *, only_noted: bool = False
) -> tuple[int, Task]:
    """Run the teacher over the units that are missing; (how many were written by us, how far and how long).

    One worker on this machine is this very process; more than one, or some elsewhere, are Dask's.

    Args:
        only_noted: just over those that are noted to be made anew.
    """
    require_writable(store.root)
    if num_workers(run) != 1:
        from .cluster import write_on_workers  # only then is Dask worth its second of imports

        return write_on_workers(store, config, run, reporter, only_noted=only_noted)
    with worker_threads(run.threads, "render") as pool:
        work = ready_pass(store, config, run, pool)
        for remark in work.teacher.encoder.remarks:
            reporter.say(f"teacher {config.name}: {remark}")
        fit_codecs(work, reporter)
        todo = undecided(store, config.name, only_noted=only_noted)
        work.kept = {unit: seen for unit, seen in work.kept.items() if unit in todo}
        require_room(store.root, bytes_to_write(store, work.teacher.spec, todo), f"extract {config.name}")
        with reporter.task(f"extract {config.name}", num_images(store, todo)) as task:
            num_written = write_units(work, todo, task.advance, reporter)
    return num_written, task
