"""Worker processes by Dask: started here for a while, or those of a scheduler that runs already."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import distributed
from distributed import Client

from .errors import ResourceError, one_line
from .stops import stops_wait

CONNECT_S = 30.0
"""Seconds that a scheduler may take to answer."""
SETTINGS = {
    # What Dask keeps for a dashboard took a twentieth of two cores: it looks at itself 50 times a second, at threads 100 times.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.large-graph-warning-threshold": "1GB",
    # Of the environment that Dask starts workers with: its own has a network's memory handed back at every batch.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**31 - 1,
    # Tasks run in a thread, and a thread's own heap has no room for blocks of more than 64 MiB.
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}


@contextmanager
def connected(setting: str, cluster: str, start: Callable[[], Any] | None = None) -> Iterator[Client]:
    """A client of a cluster. What was started for it is stopped at the end.

    Args:
        setting: of the config, that names the cluster.
        cluster: what it says; an address, unless there is something to start.
        start: starts the cluster.

    Raises:
        ResourceError: no scheduler answers.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        where = stack.enter_context(_closing(start())) if start else cluster
        try:
            client = Client(where, set_as_default=False, timeout=CONNECT_S)
        except OSError as error:
            message = f"no scheduler answers at {setting} {cluster}: {one_line(error)}"
            raise ResourceError(message, hint="start it with `dask scheduler`, or correct the address") from error
        stack.enter_context(_closing(client))
        stack.enter_context(client.as_current())
        yield client


def gone(setting: str, cluster: str) -> ResourceError:
    """The error of a scheduler that was there, and answers no more."""
    hint = "nothing that was finished is lost: run the same command again"
    return ResourceError(f"the scheduler of {setting} {cluster} has gone away", hint=hint)


def local_processes(num: int) -> Any:
    """A cluster of spawned processes on this machine, reachable from nowhere else."""
    return distributed.LocalCluster(
        n_workers=num,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # of its own choice: without one Dask warns where 8787 is taken
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _closing(it: Any) -> Iterator[Any]:
    """A second stop is not waited with; the first one does not leave processes behind."""
    try:
        yield it
    finally:
        with stops_wait():
            it.close()
