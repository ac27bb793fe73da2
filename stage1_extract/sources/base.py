"""What every source gives: a checked listing of samples, and the encoded bytes of each."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from stillhouse.core.errors import DataError

MAX_KEY_BYTES = 512
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Item:
    """One sample of a source's listing.

    Args:
        key: unique in the source; see `key_fault` for the rule.
        label: the class as text, None when there is none.
        locator: what the source that made it needs to read it; also how messages name it.
    """

    key: str
    label: str | None
    locator: tuple[str | int, ...]

    def where(self) -> str:
        """The locator as one word of a message."""
        return ":".join(str(part) for part in self.locator)


class Source(Protocol):
    """A collection of samples. It holds locks and caches: send its config to another process, not the source."""

    def items(self) -> list[Item]:
        """The listing, sorted by key and checked by `check_items`; reads no image. DataError when it is not sound."""

    def read(self, item: Item) -> bytes:
        """The encoded image of an item of any listing of an equal config. Thread-safe; DataError when unreadable."""


def item_key(name: str) -> str:
    """A name in the form that keys have (NFC): a Mac spells é as two characters, and it is the same file."""
    return unicodedata.normalize("NFC", name)


def key_fault(key: str) -> str:
    """Why `key` is not a key: the broken rule as a predicate, "" when it is one.

    A key is a relative POSIX path of 1 to 512 bytes of NFC text, because it becomes a name in archives and pages.
    """
    try:
        num_bytes = len(key.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if not 1 <= num_bytes <= MAX_KEY_BYTES:
        return f"has {num_bytes} bytes, not 1 to {MAX_KEY_BYTES}"
    if _CONTROL.search(key):
        return "holds a control character or line separator"
    if "\\" in key:
        return "holds a backslash"
    if key.startswith("/"):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "holds an empty, '.' or '..' step"
    if not unicodedata.is_normalized("NFC", key):
        return "is not in Unicode form NFC"
    return ""


def check_items(
    items: Iterable[Item], where: str, *, unique: str = "make keys unique", filled: str = "check its path"
) -> list[Item]:
    """The items sorted by key.

    Args:
        where: the source, as messages begin: `source folder /x`.
        unique: what a user does about a duplicate key.
        filled: what a user does about an empty listing.

    Raises:
        DataError: no items, a key that breaks a rule, or a key that two samples share.
    """
    ordered = sorted(items, key=lambda item: item.key)
    if not ordered:
        raise DataError(f"{where}: no images found", hint=filled)
    for item in ordered:
        if fault := key_fault(item.key):
            raise DataError(f"{where}: the key {item.key!r} of {item.where()!r} {fault}", hint="rename the sample")
    for one, other in pairwise(ordered):
        if one.key == other.key:
            both = f"{one.where()} and {other.where()}"
            raise DataError(f"{where}: two samples have the key {one.key!r} ({both})", hint=unique)
    return ordered
