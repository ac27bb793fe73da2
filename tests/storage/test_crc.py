"""Checksums: Zarr's own, in place, and none that passes what was changed."""

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import CorruptError
from stillhouse.storage.crc import RESIDUE, append_crcs, crc32c, run_residue, with_crc, without_crc


def test_crc32c_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32/ISCSI
    assert with_crc(b"123456789")[-4:] == bytes.fromhex("839206e3")
    assert without_crc(with_crc(b""), "nothing") == b""


@given(st.binary(max_size=3000), st.integers(0, 7))
def test_it_is_the_checksum_of_zarr_python(data: bytes, start: int) -> None:
    """Of every length and alignment: the fast paths differ."""
    data = data[start:]
    assert crc32c(data) == google_crc32c.value(data) == crc32c(np.frombuffer(data, np.uint8)) == crc32c(bytearray(data))
    assert crc32c(with_crc(data)) == RESIDUE


def test_large_data() -> None:
    data = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (1 << 20) + 13, np.uint8)
    for start, stop in ((0, len(data)), (1, 70_001), (3, 1 << 19)):
        assert crc32c(data[start:stop]) == google_crc32c.value(data[start:stop].tobytes())


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"ab" + bytes(4)])
def test_without_crc_refuses(data: bytes) -> None:
    with pytest.raises(CorruptError, match="the thing does not match its crc32c"):
        without_crc(data, "the thing")


def test_crcs_behind_rows() -> None:
    rows = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (5, 19), np.uint8)
    append_crcs(rows)
    assert [without_crc(row.tobytes(), "a row") for row in rows] == [row[:-4].tobytes() for row in rows]


@given(st.integers(5, 40), st.integers(1, 12), st.data())
def test_one_sum_checks_a_run_of_rows(num_bytes: int, rows: int, data: st.DataObject) -> None:
    run = np.frombuffer(data.draw(st.binary(min_size=num_bytes * rows, max_size=num_bytes * rows)), np.uint8)
    run_NS = run.reshape(rows, num_bytes).copy()
    append_crcs(run_NS)
    assert crc32c(run_NS.reshape(-1)) == run_residue(num_bytes, rows)
    bit = data.draw(st.integers(0, run_NS.size * 8 - 1))
    run_NS.reshape(-1)[bit // 8] ^= 1 << bit % 8
    assert crc32c(run_NS.reshape(-1)) != run_residue(num_bytes, rows)
    run_NS[:] = 0  # what a hole in a file reads as
    assert crc32c(run_NS.reshape(-1)) != run_residue(num_bytes, rows)
