"""Parquet files with a column of encoded images, as Hugging Face datasets write them."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Literal

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError

from .base import Item, check_items, item_key
from .local_files import expand_patterns, unreadable

CACHE_BYTES = 512 << 20  # of image columns; a row group of a usual data set has 10 to 300 MB


class ParquetSource(Config):
    """Rows of Parquet files; one row is one sample."""

    kind: Literal["parquet"] = "parquet"
    path: str | tuple[str, ...]
    """A file, a glob such as `data/train-*.parquet`, or a list of them."""
    image_column: str = "image"
    """Encoded images: a column of bytes, or of structs with a field `bytes` (Hugging Face's `Image`)."""
    key_column: str | None = None
    """Text or integers that name the samples. Without it a key is `<file name>/<row number>`."""
    label_column: str | None = None
    """Its value as text is the label; a row without a value has none."""


class ParquetReader:
    """Reads a `ParquetSource`. Reading in listing order decodes each row group once."""

    def __init__(self, config: ParquetSource) -> None:
        self.config = config
        self.where = f"source parquet {config.path if isinstance(config.path, str) else ', '.join(config.path)}"
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._footers: dict[str, Any] = {}

    def items(self) -> list[Item]:
        """One item a row; reads the key and label columns, no image.

        Raises:
            DataError: no such file or column, a column of another type, a row without a key, a key that is none.
        """
        patterns = (self.config.path,) if isinstance(self.config.path, str) else self.config.path
        files = expand_patterns(patterns, self.where)
        return check_items(
            (item for file in files for item in self._list(file)),
            self.where,
            unique="name another key_column, or give the files different names",
            filled="name files that have rows",
        )

    def read(self, item: Item) -> bytes:
        """The bytes of the item's image; loads its row group unless it is among the last ones used."""
        file, group, row = str(item.locator[0]), int(item.locator[1]), int(item.locator[2])
        with self._lock:
            images = self._groups.get((file, group))
            if images is None:
                images = self._load(file, group)
                self._groups[file, group] = images
                while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > CACHE_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
        if row >= len(images):
            raise DataError(f"{self.where}: row group {group} of {file} has no row {row}", hint="list the source again")
        image: bytes | None = images[row].as_py()
        if image is None:
            raise DataError(
                f"{self.where}: row {row} of row group {group} of {file} has no bytes in {self.config.image_column!r}",
                hint="embed the images when writing the files (embed_external_files=True), or remove the row",
            )
        return image

    def _list(self, file: str) -> Iterator[Item]:
        config, stem, row = self.config, PurePath(file).stem, 0
        columns = [name for name in (config.key_column, config.label_column) if name is not None]
        with self._open(file) as reader:
            self._image_field(file, reader.schema_arrow)
            self._require(file, reader.schema_arrow, columns)
            for group in range(reader.num_row_groups):
                num_rows = reader.metadata.row_group(group).num_rows
                table = self._rows(file, reader, group, columns)
                keys = table[config.key_column].to_pylist() if config.key_column else range(row, row + num_rows)
                labels = table[config.label_column].to_pylist() if config.label_column else [None] * num_rows
                for place, (key, label) in enumerate(zip(keys, labels, strict=True)):
                    if not isinstance(key, str | int):
                        raise DataError(
                            f"{self.where}: the key of row {row + place} of {file} is {key!r}, not text or an integer",
                            hint="name another key_column",
                        )
                    name = item_key(str(key)) if config.key_column else f"{item_key(stem)}/{key:08d}"
                    yield Item(name, None if label is None else str(label), (file, group, place))
                row += num_rows

    def _load(self, file: str, group: int) -> Any:
        """The image column of one row group, as an Arrow array of binary."""
        import pyarrow.compute

        with self._open(file) as reader:
            if group >= reader.num_row_groups:
                raise DataError(f"{self.where}: {file} has no row group {group}", hint="list the source again")
            column = self._image_field(file, reader.schema_arrow)
            images = self._rows(file, reader, group, [column])[self.config.image_column]
        return images if column == self.config.image_column else pyarrow.compute.struct_field(images, "bytes")

    def _open(self, file: str) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            reader = pyarrow.parquet.ParquetFile(
                file, metadata=self._footers.get(file), page_checksum_verification=True
            )
        except pyarrow.ArrowException as error:
            raise self._damaged(file, error) from error
        except OSError as error:
            raise unreadable(file, self.where, error) from error
        self._footers[file] = reader.metadata
        return reader

    def _rows(self, file: str, reader: Any, group: int, columns: list[str]) -> Any:
        import pyarrow

        try:
            return reader.read_row_group(group, columns=columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: str, error: Exception) -> DataError:
        text = " ".join(str(error).split())[:200]
        return DataError(f"{self.where}: {file} is not a sound Parquet file: {text}", hint="copy the file again")

    def _image_field(self, file: str, schema: Any) -> str:
        """The dotted name of the column of bytes."""
        from pyarrow import types

        name = self.config.image_column
        self._require(file, schema, [name])
        kind, dotted = schema.field(name).type, name
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, dotted = kind.field("bytes").type, f"{name}.bytes"
        if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)):
            raise DataError(
                f"{self.where}: column {name!r} of {file} is {kind}, not bytes or a struct with a field 'bytes'",
                hint="set image_column to the column of encoded images",
            )
        return dotted

    def _require(self, file: str, schema: Any, columns: list[str]) -> None:
        for column in columns:
            if column not in schema.names:
                raise DataError(
                    f"{self.where}: {file} has no column {column!r}", hint=f"its columns: {', '.join(schema.names)}"
                )
