"""`render`: every training view once, as a small JPEG beside the store. Needs the store alone.

Training that replays decodes whole source images and draws each view again, in every epoch and for every student. From
rendered views it decodes JPEGs of a view's size. What a JPEG loses the student loses too, so this is a setting of a run.
"""

import time
from dataclasses import dataclass
from functools import partial

from stillhouse.core.cores import num_cores
from stillhouse.core.errors import CorruptError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage.disk import only_process_in
from stillhouse.storage.rendered import encode_jpeg, is_rendered, rendered_folder, write_rendered
from stillhouse.storage.replay import replay
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.views import view_hash


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What a pass has done."""

    num_views: int
    """Rendered views that are there now."""
    num_written: int
    """Of them, by this pass."""
    num_bytes: int
    """Of the tars that this pass wrote."""
    seconds: float


def render_views(store: Store, reporter: Reporter, threads: int | None = None) -> RenderResult:
    """Render what is not there yet, a block of one view at a time; a pass that is stopped goes on there.

    Args:
        threads: None: one for each processor.

    Raises:
        CorruptError: a view does not come out as it was hashed in the store.
        BusyError: another process renders the views of this store.
    """
    begin = time.monotonic()
    pairs = [(view, block) for view in range(store.spec.num_views) for block in store.plan.blocks_of(TRAIN)]
    num = {block: len(store.good_rows(block)) for block in store.plan.blocks_of(TRAIN)}
    total, written, num_bytes = sum(num[block] for _, block in pairs), 0, 0
    with (
        only_process_in(rendered_folder(store.root)),
        worker_threads(threads or num_cores(), "render") as pool,
        reporter.task("render", total) as task,
    ):
        missing = [pair for pair in pairs if not is_rendered(store, *pair)]
        task.resume(total - sum(num[block] for _, block in missing))
        for view, block in missing:
            jpegs = pool.map(partial(_jpeg, store, view, block), rows := store.good_rows(block).tolist())
            num_bytes += write_rendered(store, view, block, zip(rows, jpegs, strict=True))
            written += len(rows)
            task.advance(len(rows))
            reporter.event("block", step="render", view=view, block=block)
    return RenderResult(total, written, num_bytes, time.monotonic() - begin)


def _jpeg(store: Store, view: int, block: int, row: int) -> bytes:
    pixels_HWC = replay(store, view, block, row)
    if view_hash(pixels_HWC) != int(store.view_hashes(view, block)[row]):
        message = f"view {view} of row {row} of block {block} is not rendered as the teacher saw it"
        raise CorruptError(message, hint=f"run `stillhouse verify --pixels {store.root}`, which names what differs")
    return encode_jpeg(pixels_HWC)
