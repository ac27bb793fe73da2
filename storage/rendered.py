"""Rendered views: a JPEG of every training view beside the store, so that training decodes small images only.

They are made from the store alone and are no part of it: no record and no seal names them, and they may be deleted at any
time. A block of one view is a tar and an index, `<store>.rendered/<view>/<block>.{tar,json}`. The index comes last; it says
what the block was rendered from, so that another store's or an older one's is not taken for it.
"""

import hashlib
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.core.timing import timed

from . import layout
from .crc import crc32c
from .decode import decode
from .disk import disk_errors, replace_file
from .images import ImageReader, TarLayout, tar_end
from .signed_json import canonical_json, read_signed_json, signed_json
from .store import Store

QUALITY = 95
"""Of the JPEGs, whose colours have the resolution of their brightness (4:4:4)."""
RENDER = "run `stillhouse render` again"

Member = tuple[int, int, int] | None
"""Offset, bytes and crc32c of a JPEG in its tar; None: the sample is in quarantine."""


@dataclass(frozen=True, slots=True)
class _Index:
    num_bytes: int
    """Of the tar."""
    members: tuple[Member, ...]
    """By row of the block."""


def rendered_folder(root: Path) -> Path:
    """Where the rendered views of the store at `root` are."""
    return root.with_name(f"{root.name}.rendered")


def encode_jpeg(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """uint8 RGB [H, W, 3] -> JPEG bytes. Another build of Pillow may give others."""
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def is_rendered(store: Store, view: int, block: int) -> bool:
    """True when the block is there, rendered from what the store has now."""
    try:
        index = _read_index(store, view, block)
        return index is not None and _tar(store, view, block).stat().st_size == index.num_bytes
    except (CorruptError, FileNotFoundError):
        return False


def write_rendered(store: Store, view: int, block: int, images: Iterable[tuple[int, bytes]]) -> int:
    """Write a block, replacing what was there; returns the bytes of its tar.

    Args:
        images: (row, JPEG bytes) of every sample that is not in quarantine.
    """
    tar, chunks = TarLayout(), list[bytes]()
    members: list[Member] = [None] * store.plan.blocks[block].num_rows
    for row, data in images:
        offset, parts = tar.member(f"{row:06d}.jpg", data)
        chunks += parts
        members[row] = offset, len(data), crc32c(data)
    whole = b"".join([*chunks, tar_end()])
    replace_file(_tar(store, view, block), whole)
    body = {"of": _made_from(store, view, block), "bytes": len(whole), "members": members}
    replace_file(_tar(store, view, block).with_suffix(".json"), signed_json(body))
    return len(whole)


def read_rendered(store: Store, view: int, block: int, row: int) -> NDArray[np.uint8]:
    """The pixels of one rendered view, uint8 [V, V, 3]: those of the store's view but for what JPEG loses.

    Raises:
        MissingError: the block was not rendered, or from something else than the store has now.
        CorruptError: bytes on disk are not those that were written.
    """
    path = _tar(store, view, block)

    def load() -> tuple[ImageReader, tuple[Member, ...]]:
        index = _read_index(store, view, block)
        if index is None:
            raise MissingError(f"rendered views {path} are not there, or of another store", hint=RENDER)
        hint = f"delete {path.with_suffix('.json')} and {RENDER}"
        return ImageReader(path, index.num_bytes, hint=hint), index.members

    reader, members = store.cached(("rendered", view, block), load)
    member = members[row] if row < len(members) else None
    if member is None:
        raise MissingError(f"{path} has no row {row}", hint=RENDER)
    data = reader.read(*member, f"row {row}")
    with timed("render"):
        return np.asarray(decode(data))


def require_rendered(store: Store, blocks: Collection[int]) -> None:
    """MissingError unless every view of some blocks is rendered from what the store has now."""
    pairs = [(view, block) for view in range(store.spec.num_views) for block in blocks]
    missing = sum(not is_rendered(store, *pair) for pair in pairs)
    if missing:
        folder = rendered_folder(store.root)
        found = f"{missing} of {len(pairs)} blocks of rendered views are not in {folder}, or of another store"
        raise MissingError(found, hint=RENDER.removesuffix(" again"))


def _tar(store: Store, view: int, block: int) -> Path:
    return rendered_folder(store.root) / f"{view:03d}" / f"{layout.block_name(block)}.tar"


def _made_from(store: Store, view: int, block: int) -> str:
    """sha256 over all that the pixels of a block's views depend on."""
    drawn = layout.params_chunk(view, block)
    parts = {
        "images": store.entry(layout.images_unit(block), layout.images_path(block), f"images of block {block}").sha256,
        "params": store.entry(layout.views_unit(view, block), drawn, f"view {view} of block {block}").sha256,
        "size": store.spec.view_size,
        "quality": QUALITY,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _read_index(store: Store, view: int, block: int) -> _Index | None:
    """None: it is not there, or is that of something else."""
    path = _tar(store, view, block).with_suffix(".json")
    with disk_errors(path):
        body = read_signed_json(path, f"delete it and {RENDER}")
    if body is None or body.get("of") != _made_from(store, view, block):
        return None
    return _Index(body["bytes"], tuple(None if member is None else tuple(member) for member in body["members"]))
