"""The sample index: Parquet that plain pyarrow reads, with pages that cannot rot unseen."""

import io
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import CorruptError
from stillhouse.storage import layout
from stillhouse.storage.crc import crc32c
from stillhouse.storage.index import SCHEMA, SampleRow, decode_index, encode_index
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape

SHAPE = StoreShape()
ROW = SampleRow(
    key="a/ü.png",
    label="cat",
    reason=None,
    width=3,
    height=4,
    format="png",
    offset=512,
    length=99,
    crc32c=2**32 - 1,
    source_sha256="0" * 64,
    pixel_hash=2**64 - 1,
)
BAD = replace(ROW, key="b", label=None, reason="truncated", format=None, offset=-1, length=0, crc32c=0, pixel_hash=0)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.builds(
    SampleRow,
    key=texts,
    label=st.none() | texts,
    reason=st.none() | st.sampled_from(["truncated", "too-large"]),
    width=st.integers(0, 2**31 - 1),
    height=st.integers(0, 2**31 - 1),
    format=st.none() | st.sampled_from(["png", "jpg"]),
    offset=st.integers(-1, 2**63 - 1),
    length=st.integers(0, 2**63 - 1),
    crc32c=st.integers(0, 2**32 - 1),
    source_sha256=texts,
    pixel_hash=st.integers(0, 2**64 - 1),
)


@given(st.lists(rows, max_size=8))
def test_rows_come_back(samples: list[SampleRow]) -> None:
    assert list(decode_index(encode_index(samples), "x")) == samples


def test_equal_rows_give_equal_bytes() -> None:
    assert encode_index([ROW, BAD]) == encode_index([ROW, BAD])


def test_schema_and_rows_have_the_same_fields() -> None:
    assert [field.name for field in fields(SampleRow)] == SCHEMA.names


def test_plain_pyarrow_reads_it(random_store: Store) -> None:
    for block in range(3):
        table = pq.read_table(random_store.root / layout.index_path(block))
        assert table.schema.names == SCHEMA.names
        assert [SampleRow(**row) for row in table.to_pylist()] == list(random_store.samples(block))
        assert table.column("key").to_pylist() == [SHAPE.key(block, row) for row in range(SHAPE.blocks[block][1])]


def test_rows_say_where_their_bytes_are(random_store: Store) -> None:
    for block in range(3):
        tar = (random_store.root / layout.images_path(block)).read_bytes()
        for row, sample in enumerate(random_store.samples(block)):
            if sample.reason is None:
                data = tar[sample.offset : sample.offset + sample.length]
                assert data == SHAPE.image(block, row) and crc32c(data) == sample.crc32c
            else:
                assert (sample.offset, sample.length, sample.crc32c) == (-1, 0, 0)


def test_pages_carry_checksums() -> None:
    """So that plain pyarrow can check them too, when it is told to."""
    data = encode_index([replace(ROW, key=f"key {number}") for number in range(200)])
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    middle = column.data_page_offset + column.total_compressed_size // 2
    damaged = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(io.BytesIO(damaged), page_checksum_verification=True)
    with pytest.raises(CorruptError) as caught:
        decode_index(damaged, "store/index/000000.parquet")
    assert str(caught.value).startswith("index store/index/000000.parquet cannot be read: ")
    assert str(caught.value).endswith("; run `stillhouse verify` on the store")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet(data: bytes) -> None:
    with pytest.raises(CorruptError, match="index somewhere cannot be read"):
        decode_index(data, "somewhere")


def test_other_columns() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"]}), sink)
    with pytest.raises(CorruptError, match="index somewhere has other columns than format 1"):
        decode_index(sink.getvalue(), "somewhere")
