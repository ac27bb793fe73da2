"""Half a minute of the real thing on a sample of the data, in a folder beside the store that is removed afterwards.

What is timed are the product's own steps: images are read and committed, the teacher pass runs over them twice (the first
time codecs are fitted), and a student is trained on codes that are repeated until there are enough for its batches.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng
from stillhouse.core.errors import DataError
from stillhouse.core.events import Reporter, Task
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.fitting import FIT_BYTES, FIT_ROWS, FIT_TOKENS
from stillhouse.stage1_extract.ingest import read_sample
from stillhouse.stage1_extract.plan import IngestPlan
from stillhouse.stage1_extract.policies import draw
from stillhouse.stage1_extract.repair import Plant, repair
from stillhouse.stage1_extract.sources import Item, Source, open_source
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage2_distill.run import distill
from stillhouse.storage import layout
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.crc import CRC_BYTES
from stillhouse.storage.decode import decode
from stillhouse.storage.index import SampleRow, encode_index
from stillhouse.storage.room import nearest
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.views import render

from .pipeline_config import PipelineConfig
from .plan_paper import asked_for, codes_bytes, sketch_student
from .plan_scratch import Images, ingest_some, store_to_train_on
from .planning import Facts, ImageFacts, LevelFacts, Number, Times, member_bytes

MOST_FILES, LEAST_FILES = 4096, 16
"""Images whose size is looked at; of more, a draw, or as many as there is time for."""
MOST_VIEWS = 2048
"""Views that a teacher sees in each of the two passes, at most."""
RENDERED = 32
FORWARDS = 3

Pixels = npt.NDArray[np.uint8]


class Enough(Exception):
    """Ends a step that has been watched for long enough."""


class Watched(Task):
    """Remembers when it was advanced; from `until` on, and with three marks, it ends the step."""

    def __init__(self, reporter: Reporter, name: str, total: int, unit: str, until: float | None) -> None:
        super().__init__(reporter, name, total, unit, None)
        self.name, self._until = name, until
        self.begin = self.end = time.perf_counter()
        self.marks: list[float] = []

    def advance(self, num: int, note: str = "") -> None:
        self.done += num
        if num:
            self.marks.append(time.perf_counter())
            if self._until is not None and len(self.marks) > 3 and self.marks[-1] > self._until:
                raise Enough


class Stopwatch(Reporter):
    """A quiet reporter that keeps the tasks it was given."""

    def __init__(self, until: float | None = None) -> None:
        super().__init__(quiet=True)
        self.until, self.tasks = until, list[Watched]()

    @contextlib.contextmanager
    def task(self, name: str, total: int, unit: str = "img") -> Iterator[Task]:
        task = Watched(self, name, total, unit, self.until)
        self.tasks.append(task)
        yield task
        task.end = time.perf_counter()

    def of(self, step: str) -> Watched:
        """The first task of a step."""
        return next(task for task in self.tasks if task.name.startswith(step))


@dataclass(frozen=True, slots=True)
class _Taught:
    """What was seen of one teacher."""

    images: Images
    levels: dict[str, LevelFacts]
    begin: Number
    fitted: int
    view: Number
    forward: Number


def probe(config: PipelineConfig, planned: IngestPlan, seconds: float, reporter: Reporter) -> Facts:
    """Measure a pipeline on this machine.

    Args:
        seconds: roughly what may be spent; loading teachers and fitting their codecs come on top, and two batches where
            those take longer.
    """
    start = Number(_since_start(), "measured")
    source = open_source(config.ingest.source)
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=nearest(config.store_path)) as folder:
        reporter.say(f"plan: looking at images, {seconds / 6:,.0f} s at most")
        images = look_at_images(source, planned, seconds / 6)
        items = _train_items(planned, config)
        render_s, some = _render(config, source, items)
        taught: dict[str, _Taught] = {}
        for teacher in config.teachers:
            reporter.say(f"plan: running teacher {teacher.name} over some views, twice")
            allowed = seconds / 3 / len(config.teachers)
            root = Path(folder, teacher.name)
            taught[teacher.name] = _teach(root, config, teacher, source, items, (render_s, some), allowed)
        reporter.say("plan: training a student for some steps")
        roots = {name: one.images.store.root for name, one in taught.items()}
        train_begin, cold, warm, size = _train(Path(folder), config, roots, seconds / 6)
        record = _record_bytes(next(iter(roots.values())))
    times = Times(
        start=start,
        ingest=next(iter(taught.values())).images.each,
        begin={name: one.begin for name, one in taught.items()},
        fitted={name: one.fitted for name, one in taught.items()},
        view={name: one.view for name, one in taught.items()},
        forward={name: one.forward for name, one in taught.items()},
        render=Number(render_s, "measured", "one thread"),
        train_begin=train_begin,
        cold=cold,
        warm=warm,
    )
    return Facts(images, {name: one.levels for name, one in taught.items()}, record, times, size)


def _since_start() -> float:
    """Seconds since this process was started: imports mostly, which every verb needs. 0 where the system does not say."""
    with contextlib.suppress(OSError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def _train_items(planned: IngestPlan, config: PipelineConfig) -> list[Item]:
    """Training samples, those in front a fair draw."""
    blocks = zip(planned.store.blocks, planned.items, strict=True)
    items = [item for block, items in blocks if block.split == TRAIN for item in items]
    if config.ingest.order == "hashed":
        return items
    return [items[place] for place in rng.permutation(0, len(items), "probe", 0).tolist()]


def look_at_images(source: Source, planned: IngestPlan, seconds: float) -> ImageFacts:
    """Sizes of all images, or of a draw; the bytes of an index from one of as many rows."""
    items = [item for block in planned.items for item in block]
    until, rows, sizes = time.perf_counter() + seconds, [], []
    for place in rng.permutation(0, len(items), "sizes", 0)[:MOST_FILES].tolist():
        item = items[place]
        data = source.read(item)
        sizes.append(member_bytes(len(data), item.key, item.label))
        rows.append(_index_row(item, data, sum(sizes)))
        if time.perf_counter() > until and len(sizes) >= LEAST_FILES:
            break
    mean, error = float(np.mean(sizes)), float(np.std(sizes)) / len(sizes) ** 0.5
    note = f"{len(sizes):,} files, ± {100 * error / mean:.1f} %"
    whole = len(sizes) == len(items)
    block = rows[: planned.store.block_samples]
    half = block[: len(block) // 2]
    full_bytes, half_bytes = len(encode_index(block)), len(encode_index(half))
    each = (full_bytes - half_bytes) / (len(block) - len(half))
    return ImageFacts(
        Number(mean, "exact" if whole else "measured", "" if whole else note), full_bytes - each * len(block), each
    )


def _index_row(item: Item, data: bytes, offset: int) -> SampleRow:
    """A row that takes as many bytes as that of the item: its size, sum and hashes are those of other pixels."""
    digest = hashlib.sha256(data)
    crc, pixel_hash = (int.from_bytes(digest.digest()[:num], "little") for num in (4, 8))
    return SampleRow(
        key=item.key,
        label=item.label,
        reason=None,
        width=500,
        height=375,
        format="jpg",
        offset=offset,
        length=len(data),
        crc32c=crc,
        source_sha256=digest.hexdigest(),
        pixel_hash=pixel_hash,
    )


def _render(config: PipelineConfig, source: Source, items: Sequence[Item]) -> tuple[float, Pixels]:
    """(seconds of one thread for a view, uint8 [n, S, S, 3]: the first good images)."""
    pixels, seconds = [], []
    for item in items[: 4 * RENDERED]:
        data = read_sample(source, item).data
        if data is None:
            continue
        begin = time.perf_counter()
        image = decode(data)
        params = draw(config.views, item.key, image.width, image.height, 0)
        pixels.append(render(image, params, config.views.size))
        seconds.append(time.perf_counter() - begin)
        if len(pixels) == RENDERED:
            break
    if not pixels:
        raise DataError(f"none of the first {4 * RENDERED} images can be read", hint="look at the source")
    return float(np.mean(seconds)), np.stack(pixels)


def _teach(
    root: Path,
    config: PipelineConfig,
    teacher: TeacherConfig,
    source: Source,
    items: Sequence[Item],
    rendered: tuple[float, Pixels],
    seconds: float,
) -> _Taught:
    """Two passes of a teacher over as many views as the time allows."""
    loaded, forward = _forward(config, teacher, rendered[1])
    each = forward + rendered[0] / config.extract.threads
    wanted = min(MOST_VIEWS, max(2 * teacher.batch, int(seconds / 2 / each)))
    images = ingest_some(root, config, source, items[: wanted // teacher.batch * teacher.batch or wanted])
    num = images.store.plan.num_samples
    fit_s, view_s = _two_passes(images, config, teacher)
    levels = _levels(images, teacher)
    row_bytes = sum(4 * level.num_tokens * level.dim for level in levels.values())
    full = min(FIT_ROWS, max(1, FIT_BYTES // row_bytes), len(items))
    if teacher.budget is None:
        codecs_s = sum(_fit_s(images, teacher, level, full) for level in levels)
    else:
        codecs_s = max(0.0, fit_s - loaded - num * view_s) * full / num  # a search over codecs, by what it looks at
    begin = Number(loaded + codecs_s + full * view_s, "measured")
    view = Number(view_s, "measured", f"{num:,} views")
    return _Taught(images, levels, begin, full, view, Number(forward, "measured"))


def _forward(config: PipelineConfig, teacher: TeacherConfig, some: Pixels) -> tuple[float, float]:
    """(seconds to load, seconds of a view in the teacher alone by whole batches); a first batch is not counted."""
    begin = time.perf_counter()
    built = Teacher(teacher, view_size=config.views.size, device=config.extract.device)
    loaded = time.perf_counter() - begin
    batch = np.resize(some, (teacher.batch, *some.shape[1:]))
    built(batch)
    begin = time.perf_counter()
    for _ in range(FORWARDS):
        built(batch)
    return loaded, (time.perf_counter() - begin) / FORWARDS / len(batch)


def _two_passes(images: Images, config: PipelineConfig, teacher: TeacherConfig) -> tuple[float, float]:
    """(seconds from the start of a pass until its codecs are fitted, seconds of a view in a pass that finds them)."""
    first, again, begin = Stopwatch(), Stopwatch(), time.perf_counter()
    extract(Store.open(images.store.root), teacher, config.extract, first)
    units = [layout.features_unit(teacher.name, 0, block) for block in images.blocks]
    repair(Plant(images.store.root, images.ingest, images.views, (teacher,), config.extract), units, again)
    task = again.of("extract")
    return first.of("extract").begin - begin, (task.end - task.begin) / images.store.plan.num_samples


def _fit_s(images: Images, teacher: TeacherConfig, level: str, views: int) -> float:
    """Seconds to fit the codec of a level on as many tokens as of so many views, which are ours again and again."""
    store = Store.open(images.store.root)
    codes = np.concatenate([store.features(teacher.name, level).read(0, block) for block in images.blocks])
    tokens = store.codec(teacher.name, level).decode(codes)
    rows = -(-views // -(-views * tokens.shape[1] // FIT_TOKENS))
    tokens = np.take(tokens, np.arange(rows), 0, mode="wrap")
    begin = time.perf_counter()
    fit_codec(teacher.codec_of(level), tokens, store.teacher(teacher.name).levels[level].grid)
    return time.perf_counter() - begin


def _levels(images: Images, config: TeacherConfig) -> dict[str, LevelFacts]:
    """Levels of a teacher as they lie in a store: rows of one size exactly, others by their mean."""
    store, found, teacher = Store.open(images.store.root), {}, config.name
    of_codecs = store.require(layout.codecs_unit(teacher), f"codecs of {teacher}").objects
    for level, spec in store.teacher(teacher).levels.items():
        codec = store.codec(teacher, level)
        exact, row = codes_bytes(codec, spec.num_tokens), _mean_row(store, images.blocks, teacher, level)
        folders = (f"{layout.codec_group(teacher, level)}/", f"{layout.features_array(teacher, level)}/")
        codec_bytes = sum(entry.num_bytes for entry in of_codecs if entry.path.startswith(folders))
        if codec.name == "klt" and config.budget is None:
            row = halfway(row, asked_for(config.codec_of(level), spec))
        number = row if exact is None else Number(exact, "exact")
        found[level] = LevelFacts(spec.num_tokens, spec.dim, codec.name, number, codec_bytes)
    return found


def halfway(seen: Number, asked: Number) -> Number:
    """What a `klt` of more views takes, from what one of few takes for the very views that its axes follow, which is too
    little, and what was asked for, which is a little much."""
    value = (seen.value + asked.value) / 2
    return Number(value, "measured", f"{seen.note}, ± {100 * abs(asked.value - seen.value) / 2 / value:.0f} %")


def _mean_row(store: Store, blocks: Sequence[int], teacher: str, level: str) -> Number:
    """Bytes of a row of codes without its crc, from the shards of view 0."""
    total = num = 0
    for block in blocks:
        unit, path = layout.features_unit(teacher, 0, block), layout.features_chunk(teacher, level, 0, block)
        total += store.entry(unit, path, f"features of {teacher}").num_bytes
        total -= 16 * store.plan.block_samples + CRC_BYTES
        num += len(store.good_rows(block))
    return Number(total / num - CRC_BYTES, "measured", f"{num:,} views")


def _record_bytes(root: Path) -> Number:
    """Of one unit: its record, and its part of what else the log holds."""
    files = [path for path in (root / layout.LOG).rglob("*") if path.is_file()]
    units = sum(path.is_relative_to(root / layout.UNITS) for path in files)
    return Number(sum(path.stat().st_size for path in files) / units, "measured")


def _train(
    folder: Path, config: PipelineConfig, roots: dict[str, Path], seconds: float
) -> tuple[Number, Number, Number, int]:
    """(seconds before the first step, of a step that renders, of one that does not, pixels a side)."""
    store = store_to_train_on(folder / "training", config, roots)
    endless: dict[str, Any] = {"epochs": 10**5, "warmup_epochs": 0, "lr": 1e-6, "min_lr": 0, "checkpoint_steps": 10**6}
    run = config.distill.model_copy(update=endless)
    found = []
    for name, room in (("cold", 0), ("warm", max(1024, run.pixel_cache_mb))):
        watch, begin = Stopwatch(time.perf_counter() + seconds), time.perf_counter()
        with contextlib.suppress(Enough):
            distill(store, run.model_copy(update={"pixel_cache_mb": room}), folder / name, watch)
        task = watch.of("distill")
        found.append(_steady(task.marks, store.plan.num_samples // run.batch))
    lead = next(iter(run.teachers), run.teacher or next(iter(roots)))
    size, _ = sketch_student(run, store.teacher(lead).levels.get("patch"), config.views.size)
    return Number(task.begin - begin, "measured"), found[0], found[1], size


def _steady(marks: Sequence[float], per_epoch: int) -> Number:
    """Seconds of a step, from when each ended: without those of the first epoch, if there are others, and the first ones."""
    lengths = [later - earlier for earlier, later in pairwise(marks)]
    steady = lengths[per_epoch - 1 :] if len(lengths) >= per_epoch + 2 else lengths[1:]
    return Number(float(np.mean(steady)), "measured", f"{len(steady)} steps")
