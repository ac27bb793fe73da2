"""A run that is stopped, killed, starved or doubled ends, when run again, as the undisturbed one does.

Every command here is a process of its own. Where in a run it is hit is drawn from the clock; what must hold is the
same everywhere.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.storage.seal import decided_units, latest_seal
from stillhouse.storage.store import Store
from stillhouse.storage.verify import verify
from stillhouse.testing import Child, Ended, Forks

STUDENT = Path("students/student-seed0")
STEPS = ("ingest", "extract", "distill", "eval")
STAGES = ("", *STEPS)


def attempts(out: Path) -> dict[str, str]:
    """Which attempt made each unit that is decided."""
    units = decided_units(out / "store")
    return {unit: json.loads((out / "store/_log/units" / f"{unit}.json").read_text())["attempt"] for unit in units}


def assert_as_undisturbed(out: Path, finished: Path) -> None:
    """Same content, same student, same scores; nothing staged but not published that a reader could see."""
    seals = [latest_seal(folder / "store") for folder in (out, finished)]
    assert seals[0] is not None and seals[1] is not None
    assert seals[0].content_sha256 == seals[1].content_sha256
    assert not verify(Store.open(out / "store")).problems
    scores = [Path("eval") / path.name for path in (finished / "eval").glob("*.json")]
    for path in (STUDENT / "student/model.safetensors", *scores):
        assert (out / path).read_bytes() == (finished / path).read_bytes(), path
    for folder in (out, finished):
        lines = (folder / STUDENT / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 9]


def stage_of(out: Path) -> str:
    """The step that a run in progress has come to, "" before the first."""
    if (out / STUDENT / "result.json").exists():
        return "eval"
    if (out / STUDENT).exists():
        return "distill"
    if (out / "store/_log/teachers").exists():
        return "extract"
    return "ingest" if (out / "store").exists() else ""


def wait_for(step: str, out: Path, child: Child) -> None:
    """Return when the run has come to a step, or is over."""
    limit = time.monotonic() + 60
    while STAGES.index(stage_of(out)) < STAGES.index(step) and time.monotonic() < limit:
        if child.over():
            return
        time.sleep(0.002)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal already. Before it has one, the signal is the system's to deal with."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def hit(forks: Forks, pipeline: Path, out: Path, step: str, number: int, after_s: float) -> Ended:
    """Start a run, let it come to a step, wait a little and send a signal."""
    child = forks.start("run", pipeline, f"out={out}")
    wait_for(step, out, child)
    time.sleep(after_s)
    child.send(number)
    return child.wait()


def assert_goes_on(forks: Forks, pipeline: Path, out: Path, finished: Path) -> None:
    """The same command finishes, and does no unit again that was decided."""
    before = attempts(out)
    ended = forks.run("run", pipeline, f"out={out}")
    assert ended.status == 0, ended.err
    after = attempts(out)
    assert {unit: after[unit] for unit in before} == before
    assert_as_undisturbed(out, finished)


# --- stopped and killed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("step", STEPS)
def test_a_stop_is_one_line_and_the_next_run_goes_on(
    forks: Forks, pipeline: Path, finished: Path, tmp_path: Path, step: str, number: signal.Signals
) -> None:
    ended = hit(forks, pipeline, tmp_path / "out", step, number, after_s=random.uniform(0, 0.05))
    if ended.status != 0:  # the signal came before the end
        assert ended.status == 8, ended
        assert ended.out == "" and "Traceback" not in ended.err
        assert ended.last == (
            f"stopped: {number.name} received; what was finished is kept; run the same command again to go on"
        )
        assert [line.partition(":")[0] for line in ended.err.splitlines()][-1] == "stopped"
    assert_goes_on(forks, pipeline, tmp_path / "out", finished)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_is_as_if_it_had_not_been(
    forks: Forks, pipeline: Path, finished: Path, tmp_path: Path, step: str
) -> None:
    for after_s in (0.0, 0.03):
        hit(forks, pipeline, tmp_path / "out", step, signal.SIGKILL, after_s)
    assert_goes_on(forks, pipeline, tmp_path / "out", finished)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_kills_and_stops_anywhere_and_often(
    forks: Forks, pipeline: Path, finished: Path, tmp_path: Path, seed: int
) -> None:
    """Whatever comes, and however often: at most six in a row, then it is left alone."""
    draw = random.Random(seed)
    for _ in range(6):
        child = forks.start("run", pipeline, f"out={tmp_path / 'out'}")
        time.sleep(draw.uniform(0.02, 1.0))
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        child.send(number)
        ended = child.wait()
        assert ended.status in (0, 8, -9), ended
        assert ended.status != 8 or ended.last.startswith("stopped: ")
    assert_goes_on(forks, pipeline, tmp_path / "out", finished)


def test_a_second_signal_ends_at_once(forks: Forks, pipeline: Path, tmp_path: Path) -> None:
    """Even where the first one finds a cleanup that hangs."""
    hang = (
        "import stillhouse.pipeline, time\n"
        "def run(*_):\n"
        "    try:\n        open(r'FILE', 'w').close(); time.sleep(60)\n"
        "    finally:\n        open(r'FILE.2', 'w').close(); time.sleep(60)\n"
        "stillhouse.pipeline.run = run"
    )
    there = tmp_path / "there"
    child = forks.start("run", pipeline, f"out={tmp_path / 'out'}", prelude=hang.replace("FILE", str(there)))
    for path in (there, tmp_path / "there.2"):
        while not path.exists():
            time.sleep(0.005)
        child.send(signal.SIGTERM)
    begin = time.monotonic()
    assert child.wait().status == 8
    assert time.monotonic() - begin < 2


def test_a_stop_among_the_first_imports(pipeline: Path, tmp_path: Path) -> None:
    """As a user does who sees the typing error at once. A real process: it imports torch."""
    command = [sys.executable, "-m", "stillhouse", "run", str(pipeline), f"out={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 60
        while not catches(process.pid, signal.SIGTERM) and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 8, err
    assert err.splitlines()[-1].startswith("stopped: SIGTERM received")


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_runs_at_once(forks: Forks, pipeline: Path, finished: Path, tmp_path: Path) -> None:
    """They share the work of the store; one of them trains the student, and the other says that it may not."""
    out = tmp_path / "out"
    children = [forks.start("run", pipeline, f"out={out}") for _ in range(3)]
    ended = [child.wait() for child in children]
    assert {one.status for one in ended} <= {0, 5} and any(one.status == 0 for one in ended)
    for one in ended:
        if one.status == 5:
            assert one.last == (
                f"error: another process is at work in {out / STUDENT}; "
                "wait until it is done, then run the same command again"
            )
    assert_goes_on(forks, pipeline, out, finished)


def test_a_killed_trainer_holds_nothing(forks: Forks, pipeline: Path, finished: Path, tmp_path: Path) -> None:
    hit(forks, pipeline, tmp_path / "out", "distill", signal.SIGKILL, 0.0)
    assert_goes_on(forks, pipeline, tmp_path / "out", finished)


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3_000, 30_000, 70_000, 300_000])
def test_a_full_disk(forks: Forks, pipeline: Path, finished: Path, tmp_path: Path, limit: int) -> None:
    """Files may grow to `limit` bytes: a tar, a shard, the student's weights, a checkpoint do not fit."""
    small = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    ended = forks.run("run", pipeline, f"out={tmp_path / 'out'}", prelude=small)
    assert ended.status == 6, ended
    assert ended.last.startswith(f"error: no space left while writing {tmp_path / 'out'}/")
    assert ended.last.endswith("; free some space and run again") and "Traceback" not in ended.err
    assert not list((tmp_path / "out/store/_stage").iterdir())
    assert_goes_on(forks, pipeline, tmp_path / "out", finished)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 400 KB; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_grows(forks: Forks, pipeline: Path, finished: Path, small_disk: Path) -> None:
    statuses = []
    for size in ("500k", "650k", "800k", "1m", "1200k", "20m"):
        ended = forks.run("run", pipeline, f"out={small_disk / 'out'}")
        assert "Traceback" not in ended.err
        told = ("error: no space left while writing ", "error: ingest needs about ", "error: extract tiny needs about ")
        assert ended.status == 0 or ended.last.startswith(told)
        statuses.append(ended.status)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    assert statuses[0] == 6 and set(statuses) <= {0, 6}
    assert_goes_on(forks, pipeline, small_disk / "out", finished)


# --- another user ----------------------------------------------------------------------------------------------------

NOBODY = "import os; os.setgid(65534); os.setuid(65534)"
needs_root = pytest.mark.skipif("os.getuid() != 0", reason="only root can become another user")


def opened(path: Path) -> None:
    """Let other users into pytest's folders, which are for one."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)


@needs_root
def test_a_folder_that_may_not_be_written(forks: Forks, pipeline: Path, tmp_path: Path) -> None:
    opened(pipeline.parent)
    (tmp_path / "out").mkdir()
    opened(tmp_path / "out")
    ended = forks.run("run", pipeline, f"out={tmp_path / 'out'}", prelude=NOBODY)
    assert ended.status == 6 and ended.out == "" and ended.err.count("\n") == 1
    assert f"{tmp_path / 'out'}/" in ended.err and ended.err.endswith(
        ": Permission denied (as uid 65534); use a place you may write\n"
    )


@needs_root
def test_a_store_of_another_user_is_enough_to_train(
    forks: Forks, pipeline: Path, finished: Path, tmp_path: Path
) -> None:
    """Inspect it, verify it, train from it; nothing in it is written, and repair is refused when it is needed."""
    opened(finished)
    opened(pipeline.parent)
    (tmp_path / "mine").mkdir()
    opened(tmp_path / "mine")
    (tmp_path / "mine").chmod(0o777)
    for verb in ("inspect", "verify"):
        assert forks.run(verb, finished / "store", prelude=NOBODY).status == 0
    chosen = [f"out={tmp_path / 'mine'}", f"store={finished / 'store'}"]
    ended = forks.run("distill", pipeline, *chosen, prelude=NOBODY)
    assert ended.status == 0, ended.err
    weights = [
        (folder / STUDENT / "student/model.safetensors").read_bytes() for folder in (tmp_path / "mine", finished)
    ]
    assert weights[0] == weights[1]
    ended = forks.run("run", pipeline, *chosen, prelude=NOBODY)
    assert ended.status in (0, 6) and "Traceback" not in ended.err
    if ended.status == 6:  # the teacher's weights are for their owner
        assert "teacher" in ended.last or "checkpoint" in ended.last
