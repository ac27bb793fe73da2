"""Sources of images: one a file, its config beside it. This file holds the table and no other code."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from .base import IMAGE_EXTENSIONS, Item, Source, check_items, key_fault
from .crops import CropsReader, CropsSource
from .folder import FolderReader, FolderSource
from .package import PackageSource, package_reader
from .parquet import ParquetReader, ParquetSource
from .sklearn import SklearnReader, SklearnSource
from .webdataset import WebDatasetReader, WebDatasetSource

__all__ = [
    "IMAGE_EXTENSIONS",
    "SOURCES",
    "CropsSource",
    "FolderSource",
    "Item",
    "PackageSource",
    "ParquetSource",
    "SklearnSource",
    "Source",
    "SourceConfig",
    "WebDatasetSource",
    "check_items",
    "key_fault",
    "open_source",
]

SourceConfig = Annotated[
    FolderSource | WebDatasetSource | ParquetSource | CropsSource | SklearnSource | PackageSource,
    Field(discriminator="kind"),
]

SOURCES: Mapping[str, Callable[[Any], Source]] = {
    "folder": FolderReader,
    "webdataset": WebDatasetReader,
    "parquet": ParquetReader,
    "crops": CropsReader,
    "sklearn": SklearnReader,
    "package": package_reader,
}


def open_source(config: SourceConfig) -> Source:
    """The reader of a config of any kind."""
    return SOURCES[config.kind](config)
