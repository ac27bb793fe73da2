"""What a pipeline is going to take: bytes, objects, hours, money. Pure arithmetic: facts in, a plan out.

Every number tells where it comes from: `exact` follows from the listing and the format, `measured` was taken on a sample of
this data on this machine, `assumed` is a guess that is said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.eval.break_even import BreakEven
from stillhouse.storage.crc import CRC_BYTES
from stillhouse.storage.images import SECTOR
from stillhouse.storage.signed_json import canonical_json
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.views import FIELDS

Origin = Literal["exact", "measured", "assumed"]
WORST: Mapping[Origin, int] = {"exact": 0, "measured": 1, "assumed": 2}
SHARD_BYTES = (64 << 20, 512 << 20)
"""Between which the largest shards of a store should be."""


@dataclass(frozen=True, slots=True)
class Number:
    """A value and where it comes from."""

    value: float
    origin: Origin
    note: str = ""


def total_of(numbers: Sequence[Number]) -> Number:
    """The sum, as sure as the least sure of them."""
    return Number(sum(number.value for number in numbers), worst(*(number.origin for number in numbers)))


def worst(*origins: Origin) -> Origin:
    """The least sure of them; `exact` for none."""
    found: Origin = "exact"
    for origin in origins:
        found = origin if WORST[origin] > WORST[found] else found
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """How samples are cut: rows of each split, `train` among them."""

    rows: Mapping[str, int]
    block_samples: int
    num_views: int

    @property
    def train_rows(self) -> int:
        return self.rows[TRAIN]

    @property
    def train_blocks(self) -> int:
        return self.blocks(TRAIN)

    @property
    def num_blocks(self) -> int:
        return sum(self.blocks(split) for split in self.rows)

    @property
    def num_views_of_train(self) -> int:
        """Views that a teacher sees."""
        return self.train_rows * self.num_views

    def blocks(self, split: str) -> int:
        return -(-self.rows[split] // self.block_samples)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Bytes of a sample in its tar, headers included; of an index, for each file and for each sample."""

    member: Number
    index_file: float
    index_row: float


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """One level of a teacher: its tokens, and the bytes of a row of codes without its crc, and of the codec itself."""

    num_tokens: int
    dim: int
    codec: str
    row: Number
    codec_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of everything that is done, as far as it is known.

    Args:
        start: of the program, before a verb begins its work.
        ingest: of a sample.
        begin: of a teacher: weights are loaded, codecs are fitted on `fitted` views, which are then not seen again.
        view: of a view of a teacher, rendered, encoded and written, everything that overlaps overlapping.
        forward: of a view in the teacher alone.
        render: of a view, decoded and rendered by one thread.
        train_begin: of a run: student, heads, export.
        cold, warm: of a step whose pixels are rendered, and of one whose pixels are in memory.
    """

    start: Number
    ingest: Number
    begin: Mapping[str, Number]
    fitted: Mapping[str, int]
    view: Mapping[str, Number]
    forward: Mapping[str, Number]
    render: Number
    train_begin: Number
    cold: Number
    warm: Number


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made from, measured or on paper."""

    images: ImageFacts
    teachers: Mapping[str, Mapping[str, LevelFacts]]
    record_bytes: Number
    times: Times
    image_size: int


@dataclass(frozen=True, slots=True)
class Training:
    """What of a run decides its length."""

    epochs: int
    batch: int
    image_size: int
    pixel_cache_bytes: int

    def steps(self, rows: int) -> int:
        return rows // self.batch * self.epochs

    def cold_share(self, shape: Shape) -> float:
        """Share of the steps whose pixels are rendered: every view once, and again what does not fit into memory."""
        seen = self.steps(shape.train_rows) * self.batch
        if seen == 0:
            return 0.0
        distinct = min(seen, shape.num_views_of_train)
        kept = min(1.0, self.pixel_cache_bytes / (3 * self.image_size**2) / shape.num_views_of_train)
        return (distinct + (seen - distinct) * (1 - kept)) / seen


def member_bytes(num_bytes: int, key: str, label: str | None) -> int:
    """What an image of `num_bytes` takes in a tar: two members, each with a header and padded to whole sectors."""
    described = len(canonical_json({"key": key, "label": label}))
    return 2 * SECTOR + sum(-(-size // SECTOR) * SECTOR for size in (num_bytes, described))


def shard_bytes(level: LevelFacts, rows: float, block_samples: int) -> float:
    """One shard: rows with their crcs, then the index of the block with its own."""
    return rows * (level.row.value + CRC_BYTES) + 16 * block_samples + CRC_BYTES


def columns(
    shape: Shape, images: ImageFacts, teachers: Mapping[str, Mapping[str, LevelFacts]], record_bytes: Number
) -> dict[str, Number]:
    """Bytes of each column of the store, by name.

    Args:
        record_bytes: of a unit's record and its lines in the seal.
    """
    num, shards = sum(shape.rows.values()), shape.num_views * shape.train_blocks
    index = shape.num_blocks * images.index_file + num * images.index_row
    found = {
        "images": Number(num * images.member.value + shape.num_blocks * 2 * SECTOR, images.member.origin),
        "index": Number(index, worst(images.member.origin, "measured")),
        "views": Number(shards * ((4 * len(FIELDS) + 8) * shape.block_samples + 2 * CRC_BYTES), "exact"),
    }
    for teacher, levels in teachers.items():
        for name, level in levels.items():
            row, fixed = level.row.value + CRC_BYTES, shard_bytes(level, 0, shape.block_samples)
            num_bytes = shape.num_views_of_train * row + shards * fixed + level.codec_bytes
            found[f"{teacher}/{name}"] = Number(num_bytes, level.row.origin, level.row.note)
    units = num_units(shape, len(teachers))
    return found | {"records": Number(units * record_bytes.value, record_bytes.origin)}


def num_units(shape: Shape, num_teachers: int) -> int:
    """Units of work: blocks of images, views of blocks, features of views of blocks."""
    return shape.num_blocks + shape.num_views * shape.train_blocks * (1 + num_teachers) + num_teachers + 1


def num_objects(shape: Shape, teachers: Mapping[str, Mapping[str, LevelFacts]]) -> int:
    """Files with data: tars, indexes, parameters and hashes of views, shards."""
    levels = sum(len(of_one) for of_one in teachers.values())
    return 2 * shape.num_blocks + (2 + levels) * shape.num_views * shape.train_blocks


def good_block_samples(levels: Sequence[LevelFacts]) -> int:
    """The power of two that brings the largest shards nearest to the middle of `SHARD_BYTES`."""
    row = max(level.row.value for level in levels) + CRC_BYTES
    middle = math.sqrt(SHARD_BYTES[0] * SHARD_BYTES[1])
    return min(65536, 1 << max(0, round(math.log2(middle / row))))


@dataclass(frozen=True, slots=True)
class Hours:
    """Seconds of each step from its start to its end, and what they come to."""

    ingest: Number
    teachers: Mapping[str, Number]
    student: Number
    num_steps: int
    break_even: BreakEven

    @property
    def once(self) -> Number:
        """Ingest and every teacher."""
        return total_of([self.ingest, *self.teachers.values()])


def hours(shape: Shape, times: Times, training: Training, taught_by: Sequence[str]) -> Hours:
    """Seconds of everything. `taught_by`: the teachers that a live run would ask at every step."""
    ingest = total_of([times.start, Number(sum(shape.rows.values()) * times.ingest.value, times.ingest.origin)])
    teachers = {}
    for name, view in times.view.items():
        left = max(0, shape.num_views_of_train - times.fitted[name])
        teachers[name] = total_of([times.start, times.begin[name], Number(left * view.value, view.origin)])
    steps = training.steps(shape.train_rows)
    cold = steps * training.cold_share(shape)
    parts = [
        Number(cold * times.cold.value, times.cold.origin),
        Number((steps - cold) * times.warm.value, times.warm.origin),
    ]
    student = total_of([times.start, times.train_begin, *parts])
    asked = sum(times.forward[name].value for name in taught_by)
    even = BreakEven(
        once_s=ingest.value + sum(teachers[name].value for name in taught_by),
        student_s=student.value,
        student_images=max(1, steps * training.batch),
        teacher_rate=1 / asked,
    )
    return Hours(ingest, teachers, student, steps, even)
