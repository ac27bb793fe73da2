"""Features on disk: what was written comes back, any Zarr reader opens it, and any damage is told and made good."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stillhouse.core.errors import CorruptError, ResourceError
from stillhouse.core.events import Reporter
from stillhouse.eval import feature_cache as module
from stillhouse.eval.feature_cache import Arrays, FeatureCache, read_arrays, write_arrays

IDENTITY = {"weights": "abc", "images": ["d", 1]}


class Lines(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Two arrays in chunks of 4 and of 7 rows, the last one of the first not full."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 84)
    random = np.random.default_rng(0)
    return {name: random.standard_normal((10, dim)).astype(np.float32) for name, dim in (("cls", 5), ("mean", 3))}


def assert_equal(found: Arrays | None, arrays: Arrays) -> None:
    assert found is not None and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)


def test_what_was_written_comes_back(tmp_path: Path, arrays: Arrays) -> None:
    assert read_arrays(tmp_path / "s", IDENTITY) is None
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    assert sorted(path.name for path in (tmp_path / "s" / "cls" / "c").iterdir()) == ["0", "1", "2"]
    assert_equal(read_arrays(tmp_path / "s", IDENTITY), arrays)
    assert read_arrays(tmp_path / "s", {**IDENTITY, "weights": "abd"}) is None


def test_zarr_reads_it(tmp_path: Path, arrays: Arrays) -> None:
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    group = zarr.open_group(tmp_path / "s", mode="r")
    assert group.attrs["identity"] == IDENTITY
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(group[name]), array)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    return data[:middle] if how == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_told_and_made_good(tmp_path: Path, arrays: Arrays, how: str) -> None:
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    names = files(tmp_path / "s")
    assert len(names) == 3 + 3 + 2
    for name in names:
        path = tmp_path / "s" / name
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(damaged(path.read_bytes(), how))
        with pytest.raises(CorruptError, match=re.escape(str(path))):
            read_arrays(tmp_path / "s", IDENTITY)
        reporter, made = Lines(), list[int]()

        def make(made: list[int] = made) -> Arrays:
            made.append(1)
            return arrays

        cache = FeatureCache(tmp_path, reporter)
        assert_equal(cache.get("s", IDENTITY, make), arrays)
        assert made == [1] and len(reporter.lines) == 1
        assert reporter.lines[0].startswith("eval s: ") and reporter.lines[0].endswith("; its features are made again")
        assert_equal(cache.get("s", IDENTITY, make), arrays)
        assert made == [1]


def test_chunks_that_changed_places_are_found(tmp_path: Path, arrays: Arrays) -> None:
    """Each has a good crc32c of its own."""
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    one, other = (tmp_path / "s" / "cls" / "c" / name / "0" for name in "01")
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    with pytest.raises(CorruptError, match="is not what was written"):
        read_arrays(tmp_path / "s", IDENTITY)


def test_features_of_something_else_give_way_in_silence(tmp_path: Path, arrays: Arrays) -> None:
    reporter = Lines()
    cache = FeatureCache(tmp_path, reporter)
    cache.get("s", {"weights": "old"}, lambda: {"cls": arrays["cls"][:3]})
    assert_equal(cache.get("s", IDENTITY, lambda: arrays), arrays)
    assert_equal(read_arrays(tmp_path / "s", IDENTITY), arrays)
    assert read_arrays(tmp_path / "s", {"weights": "old"}) is None and reporter.lines == []


def test_what_a_killed_writer_left_is_no_hindrance(tmp_path: Path, arrays: Arrays) -> None:
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    shutil.move(tmp_path / "s", tmp_path / ".s.writing")
    (tmp_path / ".s.writing" / "zarr.json").unlink()
    assert read_arrays(tmp_path / "s", IDENTITY) is None
    write_arrays(tmp_path / "s", IDENTITY, arrays)
    assert_equal(read_arrays(tmp_path / "s", IDENTITY), arrays)
    assert not (tmp_path / ".s.writing").exists()


def test_without_room_they_are_not_kept_and_that_is_told(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, num_bytes: int, step: str) -> Any:
        raise ResourceError(f"{step} needs {num_bytes} bytes")

    monkeypatch.setattr(module, "require_room", full)
    reporter = Lines()
    assert_equal(FeatureCache(tmp_path, reporter).get("s", IDENTITY, lambda: arrays), arrays)
    assert reporter.lines == ["eval s: keeping the features needs 320 bytes; they are not kept"]
    assert not (tmp_path / "s").exists()
