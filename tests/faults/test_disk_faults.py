"""A small draw of the disk faults; and that the campaign sees what a worse stillhouse would do wrong."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk_faults
import disk_stops
import pytest
from disk_commands import Commands
from disk_faults import SHAPE, Build, another_user, read_only, small_disk, small_files, traced
from disk_injection import FAULTS, Call, Injected, cases_of, spread, wrong_in_message
from disk_stops import stops
from outcome import Outcome, Size

from stillhouse.storage import commit, disk, seal
from stillhouse.storage.testing import make_store
from stillhouse.testing import Forks


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Commands:
    """The real commands, with no checkpoint but those that a stop leaves."""
    folder = tmp_path_factory.mktemp("commands")
    return Commands(folder, forks, "distill.epochs=12", "distill.checkpoint_steps=1000")


def assert_held(outcome: Outcome) -> None:
    if not outcome.cases:
        pytest.skip(f"{outcome.what}: {dict(outcome.facts)}")
    assert not outcome.violations, outcome.violations


def at(build: Build, name: str, path: str) -> Call:
    """The first call of a name whose path begins so."""
    return next(call for call in build.calls if call.name == name and call.path.startswith(path))


# --- what must hold --------------------------------------------------------------------------------------------------


def test_a_small_build(build: Build) -> None:
    chosen = spread(cases_of(build.calls), 24, seed=0)
    assert {fault.name for _, fault in chosen} >= {"full", "broken", "read-only"}
    assert not [line for call, fault in chosen for line in build.wrong(call, fault)]


@pytest.mark.parametrize("part", [small_disk, small_files, traced])
def test_real_faults(part: Callable[[Path, Size], Outcome], tmp_path: Path) -> None:
    assert_held(part(tmp_path, "quick"))


@pytest.mark.parametrize(
    ("verb", "call"), [("ingest", "link"), ("extract", "write"), ("distill", "fsync"), ("eval", "open")]
)
def test_a_command(made: Commands, verb: str, call: str) -> None:
    cases = [case for case in cases_of(made.calls[verb]) if case[0].name == call]
    found, fault = spread(cases, 1, seed=0)[0]
    assert not made.wrong(verb, found, fault)


def test_a_read_only_mount(made: Commands) -> None:
    assert_held(read_only(made, "quick"))


def test_a_user_who_may_not(made: Commands) -> None:
    for outcome in another_user(made, "quick"):
        assert_held(outcome)


def test_stops(made: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_stops, "GRACES_S", (2.0,))
    outcome = stops(made, 3, steps=5)
    assert_held(outcome)
    assert outcome.facts["ended in time"] == 3 and outcome.facts["steps done again"] == 0


# --- what must be seen -----------------------------------------------------------------------------------------------


def test_a_second_sync_is_seen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says that it went well, though the bytes are gone."""

    class Trying:
        """`os` with an fsync that is tried again."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            try:
                os.fsync(descriptor)
            except OSError:
                os.fsync(descriptor)

    monkeypatch.setattr(disk, "os", Trying())
    found = build.wrong(at(build, "fsync", "_stage/"), FAULTS["broken"])
    assert any("synced again after a failure" in line for line in found)
    assert any("a record names the attempt" in line for line in found)


def test_a_temporary_name_is_seen(tmp_path: Path) -> None:
    told = "no space left while writing {}; free some space and run again"
    assert not list(wrong_in_message(told.format(tmp_path / "store/_log/spec.json"), tmp_path))
    for path in (tmp_path / "store/_log/.spec.json.0123456789abcdef", Path("/elsewhere"), Path("a file")):
        assert list(wrong_in_message(told.format(path), tmp_path)), path
    assert list(wrong_in_message(f"{tmp_path}/x: Permission denied", tmp_path))
    assert list(wrong_in_message(told.format(tmp_path / "x") + "\nand more", tmp_path))


def test_an_unexplained_error_is_seen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexplained(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise RuntimeError("bare") from error
        finally:
            os.close(descriptor)

    monkeypatch.setattr(commit, "sync_folder", unexplained)
    found = build.wrong(at(build, "fsync", "images"), FAULTS["full"])
    assert any("RuntimeError: bare" in line for line in found)


def test_a_torn_file_is_seen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written under its final name, as most libraries do."""

    def straight(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    monkeypatch.setattr(seal, "replace_file", straight)
    with Injected(build.root) as counted:
        make_store(build.root, SHAPE)
    shutil.rmtree(build.root)
    torn = [call for call in counted.calls if call.name == "write" and call.path == "zarr.json"]
    found = build.wrong(torn[-1], FAULTS["broken"])
    assert any("zarr.json is not valid JSON" in line for line in found), found


def test_lost_work_is_seen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that begins again after every error."""

    def begins_again(*args: Any) -> Any:
        shutil.rmtree(build.root / "_log/units", ignore_errors=True)
        return make_store(*args)

    monkeypatch.setattr(disk_faults, "make_store", begins_again)
    found = build.wrong(at(build, "fsync", "features/"), FAULTS["full"])
    assert any("was made again" in line for line in found), found


def test_a_stop_without_a_checkpoint_is_seen(made: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    forgets = "\nimport stillhouse.stage2_distill.sitting as sitting\nsitting.save_checkpoint = lambda *_: None\n"
    monkeypatch.setattr(disk_stops, "TOLD_STEPS", disk_stops.TOLD_STEPS + forgets)
    monkeypatch.setattr(disk_stops, "GRACES_S", (2.0,))
    found = stops(made, 2, steps=3).violations
    assert any("though the stop before came after 3" in line for line in found), found
