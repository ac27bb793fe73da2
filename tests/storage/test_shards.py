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

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage.layout import array_metadata
from stillhouse.storage.shards import CRC_BYTES, ShardReader, crc32c, shard_chunks, with_crc, without_crc
from stillhouse.storage.testing import flip_bit

FILL: dict[str, int | str] = {"float16": "NaN", "int8": -128, "uint8": 255}
Codes = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


def metadata(codes_BTC: Codes) -> dict[str, Any]:
    num_rows, tokens, width = codes_BTC.shape
    return array_metadata(
        shape=(1, num_rows, tokens, width),
        chunk=(1, num_rows, tokens, width),
        inner_chunk=(1, 1, tokens, width),
        dtype=str(codes_BTC.dtype),
        fill_value=FILL[str(codes_BTC.dtype)],
        dimension_names=("view", "row", "token", "code"),
    )


def write_array(root: Path, codes_BTC: Codes, present_B: Bools) -> Path:
    """Our array with one shard; returns the shard's path."""
    shard = root / "c/0/0/0/0"
    shard.parent.mkdir(parents=True)
    (root / "zarr.json").write_text(json.dumps(metadata(codes_BTC)))
    rows = np.ascontiguousarray(codes_BTC).reshape(len(codes_BTC), -1).view(np.uint8)
    shard.write_bytes(b"".join(shard_chunks(rows, present_B)))
    return shard


def reader_of(shard: Path, codes_BTC: Codes) -> ShardReader:
    return ShardReader(shard, len(codes_BTC), codes_BTC[0].nbytes, shard.stat().st_size)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Codes, Bools]:
    """Codes [B, T, C] of some type without the fill value, and which rows are there."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9)))
    dtype = draw(st.sampled_from(sorted(FILL)))
    random = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    codes: Codes
    if dtype == "float16":
        codes = random.standard_normal(shape).astype(np.float16)
    else:
        codes = random.integers(-127, 128, shape).astype(np.int8) if dtype == "int8" else random.integers(0, 255, shape)
        codes = codes.astype(dtype)
    present = np.array(draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    return codes, present


@settings(max_examples=60, deadline=None)
@given(blocks(), st.data())
def test_zarr_python_and_shard_reader_read_the_same(block: tuple[Codes, Bools], data: st.DataObject) -> None:
    codes, present = block
    with tempfile.TemporaryDirectory() as folder:
        shard = write_array(Path(folder), codes, present)
        by_zarr = np.asarray(zarr.open_array(folder, mode="r")[0])
        expected = codes.copy()
        expected[~present] = np.asarray(FILL[str(codes.dtype)]).astype(codes.dtype)
        np.testing.assert_array_equal(by_zarr, expected)

        reader = reader_of(shard, codes)
        np.testing.assert_array_equal(reader.present_B, present)
        there = np.flatnonzero(present).tolist()
        rows = data.draw(st.lists(st.sampled_from(there), max_size=20)) if there else []
        read = reader.read(rows).view(codes.dtype).reshape(len(rows), *codes.shape[1:])
        np.testing.assert_array_equal(read, by_zarr[np.array(rows, np.int64)])
        for row in np.flatnonzero(~present).tolist():
            with pytest.raises(MissingError, match=f"has no row {row}"):
                reader.read([*rows, row])


@settings(max_examples=40, deadline=None)
@given(blocks())
def test_shard_of_zarr_python_is_read(block: tuple[Codes, Bools]) -> None:
    codes, present = block
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "zarr.json").write_text(json.dumps(metadata(codes)))
        filled = codes.copy()
        filled[~present] = np.asarray(FILL[str(codes.dtype)]).astype(codes.dtype)
        zarr.open_array(root, mode="r+")[0] = filled
        shard = root / "c/0/0/0/0"
        if not present.any():
            assert not shard.exists()
            return
        reader = reader_of(shard, codes)
        np.testing.assert_array_equal(reader.present_B, present)
        rows = np.flatnonzero(present)
        read = reader.read(rows).view(codes.dtype).reshape(len(rows), *codes.shape[1:])
        np.testing.assert_array_equal(read, codes[rows])
        ours = b"".join(shard_chunks(codes.reshape(len(codes), -1).view(np.uint8), present))
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
    out = np.zeros((len(rows), 10), np.uint8)
    assert reader.read(np.array(rows, np.int64), out) is out
    np.testing.assert_array_equal(out, expected)


def test_neighbours_are_read_together(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        runs.append(sum(len(buffer) for buffer in buffers))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    reader = reader_of(shard, small())
    reader.read([0, 1, 3, 4, 5])  # row 2 is absent, so row 3 follows row 1 in the file
    assert runs == [5 * 14]
    reader.read([4, 5, 0, 1, 1])
    assert runs[1:] == [2 * 14, 2 * 14, 14]


@pytest.mark.parametrize("most", [1, 3, 9, 13, 15, 29])
def test_short_reads_are_finished(shard: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The kernel may deliver less than was asked for, anywhere inside a row or its crc."""
    preadv = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        left, pieces = most, []
        for buffer in buffers:
            pieces.append(buffer[:left])
            left -= len(pieces[-1])
        return preadv(fd, [piece for piece in pieces if len(piece)], offset)

    reader = reader_of(shard, small())
    monkeypatch.setattr(os, "preadv", short)
    expected = small().reshape(6, -1).view(np.uint8)[[0, 1, 3, 4, 5]]
    np.testing.assert_array_equal(reader.read([0, 1, 3, 4, 5]), expected)


def test_more_rows_than_one_call_takes(tmp_path: Path) -> None:
    codes = small(700)
    reader = reader_of(write_array(tmp_path / "array", codes, np.ones(700, np.bool_)), codes)
    np.testing.assert_array_equal(reader.read(np.arange(700)), codes.reshape(700, -1).view(np.uint8))


def test_rows_go_into_contiguous_arrays_only(shard: Path) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        reader_of(shard, small()).read([0, 1], np.zeros((2, 20), np.uint8)[:, ::2])


def test_short_reads_of_the_kernel_are_carried_on(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:5]], offset))
    reader = reader_of(shard, small())
    np.testing.assert_array_equal(reader.read([0, 1]), small().reshape(6, -1).view(np.uint8)[:2])


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


def test_crc32c_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32/ISCSI
    assert with_crc(b"123456789")[-4:] == bytes.fromhex("839206e3")
    assert without_crc(with_crc(b""), "nothing") == b""


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"ab" + bytes(4)])
def test_without_crc_refuses(data: bytes) -> None:
    with pytest.raises(CorruptError, match="the thing does not match its crc32c"):
        without_crc(data, "the thing")
