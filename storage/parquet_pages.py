"""How much a Parquet file will be once it is decoded, from its page headers: measured before anything is decoded.

Its footer says so too, but nothing holds a footer to the truth, and a page of a few kilobytes can hold gigabytes. Only
what `storage/index.py` writes is allowed: plain and dictionary pages of version 1, at most compressed with zstd.
"""

from typing import Any

import pyarrow.parquet as pq

MAX_PAGES = 4096
MAX_HEADER_BYTES = 1 << 16
_COMPRESSIONS = ("UNCOMPRESSED", "ZSTD")
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2

Fields = dict[int, Any]


def decoded_bytes(data: bytes, metadata: pq.FileMetaData) -> int:
    """The sum of all pages when they are uncompressed.

    Raises:
        ValueError: the pages are not where the footer says, or of a kind that no index has.
    """
    total = num_pages = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.compression not in _COMPRESSIONS:
                raise ValueError(f"compression {column.compression}")
            start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            end = start + column.total_compressed_size
            if not 0 <= start <= end <= len(data):
                raise ValueError("pages outside the file")
            num_values = 0
            while start < end and num_values < group.num_rows:
                header, after = _struct(data, start, min(end, start + MAX_HEADER_BYTES))
                size, values = _page(header, group.num_rows)
                total, num_values, num_pages = total + size, num_values + values, num_pages + 1
                if num_pages > MAX_PAGES:
                    raise ValueError(f"more than {MAX_PAGES} pages")
                start = after + _number(header, 3)
            if start > end or num_values != group.num_rows:
                raise ValueError(f"{num_values} values in a column of {group.num_rows} rows")
    return total


def _page(header: Fields, num_rows: int) -> tuple[int, int]:
    """(bytes when uncompressed, rows) of a page."""
    kind, size = _number(header, 1), _number(header, 2)
    described = header.get({_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}.get(kind, 0))
    if type(described) is not dict:
        raise ValueError(f"a page of type {kind}")
    values, encoding = _number(described, 1), _number(described, 2)
    if kind == _DICTIONARY_PAGE:
        good, rows = encoding in (_PLAIN, _PLAIN_DICTIONARY), 0
    else:
        good, rows = encoding in (_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY), values
    if not good or values > num_rows:
        raise ValueError(f"a page of {values} values in encoding {encoding}")
    return size, rows


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise ValueError(f"field {number} of a page is {value}")
    return value


def _struct(data: bytes, at: int, end: int, depth: int = 0) -> tuple[Fields, int]:
    """The fields of a struct in Thrift's compact protocol by number, and where it ends. Text is skipped."""
    if depth > 3:
        raise ValueError("a page header that is nested too deep")
    fields: Fields = {}
    last = 0
    while True:
        head, at = _byte(data, at, end), at + 1
        if head == 0:
            return fields, at
        kind = head & 15
        if head >> 4:
            last += head >> 4
        else:
            coded, at = _varint(data, at, end)
            last = _signed(coded)
        if kind in (1, 2):
            fields[last] = kind == 1
        elif kind in (4, 5, 6):
            coded, at = _varint(data, at, end)
            fields[last] = _signed(coded)
        elif kind == 3:
            fields[last], at = _byte(data, at, end), at + 1
        elif kind == 8:
            length, at = _varint(data, at, end)
            at += length
        elif kind == 12:
            fields[last], at = _struct(data, at, end, depth + 1)
        else:
            raise ValueError(f"a page header with a field of type {kind}")


def _byte(data: bytes, at: int, end: int) -> int:
    if at >= end:
        raise ValueError("a page header that does not end")
    return data[at]


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        part, at = _byte(data, at, end), at + 1
        value |= (part & 127) << shift
        if part < 128:
            return value, at
    raise ValueError("a number of more than 64 bits in a page header")


def _signed(coded: int) -> int:
    return (coded >> 1) ^ -(coded & 1)
