"""The sample index: one Parquet file a block, one row a sample, checksummed pages."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.core.errors import CorruptError

from .foreign import MAX_BLOCK_ROWS
from .parquet_pages import decoded_bytes

MAX_DECODED_BYTES = 128 << 20
MAX_ROW_BYTES = 16 << 10
"""Of one sample on average: a key has at most 512 bytes, a label may be a sentence."""
MAX_THRIFT_BYTES = 1 << 20
MAX_THRIFT_ITEMS = 1 << 16

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("reason", pa.string()),  # null = a good sample; else why it is in quarantine
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("pixel_hash", pa.uint64(), nullable=False),
    ]
)
_TEXTS = [field.name for field in SCHEMA if pa.types.is_string(field.type)]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One sample of a block. A quarantined one has a `reason` and no bytes in the tar (offset -1)."""

    key: str
    label: str | None
    reason: str | None
    width: int
    height: int
    format: str | None
    offset: int
    length: int
    crc32c: int
    source_sha256: str
    pixel_hash: int


class BlockIndex(Sequence[SampleRow]):
    """The rows of a block, kept as columns: a tenth of the memory of as many objects."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> SampleRow: ...
    @overload
    def __getitem__(self, row: slice) -> list[SampleRow]: ...
    def __getitem__(self, row: int | slice) -> SampleRow | list[SampleRow]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a block of {len(self)}")
        return SampleRow(*(column[row % len(self)].as_py() for column in self._table.columns))

    def labels(self) -> list[str | None]:
        """The label of every row, None where there is none."""
        return list(self._table.column("label").to_pylist())

    def __iter__(self) -> Iterator[SampleRow]:
        for row in self._table.to_pylist():
            yield SampleRow(**row)


def encode_index(rows: Sequence[SampleRow]) -> bytes:
    """The Parquet bytes of a block's rows."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(SampleRow)}
    sink = io.BytesIO()
    table = pa.table(columns, schema=SCHEMA)
    pq.write_table(
        table, sink, compression="zstd", write_page_checksum=True, use_dictionary=["label", "reason", "format"]
    )
    return sink.getvalue()


def decode_index(data: bytes, where: str, num_rows: int | None = None) -> BlockIndex:
    """Every row of a block's index from its Parquet bytes, page checksums verified. `where` names it in errors.

    The footer has no checksum: compare the bytes with the record's sha256 before.

    Args:
        num_rows: how many it must have.

    Raises:
        CorruptError: not the bytes of an index, or more than an index of so many rows may be when it is decoded.
    """
    hint = "run `stillhouse verify` on the store"
    try:
        file = _open(data)
        rows = file.metadata.num_rows
        if not 0 <= rows <= MAX_BLOCK_ROWS or (num_rows is not None and rows != num_rows):
            wanted = f"at most {MAX_BLOCK_ROWS}" if num_rows is None else num_rows
            raise CorruptError(f"index {where} has {rows} samples, and not those of the plan: {wanted}", hint=hint)
        limit = min(MAX_DECODED_BYTES, MAX_ROW_BYTES * (rows + 4))
        if not file.schema_arrow.equals(SCHEMA):
            raise CorruptError(f"index {where} has other columns than format 1", hint=hint)
        if decoded_bytes(data, file.metadata) > limit:
            raise CorruptError(f"index {where} is more than {limit} bytes when decoded", hint=hint)
        # As dictionaries, so that a text that a page holds once is in memory once, however often the page repeats it.
        table = _open(data, read_dictionary=_TEXTS).read(use_threads=False)
        if table.num_rows != rows or sum(_text_bytes(table.column(name)) for name in _TEXTS) > limit:
            raise CorruptError(f"index {where} is more than {limit} bytes when decoded", hint=hint)
        table = table.cast(SCHEMA)
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise CorruptError(f"index {where} cannot be read: {' '.join(str(error).split())[:200]}", hint=hint) from error
    return BlockIndex(table)


def _open(data: bytes, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        io.BytesIO(data),
        page_checksum_verification=True,
        thrift_string_size_limit=MAX_THRIFT_BYTES,
        thrift_container_size_limit=MAX_THRIFT_ITEMS,
        **options,
    )


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column of dictionaries when each row has a text of its own."""
    return sum(pc.sum(pc.binary_length(part.dictionary).take(part.indices)).as_py() or 0 for part in column.chunks)
