"""The note of where a store was taken from: part of what it says of itself, so it may come from anybody."""

from pathlib import Path

from pydantic import Field

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.storage import foreign, layout
from stillhouse.storage.seal import Seal, store_id
from stillhouse.storage.signed_json import read_signed_json, signed_json
from stillhouse.storage.specs import Sha256, Text
from stillhouse.storage.store import Store

from .selection import Selection

REMOVE = "remove what is there, or name another place"


class Origin(Config):
    """Which store, as it was sealed when, and how much of it."""

    store_id: Text
    content_sha256: Sha256
    root_sha256: Sha256
    selection: Selection = Field(default_factory=Selection)

    @classmethod
    def of(cls, store: Store, sealed: Seal, asked: Selection) -> "Origin":
        return cls(
            store_id=store_id(store.root),
            content_sha256=sealed.content_sha256,
            root_sha256=sealed.root_sha256,
            selection=asked,
        )

    def to_bytes(self) -> bytes:
        return signed_json(self.model_dump(mode="json", exclude_none=True))

    def goes_on(self, later: "Origin") -> bool:
        """True when a copy of this one may become one of `later`: the same, or all of a store that is newer now."""
        same = (self.store_id, self.selection) == (later.store_id, later.selection)
        return self == later or (same and self.selection.is_everything)


def read_origin(root: Path) -> Origin | None:
    """The note in a store here; None for one that was made where it is.

    Raises:
        CorruptError: the note is not what was written.
    """
    body = read_signed_json(root / layout.ORIGIN, REMOVE, root=root, max_bytes=foreign.MAX_SPEC_BYTES)
    return None if body is None else parsed(body, str(root / layout.ORIGIN))


def parsed(body: object, where: str) -> Origin:
    try:
        return parse_config(Origin, body, where=where)
    except UsageError as error:
        raise CorruptError(error.message, hint=REMOVE) from error
