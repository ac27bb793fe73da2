"""One store on local disk: open it, read from it, write units to it.

A reader trusts decision records only. Rows are numbered block * block_samples + i; a block's last rows may be unused.

Legend: N rows, T tokens, C codes a token, P view parameters.
"""

import contextlib
import hashlib
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, MissingError, SpecMismatchError, StillhouseError, UsageError

from . import foreign, layout
from .codecs import Codec, load_codec
from .commit import publish_decided
from .crc import CRC_BYTES, without_crc
from .disk import create_once, disk_errors, names_in
from .dropped import TAKE_BACK, dropped_teachers
from .extent import commit_layout
from .features import Features
from .growth import RESTORE, Generation, Growth, generations, grown, read_growths, require_begun
from .images import ImageReader
from .index import MAX_DECODED_BYTES, BlockIndex, decode_index
from .metadata import check_metadata
from .objects import Objects
from .records import ObjectEntry, Record, read_record
from .redo import noted_redo
from .signed_json import read_signed_json, signed_json
from .specs import StorePlan, StoreSpec, TeacherSpec, spec_differences
from .views import FIELDS

OPEN_FILES = 256

R = TypeVar("R")
C = TypeVar("C", bound=Config)


class Store:
    """A store folder. Use `Store.create` or `Store.open`; safe for many threads, not across fork."""

    def __init__(
        self,
        root: Path,
        spec: StoreSpec,
        plan: StorePlan,
        growths: Sequence[Growth] = (),
        objects: Objects | None = None,
    ) -> None:
        self.root, self.begun, self.growths, self.objects = root, (spec, plan), tuple(growths), objects
        self.spec, self.plan = grown(spec, plan, growths)
        self.dropped = dropped_teachers(root)  # what is dropped later is still read
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str | int, ...], Any] = OrderedDict()

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
        require_begun(root, spec)
        create_once(root / layout.PLAN, signed_json(plan.model_dump(mode="json")))
        store = cls.open(root)
        if store.plan != plan:
            message = f"the source of store {root} has other samples than when the store was begun"
            raise SpecMismatchError(message, hint="give the new data a store of its own")
        commit_layout(store)
        return store

    @classmethod
    def open(cls, root: Path, objects: Objects | None = None) -> "Store":
        """Open an existing store as it is now: what it grows by later is not seen.

        Args:
            objects: where its objects come from, if just its documents are at `root`; see `remote.open_store`.

        Raises:
            UsageError: there is no store at `root`.
            MissingError, CorruptError: its spec, its plan or a growth is gone or damaged.
            SpecMismatchError: its format is another one.
        """
        spec = read_signed_json(root / layout.SPEC, RESTORE, root=root, max_bytes=foreign.MAX_SPEC_BYTES)
        plan = read_signed_json(root / layout.PLAN, RESTORE, root=root, max_bytes=foreign.MAX_PLAN_BYTES)
        if spec is None or plan is None:
            if (root / layout.UNITS).is_dir():
                gone = layout.SPEC if spec is None else layout.PLAN
                raise MissingError(f"{gone} is not in store {root}", hint=RESTORE)
            raise UsageError(f"no store at {root}", hint="run `stillhouse ingest` first")
        version = spec.get("format_version")
        if version != layout.FORMAT_VERSION:
            message = f"store {root} has format {version}, this stillhouse reads format {layout.FORMAT_VERSION}"
            raise SpecMismatchError(message, hint="use the stillhouse that made it")
        begun = _parse(StoreSpec, spec, root / layout.SPEC), _parse(StorePlan, plan, root / layout.PLAN)
        try:
            store = cls(root, *begun, read_growths(root), objects)
        except ValueError as error:
            raise CorruptError(f"{root / layout.GROWTHS} holds {error}", hint=RESTORE) from error
        store.check_metadata(damaged=True)
        return store

    def at(self, num_growths: int) -> "Store":
        """The store as it was after so many growths."""
        growths = self.growths if num_growths <= len(self.growths) else read_growths(self.root)
        if num_growths > len(growths):
            raise MissingError(f"{self.root / layout.growth_path(num_growths)} is not there", hint=RESTORE)
        found = Store(self.root, *self.begun, growths[:num_growths], self.objects)
        found.dropped = self.dropped
        return found

    @property
    def name(self) -> str:
        """Where it lies, as a person knows it."""
        return str(self.root) if self.objects is None else self.objects.name

    @property
    def generations(self) -> list[Generation]:
        """Its blocks, by when they were planned."""
        return generations(self.spec, self.plan, self.growths)

    check_metadata = check_metadata

    # --- decisions -----------------------------------------------------------------------------------------------

    def record(self, unit: str) -> Record | None:
        """The decision about a unit, or None while it is undecided."""
        return read_record(self.root, unit)

    def done(self, unit: str) -> bool:
        """True when the unit is decided and not to be made anew; also finishes a publication that a crash cut short."""
        return noted_redo(self.root, unit) is None and publish_decided(self.root, unit) is not None

    def require(self, unit: str, what: str) -> Record:
        """The decision about a unit that must be there."""
        record = self.cached(("record", unit), lambda: self.record(unit))
        if record is None:
            raise MissingError(f"store {self.name} has no {what}", hint="run the step that makes it again")
        return record

    def entry(self, unit: str, path: str, what: str) -> ObjectEntry:
        """What the record of a unit says about one of its objects; `what` names the unit in errors."""
        for entry in self.require(unit, what).objects:
            if entry.path == path:
                return entry
        raise CorruptError(f"record {layout.record_path(unit)} does not name {path}", hint="run `stillhouse verify`")

    def opened(self, entry: ObjectEntry, use: Callable[[Path], R]) -> R:
        """What `use` returns for the file of an object, which is brought here first where the store lies elsewhere."""
        if self.objects is None or entry.path.endswith("/zarr.json"):  # metadata is a document: it is always here
            return use(foreign.regular_file(self.root, entry.path))
        try:
            return use(self.objects.bring(entry))
        except CorruptError:  # it is damaged here, or had to go between: a cache is bounded
            return use(self.objects.bring_again(entry))

    def cached(self, key: tuple[str | int, ...], make: Callable[[], R]) -> R:
        """What `make` returned for this key: a small least-recently-used cache of open files and parsed indexes.

        None is not kept. Everything that reads goes through here, so a use after fork is an error at once.
        """
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

    def samples(self, block: int) -> BlockIndex:
        """The rows of a block, quarantined ones included (they have a `reason`)."""
        unit, path = layout.images_unit(block), layout.index_path(block)
        entry = self.entry(unit, path, f"images of block {block}")
        rows = self.plan.blocks[block].num_rows
        return self.cached(
            ("index", path),
            lambda: decode_index(self._object(entry, MAX_DECODED_BYTES), str(self.root / path), rows),
        )

    def good_rows(self, block: int) -> npt.NDArray[np.int64]:
        """Row numbers inside the block of the samples that are not quarantined."""
        record = self.require(layout.images_unit(block), f"images of block {block}")
        good = np.ones(self.plan.blocks[block].num_rows, np.bool_)
        rows = [bad["row"] for bad in record.facts["quarantined"]]
        if max(rows, default=-1) >= len(good):
            message = f"{layout.record_path(record.unit)} has row {max(rows)} in quarantine of a block of {len(good)}"
            raise CorruptError(message, hint=RESTORE)
        good[rows] = False
        return np.flatnonzero(good)

    def image_bytes(self, block: int, row: int) -> bytes:
        """The encoded image of one sample, checked against its crc32c."""
        sample = self.samples(block)[row]
        if sample.reason is not None:
            raise MissingError(f"sample {sample.key!r} is in quarantine ({sample.reason}) and has no image")
        path = layout.images_path(block)
        entry = self.entry(layout.images_unit(block), path, f"images of block {block}")
        reader = self.cached(
            ("images", path), lambda: self.opened(entry, lambda place: ImageReader(place, entry.num_bytes))
        )
        return reader.read(sample.offset, sample.length, sample.crc32c, sample.key)

    # --- views ---------------------------------------------------------------------------------------------------

    def view_params(self, view: int, block: int) -> npt.NDArray[np.int32]:
        """int32 [rows of the block, P]; read-only."""
        flat = self._chunk(view, block, layout.params_chunk(view, block), "<i4", len(FIELDS))
        return flat.reshape(self.plan.block_samples, len(FIELDS))[: self.plan.blocks[block].num_rows].astype(
            np.int32, copy=False
        )

    def view_hashes(self, view: int, block: int) -> npt.NDArray[np.uint64]:
        """uint64 [rows of the block]; read-only."""
        flat = self._chunk(view, block, layout.hash_chunk(view, block), "<u8", 1)
        return flat[: self.plan.blocks[block].num_rows].astype(np.uint64, copy=False)

    def _chunk(self, view: int, block: int, path: str, dtype: str, width: int) -> npt.NDArray[Any]:
        entry = self.entry(layout.views_unit(view, block), path, f"view {view} of block {block}")
        expected = self.plan.block_samples * width

        def load() -> npt.NDArray[Any]:
            self.metadata("layout", f"{path.partition('/c/')[0]}/zarr.json")
            flat = self._payload(entry, expected * np.dtype(dtype).itemsize, dtype)
            if len(flat) != expected:
                raise CorruptError(f"{self.root / path} has {len(flat)} values, expected {expected}", hint=RESTORE)
            return flat

        return self.cached(("chunk", path), load)

    def metadata(self, unit: str, path: str) -> dict[str, Any]:
        """A zarr.json of a unit. Who reads an array reads it too: what it says to foreign readers is what we go by."""

        def load() -> dict[str, Any]:
            what = f"metadata {path}"
            entry, attempt = self.entry(unit, path, what), self.require(unit, what).attempt
            return dict(foreign.parse_json(self._metadata_bytes(entry, attempt), str(self.root / path)))

        return self.cached(("metadata", path), load)

    def _metadata_bytes(self, entry: ObjectEntry, attempt: str) -> bytes:
        """The zarr.json that a record names; where an array has grown since, or is just growing, it lies elsewhere."""
        try:
            return self._object(entry, foreign.MAX_ARRAY_JSON_BYTES)
        except CorruptError:
            for place in (layout.kept_path(entry.path, entry.sha256), layout.staged_path(attempt, entry.path)):
                with contextlib.suppress(CorruptError):
                    return self._object(replace(entry, path=place), foreign.MAX_ARRAY_JSON_BYTES)
            raise

    def _payload(self, entry: ObjectEntry, most: int, dtype: str) -> npt.NDArray[Any]:
        """The values of a chunk that is an object of its own."""
        payload = without_crc(self._object(entry, most + CRC_BYTES), str(self.root / entry.path))
        if len(payload) % np.dtype(dtype).itemsize:
            raise CorruptError(f"{self.root / entry.path} has {len(payload)} bytes, no whole values", hint=RESTORE)
        return np.frombuffer(payload, dtype)

    def _object(self, entry: ObjectEntry, most: int) -> bytes:
        """The bytes of a small object, at most so many, compared with the sha256 in its record."""
        path, hint = self.root / entry.path, f"run `stillhouse verify {self.root}`"
        if entry.num_bytes > most:
            raise CorruptError(f"{path} has {entry.num_bytes} bytes by its record, expected at most {most}", hint=hint)

        def read(place: Path) -> bytes:
            with disk_errors(path):
                data = foreign.read_capped(place, entry.num_bytes, hint)
            if data is None:
                raise MissingError(f"{path} is not there", hint=hint)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise CorruptError(f"{path} does not match the sha256 in its record", hint=hint)
            return data

        return self.opened(entry, read)

    # --- teachers and features -----------------------------------------------------------------------------------

    def teachers(self) -> list[TeacherSpec]:
        """Every teacher with a spec in the store, by name."""
        return [self.teacher(name) for name in self.teacher_names("teachers") if name not in self.dropped]

    def teacher_names(self, folder: str) -> list[str]:
        """The names of the JSON files in a folder of `_log`."""
        place = self.root / layout.LOG / folder
        files = [name for name in names_in(place) if name.endswith(".json") and not name.startswith(".")]
        names = sorted(Path(name).stem for name in files)
        if len(names) > foreign.MAX_TEACHERS:
            raise CorruptError(f"{place} has {len(names)} files, at most {foreign.MAX_TEACHERS} are read", hint=RESTORE)
        return names

    def teacher(self, name: str) -> TeacherSpec:
        """The spec of one teacher; UsageError naming the known ones if it is not there.

        Raises:
            MissingError, CorruptError: it is gone although its codecs are here, or not the spec they were made with.
        """
        path = self.root / layout.teacher_path(layout.check_name(name, "teacher"))
        if name in self.dropped:
            raise UsageError(f"teacher {name!r} was dropped from store {self.name}", hint=TAKE_BACK)
        value = read_signed_json(path, RESTORE, root=self.root, max_bytes=foreign.MAX_SPEC_BYTES)
        unit = layout.codecs_unit(name)
        codecs = None if noted_redo(self.root, unit) else self.record(unit)
        if value is None:
            if codecs is not None:
                raise MissingError(f"{path} is not there", hint=RESTORE)
            known = ", ".join(t.name for t in self.teachers()) or "none"
            raise UsageError(f"store {self.name} has no teacher {name!r}", hint=f"teachers in it: {known}")
        spec = _parse(TeacherSpec, value, path)
        bound = spec.sha256() if codecs is None else codecs.facts.get("teacher_sha256", spec.sha256())
        if spec.name != name or spec.sha256() != bound:
            raise CorruptError(f"{path} is another teacher's than the features are of", hint=RESTORE)
        return spec

    def has_teacher(self, name: str) -> bool:
        """True when a teacher of that name has a spec."""
        there = (self.root / layout.teacher_path(layout.check_name(name, "teacher"))).exists()
        return there and name not in self.dropped

    def add_teacher(self, spec: TeacherSpec) -> None:
        """Enter a teacher; SpecMismatchError when another one has that name."""
        path = self.root / layout.teacher_path(layout.check_name(spec.name, "teacher"))
        create_once(path, signed_json(spec.entry()))
        differences = list(spec_differences(self.teacher(spec.name).deciding(), spec.deciding()))
        if differences:
            message = f"store {self.name} holds features of another {spec.name!r}: {'; '.join(differences)}"
            raise SpecMismatchError(message, hint="give this teacher another name")

    def codec(self, teacher: str, level: str) -> Codec:
        """The fitted codec of one level; UsageError naming the known ones if the teacher has no such level."""

        def load() -> Codec:
            record = self.require(layout.codecs_unit(teacher), f"codec of teacher {teacher}")
            if level not in record.facts["levels"]:
                known = ", ".join(record.facts["levels"])
                raise UsageError(f"teacher {teacher!r} has no level {level!r}", hint=f"levels: {known}")
            described = record.facts["levels"][level]
            arrays = {name: self._codec_array(teacher, level, name) for name in described["arrays"]}
            codec = load_codec(described["codec"], described["dim"], arrays)
            spec = self.teacher(teacher).levels.get(level)
            if spec is None or not described["dim"] == codec.dim == spec.dim:
                path = layout.record_path(layout.codecs_unit(teacher))
                message = f"{path} has a codec of {codec.dim} dimensions for level {level!r}, unlike the teacher"
                raise CorruptError(message, hint=RESTORE)
            return codec

        return self.cached(("codec", teacher, level), load)

    def statistics(self, teacher: str, level: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(mean, std) of each channel, float32 [D], over the sample that the codec was fitted on."""
        return self._codec_array(teacher, level, "mean"), self._codec_array(teacher, level, "std")

    def _codec_array(self, teacher: str, level: str, name: str) -> npt.NDArray[np.float32]:
        unit, what = layout.codecs_unit(teacher), f"codec of teacher {teacher}"
        shape = tuple(self.metadata(unit, f"{layout.codec_group(teacher, level)}/{name}/zarr.json")["shape"])
        entry = self.entry(unit, layout.codec_chunk(teacher, level, name, len(shape)), what)
        flat = self._payload(entry, foreign.MAX_INNER_CHUNK_BYTES, "<f4").astype(np.float32)
        if flat.size != math.prod(shape):
            raise CorruptError(f"{self.root / entry.path} has {flat.size} values, expected {shape}", hint=RESTORE)
        return flat.reshape(shape)

    def features(self, teacher: str, level: str) -> Features:
        """Reads the codes of one level of one teacher; UsageError naming the known ones if there is no such level."""
        return Features(self, teacher, level)

    def codes(
        self, teacher: str, level: str, view: int, block: int, rows: Sequence[int] | npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Codes [len(rows), T, C] of rows of one block, each row verified against its crc32c."""
        return self.features(teacher, level).read(view, block, rows)


def _parse(model: type[C], value: dict[str, Any], path: Path) -> C:
    try:
        return parse_config(model, value, where=str(path))
    except UsageError as error:
        raise CorruptError(error.message, hint="restore it from a copy of the store") from error
