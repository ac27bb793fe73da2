"""Extraction on workers: the same store as in one process, whatever dies, and errors as they were raised."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest
import torch
from pydantic import ValidationError

from stillhouse.core.errors import ResourceError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import worker
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import ExtractResult, extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage.seal import decided_units
from stillhouse.storage.store import Store
from stillhouse.storage.verify import verify
from stillhouse.testing import Forks

QUIET = Reporter(quiet=True)
UNITS = 10
"""Of 36 images in blocks of 8, two views."""


class Acting(Reporter):
    """Does something once, when a block has been written."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(quiet=True)
        self._act, self.blocks = act, 0

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "block":
            self.blocks += 1
            if self.blocks == 1:
                self._act()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several may differ in their last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ingested`, a store without features, and `weights`."""
    folder = tmp_path_factory.mktemp("home")
    ingest(folder / "ingested", tiny_ingest(tiny_images(folder / "images", 36)), TINY_VIEWS, QUIET)
    return folder


@pytest.fixture(scope="module")
def teacher(home: Path) -> TeacherConfig:
    return tiny_teacher(home / "weights")


@pytest.fixture(scope="module")
def digest(home: Path, teacher: TeacherConfig) -> str:
    """Of the seal of a store that one process made alone."""
    shutil.copytree(home / "ingested", home / "whole")
    return run(Store.open(home / "whole"), teacher).seal.content_sha256


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Store:
    shutil.copytree(home / "ingested", tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture
def cluster() -> Iterator[distributed.LocalCluster]:
    """A scheduler with two workers in this process: what is elsewhere, without seconds of imports."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as found:
        yield found
    assert not worker._held


def run(store: Store, teacher: TeacherConfig, reporter: Reporter = QUIET, **fields: Any) -> ExtractResult:
    return extract(store, teacher, ExtractConfig(device="cpu", **fields), reporter)


def test_workers_at_an_address_make_the_same_store(
    fresh: Store, teacher: TeacherConfig, digest: str, cluster: distributed.LocalCluster
) -> None:
    reporter = Acting(lambda: None)
    result = run(fresh, teacher, reporter, cluster=cluster.scheduler_address)
    assert result.seal.content_sha256 == digest
    assert (result.num_units_written, result.num_images, reporter.blocks) == (UNITS, 72, UNITS)
    assert not verify(fresh).problems
    while any(thread.name == "forget" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("render", "write"))]


def test_a_worker_may_come_while_others_work(
    fresh: Store, teacher: TeacherConfig, digest: str, cluster: distributed.LocalCluster
) -> None:
    reporter = Acting(lambda: cluster.scale(3))
    assert run(fresh, teacher, reporter, cluster=cluster.scheduler_address).seal.content_sha256 == digest


def test_an_error_comes_as_it_was_raised(
    fresh: Store, home: Path, teacher: TeacherConfig, cluster: distributed.LocalCluster
) -> None:
    run(fresh, teacher)
    other = tiny_teacher(home / "weights", seed=1)
    with pytest.raises(SpecMismatchError) as here:
        run(Store.open(fresh.root), other)
    with pytest.raises(SpecMismatchError) as there:
        run(Store.open(fresh.root), other, cluster=cluster.scheduler_address)
    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)


def test_a_schedulers_death_loses_nothing(
    fresh: Store, teacher: TeacherConfig, digest: str, cluster: distributed.LocalCluster
) -> None:
    reporter = Acting(cluster.close)
    with pytest.raises(ResourceError, match=r"scheduler of extract.cluster tcp://.* has gone away; nothing .* is lost"):
        run(fresh, teacher, reporter, cluster=cluster.scheduler_address)
    worker._held.clear()  # those workers are threads of ours, and do not end with their scheduler
    found = sum(unit.startswith("features/") for unit in decided_units(fresh.root))
    result = run(Store.open(fresh.root), teacher)
    assert result.num_units_found >= found > 0
    assert result.seal.content_sha256 == digest


def test_no_scheduler_is_said(fresh: Store, teacher: TeacherConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.core.scheduler.CONNECT_S", 0.1)
    with pytest.raises(ResourceError, match=r"no scheduler answers at extract.cluster tcp://127.0.0.1:9"):
        run(fresh, teacher, cluster="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": "lokal"}, "cluster must be local, slurm or an address"),
        ({"cluster": "tcp://head"}, "cluster must be local, slurm or an address"),
        ({"cluster": "tcp://head:8786", "workers": 2}, "has workers of its own; leave `workers` out"),
        ({"workers": 0}, "workers must be 1 or more, or auto; got 0"),
    ],
)
def test_settings_that_mean_nothing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractConfig(**fields)


def kill_a_worker() -> None:
    pids = distributed.default_client().run(os.getpid)
    assert len(pids) == 2 and os.getpid() not in pids.values()
    os.kill(max(pids.values()), signal.SIGKILL)


def test_a_killed_worker_leaves_the_others_to_finish(fresh: Store, teacher: TeacherConfig, digest: str) -> None:
    """In processes of their own, of which none is left."""
    reporter = Acting(kill_a_worker)
    result = run(fresh, teacher, reporter, workers=2)
    assert result.seal.content_sha256 == digest
    assert reporter.blocks >= 1 and not verify(fresh).problems
    assert not [child for child in psutil.Process().children(recursive=True) if "spawn" in " ".join(child.cmdline())]


def test_a_stop_ends_the_workers_and_the_same_command_goes_on(forks: Forks, pipeline: Path, tmp_path: Path) -> None:
    out = f"out={tmp_path / 'out'}"
    assert forks.run("ingest", pipeline, out).status == 0
    child = forks.start("extract", pipeline, out, "extract.workers=2", "extract.device=cpu")
    while not child.over() and not (tmp_path / "out/store/_log/units/features").exists():
        time.sleep(0.01)
    workers = psutil.Process(child.pid).children(recursive=True)
    child.send(signal.SIGTERM)
    ended = child.wait()
    if ended.status == 8:
        assert ended.last == "stopped: SIGTERM received; what was finished is kept; run the same command again to go on"
    else:
        assert ended.status == 0, ended.err  # it was through already
    assert len(workers) >= 2 and not psutil.wait_procs(workers, 10)[1]
    ended = forks.run("extract", pipeline, out, "extract.device=cpu")
    assert ended.status == 0, ended.err
    assert not verify(Store.open(tmp_path / "out/store")).problems


def test_what_another_run_does_meanwhile_is_not_done_again(fresh: Store, teacher: TeacherConfig, digest: str) -> None:
    """All that is undone when a block is told of; what is in the works then may be done twice."""
    found: list[ExtractResult] = []
    first = run(fresh, teacher, Acting(lambda: found.append(run(Store.open(fresh.root), teacher))))
    assert first.seal.content_sha256 == found[0].seal.content_sha256 == digest
    assert UNITS <= first.num_units_written + found[0].num_units_written <= UNITS + 2


def test_two_at_once_make_the_same_store(fresh: Store, teacher: TeacherConfig, digest: str) -> None:
    runs = [threading.Thread(target=run, args=(Store.open(fresh.root), teacher)) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert run(fresh, teacher).seal.content_sha256 == digest
    assert not verify(fresh).problems
