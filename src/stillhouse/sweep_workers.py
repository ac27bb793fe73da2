"""The students of a sweep on several processes of this machine, or on the workers of a Dask cluster.

What is on disk is the truth: a worker may die and a student may be begun twice, it goes on from its checkpoint.
"""

import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import distributed
import torch
from distributed import Client, Future

from stillhouse.core.errors import ResourceError, StillhouseError, one_line
from stillhouse.core.events import Reporter
from stillhouse.core.scheduler import connected, gone, local_processes
from stillhouse.core.stops import stops_wait
from stillhouse.stage2_distill.sweep.config import LOCAL, SweepConfig
from stillhouse.storage.places.base import is_url

from .pipeline_config import StudentsConfig, config_from
from .sweep_trials import Bench, Group, Job, Outcome, sweep_of

SETTING = "sweep.cluster"
LOOK_EVERY_S = 1.0
"""Seconds between looks for workers that have come."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """What a worker must know beside its group.

    Args:
        id: names one run of the verb; what a worker read for another one may be of yesterday.
        pipeline: as JSON, with absolute paths: a worker may stand in another folder.
        threads: for torch, in each of several processes of one machine; None: as the worker was started.
    """

    id: str
    pipeline: str
    threads: int | None


def on_workers(
    groups: Iterator[Group], pipeline: StudentsConfig, reporter: Reporter
) -> Iterator[tuple[Group, list[Outcome]]]:
    """What comes of each group, in the order in which they end. A group is taken when a worker is free to do it.

    Raises:
        ResourceError: no scheduler answers, or it went away, or workers died over the same student again and again.
    """
    asked = sweep_of(pipeline)
    threads = max(1, torch.get_num_threads() // asked.workers) if asked.cluster == LOCAL else None
    sitting = Sitting(secrets.token_hex(8), _absolute(pipeline).model_dump_json(), threads)
    start = partial(local_processes, asked.workers) if asked.cluster == LOCAL else None
    with connected(SETTING, asked.cluster, start) as client:
        reporter.say(f"sweep: on {_told(client, asked)}")
        try:
            yield from _given_out(groups, sitting, asked, client)
        finally:
            if asked.cluster != LOCAL and client.status == "running":
                with stops_wait(), suppress(OSError, TimeoutError):
                    client.run(_bench.cache_clear)


def _given_out(
    groups: Iterator[Group], sitting: Sitting, asked: SweepConfig, client: Client
) -> Iterator[tuple[Group, list[Outcome]]]:
    given: dict[Future[list[Outcome]], Group] = {}
    left = True
    while left or given:
        while left and len(given) < max(1, len(client.nthreads())):
            group = next(groups, None)
            left = group is not None
            if group is None:
                break
            if group.settled:
                yield group, list(group.settled)
            else:
                given[client.submit(run_group, sitting, _at_absolute(group), pure=False)] = group
        with suppress(TimeoutError, CancelledError):
            distributed.wait(list(given), timeout=LOOK_EVERY_S, return_when="FIRST_COMPLETED")
        for future in [future for future in given if future.status != "pending"]:
            if client.status != "running":
                break
            group = given.pop(future)
            folders = {str(job.folder.resolve()): str(job.folder) for job in group.jobs}
            yield group, [replace(one, folder=folders[one.folder]) for one in _result(future, asked.cluster)]
        if client.status != "running":
            raise gone(SETTING, asked.cluster)


_one_at_a_time = threading.Lock()
"""A worker of several threads trains one student like any other."""


def run_group(sitting: Sitting, group: Group) -> list[Outcome]:
    """What comes of a group, in a worker."""
    with _one_at_a_time:
        device = None
        if sitting.threads is not None:
            torch.set_num_threads(sitting.threads)
            device = device_of(distributed.get_worker().name, torch.cuda.device_count())
        if device is not None:
            group = replace(group, jobs=tuple(replace(job, config=_on(job.config, device)) for job in group.jobs))
        return _bench(sitting, device).run(group)


@lru_cache(maxsize=1)
def _bench(sitting: Sitting, device: str | None) -> Bench:
    """One a worker: the images that students are judged on are rendered once."""
    pipeline = config_from(json.loads(sitting.pipeline))
    if device is not None:
        pipeline = pipeline.model_copy(update={"eval": _on(pipeline.eval, device)})
    return Bench(pipeline, Reporter(quiet=True))


def device_of(worker: object, num_gpus: int) -> str | None:
    """The GPU of a worker of this machine, by its number; None: there is nothing to choose from."""
    return f"cuda:{int(str(worker)) % num_gpus}" if num_gpus > 1 else None


def _on(config: Any, device: str) -> Any:
    """A section with the device, unless it names one."""
    return config.model_copy(update={"device": device}) if config.device in ("auto", "cuda") else config


def _absolute(pipeline: StudentsConfig) -> StudentsConfig:
    judging = pipeline.eval.model_copy(update={"store": pipeline.eval.store and _resolved(pipeline.eval.store)})
    paths = {"out": _resolved(pipeline.out), "store": _resolved(pipeline.store_place)}
    return pipeline.model_copy(update={**paths, "eval": judging})


def _resolved(where: str) -> str:
    return where if is_url(where) else str(Path(where).resolve())


def _at_absolute(group: Group) -> Group:
    def at(job: Job) -> Job:
        return replace(job, folder=job.folder.resolve())

    return replace(group, jobs=tuple(map(at, group.jobs)))


def _result(future: Future[list[Outcome]], cluster: str) -> list[Outcome]:
    """What a task came to; its error as it was raised, where it is one that explains itself."""
    if future.status == "error":
        error = future.exception()
        if isinstance(error, StillhouseError):
            raise type(error)(error.message, hint=error.hint) from None
        if isinstance(error, distributed.KilledWorker):
            message = f"workers died over the same student: {one_line(error)}"
            raise ResourceError(message, hint="see their logs; is memory short? run again to go on") from error
    elif future.status != "finished":
        raise gone(SETTING, cluster)
    try:
        found: list[Outcome] = future.result()
    except (CancelledError, OSError) as error:
        if future.status == "error":
            raise
        raise gone(SETTING, cluster) from error
    return found


def _told(client: Client, asked: SweepConfig) -> str:
    if asked.cluster == LOCAL:
        return f"{asked.workers} worker processes"
    there = len(client.nthreads())
    return f"{asked.cluster}, {there} workers there" if there else f"{asked.cluster}, waiting for a worker"
