"""`ingest`: source images become blocks of a store. The last step that needs the original data."""

import errno
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from stillhouse.core.errors import CorruptError, DataError, ResourceError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.decode import BadImage, decode, pixel_hash
from stillhouse.storage.extent import commit_layout
from stillhouse.storage.index import SampleRow
from stillhouse.storage.redo import noted_redo
from stillhouse.storage.room import require_room, require_writable
from stillhouse.storage.specs import TRAIN, StoreSpec
from stillhouse.storage.store import Store
from stillhouse.storage.writer import BlockSample, commit_images

from .config import IngestConfig
from .grow import add_samples, block_items, open_grown
from .plan import plan_blocks
from .policies import ViewPolicyConfig
from .sources import Item, Source, open_source

DECODE_THREADS = 2
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
"""What a machine or a network disk says that is in trouble. An image must not stay out of a store for it."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What `ingest` did. `quarantined` counts samples by reason, over the whole store."""

    num_samples: int
    num_blocks_written: int
    num_blocks_found: int
    quarantined: dict[str, int]
    seconds: float


def ingest(
    root: Path, config: IngestConfig, views: ViewPolicyConfig, reporter: Reporter, *, only_noted: bool = False
) -> IngestResult:
    """Write every missing block of images; blocks that are there are left alone.

    A store with fewer views than are asked for grows by those. When all blocks are there the source is not opened at all,
    unless `config.grow` asks for what it lists since.

    Args:
        only_noted: just the blocks that are noted to be made anew.

    Raises:
        DataError: the source is empty, has duplicate keys, or no readable image for training.
        SpecMismatchError: `root` holds a store of another spec or another listing.
        BusyError: another process has begun to add other samples.
        ResourceError: the store may not be written to, or its disk has no room for the images.
    """
    spec = StoreSpec(ingest=config.spec(), views=views.model_dump(mode="json"))
    begun = (root / layout.PLAN).exists()
    store = open_grown(root, spec, reporter, any_source=config.grow) if begun else None
    if store is not None and not config.grow and not _missing(store):
        return ingest_result(store)
    require_writable(root)
    source = open_source(config.source)
    listed = source.items()
    if store is None:
        store = Store.create(root, spec, plan_blocks(listed, config).store)
    commit_layout(store)
    num_written, seconds = _write_blocks(store, source, listed, config, reporter, only_noted=only_noted)
    if begun and config.grow and not only_noted:
        store = add_samples(store, listed, config, reporter)
        more, longer = _write_blocks(store, source, listed, config, reporter)
        num_written, seconds = num_written + more, seconds + longer
    return ingest_result(store, num_written, seconds)


def _missing(store: Store) -> list[int]:
    """The blocks that are still to be written."""
    return [b for b in range(len(store.plan.blocks)) if not store.done(layout.images_unit(b))]


def _write_blocks(
    store: Store,
    source: Source,
    listed: Sequence[Item],
    config: IngestConfig,
    reporter: Reporter,
    *,
    only_noted: bool = False,
) -> tuple[int, float]:
    """Write the missing blocks; (how many, seconds)."""
    todo = _missing(store)
    if only_noted:
        todo = [b for b in todo if noted_redo(store.root, layout.images_unit(b)) is not None]
    if not todo:
        return 0, 0.0
    items_of = block_items(store, listed, config, todo)
    total = sum(len(items_of[b]) for b in todo)
    with worker_threads(DECODE_THREADS, "decode") as pool, reporter.task("ingest", total) as task:
        for block in todo:
            were_good = _were_good(store, block)

            def samples(
                items: tuple[Item, ...] = items_of[block], were_good: set[str] = were_good
            ) -> Iterator[BlockSample]:
                for sample in pool.map(lambda item: read_sample(source, item), items):
                    if sample.row.reason is not None and sample.row.key in were_good:
                        _refuse_lost(store, sample.row)
                    task.advance(1)
                    yield sample

            if block in todo[:2]:  # then there is a block to judge by
                require_room(store.root, _bytes_to_write(store, todo), "ingest")
            commit_images(store, block, samples())
            reporter.event("block", step="ingest", block=block)
    return len(todo), task.seconds


def _bytes_to_write(store: Store, todo: Sequence[int]) -> int:
    """What the missing blocks will take, were they like those that are there; 0 as long as there is none."""
    blocks = store.plan.blocks
    units = {block: layout.images_unit(block) for block in range(len(blocks))}
    found = {block: store.record(unit) for block, unit in units.items() if not noted_redo(store.root, unit)}
    there = {block: record for block, record in found.items() if record is not None}
    num_bytes = sum(entry.num_bytes for record in there.values() for entry in record.objects)
    left = sum(blocks[block].num_rows for block in todo if block not in there)
    return left * num_bytes // max(1, sum(blocks[block].num_rows for block in there))


def _were_good(store: Store, block: int) -> set[str]:
    """Keys of a block that is made anew whose images could be used before, as far as that can be read."""
    try:
        return {sample.key for sample in store.at(len(store.growths)).samples(block) if not sample.reason}
    except CorruptError:
        return set()


def _refuse_lost(store: Store, row: SampleRow) -> NoReturn:
    message = f"image {row.key!r} was in store {store.root} and cannot be read from the source now ({row.reason})"
    raise DataError(message, hint="bring it back, then run the same command again")


def read_sample(source: Source, item: Item) -> BlockSample:
    """Read and check one image; what cannot be used gets a reason and no bytes.

    Raises:
        ResourceError: it cannot be read now, for a reason that is not the image's own.
    """
    data = b""
    try:
        data = source.read(item)
        image = decode(data)
    except BadImage as error:
        return _quarantined(item, error.reason, data)
    except (DataError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            message = f"image {item.key!r} cannot be read now: {cause.strerror}"
            raise ResourceError(message, hint="run the same command again when it can be") from error
        return _quarantined(item, "unreadable", data)
    row = SampleRow(
        key=item.key,
        label=item.label,
        reason=None,
        width=image.width,
        height=image.height,
        format=image_format(data),
        offset=0,
        length=len(data),
        crc32c=0,
        source_sha256=hashlib.sha256(data).hexdigest(),
        pixel_hash=pixel_hash(image),
    )
    return BlockSample(row, data)


def _quarantined(item: Item, reason: str, data: bytes) -> BlockSample:
    row = SampleRow(
        key=item.key,
        label=item.label,
        reason=reason,
        width=0,
        height=0,
        format=None,
        offset=-1,
        length=0,
        crc32c=0,
        source_sha256=hashlib.sha256(data).hexdigest(),
        pixel_hash=0,
    )
    return BlockSample(row, None)


_MAGIC = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"BM", "bmp"), (b"GIF8", "gif"))


def image_format(data: bytes) -> str:
    """The file ending for encoded image bytes that `decode` accepts."""
    return next((ending for magic, ending in _MAGIC if data.startswith(magic)), "bin")


def ingest_result(store: Store, written: int = 0, seconds: float = 0.0) -> IngestResult:
    """The result of a store whose images are all in; DataError when none of them can be trained on."""
    blocks = len(store.plan.blocks)
    reasons: Counter[str] = Counter()
    for block in range(blocks):
        facts = store.require(layout.images_unit(block), f"images of block {block}").facts
        reasons.update(bad["reason"] for bad in facts["quarantined"])
    if not any(len(store.good_rows(b)) for b in store.plan.blocks_of(TRAIN)):
        found = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        message = f"none of the training images of store {store.root} can be read ({found})"
        raise DataError(message, hint=f"`stillhouse inspect {store.root}` lists them; mend them and name a new `store`")
    return IngestResult(store.plan.num_samples, written, blocks - written, dict(reasons), seconds)
