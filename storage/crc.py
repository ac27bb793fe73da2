"""CRC-32C (Castagnoli), the checksum of Zarr's crc32c codec: of bytes, and of bytes that carry it at their end."""

import struct
from typing import Any

import fastcrc
import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError

CRC_BYTES = 4
RESIDUE = 0x48674BC7
"""The CRC-32C of any bytes followed by their own CRC-32C: whole rows are checked in place, without parting the two."""

crc32c: Any = fastcrc.crc32.iscsi
"""crc32c(data) -> int: of bytes or of a contiguous array, read in place. Bound here: a call costs less than the sum."""


def with_crc(data: bytes) -> bytes:
    """`data` followed by its crc32c: what Zarr's crc32c codec stores for one chunk."""
    return data + struct.pack("<I", crc32c(data))


def without_crc(data: bytes, where: str) -> bytes:
    """The checked payload of `with_crc`; CorruptError naming `where` on mismatch."""
    if len(data) < CRC_BYTES or crc32c(data) != RESIDUE:
        raise CorruptError(f"{where} does not match its crc32c", hint="run `stillhouse verify` on the store")
    return data[:-CRC_BYTES]


def run_residue(num_bytes: int, rows: int) -> int:
    """The CRC-32C of `rows` rows of `num_bytes` bytes, each of which ends in its own CRC-32C.

    It depends on no other byte: behind each row the sum stands at a known value, whatever the row was. So one sum checks
    a run of rows as sharply as a sum for each would: what one wrong row leaves behind, no later row takes away, as the
    sum of later bytes is an invertible map of it; two wrong rows may cancel once in 2^32.
    """
    if rows == 1:
        return RESIDUE
    residues = _RESIDUES.setdefault(num_bytes, [RESIDUE])
    if len(residues) < rows:
        zeros = bytes(num_bytes)
        from_zero = crc32c(zeros, 0)
        for _ in range(rows - len(residues)):
            residues.append(crc32c(zeros, residues[-1]) ^ from_zero ^ RESIDUE)
    return residues[rows - 1]


_RESIDUES: dict[int, list[int]] = {}


def append_crcs(rows_BS: npt.NDArray[np.uint8]) -> None:
    """Put behind each row's payload, in its last four bytes, the crc32c of the payload."""
    crcs = np.array([crc32c(row[:-CRC_BYTES]) for row in rows_BS], "<u4")
    rows_BS[:, -CRC_BYTES:] = crcs.view(np.uint8).reshape(-1, CRC_BYTES)
