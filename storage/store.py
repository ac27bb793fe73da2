"""One store on local disk: open it, read from it, write units to it.

A reader trusts decision records only. Rows are numbered block * block_samples + i; a block's last rows may be unused.

Legend: N rows, T tokens, C codes a token, P view parameters.
"""

import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, MissingError, SpecMismatchError, StillhouseError, UsageError

from . import layout
from .codecs import Codec, load_codec
from .commit import (
    Attempt,
    ObjectEntry,
    Record,
    canonical_json,
    create_once,
    disk_errors,
    publish,
    read_record,
    read_signed_json,
    signed_json,
)
from .images import ImageReader
from .index import SampleRow, decode_index
from .shards import ShardReader, without_crc
from .specs import StorePlan, StoreSpec, TeacherSpec, spec_differences
from .views import FIELDS

OPEN_FILES = 256
RESTORE = "restore it from a copy of the store"

R = TypeVar("R")
C = TypeVar("C", bound=Config)


class Store:
    """A store folder. Use `Store.create` or `Store.open`; safe for many threads, not across fork."""

    def __init__(self, root: Path, spec: StoreSpec, plan: StorePlan) -> None:
        self.root, self.spec, self.plan = root, spec, plan
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, ...], Any] = OrderedDict()

    @classmethod
    def create(cls, root: Path, spec: StoreSpec, plan: StorePlan) -> "Store":
        """Make the store, or open it when it is there with the same spec and plan.

        Raises:
            SpecMismatchError: a store of another spec, or of another listing of the source, is already there.
        """
        with disk_errors(root):
            taken = root.exists() and not (root.is_dir() and ((root / layout.LOG).is_dir() or not any(root.iterdir())))
        if taken:
            raise UsageError(f"{root} is not empty and not a store", hint="name an empty folder for the store")
        create_once(root / layout.SPEC, signed_json(spec.model_dump(mode="json")))
        require_spec(root, spec)
        create_once(root / layout.PLAN, signed_json(plan.model_dump(mode="json")))
        store = cls.open(root)
        if store.plan != plan:
            message = f"the source of store {root} has other samples than when the store was begun"
            raise SpecMismatchError(message, hint="give the new data a store of its own")
        store._commit_layout()
        return store

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Open an existing store.

        Raises:
            UsageError: there is no store at `root`.
            MissingError, CorruptError: its spec or plan is gone or damaged.
            SpecMismatchError: its format is another one.
        """
        spec, plan = (read_signed_json(root / path, RESTORE) for path in (layout.SPEC, layout.PLAN))
        if spec is None or plan is None:
            if (root / layout.UNITS).is_dir():
                gone = layout.SPEC if spec is None else layout.PLAN
                raise MissingError(f"{gone} is not in store {root}", hint=RESTORE)
            raise UsageError(f"no store at {root}", hint="run `stillhouse ingest` first")
        version = spec.get("format_version")
        if version != layout.FORMAT_VERSION:
            message = f"store {root} has format {version}, this stillhouse reads format {layout.FORMAT_VERSION}"
            raise SpecMismatchError(message, hint="use the stillhouse that made it")
        return cls(root, _parse(StoreSpec, spec, root / layout.SPEC), _parse(StorePlan, plan, root / layout.PLAN))

    def _commit_layout(self) -> None:
        num_views, num_rows, rows = self.spec.num_views, self.plan.num_rows, self.plan.block_samples
        params = layout.array_metadata(
            shape=(num_views, num_rows, len(FIELDS)),
            chunk=(1, rows, len(FIELDS)),
            dtype="int32",
            fill_value=layout.MISSING_PARAM,
            dimension_names=("view", "row", "field"),
            attributes={"fields": list(FIELDS)},
        )
        hashes = layout.array_metadata(
            shape=(num_views, num_rows),
            chunk=(1, rows),
            dtype="uint64",
            fill_value=layout.MISSING_HASH,
            dimension_names=("view", "row"),
        )
        files = {"views": layout.group_metadata(), "features": layout.group_metadata()}
        files |= {"views/params": params, "views/hash": hashes}
        if not self.done("layout"):
            with Attempt(self.root, "layout") as attempt:
                for folder, metadata in files.items():
                    attempt.add(f"{folder}/zarr.json", [canonical_json(metadata)])
                attempt.commit({})
        create_once(self.root / layout.ID, signed_json({"store_id": secrets.token_hex(16)}))
        create_once(self.root / "zarr.json", canonical_json(layout.group_metadata()))

    # --- decisions -----------------------------------------------------------------------------------------------

    def record(self, unit: str) -> Record | None:
        """The decision about a unit, or None while it is undecided."""
        return read_record(self.root, unit)

    def done(self, unit: str) -> bool:
        """True when the unit is decided; also finishes its publication if a crash came between."""
        record = self.record(unit)
        if record is None:
            return False
        publish(self.root, record)
        return True

    def require(self, unit: str, what: str) -> Record:
        """The decision about a unit that must be there."""
        record = self._cached(("record", unit), lambda: self.record(unit))
        if record is None:
            raise MissingError(f"store {self.root} has no {what}", hint="run the step that makes it again")
        return record

    def _entry(self, unit: str, path: str, what: str) -> ObjectEntry:
        for entry in self.require(unit, what).objects:
            if entry.path == path:
                return entry
        raise CorruptError(f"record {layout.record_path(unit)} does not name {path}", hint="run `stillhouse verify`")

    def _cached(self, key: tuple[str, ...], make: Callable[[], R]) -> R:
        """A small least-recently-used cache of open files and parsed indexes; None is not kept."""
        if os.getpid() != self._pid:
            raise StillhouseError("this Store was opened before a fork", hint="open it again in the worker process")
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                kept: R = self._cache[key]
                return kept
        made = make()
        if made is not None:
            with self._lock:
                self._cache[key] = made
                if len(self._cache) > OPEN_FILES:
                    self._cache.popitem(last=False)
        return made

    # --- samples and images --------------------------------------------------------------------------------------

    def samples(self, block: int) -> list[SampleRow]:
        """The rows of a block, quarantined ones included (they have a `reason`)."""
        unit, path = layout.images_unit(block), layout.index_path(block)
        entry = self._entry(unit, path, f"images of block {block}")
        return self._cached(("index", path), lambda: decode_index(self._object(entry), str(self.root / path)))

    def good_rows(self, block: int) -> npt.NDArray[np.int64]:
        """Row numbers inside the block of the samples that are not quarantined."""
        return np.array([i for i, sample in enumerate(self.samples(block)) if sample.reason is None], np.int64)

    def image_bytes(self, block: int, row: int) -> bytes:
        """The encoded image of one sample, checked against its crc32c."""
        sample = self.samples(block)[row]
        if sample.reason is not None:
            raise MissingError(f"sample {sample.key!r} is in quarantine ({sample.reason}) and has no image")
        path = layout.images_path(block)
        entry = self._entry(layout.images_unit(block), path, f"images of block {block}")
        reader = self._cached(("images", path), lambda: ImageReader(self.root / path, entry.num_bytes))
        return reader.read(sample.offset, sample.length, sample.crc32c, sample.key)

    # --- views ---------------------------------------------------------------------------------------------------

    def view_params(self, view: int, block: int) -> npt.NDArray[np.int32]:
        """int32 [rows of the block, P]; read-only."""
        flat = self._chunk(view, block, layout.params_chunk(view, block), "<i4")
        return flat.reshape(self.plan.block_samples, len(FIELDS))[: self.plan.blocks[block].num_rows].astype(
            np.int32, copy=False
        )

    def view_hashes(self, view: int, block: int) -> npt.NDArray[np.uint64]:
        """uint64 [rows of the block]; read-only."""
        flat = self._chunk(view, block, layout.hash_chunk(view, block), "<u8")
        return flat[: self.plan.blocks[block].num_rows].astype(np.uint64, copy=False)

    def _chunk(self, view: int, block: int, path: str, dtype: str) -> npt.NDArray[Any]:
        entry = self._entry(layout.views_unit(view, block), path, f"view {view} of block {block}")

        return self._cached(("chunk", path), lambda: np.frombuffer(self._chunk_payload(entry), dtype))

    def _chunk_payload(self, entry: ObjectEntry) -> bytes:
        return without_crc(self._object(entry), str(self.root / entry.path))

    def _object(self, entry: ObjectEntry) -> bytes:
        """The bytes of a small object, compared with the sha256 in its record."""
        path, hint = self.root / entry.path, f"run `stillhouse verify {self.root}`"
        try:
            with disk_errors(path):
                data = path.read_bytes()
        except FileNotFoundError:
            raise MissingError(f"{path} is not there", hint=hint) from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise CorruptError(f"{path} does not match the sha256 in its record", hint=hint)
        return data

    # --- teachers and features -----------------------------------------------------------------------------------

    def teachers(self) -> list[TeacherSpec]:
        """Every teacher with a spec in the store, by name."""
        folder = self.root / layout.LOG / "teachers"
        names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
        return [self.teacher(name) for name in names]

    def teacher(self, name: str) -> TeacherSpec:
        """The spec of one teacher; UsageError naming the known ones if it is not there."""
        path = self.root / layout.teacher_path(layout.check_name(name, "teacher"))
        value = read_signed_json(path, RESTORE)
        if value is None:
            known = ", ".join(t.name for t in self.teachers()) or "none"
            raise UsageError(f"store {self.root} has no teacher {name!r}", hint=f"teachers in it: {known}")
        return _parse(TeacherSpec, value, path)

    def has_teacher(self, name: str) -> bool:
        """True when a teacher of that name has a spec."""
        return (self.root / layout.teacher_path(layout.check_name(name, "teacher"))).exists()

    def add_teacher(self, spec: TeacherSpec) -> None:
        """Enter a teacher; SpecMismatchError when another one has that name."""
        path = self.root / layout.teacher_path(layout.check_name(spec.name, "teacher"))
        create_once(path, signed_json(spec.model_dump(mode="json")))
        stored = self.teacher(spec.name)
        differences = list(spec_differences(stored.model_dump(mode="json"), spec.model_dump(mode="json")))
        if differences:
            message = f"store {self.root} holds features of another {spec.name!r}: {'; '.join(differences)}"
            raise SpecMismatchError(message, hint="give this teacher another name")

    def codec(self, teacher: str, level: str) -> Codec:
        """The fitted codec of one level; UsageError naming the known ones if the teacher has no such level."""

        def load() -> Codec:
            record = self.require(layout.codecs_unit(teacher), f"codec of teacher {teacher}")
            if level not in record.facts["levels"]:
                known = ", ".join(record.facts["levels"])
                raise UsageError(f"teacher {teacher!r} has no level {level!r}", hint=f"levels: {known}")
            described = record.facts["levels"][level]
            arrays = {name: self._vector(teacher, level, name) for name in described["arrays"]}
            return load_codec(described["codec"], described["dim"], arrays)

        return self._cached(("codec", teacher, level), load)

    def statistics(self, teacher: str, level: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(mean, std) of each channel, float32 [D], over the sample that the codec was fitted on."""
        return self._vector(teacher, level, "mean"), self._vector(teacher, level, "std")

    def _vector(self, teacher: str, level: str, name: str) -> npt.NDArray[np.float32]:
        path = f"{layout.codec_group(teacher, level)}/{name}/c/0"
        entry = self._entry(layout.codecs_unit(teacher), path, f"codec of teacher {teacher}")
        return np.frombuffer(self._chunk_payload(entry), "<f4").astype(np.float32)

    def codes(
        self, teacher: str, level: str, view: int, block: int, rows: Sequence[int] | npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Codes [len(rows), T, C] of rows of one block, each row verified against its crc32c."""
        tokens, width, dtype = self._row_layout(teacher, level)
        path = layout.features_chunk(teacher, level, view, block)
        what = f"features of {teacher}/{level} for view {view} of block {block}"
        entry = self._entry(layout.features_unit(teacher, view, block), path, what)
        row_bytes = tokens * width * dtype.itemsize
        reader = self._cached(
            ("shard", path),
            lambda: ShardReader(self.root / path, self.plan.block_samples, row_bytes, entry.num_bytes),
        )
        return reader.read(rows).view(dtype).reshape(len(rows), tokens, width)

    def _row_layout(self, teacher: str, level: str) -> tuple[int, int, np.dtype[Any]]:
        def load() -> tuple[int, int, np.dtype[Any]]:
            code_type = self.codec(teacher, level).code_type
            tokens = self.teacher(teacher).levels[level].num_tokens
            return tokens, code_type.width, np.dtype(code_type.dtype).newbyteorder("<")

        return self._cached(("row", teacher, level), load)


def require_spec(root: Path, spec: StoreSpec) -> None:
    """SpecMismatchError, naming each differing field, unless the store at `root` has exactly this spec."""
    stored = read_signed_json(root / layout.SPEC, RESTORE)
    differences = list(spec_differences(stored, spec.model_dump(mode="json")))
    if differences:
        message = f"store {root} was made from another spec: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="undo the change, or name another folder as `store`")


def _parse(model: type[C], value: dict[str, Any], path: Path) -> C:
    try:
        return parse_config(model, value, where=str(path))
    except UsageError as error:
        raise CorruptError(error.message, hint="restore it from a copy of the store") from error
