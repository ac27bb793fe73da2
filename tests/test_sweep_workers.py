"""A sweep on workers: the students of one process, whatever dies, and errors as they were raised."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest
import yaml

from stillhouse import sweep_workers, sweeping
from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.sweep_workers import device_of
from stillhouse.testing import run_here

SPACE = {"distill.lr": [1e-3, 1e-2], "distill.student.model_args.depth": [1, 2]}
STUDY = {"space": {"distill.lr": {"low": 1e-4, "high": 1e-1, "log": True}}, "study": {"trials": 3, "sampler": "random"}}


@pytest.fixture
def config(own: Path, pipeline: Path, tmp_path: Path) -> Path:
    """The tiny pipeline, whose store is filled and whose teacher is judged, with a grid."""
    return with_sweep(tmp_path / "pipeline.yaml", yaml.safe_load(pipeline.read_text()) | {"out": str(own)}, space=SPACE)


def with_sweep(path: Path, body: dict[str, Any], **section: Any) -> Path:
    path.write_text(yaml.safe_dump({**body, "sweep": section}))
    return path


@pytest.fixture
def cluster() -> Iterator[distributed.LocalCluster]:
    """A scheduler with two workers in this process: what is elsewhere, without seconds of imports."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as found:
        yield found
    sweep_workers._bench.cache_clear()


def table(config: Path, *overrides: str) -> dict[str, Any]:
    ended = run_here("sweep", config, *overrides, "--json")
    assert ended.status == 0, ended.err
    found: dict[str, Any] = ended.json()
    return found


def shown(found: dict[str, Any]) -> list[Any]:
    """What does not depend on who trained it, and how fast."""
    return [
        (
            one["rank"],
            one["number"],
            one["values"],
            one["score"],
            [(s["seed"], s["weights_sha256"]) for s in one["students"]],
        )
        for one in found["trials"]
    ]


def test_workers_at_an_address_train_the_same_students(
    config: Path, own: Path, cluster: distributed.LocalCluster
) -> None:
    there = f"sweep.cluster={cluster.scheduler_address}"
    alone = table(config, "sweep.name=alone", "sweep.seeds=2")
    found = table(config, there, "sweep.seeds=2")
    assert shown(found) == shown(alone)
    folders = [Path(student["folder"]).parent for trial in found["trials"] for student in trial["students"]]
    assert set(folders) == {own / "sweeps/sweep/students"}
    assert json.loads((own / "sweeps/sweep/sweep.json").read_text()) == found
    assert sweep_workers._bench.cache_info().currsize == 0, "workers forget what they read"
    again = run_here("sweep", config, there, "sweep.seeds=2")
    assert (
        again.err.count("(already done)") == 8
        and f"sweep: on {cluster.scheduler_address}, 2 workers there" in again.err
    )


def test_a_study_on_workers_draws_no_more_than_is_asked(config: Path, cluster: distributed.LocalCluster) -> None:
    config = with_sweep(config, yaml.safe_load(config.read_text()), **STUDY, cluster=cluster.scheduler_address)
    first = table(config)
    assert sorted(trial["number"] for trial in first["trials"]) == [0, 1, 2]
    more = table(config, "sweep.study.trials=4")
    known = {trial["number"]: trial["students"] for trial in more["trials"]}
    assert known.keys() == {0, 1, 2, 3} and all(known[one["number"]] == one["students"] for one in first["trials"])


def test_an_error_comes_as_it_was_raised(config: Path, own: Path, cluster: distributed.LocalCluster) -> None:
    """Of a store that has lost a shard, whose student is the only one."""
    (shard,) = [path for path in (own / "store/features/tiny/cls/c/0").rglob("*") if path.is_file()][:1]
    shard.write_bytes(b"")
    one = ("sweep.space={distill.lr: [1.0e-3]}",)
    here = run_here("sweep", config, *one)
    there = run_here("sweep", config, *one, f"sweep.cluster={cluster.scheduler_address}")
    assert here.status == there.status == 4 and here.last == there.last
    assert "2 workers there" in there.err


def test_a_schedulers_death_loses_nothing(
    config: Path, cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = sweeping._say
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "_say", lambda *arguments: (say(*arguments), cluster.close()))
        ended = run_here("sweep", config, f"sweep.cluster={cluster.scheduler_address}")
    assert ended.status == 6 and "has gone away; nothing that was finished is lost" in ended.last
    on = run_here("sweep", config)
    assert on.status == 0 and 1 <= on.err.count("(already done)") < 4


def test_no_scheduler_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.core.scheduler.CONNECT_S", 0.1)
    ended = run_here("sweep", config, "sweep.cluster=tcp://127.0.0.1:9")
    assert ended.status == 6 and "no scheduler answers at sweep.cluster tcp://127.0.0.1:9" in ended.last


def test_a_killed_worker_leaves_nothing_undone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, of which none is left."""
    say, killed = sweeping._say, list[int]()

    def kill_one(*arguments: Any) -> None:
        say(*arguments)
        if not killed:
            pids = distributed.default_client().run(os.getpid)
            assert len(pids) == 2 and os.getpid() not in pids.values()
            killed.append(max(pids.values()))
            os.kill(killed[0], signal.SIGKILL)

    alone = table(config, "sweep.name=alone")
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "_say", kill_one)
        found = table(config, "sweep.workers=2")
    assert killed and shown(found) == shown(alone)
    assert not [child for child in psutil.Process().children(recursive=True) if "spawn" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("worker", "num_gpus", "device"), [(0, 1, None), (3, 0, None), (0, 2, "cuda:0"), (5, 4, "cuda:1")]
)
def test_workers_take_the_gpus_in_turn(worker: int, num_gpus: int, device: str | None) -> None:
    assert device_of(worker, num_gpus) == device


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": "lokal"}, "cluster must be local or an address"),
        ({"cluster": "tcp://head:8786", "workers": 2}, "has workers of its own; leave `workers` out"),
    ],
)
def test_settings_that_mean_nothing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(space={"distill.lr": [1e-3]}, **fields)
