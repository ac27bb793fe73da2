"""What a worker process of the teacher pass does: hold a teacher, and write the blocks that it is told of.

A task may be run twice, or run after another one has done its work: it looks first at what is decided.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from distributed import get_worker

from stillhouse.core.errors import Preempted
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage.store import Store

from .config import ExtractConfig, TeacherConfig
from .devices import device_of
from .fitting import fit_codecs
from .station import ready_pass, write_units
from .units import TeacherPass, Unit


@dataclass(frozen=True, slots=True)
class Job:
    """One run of `extract` for one teacher.

    Args:
        id: of this run; a worker that outlives it forgets the teacher.
        torch_threads: of each worker; None: as many as Dask has given it.
    """

    id: str
    root: Path
    teacher: TeacherConfig
    run: ExtractConfig
    torch_threads: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """What a task has to tell: lines for a person, events for the log, and how much was done."""

    lines: tuple[str, ...]
    events: tuple[dict[str, Any], ...]
    num_units: int = 0
    num_images: int = 0
    begun: tuple[int, ...] = ()
    """Blocks that this worker knows the beginning of."""
    worker: str = ""


class _Notes(Reporter):
    """Keeps what there is to tell until the task is over."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def event(self, kind: str, **facts: Any) -> None:
        self.events.append({"kind": kind, **facts})


@dataclass(slots=True)
class _Held:
    """The teacher of a run, and what it was loaded with. One task at a time has it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    open: ExitStack = field(default_factory=ExitStack)
    work: TeacherPass | None = None
    stopped: bool = False


_held: dict[str, _Held] = {}
_lock = threading.Lock()


def begin(job: Job) -> Done:
    """Load the teacher and fit its codecs, unless they are there."""
    notes, held = _Notes(), _hold(job)
    with held.lock:
        work = _work(job, held)
        for remark in work.teacher.encoder.remarks:
            notes.say(f"teacher {job.teacher.name}: {remark}")
        fit_codecs(work, notes)
        begun = tuple(sorted(unit.block for unit in work.kept))
    return Done(tuple(notes.lines), tuple(notes.events), begun=begun, worker=get_worker().address)


def write_block(job: Job, block: int, views: Sequence[int]) -> Done:
    """Write the views of a block that are still undecided."""
    notes, held, num_images = _Notes(), _hold(job), 0

    def on_images(num: int) -> None:
        nonlocal num_images
        num_images += num
        if held.stopped:
            raise Preempted("this run of extract was stopped", hint="run it again to go on")

    with held.lock:
        num_units = write_units(_work(job, held), [Unit(block, view) for view in views], on_images, notes)
    return Done(tuple(notes.lines), tuple(notes.events), num_units, num_images)


def forget(job_id: str) -> None:
    """Let go of the teacher of a run that is over; whatever is still written for it is abandoned."""
    with _lock:
        held = _held.pop(job_id, None)
    if held is not None:
        held.stopped = True
        threading.Thread(target=_close, args=(held,), name="forget").start()  # a task may have it for a while


def _close(held: _Held) -> None:
    with held.lock:
        held.work = None
        held.open.close()


def _hold(job: Job) -> _Held:
    with _lock:
        return _held.setdefault(job.id, _Held())


def _work(job: Job, held: _Held) -> TeacherPass:
    """The teacher of a run, loaded at its first use in this process."""
    if held.work is None:
        worker, run = get_worker(), job.run
        torch.set_num_threads(job.torch_threads or worker.state.nthreads)
        if isinstance(worker.name, int):
            run = run.model_copy(update={"device": device_of(run.device, worker.name)})
        pool = held.open.enter_context(worker_threads(run.threads, "render"))
        held.work = ready_pass(Store.open(job.root), job.teacher, run, pool)
    return held.work
