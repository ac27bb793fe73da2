"""A small part of the kill sweep, and that it would notice."""

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import killed_commands
import pytest
from kill_points import Points, ended, fork, read_trace, stopped
from kill_sweep import WORKS, Sweep, missed_calls, no_strace, spread
from killed_commands import Commands
from what_is_seen import attempts

from stillhouse.storage import commit, redo
from stillhouse.storage.commit import Attempt, publish
from stillhouse.storage.disk import write_synced
from stillhouse.storage.records import ObjectEntry, Record
from stillhouse.storage.store import Store
from stillhouse.storage.verify import UNPUBLISHED, verify

EXTRACTION = WORKS[0]
CALLS = {"create", "fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink", "write"}


@pytest.fixture(scope="module", params=WORKS, ids=lambda work: work.name)
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(request.param, tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("commands") / "tiny") as ready:
        yield ready


# --- the promise -----------------------------------------------------------------------------------------------------


def test_a_kill_at_any_call_costs_nothing(sweep: Sweep) -> None:
    for at in spread(sweep.undisturbed.changing, 9):
        assert sweep.kill(at) == []


def test_kills_in_a_row_cost_nothing(sweep: Sweep) -> None:
    last = len(sweep.undisturbed.points)
    for at in (last // 3, last // 2):
        assert sweep.kill(at, last // 4, last // 5) == []


@pytest.mark.parametrize("verb", Commands.VERBS)
def test_a_kill_of_a_command_costs_nothing(commands: Commands, verb: str) -> None:
    for at in spread(commands.undisturbed[verb].changing[7:], 2):
        assert commands.kill(verb, at) == []


def test_repair_keeps_what_was_decided_and_not_published(commands: Commands, tmp_path: Path) -> None:
    """It is all there, in `_stage`: to make it again would cost the teacher's time, or need a source that is gone."""
    points = commands.undisturbed["extract"].points
    decided = [number for number, point in enumerate(points, 1) if point.startswith("link store/_log/units/features/")]
    commands.begin("extract", tmp_path / "out")
    child, _ = commands.start("extract", tmp_path / "out", decided[1] + 1)
    assert child.wait().status == -signal.SIGKILL
    store = Store.open(tmp_path / "out/store")
    before = attempts(store.root)
    assert {problem.found for problem in verify(store).problems} == {UNPUBLISHED}
    ended = commands.run("repair", tmp_path / "out")
    assert (ended.status, attempts(store.root)) == (0, before), ended.err
    assert verify(store).problems == ()


# --- the tool --------------------------------------------------------------------------------------------------------


def test_every_kind_of_call_is_killed_at(tmp_path: Path) -> None:
    trace = Sweep(EXTRACTION, tmp_path).undisturbed
    assert {point.partition(" ")[0] for point in trace.points} == CALLS
    assert {trace.points[number - 1].partition(" ")[0] for number in trace.changing} == CALLS
    assert len(trace.changing) > 500


@pytest.mark.skipif(bool(no_strace()), reason=no_strace())
def test_the_hooks_miss_no_system_call(tmp_path: Path) -> None:
    sweep = Sweep(EXTRACTION, tmp_path)
    counts, wrong = missed_calls(sweep)
    assert wrong == []
    assert sweep.kill_by_strace("link", counts["link"] // 2) == []


def written(root: Path, text: str) -> Callable[[Points], object]:
    return lambda _: (root / "file").write_text(text)


def test_a_killed_write_is_torn_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    body, trace = written(tmp_path, "x" * 1000), tmp_path.parent / f"{tmp_path.name}.trace"
    assert ended(fork(body, tmp_path, trace)) == 0
    assert read_trace(trace).points == ("create file", "write file")
    assert ended(fork(body, tmp_path, trace, at=1)) == -signal.SIGKILL
    assert (tmp_path / "file").stat().st_size == 0
    assert ended(fork(body, tmp_path, trace, at=2)) == -signal.SIGKILL
    assert (tmp_path / "file").stat().st_size == 500
    pid = fork(body, tmp_path, trace, at=2, number=signal.SIGSTOP)
    assert stopped(pid)
    assert (tmp_path / "file").stat().st_size == 0
    os.kill(pid, signal.SIGCONT)
    assert ended(pid) == 0 and (tmp_path / "file").stat().st_size == 1000


def test_a_child_that_fails_tells_why(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    trace = tmp_path / "trace"
    assert ended(fork(written(tmp_path / "gone", "x"), tmp_path, trace)) == 1
    assert "FileNotFoundError" in read_trace(trace).failed[0]


# --- it would notice -------------------------------------------------------------------------------------------------


def killed_at(sweep: Sweep, start: str, num: int = 4) -> list[str]:
    """What was wrong after kills at points that begin so."""
    points = sweep.undisturbed.points
    numbers = [number for number, point in enumerate(points, 1) if point.startswith(start)]
    assert numbers, f"no point begins with {start!r}"
    return [line for number in spread(numbers, num) for line in sweep.kill(number)]


def test_records_written_in_place_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(path: Path, data: bytes) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        path.write_bytes(data)
        return True

    monkeypatch.setattr(redo, "create_once", in_place)
    wrong = killed_at(Sweep(EXTRACTION, tmp_path), "write _log/units/")
    assert any("is not valid JSON" in line for line in wrong), wrong


def test_objects_written_in_place_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(self: Attempt, path: str, chunks: Iterable[bytes | memoryview]) -> ObjectEntry:
        final = self._root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        final.unlink(missing_ok=True)
        entry = ObjectEntry(path, *write_synced(final, chunks))
        self._objects.append(entry)
        return entry

    monkeypatch.setattr(Attempt, "add", add)
    wrong = killed_at(Sweep(EXTRACTION, tmp_path), "write images/")
    assert any(".tar holds other bytes" in line for line in wrong), wrong


def test_an_acknowledgement_before_publication_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def put_off(root: Path, record: Record) -> None:
        """Features are published when it is asked for the second time: when the store is sealed."""
        if record.unit.startswith("features/") and record.attempt not in asked:
            asked.add(record.attempt)
        else:
            publish(root, record)

    monkeypatch.setattr(commit, "publish", put_off)
    wrong = killed_at(Sweep(EXTRACTION, tmp_path), "link _log/units/features/")
    assert any("verify: Problem(unit='features/" in line and UNPUBLISHED in line for line in wrong), wrong


IN_PLACE = """
from stillhouse.stage2_distill import checkpoint

def in_place(path, last_step):
    if path.exists():
        lines = path.read_text().splitlines()
        path.write_text("".join(line + "\\n" for line in lines if checkpoint._step_of(line) <= last_step))

sitting.truncate_jsonl = in_place
"""


def test_a_kill_as_the_log_of_training_is_cut_costs_no_line(commands: Commands) -> None:
    """The run that goes on drops the lines beyond its checkpoint; were they cut in place, others could go with them."""
    logged = commands.logged()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed_commands, "PRELUDE", killed_commands.PRELUDE + IN_PLACE)
        noticed = (at for at in range(3, 12) if "has the steps" in "".join(commands.kill("distill", logged, at)))
        first = next(noticed)
    assert commands.kill("distill", logged, first) + commands.kill("distill", logged, first + 1) == []
