"""`doctor`: each state that would cost hours later has a line of its own, and nothing is left behind."""

import errno
import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stillhouse import doctor
from stillhouse.core.errors import EXIT_OK, EXIT_RESOURCE
from stillhouse.testing import run_here

Patch = pytest.MonkeyPatch


def found(folder: Path, name: str) -> doctor.Finding:
    (one,) = (each for each in doctor.examine(folder, hub=False) if each.name == name)
    return one


def test_a_good_machine_is_well(tmp_path: Path) -> None:
    ended = run_here("doctor", tmp_path / "not" / "yet", "--no-hub")
    assert ended.status == EXIT_OK, ended.out
    assert "ok   create once: one of 8 writers wins, in 5 races" in ended.out
    facts = run_here("doctor", tmp_path, "--no-hub", "--json").json()
    assert facts["well"] and {each["state"] for each in facts["findings"]} <= {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    one = found(tmp_path, "disk")
    assert (one.state, one.found) == ("fail", f"no file can be made in {tmp_path}: Permission denied")


def test_a_disk_without_hard_links_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    one = found(tmp_path, "create once")
    assert one.state == "fail" and "makes no hard links" in one.found and "ext4" in one.hint
    assert doctor.exit_code([one]) == EXIT_RESOURCE
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_lets_two_writers_win_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "link", os.replace)
    one = found(tmp_path, "create once")
    assert one.state == "fail" and "of 8 writers of one name were told that they made it" in one.found


def test_a_disk_without_locks_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    one = found(tmp_path, "locks")
    assert one.state == "fail" and "could be locked twice" in one.found


def test_a_disk_that_does_not_sync_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    one = found(tmp_path, "sync")
    assert one.state == "fail" and "Invalid argument" in one.found


def test_a_slow_disk_is_warned_of(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "SLOW_SYNC_S", 0.0)
    one = found(tmp_path, "sync")
    assert one.state == "warn" and "block_samples" in one.hint


def test_little_room_is_warned_of(tmp_path: Path, monkeypatch: Patch) -> None:
    class Usage(NamedTuple):
        total: int = 10**12
        used: int = 10**12
        free: int = 10**9

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    one = found(tmp_path, "disk")
    assert one.state == "warn" and one.found.startswith("1.0 GB free")


def test_a_missing_package_fails_by_name(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    one = found(tmp_path, "packages")
    assert (one.state, one.found, one.hint) == ("fail", "no-such-package not installed", "pip install no-such-package")


def test_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path) -> None:
    proc, group = tmp_path / "meminfo", tmp_path / "group"
    group.mkdir()
    proc.write_text("MemTotal: 4000 kB\nMemAvailable:   2000 kB\n")
    assert doctor.available_memory(proc, group) == 2000 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("100\n")
    assert doctor.available_memory(proc, group) == 2000 * 1024
    (group / "memory.max").write_text("1100\n")
    assert doctor.available_memory(proc, group) == 1000
    assert doctor.available_memory(tmp_path / "none", tmp_path / "none") is None


def test_little_memory_is_warned_of(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 1 << 30)
    assert (found(tmp_path, "memory").state, found(tmp_path, "memory").found) == ("warn", "1.0 GiB available")
    monkeypatch.setattr(doctor, "available_memory", lambda: None)
    assert found(tmp_path, "memory").state == "warn"


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (urllib.error.URLError("no route"), "warn", "cannot be reached"),
        (TimeoutError("timed out"), "warn", "timed out"),
        (urllib.error.HTTPError(doctor.HUB, 403, "no", None, None), "ok", "answers (403)"),  # type: ignore[arg-type]
    ],
)
def test_the_hub(tmp_path: Path, monkeypatch: Patch, error: OSError, state: str, said: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    *_, one = doctor.examine(tmp_path)
    assert (one.name, one.state) == ("hub", state) and said in one.found
    json.dumps(doctor.as_json([one]), allow_nan=False)
