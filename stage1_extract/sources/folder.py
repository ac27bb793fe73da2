"""A folder of image files: one file is one sample."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import field_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError

from .base import IMAGE_EXTENSIONS, Item, check_items, item_key
from .local_files import read_bytes, unreadable


class ImageFiles(Config):
    """Which files below a folder are samples, and what their labels are."""

    recursive: bool = True
    """Also read the folders inside it."""
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    """Files with these extensions are samples, others are not; upper and lower case are the same."""
    label: Literal["parent", "none"] = "parent"
    """`parent`: the name of the folder that a file lies in; a file in the source's own folder has no label."""

    @field_validator("extensions")
    @classmethod
    def _plain(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return plain_extensions(extensions)


class FolderSource(ImageFiles):
    """A folder of image files; names that begin with a dot are not part of it."""

    kind: Literal["folder"] = "folder"
    path: Path
    """The folder. A sample's key is its path below it, such as `cats/0001.jpg`."""


class FolderReader:
    """Reads a `FolderSource`."""

    def __init__(self, config: FolderSource, where: str = "") -> None:
        self.config = config
        self.where = where or f"source folder {config.path}"

    def items(self) -> list[Item]:
        """Every image file below the folder.

        Raises:
            DataError: no such folder, no image in it, a link that leads nowhere or in a circle, a key that is none.
        """
        if not self.config.path.is_dir():
            raise DataError(f"{self.where}: no such folder", hint="set `path` to a folder of images")
        extensions = ", ".join(self.config.extensions)
        return check_items(
            (self._item(name) for name in self._walk("", ())),
            self.where,
            unique="rename one of them: they differ only in how Unicode spells an accent",
            filled=f"put files there that end in one of {extensions}, or set `extensions`",
        )

    def read(self, item: Item) -> bytes:
        """The bytes of the item's file."""
        return read_bytes(self.config.path / str(item.locator[0]), self.where)

    def _item(self, name: str) -> Item:
        key = item_key(name)
        parent = PurePosixPath(key).parent.name if self.config.label == "parent" else ""
        return Item(key, parent or None, (name,))

    def _walk(self, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Paths of image files relative to the root. `above` holds device and inode of the folders we are in."""
        folder = self.config.path / below
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise DataError(
                    f"{self.where}: the link {folder} leads back to a folder above it", hint="remove the link"
                )
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir():
                    if self.config.recursive:
                        yield from self._walk(name, (*above, here))
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    raise DataError(
                        f"{self.where}: the link {entry.path} leads nowhere", hint="remove or mend the link"
                    )
                elif extension_of(entry.name) in self.config.extensions:
                    if not entry.is_file():
                        raise DataError(f"{self.where}: {entry.path} is not a regular file", hint="remove it")
                    yield name
        except OSError as error:
            raise unreadable(folder, self.where, error) from error


def extension_of(name: str) -> str:
    """The extension of a file name in lower case, without the dot."""
    return os.path.splitext(name)[1][1:].lower()


def plain_extensions(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Extensions in lower case without a leading dot; ValueError when there are none."""
    plain = tuple(extension.removeprefix(".").lower() for extension in extensions)
    if not all(plain) or not plain:
        raise ValueError("name at least one extension, such as 'jpg'")
    return plain
