"""Damage to every class of object in a store: no read ever returns a wrong value, and somebody says what is broken.

A case is one damage to one object, and the reads that need it. A read sees it when it raises CorruptError or
MissingError naming the object and what to do. What no reader reads, such as the headers of a tar, `verify` must see.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from outcome import Outcome, Size

from stillhouse.core.errors import CorruptError
from stillhouse.storage import layout
from stillhouse.storage.seal import decided_units, latest_seal, store_id
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape, make_store
from stillhouse.storage.verify import verify

CASES: Mapping[Size, int] = {"quick": 150, "full": 10_000}
CLEAN_READS: Mapping[Size, int] = {"quick": 20_000, "full": 1_000_000}
SEED = 20240229
SECTOR = 512
SMALL = StoreShape(blocks=(("train", 3), ("train", 3)), teachers={"tiny": "fp16"}, num_views=1)
"""For the classes whose damage `verify` must see: it reads the whole store each time."""

REMEDIES = ("run `stillhouse", "restore it", "run the step that makes it", "delete that file; the next `stillhouse")

Kind = Literal["flip", "cut", "deleted", "swapped", "stale"]
Read = Callable[[Store], Any]
"""What a user of an object does with it; the answer can be compared with ==."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One case. `number`: the bit that is flipped, or the bytes that are left; `other`: whose bytes it gets."""

    path: str
    kind: Kind
    number: int = 0
    other: str = ""

    def __str__(self) -> str:
        detail = {"flip": f"bit {self.number} flipped", "cut": f"cut to {self.number} bytes", "deleted": "deleted"}
        swapped = {"swapped": f"swapped with {self.other}", "stale": "a copy from another store"}
        return f"{self.path}: {(detail | swapped)[self.kind]}"


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """Objects of one kind.

    Args:
        reads: by path of the object.
        at_read: whether the reads must see a damage; else `verify` must.
    """

    name: str
    reads: Mapping[str, Read]
    at_read: Callable[[Damage], bool] = lambda damage: True


@dataclass(slots=True)
class Range:
    """A store that is damaged and mended, another one of the same shape, and what every read should say."""

    store: Store
    stale: Path
    whole: dict[str, bytes] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.store.root

    def fresh(self) -> Store:
        """The store with nothing of it opened or parsed yet."""
        return Store(self.root, self.store.spec, self.store.plan)

    def bytes_of(self, path: str) -> bytes:
        if path not in self.whole:
            self.whole[path] = (self.root / path).read_bytes()
        return self.whole[path]

    def changes(self, damage: Damage) -> dict[str, bytes | None]:
        """What each file holds after the damage; None: it is gone."""
        data = self.bytes_of(damage.path)
        match damage.kind:
            case "flip":
                changed = bytearray(data)
                changed[damage.number // 8] ^= 1 << damage.number % 8
                return {damage.path: bytes(changed)}
            case "cut":
                return {damage.path: data[: damage.number]}
            case "deleted":
                return {damage.path: None}
            case "swapped":
                return {damage.path: self.bytes_of(damage.other), damage.other: data}
            case "stale":
                return {damage.path: (self.stale / damage.path).read_bytes()}

    def put(self, path: str, data: bytes | None) -> None:
        if data is None:
            (self.root / path).unlink()
        else:
            (self.root / path).write_bytes(data)


def make_range(folder: Path, shape: StoreShape | None = None) -> Range:
    """Two sealed stores of one shape and different content."""
    shape = shape or StoreShape()
    other = StoreShape(**{name: getattr(shape, name) for name in StoreShape.__slots__} | {"seed": shape.seed + 1})
    stale = make_store(folder / "stale", other).root
    return Range(make_store(folder / "store", shape), stale)


def classes(store: Store) -> list[ObjectClass]:
    """Every class of object that a store has."""
    root, teachers = store.root, [teacher.name for teacher in store.teachers()]
    blocks, views = range(len(store.plan.blocks)), range(store.spec.num_views)
    levels = [(teacher, level) for teacher in teachers for level in LEVELS]
    drawn = [(view, block) for view in views for block in store.plan.blocks_of("train")]
    shards = {
        layout.features_chunk(teacher, level, view, block): partial(read_codes, teacher, level, view, block)
        for teacher, level in levels
        for view, block in drawn
    }
    chunks = {layout.params_chunk(view, block): partial(read_params, view, block) for view, block in drawn}
    chunks |= {layout.hash_chunk(view, block): partial(read_hashes, view, block) for view, block in drawn}
    arrays = {
        path.relative_to(root).as_posix(): partial(read_codec, teacher, level)
        for teacher, level in levels
        for path in sorted((root / layout.codec_group(teacher, level)).glob("*/c/0"))
    }
    tars = {layout.images_path(block): partial(read_images, block) for block in blocks}
    indexes = {layout.index_path(block): partial(read_index, block) for block in blocks}
    objects = shards | chunks | arrays | tars | indexes
    records = {layout.record_path(unit): partial(read_unit, unit, objects) for unit in decided_units(root)}
    metadata = {path.relative_to(root).as_posix(): read_metadata for path in sorted(root.rglob("zarr.json"))}
    seals = {path.relative_to(root).as_posix(): read_seal for path in sorted((root / layout.SEALS).glob("*.json"))}
    return [
        ObjectClass("shard", shards),
        ObjectClass("chunk of view parameters and hashes", chunks),
        ObjectClass("codec array", arrays),
        ObjectClass("tar", tars, partial(in_an_image, store)),
        ObjectClass("Parquet index", indexes),
        ObjectClass("decision record", records),
        ObjectClass("zarr.json", metadata, lambda damage: damage.path != "zarr.json" and damage.kind != "deleted"),
        ObjectClass("seal", seals, lambda damage: damage.kind in ("flip", "cut")),
        ObjectClass("spec", {layout.SPEC: read_opened}, not_stale),
        ObjectClass("plan", {layout.PLAN: read_opened}, not_stale),
        ObjectClass("store id", {layout.ID: read_id}, not_stale),
        ObjectClass("teacher spec", {layout.teacher_path(name): partial(read_teacher, name) for name in teachers}),
    ]


def not_stale(damage: Damage) -> bool:
    """A signed file of another store is whole in itself: what it says of the rest is for `verify` to compare."""
    return damage.kind != "stale"


def in_an_image(store: Store, damage: Damage) -> bool:
    """Whether a damage to a tar touches the bytes of an image, or the size of the file."""
    if damage.kind != "flip":
        return True
    block = int(Path(damage.path).stem)
    spans = [(sample.offset, sample.offset + sample.length) for sample in store.samples(block)]
    return any(start <= damage.number // 8 < end for start, end in spans)


def read_codes(teacher: str, level: str, view: int, block: int, store: Store) -> bytes:
    return store.codes(teacher, level, view, block, store.good_rows(block)).tobytes()


def read_params(view: int, block: int, store: Store) -> bytes:
    return store.view_params(view, block).tobytes()


def read_hashes(view: int, block: int, store: Store) -> bytes:
    return store.view_hashes(view, block).tobytes()


def read_codec(teacher: str, level: str, store: Store) -> list[bytes]:
    arrays = (*store.codec(teacher, level).arrays().values(), *store.statistics(teacher, level))
    return [np.asarray(array).tobytes() for array in arrays]


def read_images(block: int, store: Store) -> list[bytes]:
    return [store.image_bytes(block, int(row)) for row in store.good_rows(block)]


def read_index(block: int, store: Store) -> list[Any]:
    return list(store.samples(block))


def read_unit(unit: str, objects: Mapping[str, Read], store: Store) -> Any:
    """What the record says, and every object that it names. The attempt is a random number and no content."""
    record = store.require(unit, unit)
    return (
        record.objects,
        record.facts,
        [objects[entry.path](store) for entry in record.objects if entry.path in objects],
    )


def read_seal(store: Store) -> Any:
    return latest_seal(store.root)


def read_id(store: Store) -> str:
    return store_id(store.root)


def read_teacher(name: str, store: Store) -> Any:
    return store.teacher(name)


def read_metadata(store: Store) -> None:
    """What comes before a Zarr reader. The root's own file is derived from the rest, and for `verify` to compare."""
    store.check_metadata()


def read_opened(store: Store) -> Any:
    opened = Store.open(store.root)
    return opened.spec, opened.plan


def damages(kind: ObjectClass, place: Range, num: int) -> Iterator[Damage]:
    """`num` random flips and cuts, then every cut at a sector and of the last byte, deletion, swap and stale copy."""
    chance = random.Random(f"{kind.name} {SEED}")
    paths = sorted(kind.reads)
    for _ in range(num):
        path = chance.choice(paths)
        size = len(place.bytes_of(path))
        flip = chance.random() < 0.85
        yield Damage(path, "flip", chance.randrange(8 * size)) if flip else Damage(path, "cut", chance.randrange(size))
    for path in paths:
        for left in range(0, len(place.bytes_of(path)), SECTOR):
            yield Damage(path, "cut", left)
        yield Damage(path, "cut", len(place.bytes_of(path)) - 1)
        yield Damage(path, "deleted")
        if _is_other(kind, path, place):
            yield Damage(path, "stale")
    for one, other in _pairs(paths, place):
        yield Damage(one, "swapped", other=other)


def _is_other(kind: ObjectClass, path: str, place: Range) -> bool:
    """Whether the other store has another object at that path, by its bytes and by what is read from it."""
    if not (place.stale / path).exists() or (place.stale / path).read_bytes() == place.bytes_of(path):
        return False
    return bool(kind.reads[path](Store.open(place.stale)) != place.expected[path])


def _pairs(paths: Sequence[str], place: Range) -> list[tuple[str, str]]:
    """Objects that could be taken for each other: those of one size, or any when no two have one."""
    pairs = [pair for pair in combinations(paths, 2) if place.bytes_of(pair[0]) != place.bytes_of(pair[1])]
    alike = [(one, other) for one, other in pairs if len(place.bytes_of(one)) == len(place.bytes_of(other))]
    return alike or pairs


def try_damage(kind: ObjectClass, damage: Damage, place: Range) -> tuple[str, str]:
    """Who saw it, "read" or "verify", and what broke the promise, "" when nothing did."""
    changes = place.changes(damage)
    for path, data in changes.items():
        place.put(path, data)
    try:
        at_read = [_told(kind, path, damage, place) for path in changes]
        broken = [told for told in at_read if told not in ("seen", "not seen")]
        if broken:
            return "", f"{damage}: {broken[0]}"
        if "seen" in at_read and (damage.kind != "swapped" or at_read == ["seen"] * len(at_read)):
            return "read", ""
        if kind.at_read(damage):
            return "", f"{damage}: the read does not see it"
        return "verify", _verified(damage, place)
    finally:
        for path in changes:
            place.put(path, place.bytes_of(path))


def _told(kind: ObjectClass, path: str, damage: Damage | None, place: Range) -> str:
    """ "seen", "not seen" (the answer is right all the same), or what is wrong with what the read did."""
    try:
        answer = kind.reads[path](place.fresh())
    except CorruptError as error:
        unit = path.removeprefix(f"{layout.UNITS}/").removesuffix(".json") if layout.UNITS in path else path
        names = {path, unit} | ({damage.path, damage.other} - {""} if damage else set())
        if unit != path and damage and damage.kind == "stale":  # it is whole; what it names is not as it says
            names |= {entry.path for entry in place.fresh().require(unit, unit).objects}
            names.add(layout.teacher_path(Path(unit).name))
        if not any(name in str(error) for name in names):
            return f"the error does not name it: {error}"
        if not any(word in error.hint for word in REMEDIES):
            return f"the error names no remedy: {error}"
        return "seen"
    except Exception as error:  # noqa: BLE001 - any other way out is what we look for
        return f"{type(error).__name__}: {error}"
    if answer == place.expected[path]:
        return "not seen"
    answers_for_itself = damage is not None and damage.kind in ("stale", "deleted") and not kind.at_read(damage)
    return "not seen" if answers_for_itself else "A WRONG VALUE was returned"


def _verified(damage: Damage, place: Range) -> str:
    """ "" when `verify` sees the damage; by name, if the file is still there and its own."""
    try:
        problems = verify(Store.open(place.root)).problems
    except CorruptError as error:
        return "" if damage.path in str(error) else f"{damage}: verify fails with {error}"
    told = [f"{problem.path} {problem.found}" for problem in problems]
    if damage.kind in ("flip", "cut") and not any(damage.path in one for one in told):
        return f"{damage}: verify does not name it, only {told}"
    return "" if told else f"{damage}: neither the read nor verify sees it"


def attack(kind: ObjectClass, place: Range, num: int) -> Outcome:
    """All cases of one class."""
    for path, read in kind.reads.items():
        place.expected[path] = read(place.fresh())
    seen = {"read": 0, "verify": 0}
    violations, cases = [], 0
    for damage in damages(kind, place, num):
        who, broken = try_damage(kind, damage, place)
        cases += 1
        violations += [broken] if broken else []
        seen[who or "read"] += not broken
    facts = {"seen by the read": seen["read"], "seen by verify": seen["verify"]}
    return Outcome(f"{kind.name}: bit flips, cuts, swaps, stale copies are seen", cases, tuple(violations), facts)


def clean_reads(place: Range, kinds: Sequence[ObjectClass], num: int) -> Outcome:
    """Objects of every class and `num` rows, whole: right answers and no alarm."""
    chance = np.random.Generator(np.random.PCG64(SEED))
    alarms: list[str] = []
    rows_read = objects_read = 0
    levels = [(teacher.name, level) for teacher in place.store.teachers() for level in LEVELS]
    blocks = place.store.plan.blocks_of("train")
    whole = {
        (teacher, level, view, block): place.store.codes(teacher, level, view, block, place.store.good_rows(block))
        for teacher, level in levels
        for view in range(place.store.spec.num_views)
        for block in blocks
    }
    while rows_read < num:
        store = place.fresh()
        for kind in kinds:
            for path in kind.reads:
                told = _told(kind, path, None, place)
                objects_read += 1
                alarms += [] if told == "not seen" else [f"{path}: {told}"]
        for (teacher, level, view, block), expected in whole.items():
            good = store.good_rows(block)
            for _ in range(4):
                picked = chance.permutation(len(good))[: chance.integers(1, len(good) + 1)]
                try:
                    found = store.codes(teacher, level, view, block, good[picked])
                    images = [store.image_bytes(block, int(row)) for row in good[picked[:8]]]
                except CorruptError as error:
                    alarms.append(f"{teacher}/{level} view {view} block {block}: {error}")
                    continue
                alarms += [] if np.array_equal(found, expected[picked]) else [f"{teacher}/{level}: wrong rows"]
                rows_read += len(picked) + len(images)
        if alarms:
            break
    facts = {"rows read": rows_read, "objects read": objects_read, "false alarms": len(alarms)}
    return Outcome("whole objects: no alarm", rows_read + objects_read, tuple(alarms), facts)


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Every class, then the reads of whole objects."""
    places = {False: make_range(folder / "damaged"), True: make_range(folder / "small", SMALL)}
    outcomes = []
    for kind in classes(places[False].store):
        small = kind.name in ("tar", "zarr.json")
        same = next(one for one in classes(places[small].store) if one.name == kind.name)
        outcomes.append(attack(same, places[small], CASES[size]))
    rows = 64
    clean = make_range(folder / "clean", StoreShape(block_samples=rows, blocks=(("train", rows), ("train", rows - 3))))
    kinds = classes(clean.store)
    for kind in kinds:
        for path, read in kind.reads.items():
            clean.expected[path] = read(clean.fresh())
    return [*outcomes, clean_reads(clean, kinds, CLEAN_READS[size])]
