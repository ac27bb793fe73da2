"""Shards: byte for byte what zarr-python reads and writes, and no damage that goes unseen.

Legend: B rows of a block, T tokens, C codes a token.
"""

import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import shards
from stillhouse.storage.crc import CRC_BYTES, with_crc
from stillhouse.storage.layout import array_metadata
from stillhouse.storage.shards import ShardReader, fingerprint, fingerprint_rows, shard_chunks
from stillhouse.storage.testing import flip_bit
from stillhouse.storage.zstd_rows import frame_content_size

FILL: dict[str, int | str] = {"float16": "NaN", "float32": "NaN", "int8": -128, "uint8": 255, "uint16": 65535}
Codes = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


def metadata(codes_BTC: Codes, zstd: bool = False) -> dict[str, Any]:
    num_rows, tokens, width = codes_BTC.shape
    return array_metadata(
        compressed=zstd,
        shape=(1, num_rows, tokens, width),
        chunk=(1, num_rows, tokens, width),
        inner_chunk=(1, 1, tokens, width),
        dtype=str(codes_BTC.dtype),
        fill_value=FILL[str(codes_BTC.dtype)],
        dimension_names=("view", "row", "token", "code"),
    )


def write_array(root: Path, codes_BTC: Codes, present_B: Bools, zstd: bool = False) -> Path:
    """Our array with one shard; returns the shard's path."""
    shard = root / "c/0/0/0/0"
    shard.parent.mkdir(parents=True)
    (root / "zarr.json").write_text(json.dumps(metadata(codes_BTC, zstd)))
    rows = as_rows(codes_BTC, zstd)
    with open(shard, "wb") as file:
        file.writelines(shard_chunks(rows[present_B], present_B, zstd=zstd))
    return shard


def as_rows(codes_BTC: Codes, zstd: bool) -> npt.NDArray[np.uint8]:
    """What a shard holds of each row; compressed rows have their tokens last."""
    turned = codes_BTC.swapaxes(1, 2) if zstd else codes_BTC
    return np.ascontiguousarray(turned).reshape(len(codes_BTC), -1).view(np.uint8)


def as_codes(rows: npt.NDArray[np.uint8], like: Codes, zstd: bool) -> Codes:
    _, tokens, width = like.shape
    if zstd:
        return rows.view(like.dtype).reshape(len(rows), width, tokens).swapaxes(1, 2)
    return rows.view(like.dtype).reshape(len(rows), tokens, width)


def reader_of(shard: Path, codes_BTC: Codes, zstd: bool = False) -> ShardReader:
    return ShardReader(shard, len(codes_BTC), codes_BTC[0].nbytes, shard.stat().st_size, zstd=zstd)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Codes, Bools]:
    """Codes [B, T, C] of some type without the fill value, and which rows are there."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9)))
    dtype = draw(st.sampled_from(sorted(FILL)))
    random = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    codes: Codes
    if dtype.startswith("float"):
        codes = random.standard_normal(shape).astype(dtype)
    else:
        codes = random.integers(-127, 128, shape).astype(np.int8) if dtype == "int8" else random.integers(0, 255, shape)
        codes = codes.astype(dtype)
    present = np.array(draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    return codes, present


@settings(max_examples=60, deadline=None)
@given(blocks(), st.booleans(), st.data())
def test_zarr_python_and_shard_reader_read_the_same(
    block: tuple[Codes, Bools], zstd: bool, data: st.DataObject
) -> None:
    codes, present = block
    with tempfile.TemporaryDirectory() as folder:
        shard = write_array(Path(folder), codes, present, zstd)
        by_zarr = np.asarray(zarr.open_array(folder, mode="r")[0])
        expected = codes.copy()
        expected[~present] = np.asarray(FILL[str(codes.dtype)]).astype(codes.dtype)
        np.testing.assert_array_equal(by_zarr, expected)

        reader = reader_of(shard, codes, zstd)
        np.testing.assert_array_equal(reader.present_B, present)
        there = np.flatnonzero(present).tolist()
        rows = data.draw(st.lists(st.sampled_from(there), max_size=20)) if there else []
        read = as_codes(reader.read(rows), codes, zstd)
        np.testing.assert_array_equal(read, by_zarr[np.array(rows, np.int64)])
        for row in np.flatnonzero(~present).tolist():
            with pytest.raises(MissingError, match=f"has no row {row}"):
                reader.read([*rows, row])


@settings(max_examples=40, deadline=None)
@given(blocks(), st.booleans())
def test_shard_of_zarr_python_is_read(block: tuple[Codes, Bools], zstd: bool) -> None:
    codes, present = block
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "zarr.json").write_text(json.dumps(metadata(codes, zstd)))
        filled = codes.copy()
        filled[~present] = np.asarray(FILL[str(codes.dtype)]).astype(codes.dtype)
        zarr.open_array(root, mode="r+")[0] = filled
        shard = root / "c/0/0/0/0"
        if not present.any():
            assert not shard.exists()
            return
        reader = reader_of(shard, codes, zstd)
        np.testing.assert_array_equal(reader.present_B, present)
        rows = np.flatnonzero(present)
        read = as_codes(reader.read(rows), codes, zstd)
        np.testing.assert_array_equal(read, codes[rows])
        kept = as_rows(codes, zstd)[present]
        ours = b"".join(bytes(piece) for piece in shard_chunks(kept, present, zstd=zstd))
        assert shard.read_bytes() == ours, "our bytes are zarr-python's bytes"


def small(num_rows: int = 6) -> Codes:
    return np.arange(num_rows * 10, dtype=np.int16).astype(np.int8).reshape(num_rows, 2, 5)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Rows 0, 1, 3, 4, 5 of six, ten bytes each."""
    return write_array(tmp_path / "array", small(), np.array([True, True, False, True, True, True]))


@pytest.mark.parametrize(
    "rows", [[], [0], [5, 4, 3, 1, 0], [3, 4, 5], [0, 1, 3, 4, 5], [1, 3, 4], [4, 4, 4], [0, 1, 0, 1, 5, 3]]
)
def test_rows_come_in_the_order_asked_for(shard: Path, rows: list[int]) -> None:
    reader = reader_of(shard, small())
    expected = small().reshape(6, -1).view(np.uint8)[np.array(rows, np.int64)]
    np.testing.assert_array_equal(reader.read(rows), expected)
    out = reader.buffer(len(rows))
    read = reader.read(np.array(rows, np.int64), out)
    assert read.base is out and np.shares_memory(read, out) == bool(rows)
    np.testing.assert_array_equal(read, expected)


def test_neighbours_are_read_together(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        runs.append(sum(len(buffer) for buffer in buffers))
        return preadv(fd, buffers, offset)

    reader = reader_of(shard, small())
    monkeypatch.setattr(os, "preadv", counted)
    reader.read([0, 1, 3, 4, 5])  # row 2 is absent, so row 3 follows row 1 in the file
    assert runs == [5 * 14]
    reader.read([4, 5, 0, 1, 1])
    assert runs[1:] == [2 * 14, 2 * 14, 14]


@pytest.mark.parametrize("most", [1, 3, 9, 13, 15, 29])
def test_short_reads_are_finished(shard: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The kernel may deliver less than was asked for, anywhere inside a row, its crc or the index."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:most]], offset))
    reader = reader_of(shard, small())
    expected = small().reshape(6, -1).view(np.uint8)[[0, 1, 3, 4, 5]]
    np.testing.assert_array_equal(reader.read([0, 1, 3, 4, 5]), expected)


def test_more_rows_than_one_call_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PIECE_BYTES", 100)
    codes = small(700)
    reader = reader_of(write_array(tmp_path / "array", codes, np.ones(700, np.bool_)), codes)
    np.testing.assert_array_equal(reader.read(np.arange(700)), codes.reshape(700, -1).view(np.uint8))


def test_rows_go_into_contiguous_arrays_only(shard: Path) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        reader_of(shard, small()).read([0, 1], np.zeros((2, 28), np.uint8)[:, ::2])


@pytest.mark.parametrize("row", [-1, 6])
def test_rows_outside_the_block_are_an_index_error(shard: Path, row: int) -> None:
    with pytest.raises(IndexError):
        reader_of(shard, small()).read([0, row])


def read_all(shard: Path, num_bytes: int) -> npt.NDArray[np.uint8]:
    reader = ShardReader(shard, 6, 10, num_bytes)
    return reader.read(np.flatnonzero(reader.present_B))


def test_every_flipped_bit_is_found(shard: Path) -> None:
    clean = shard.read_bytes()
    assert len(read_all(shard, len(clean))) == 5
    for bit in range(len(clean) * 8):
        flip_bit(shard, bit)
        with pytest.raises(CorruptError, match=str(shard)) as caught:
            read_all(shard, len(clean))
        assert "stillhouse verify" in caught.value.hint
        flip_bit(shard, bit)
    assert len(read_all(shard, len(clean))) == 5


def test_every_truncation_is_found(shard: Path) -> None:
    clean = shard.read_bytes()
    for kept in reversed(range(len(clean))):
        os.truncate(shard, kept)
        with pytest.raises(CorruptError, match=f"has {kept} bytes, its record says {len(clean)}"):
            read_all(shard, len(clean))
        with pytest.raises(CorruptError):  # even when the size is what was expected
            read_all(shard, kept)


def test_appended_bytes_are_found(shard: Path) -> None:
    clean = shard.read_bytes()
    shard.write_bytes(clean + b"\0")
    with pytest.raises(CorruptError, match="bytes, its record says"):
        read_all(shard, len(clean))


def test_a_shard_cut_while_open_ends_early(shard: Path) -> None:
    reader = reader_of(shard, small())
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(CorruptError, match="ends early"):
        reader.read([0, 1])


def test_no_shard_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"shard .*/none is not there; run `stillhouse verify`"):
        ShardReader(tmp_path / "none", 6, 10, 100)


def test_errors_close_the_file(shard: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(10):
        with pytest.raises(CorruptError):
            ShardReader(shard, 6, 10, 1)
        reader_of(shard, small()).read([0])
    assert open_files() == before


ABSENT = 2**64 - 1
ROOM = 5 * 14


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((ROOM - 13, 14), "outside the file"),
        ((ROOM, 14), "outside the file"),
        ((2**63, 14), "outside the file"),
        ((ABSENT, 14), "outside the file"),
        ((0, ABSENT), "wrong length"),
        ((0, 13), "wrong length"),
        ((0, 28), "wrong length"),
        ((14, 14), "overlap"),
        ((7, 14), "overlap"),
    ],
)
def test_index_entries_that_cannot_be(shard: Path, entry: tuple[int, int], message: str) -> None:
    """The index has a valid crc32c here: only a writer other than ours makes these."""
    clean = shard.read_bytes()
    index = bytearray(clean[ROOM:-CRC_BYTES])
    index[:16] = struct.pack("<QQ", *entry)
    shard.write_bytes(clean[:ROOM] + with_crc(bytes(index)))
    with pytest.raises(CorruptError, match=message):
        read_all(shard, len(clean))


def test_an_index_without_room_for_its_row(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"short" + with_crc(struct.pack("<QQ", 0, 14)))
    with pytest.raises(CorruptError, match="outside the file"):
        ShardReader(path, 1, 10, path.stat().st_size)


@pytest.mark.parametrize(("num_rows", "row_bytes"), [(6, 9), (6, 20), (5, 10), (7, 10)])
def test_another_row_size_than_the_writers(shard: Path, num_rows: int, row_bytes: int) -> None:
    with pytest.raises(CorruptError):
        ShardReader(shard, num_rows, row_bytes, shard.stat().st_size)


# --- rows that zstd made small ---------------------------------------------------------------------------------------


@pytest.fixture
def small_shard(tmp_path: Path) -> Path:
    """Six rows of a thousand equal bytes each, as zstd frames; row 2 is absent."""
    return write_array(tmp_path / "small", equal_rows(), np.arange(6) != 2, zstd=True)


def equal_rows() -> Codes:
    return np.repeat(np.arange(6, dtype=np.uint8), 1000).reshape(6, 10, 100)


def test_every_flipped_bit_of_a_compressed_shard_is_found(small_shard: Path) -> None:
    assert small_shard.stat().st_size < 300
    rows = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(reader_of(small_shard, equal_rows(), True).read(rows)[:, 0], rows)
    for bit in range(small_shard.stat().st_size * 8):
        flip_bit(small_shard, bit)
        with pytest.raises(CorruptError, match=str(small_shard)):
            reader_of(small_shard, equal_rows(), True).read(rows)
        flip_bit(small_shard, bit)


def one_frame(path: Path, frame: bytes) -> ShardReader:
    """A shard of one row of 1,000 bytes whose valid checksums cover whatever frame this is."""
    body = with_crc(frame)
    path.write_bytes(body + with_crc(struct.pack("<QQ", 0, len(body))))
    return ShardReader(path, 1, 1000, path.stat().st_size, zstd=True)


def test_a_frame_must_say_that_it_holds_one_row(tmp_path: Path) -> None:
    """Nothing is decompressed before: a frame of 32 KB can hold a gigabyte."""
    honest = Zstd(1).encode(bytes(1000))
    assert one_frame(tmp_path / "honest", honest).read([0]).tobytes() == bytes(1000)
    assert frame_content_size(honest) == 1000
    for name, num_bytes in {"bomb": 1 << 24, "short": 999, "long": 1001, "empty": 0}.items():
        frame = Zstd(1).encode(bytes(num_bytes))
        assert frame_content_size(frame) == num_bytes
        with pytest.raises(CorruptError, match=f"is no zstd frame of 1000 bytes, it says {num_bytes}"):
            one_frame(tmp_path / name, frame).read([0])
    lies = bytearray(Zstd(1).encode(bytes(1 << 20)))
    at = lies.index((1 << 20).to_bytes(4, "little"))
    lies[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(CorruptError, match="cannot be decompressed"):
        one_frame(tmp_path / "lies", bytes(lies)).read([0])
    for nothing in (b"no frame", honest[:5], honest[:-3], bytes([*honest[:4], 0, *honest[5:]])):
        with pytest.raises(CorruptError):
            one_frame(tmp_path / "nothing", nothing).read([0])


@given(st.integers(0, 70_000), st.integers(-5, 22))
def test_frames_say_what_they_hold(num_bytes: int, level: int) -> None:
    assert frame_content_size(Zstd(level).encode(bytes(num_bytes))) == num_bytes


def test_an_entry_longer_than_any_frame_of_a_row(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="wrong length"):
        one_frame(tmp_path / "shard", bytes(3000))


# --- one shard for another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zstd", [False, True])
def test_a_shard_of_other_rows_is_refused(tmp_path: Path, zstd: bool) -> None:
    """Equal in size and whole in itself: only the record's fingerprint tells."""
    random = np.random.Generator(np.random.PCG64(0))
    here, there = random.integers(0, 255, (2, 20, 3, 7), np.uint8)
    present = np.arange(20) % 3 != 1
    known = fingerprint(as_rows(here, zstd)[present], present)
    assert len(known) == 8
    shard, other = (write_array(tmp_path / str(i), codes, present, zstd) for i, codes in enumerate((here, there)))
    ShardReader(shard, 20, 21, shard.stat().st_size, zstd=zstd, fingerprint=known)
    with pytest.raises(CorruptError, match="holds other rows than its record says"):
        ShardReader(other, 20, 21, other.stat().st_size, zstd=zstd, fingerprint=known)


@given(st.integers(0, 300))
def test_fingerprints_are_of_rows_that_exist(num_rows: int) -> None:
    present = np.random.Generator(np.random.PCG64(num_rows)).random(num_rows) < 0.5
    rows = fingerprint_rows(present)
    assert len(rows) == min(8, present.sum()) and present[rows].all() and (np.diff(rows) > 0).all()
    if len(rows) > 1:
        assert rows[0] == np.flatnonzero(present)[0] and rows[-1] == np.flatnonzero(present)[-1]
