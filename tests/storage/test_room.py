"""Before work begins: may the disk be written, and is there room."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from stillhouse.core.errors import ResourceError
from stillhouse.storage.room import require_room, require_writable


def disk(monkeypatch: pytest.MonkeyPatch, *, free: int, blocks: int = 1 << 20, flags: int = 0) -> None:
    """Every file system has so many free bytes."""
    found = SimpleNamespace(f_bavail=free // 512, f_frsize=512, f_blocks=blocks, f_flag=flags)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


def test_too_little_room_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=1_200_128)
    with pytest.raises(ResourceError) as caught:
        require_room(tmp_path / "not/yet", 3_456_000_000, "extract tiny")
    assert str(caught.value) == (
        f"extract tiny needs about 3,456.0 MB more in {tmp_path}/not/yet, 1.2 MB are free; "
        "free some space, or put `store` on another disk"
    )
    require_room(tmp_path, 1_200_128, "extract tiny")


def test_a_disk_that_does_not_say_how_large_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=0, blocks=0)
    require_room(tmp_path, 1 << 40, "ingest")


def test_a_folder_that_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path)
    require_writable(tmp_path / "not/yet")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    require_writable(Path("relative"))


@pytest.mark.parametrize(("flags", "reason"), [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")])
def test_a_folder_that_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, reason: str) -> None:
    disk(monkeypatch, free=1 << 30, flags=flags)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError) as caught:
        require_writable(tmp_path / "store")
    assert str(caught.value) == (f"{tmp_path}/store: {reason} (as uid {os.getuid()}); use a place you may write")
