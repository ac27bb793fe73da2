"""The teacher pass on several worker processes, here or elsewhere, by Dask.

A task is a block. What is decided on disk is the truth: Dask may run a task twice, workers may die or come while others
work, and when the scheduler is gone the same command goes on with what is left.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any

import distributed
from distributed import Client, Future

from stillhouse.core.errors import ResourceError, StillhouseError, missing_package, one_line
from stillhouse.core.events import Reporter, Task
from stillhouse.core.scheduler import connected, gone, local_processes
from stillhouse.core.stops import stops_wait
from stillhouse.storage.room import require_room
from stillhouse.storage.store import Store

from . import worker
from .config import LOCAL, SLURM, ExtractConfig, TeacherConfig
from .devices import num_workers, threads_of
from .remaining import bytes_to_write, num_images, undecided
from .tour import Tour
from .units import Unit, is_done

SETTING = "extract.cluster"
EACH = 2
"""Tasks that every worker has: one to work on, and one to go on with."""
LOOK_EVERY_S = 1.0
"""Seconds between looks for workers that have come."""


def write_on_workers(
    store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter, *, only_noted: bool
) -> tuple[int, Task]:
    """Run the teacher over the units that are missing; (how many were written by us, how far and how long).

    Raises:
        ResourceError: no scheduler answers, or it went away, or workers died over the same block again and again.
    """
    here = num_workers(run)
    job = worker.Job(secrets.token_hex(8), store.root.resolve(), config, run, threads_of(here) if here else None)
    with connected(SETTING, run.cluster, _start(run)) as client:
        try:
            reporter.say(f"extract {config.name}: on {_told(client, run)}")
            begun = _result(_wait_for([client.submit(worker.begin, job, pure=False)])[0], run)
            _tell(begun, reporter)
            todo = undecided(store, config.name, only_noted=only_noted)
            needed = bytes_to_write(store, store.teacher(config.name), todo)
            require_room(store.root, needed, f"extract {config.name}")
            with reporter.task(f"extract {config.name}", num_images(store, todo)) as task:
                num_written = _write_blocks(client, job, todo, begun, task, reporter)
        finally:
            if here is None and client.status == "running":
                with stops_wait(), suppress(OSError, TimeoutError):
                    client.run(worker.forget, job.id)
    return num_written, task


def _write_blocks(
    client: Client, job: worker.Job, todo: Sequence[Unit], begun: worker.Done, task: Task, reporter: Reporter
) -> int:
    """Give out the blocks, a few to each worker that is there; how many units they wrote."""
    store = Store.open(job.root)
    views = {block: [unit.view for unit in units] for block, units in itertools.groupby(todo, lambda unit: unit.block)}

    def done(block: int) -> bool:
        return all(is_done(store, job.teacher.name, Unit(block, view)) for view in views[block])

    first = [block for block in begun.begun if block in views]
    others = [block for block in views if block not in first]
    blocks: Iterator[int] = itertools.chain(Tour(first, done), Tour(others, done))
    given: set[Future[Any]] = set()
    num_written = 0
    while True:
        if client.status != "running":
            raise gone(SETTING, job.run.cluster)
        room = EACH * max(1, len(client.nthreads())) - len(given)
        for block in itertools.islice(blocks, max(0, room)):
            where = {"workers": [begun.worker], "allow_other_workers": True} if block in first else {}
            given.add(client.submit(worker.write_block, job, block, views[block], pure=False, **where))
        if not given:
            return num_written
        for future in _wait_for(given):
            given.remove(future)
            found = _result(future, job.run)
            _tell(found, reporter)
            task.advance(found.num_images)
            num_written += found.num_units


def _wait_for(futures: Any) -> list[Future[Any]]:
    """Those that are over; none when nothing has happened for a while, unless there is only one."""
    while True:
        with suppress(TimeoutError, CancelledError):
            distributed.wait(futures, timeout=LOOK_EVERY_S, return_when="FIRST_COMPLETED")
        over = [future for future in futures if future.status != "pending"]
        if over or len(futures) > 1:
            return over


def _result(future: Future[Any], run: ExtractConfig) -> worker.Done:
    """What a task came to; its error as it was raised, where it is one that explains itself."""
    try:
        done: worker.Done = future.result()
        return done
    except StillhouseError as error:
        raise type(error)(error.message, hint=error.hint) from None
    except distributed.KilledWorker as error:
        message = f"workers died over the same block: {one_line(error)}"
        raise ResourceError(message, hint="see their logs; is memory short? run again to go on") from error
    except (CancelledError, OSError) as error:
        if future.status == "error":
            raise
        raise gone(SETTING, run.cluster) from error


def _tell(done: worker.Done, reporter: Reporter) -> None:
    for line in done.lines:
        reporter.say(line)
    for facts in done.events:
        reporter.event(**facts)


def _told(client: Client, run: ExtractConfig) -> str:
    if run.cluster == LOCAL:
        return f"{num_workers(run)} worker processes"
    there = len(client.nthreads())
    return f"{run.cluster}, {there} workers there" if there else f"{run.cluster}, waiting for a worker"


def _start(run: ExtractConfig) -> Callable[[], Any] | None:
    """What starts the cluster that is asked for; None: it runs already."""
    if run.cluster == LOCAL:
        return partial(local_processes, num_workers(run) or 1)
    return partial(_slurm, run) if run.cluster == SLURM else None


def _slurm(run: ExtractConfig) -> Any:
    """A scheduler here, and jobs of one worker each."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise missing_package("dask_jobqueue") from error
    asked = run.slurm
    cluster = SLURMCluster(
        cores=asked.cores,
        processes=1,
        memory=asked.memory,
        walltime=asked.walltime,
        queue=asked.queue,
        account=asked.account,
        job_extra_directives=list(asked.directives),
        job_script_prologue=list(asked.prologue),
        scheduler_options={"dashboard": False},
        **asked.options,
    )
    cluster.scale(jobs=1 if run.workers == "auto" else run.workers)
    return cluster
