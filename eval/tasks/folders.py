"""Folders named for what is in them: classes, instances, clips."""

import re
from pathlib import Path

from stillhouse.core.errors import MissingError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_NUMBER = re.compile(r"(\d+)")


def folders_in(root: Path, what: str) -> list[Path]:
    """The folders in `root` by name; those that begin with a dot are not part of it.

    Raises:
        MissingError: there is none.
    """
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise MissingError(f"{root} has no folders: {what}", hint="unpack the whole data set, or correct `path`")
    return found


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, numbers in their names in the order of numbers: `2.jpg` before `10.jpg`.

    Raises:
        MissingError: there is none.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise MissingError(f"{folder} has no image", hint="the data set is unpacked in part only: unpack it again")
    return sorted(found, key=_by_numbers)


def _by_numbers(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Texts and numbers in turn; the name itself tells `01.jpg` and `1.jpg` apart."""
    parts = [*_NUMBER.split(path.name), "0"]
    return [(text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=True)], path.name
