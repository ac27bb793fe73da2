"""`ingest`: source images become blocks of a store. The last step that needs the original data."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.decode import BadImage, decode, pixel_hash
from stillhouse.storage.index import SampleRow
from stillhouse.storage.specs import TRAIN, StoreSpec
from stillhouse.storage.store import Store, require_spec
from stillhouse.storage.writer import BlockSample, commit_images

from .config import IngestConfig
from .plan import plan_blocks
from .policies import ViewPolicyConfig
from .sources import Item, Source, open_source

DECODE_THREADS = 2


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What `ingest` did. `quarantined` counts samples by reason, over the whole store."""

    num_samples: int
    num_blocks_written: int
    num_blocks_found: int
    quarantined: dict[str, int]
    seconds: float


def ingest(root: Path, config: IngestConfig, views: ViewPolicyConfig, reporter: Reporter) -> IngestResult:
    """Write every missing block of images; blocks that are there are left alone.

    When all blocks are there the source is not opened at all.

    Raises:
        DataError: the source is empty, has duplicate keys, or no readable image for training.
        SpecMismatchError: `root` holds a store of another spec or another listing.
    """
    spec = StoreSpec(ingest=config.model_dump(mode="json"), views=views.model_dump(mode="json"))
    found = _complete_store(root, spec)
    if found is not None:
        return _result(found, 0, 0.0)
    source = open_source(config.source)
    planned = plan_blocks(source.items(), config)
    store = Store.create(root, spec, planned.store)
    todo = [b for b in range(len(planned.items)) if not store.done(layout.images_unit(b))]
    total = sum(len(planned.items[b]) for b in todo)
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool, reporter.task("ingest", total) as task:
        for block in todo:

            def samples(items: tuple[Item, ...] = planned.items[block]) -> Iterator[BlockSample]:
                for sample in pool.map(lambda item: read_sample(source, item), items):
                    task.advance(1)
                    yield sample

            commit_images(store, block, samples())
            reporter.event("block", step="ingest", block=block)
    return _result(store, len(todo), task.seconds)


def _complete_store(root: Path, spec: StoreSpec) -> Store | None:
    """The store at `root` if its spec is this one and all its images are in; else None."""
    if not (root / layout.PLAN).exists():
        return None
    store = Store.open(root)
    require_spec(root, spec)
    done = all(store.done(layout.images_unit(b)) for b in range(len(store.plan.blocks)))
    return store if done and store.done("layout") else None


def read_sample(source: Source, item: Item) -> BlockSample:
    """Read and check one image; what cannot be used gets a reason and no bytes."""
    data = b""
    try:
        data = source.read(item)
        image = decode(data)
    except BadImage as error:
        return _quarantined(item, error.reason, data)
    except (DataError, OSError):
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


def _result(store: Store, written: int, seconds: float) -> IngestResult:
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
