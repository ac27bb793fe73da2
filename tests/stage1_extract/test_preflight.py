"""What `ingest` and `extract` say of a disk: what it cannot hold, before they work; and when it is away."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from stillhouse.core.errors import ResourceError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import extract as extract_module
from stillhouse.stage1_extract import ingest as ingest_module
from stillhouse.stage1_extract import station
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest, tiny_store, tiny_teacher
from stillhouse.storage.seal import decided_units, records


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What room was asked for: (step, bytes)."""
    found: list[tuple[str, int]] = []
    for module in (ingest_module, extract_module):
        monkeypatch.setattr(module, "require_room", lambda _, num_bytes, step: found.append((step, num_bytes)))
    return found


def written(root: Path, below: str) -> int:
    """Bytes of the objects of a store below a folder."""
    entries = [entry for record in records(root) for entry in record.objects if entry.path.startswith(below)]
    return sum(entry.num_bytes for entry in entries)


def test_the_room_that_is_asked_for_is_the_room_that_is_taken(tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    store = tiny_store(tmp_path)
    (first, before), (second, rest), (third, features) = asked
    assert (first, second, third) == ("ingest", "ingest", "extract tiny")
    assert before == 0  # no block to judge by
    images = written(store.root, "images/") + written(store.root, "index/")
    rows = [block.num_rows for block in store.plan.blocks]
    assert rest == pytest.approx(images * (1 - rows[0] / sum(rows)), rel=0.25)
    codes = sum(written(store.root, f"features/tiny/{level}/c/") for level in ("cls", "patch"))
    assert features == pytest.approx(codes, rel=0.03)


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=1 << 30, f_flag=0)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


def test_ingest_stops_after_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_ingest(tiny_images(tmp_path / "images", 28))
    full(monkeypatch, 100)
    with pytest.raises(ResourceError, match=r"^ingest needs about 0\.\d MB more in .*/store, 0\.0 MB are free; "):
        ingest(tmp_path / "store", config, TINY_VIEWS, Reporter(quiet=True))
    assert len([unit for unit in decided_units(tmp_path / "store") if unit.startswith("images/")]) == 1
    with pytest.raises(ResourceError, match="ingest needs about"):  # before another image is read
        ingest(tmp_path / "store", config, TINY_VIEWS, Reporter(quiet=True))
    full(monkeypatch, 1 << 30)
    assert ingest(tmp_path / "store", config, TINY_VIEWS, Reporter(quiet=True)).num_blocks_found == 1


def test_extract_stops_before_the_first_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_store(tmp_path)
    second = tiny_teacher(tmp_path / "weights", "second", seed=1)
    full(monkeypatch, 100)
    with pytest.raises(ResourceError, match="extract second needs about"):
        extract(store, second, ExtractConfig(device="cpu"), Reporter(quiet=True))
    assert not [unit for unit in decided_units(store.root) if unit.startswith("features/second/")]
    full(monkeypatch, 1 << 30)
    assert extract(store, second, ExtractConfig(device="cpu"), Reporter(quiet=True)).num_units_written


def test_a_store_that_may_not_be_written_is_refused_before_the_teacher_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_store(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(station, "Teacher", None)
    with pytest.raises(ResourceError, match=f"^{store.root}: Permission denied"):
        extract(store, tiny_teacher(tmp_path / "weights", "second"), ExtractConfig(device="cpu"), Reporter(quiet=True))
    monkeypatch.setattr(ingest_module, "open_source", None)
    with pytest.raises(ResourceError, match=f"^{tmp_path}/fresh: Permission denied"):
        ingest(tmp_path / "fresh", tiny_ingest(tmp_path / "images"), TINY_VIEWS, Reporter(quiet=True))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT])
def test_an_image_is_not_left_out_because_the_disk_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = tiny_images(tmp_path / "images", 28)
    away = str(sorted(source.rglob("*.png"))[5])
    real = os.open

    def opened(path: str, *rest: int, **named: int) -> int:
        if str(path) == away:
            raise OSError(number, os.strerror(number))
        return real(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(ResourceError, match=f"^image .* cannot be read now: {os.strerror(number)}; run the same"):
            ingest(tmp_path / "store", tiny_ingest(source), TINY_VIEWS, Reporter(quiet=True))
    assert ingest(tmp_path / "store", tiny_ingest(source), TINY_VIEWS, Reporter(quiet=True)).quarantined == {}
