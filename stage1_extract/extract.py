"""`extract`: the one pass of the teacher over the views of a store. The only step that needs the teacher.

For every block and view that is not decided yet: replay or draw the view's parameters, render its pixels, run the
teacher, encode its tokens, commit. Whatever is decided is never done again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import parse_config
from stillhouse.core.errors import CorruptError, DataError, SpecMismatchError
from stillhouse.core.events import Reporter, Task
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.codecs import Codec, CodeType, fit_codec, stored_type
from stillhouse.storage.codecs.auto import Budget, Chosen, candidates, choose
from stillhouse.storage.decode import decode
from stillhouse.storage.extent import extend
from stillhouse.storage.records import Record
from stillhouse.storage.redo import noted_redo
from stillhouse.storage.room import require_room, require_writable
from stillhouse.storage.seal import Seal, seal
from stillhouse.storage.specs import TRAIN, LevelSpec, TeacherSpec, spec_differences
from stillhouse.storage.store import Store
from stillhouse.storage.views import FIELDS, render, view_hash
from stillhouse.storage.writer import commit_codecs, commit_features, commit_view

from .config import ExtractConfig, TeacherConfig
from .levels import DEFAULT
from .policies import ViewPolicyConfig, draw
from .teachers import Teacher

FIT_ROWS = 2048
"""Views that codecs are fitted on: the first ones of view 0, of as many blocks as it takes."""
FIT_BYTES = 1 << 30
"""Of float32 tokens; a teacher with larger ones is fitted on fewer views. They are held until their units are written."""
FIT_TOKENS = 1 << 16
"""That a level is fitted on, at most: of a level with more, every so-manyth view."""
LATER: dict[str, Any] = {"positions": None, "levels": list(DEFAULT), "statistics": "own"}
"""Settings that stores of an earlier version do not tell of, and what they were then."""
READ_AHEAD = 3
"""Batches that are rendered while the teacher works on an earlier one."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """What `extract` did for one teacher."""

    num_units_written: int
    num_units_found: int
    num_images: int
    seconds: float
    seal: Seal


def undecided(store: Store, teacher: str) -> list[tuple[int, int]]:
    """The (block, view) units of a teacher that are still to do, publishing any that a crash left half-way."""
    units = [(b, v) for b in store.plan.blocks_of(TRAIN) for v in range(store.spec.num_views)]
    todo = [
        (b, v)
        for b, v in units
        if not (store.done(layout.features_unit(teacher, v, b)) and store.done(layout.views_unit(v, b)))
    ]
    return todo if store.done(layout.codecs_unit(teacher)) else units


def _codecs_record(store: Store, teacher: str) -> Record | None:
    """The decision about a teacher's codecs; None if they are to be made anew."""
    unit = layout.codecs_unit(teacher)
    return None if noted_redo(store.root, unit) else store.record(unit)


def extract(store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter) -> ExtractResult:
    """Write every missing unit of one teacher, then seal the store.

    Raises:
        SpecMismatchError: the store holds another teacher, or another setting of it, under that name.
        CorruptError: a view renders to other pixels than were recorded: another Pillow or damaged images.
    """
    extend(store)
    num_units = len(store.plan.blocks_of(TRAIN)) * store.spec.num_views
    record = _codecs_record(store, config.name)
    same = record is not None and record.facts["config"] == identity(config) and store.has_teacher(config.name)
    if same and not undecided(store, config.name):
        return ExtractResult(0, num_units, 0, 0.0, seal(store))
    num_written, task = write_features(store, config, run, reporter)
    return ExtractResult(num_written, num_units - num_written, task.done, task.seconds, seal(store))


def write_features(
    store: Store, config: TeacherConfig, run: ExtractConfig, reporter: Reporter, *, only_noted: bool = False
) -> tuple[int, Task]:
    """Run the teacher over the units that are missing; (how many, how far and how long).

    Args:
        only_noted: just over those that are noted to be made anew.
    """
    require_writable(store.root)
    policy = parse_config(ViewPolicyConfig, store.spec.views, where=f"spec of {store.root}")
    teacher = Teacher(config, view_size=policy.size, device=run.device)
    store.add_teacher(teacher.spec)
    _require_same_args(store, config)
    for remark in teacher.encoder.remarks:
        reporter.say(f"teacher {config.name}: {remark}")
    with worker_threads(run.threads, "render") as pool:
        extractor = _Extractor(store, teacher, policy, pool)
        extractor.fit_codecs(reporter)
        todo = undecided(store, config.name)
        if only_noted:
            todo = [(b, v) for b, v in todo if noted_redo(store.root, layout.features_unit(config.name, v, b))]
        require_room(store.root, _bytes_to_write(store, teacher.spec, todo), f"extract {config.name}")
        total = sum(len(store.good_rows(block)) for block, _ in todo)
        with reporter.task(f"extract {config.name}", total) as task:
            for block, view in todo:
                extractor.run_unit(block, view, task.advance)
                reporter.event("block", step="extract", teacher=config.name, block=block, view=view)
    return len(todo), task


def _bytes_to_write(store: Store, spec: TeacherSpec, todo: Sequence[tuple[int, int]]) -> int:
    """What the shards of the missing units will take, uncompressed."""

    def row_bytes(level: str, code_type: CodeType) -> int:
        return spec.levels[level].num_tokens * code_type.width * np.dtype(code_type.dtype).itemsize

    row = sum(row_bytes(level, stored_type(store.codec(spec.name, level))) for level in spec.levels)
    return sum(len(store.good_rows(block)) for block, _ in todo) * row


def identity(config: TeacherConfig) -> dict[str, Any]:
    """What of a teacher's config decides its features; the batch size does not."""
    told = config.model_dump(mode="json", exclude={"batch", "licence", "notice"})
    return {name: value for name, value in told.items() if name not in LATER or value != LATER[name]}


def _require_same_args(store: Store, config: TeacherConfig) -> None:
    """Arguments that change no weight may still change features (an activation, a pooling)."""
    record = _codecs_record(store, config.name)
    stored = {} if record is None else record.facts["config"]["model_args"]
    differences = [] if record is None else list(spec_differences(stored, config.model_args, "model_args"))
    if differences:
        message = f"store {store.root} holds features of another {config.name!r}: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="give this teacher another name")


def channel_statistics(tokens_NTD: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """`mean` and `std` of every channel over all tokens, float32 [D] each, for objectives that standardise targets."""
    flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
    return {"mean": flat.mean(axis=0).astype(np.float32), "std": flat.std(axis=0).astype(np.float32)}


def _no_codes(level: LevelSpec, codec: Codec) -> npt.NDArray[Any]:
    """[0, T, C]: what a block without a good image has."""
    return np.empty((0, level.num_tokens, codec.code_type.width), codec.code_type.dtype)


def drawn(store: Store, policy: ViewPolicyConfig, block: int, view: int) -> npt.NDArray[np.int32]:
    """int32 [rows, P]: the parameters of a view, as recorded or else as the policy draws them."""
    if store.done(layout.views_unit(view, block)):
        return store.view_params(view, block)
    params = np.full((store.plan.blocks[block].num_rows, len(FIELDS)), layout.MISSING_PARAM, np.int32)
    for i, sample in enumerate(store.samples(block)):
        if sample.reason is None:
            params[i] = draw(policy, sample.key, sample.width, sample.height, view)
    return params


@dataclass(frozen=True, slots=True)
class _Batch:
    """Hashes of some views' pixels, uint64 [B], and what the teacher says of them, float32 [B, T, D] a level."""

    hashes: npt.NDArray[np.uint64]
    tokens: dict[str, npt.NDArray[np.float32]]


class _Extractor:
    """The pieces that one unit after the other shares."""

    def __init__(self, store: Store, teacher: Teacher, policy: ViewPolicyConfig, pool: ThreadPoolExecutor) -> None:
        self._store, self._teacher, self._policy, self._pool = store, teacher, policy, pool
        self._seen: dict[int, list[_Batch]] = {}

    def fit_codecs(self, reporter: Reporter) -> None:
        """Fit and commit the codecs on the first views, unless they are there."""
        store, spec = self._store, self._teacher.spec
        if store.done(layout.codecs_unit(spec.name)):
            return
        sample = self._sample()
        config = self._teacher.config
        fitted_on = {
            "blocks": sorted(self._seen),
            "view": 0,
            "rows": {level: len(one) for level, one in sample.items()},
        }
        facts: dict[str, Any] = {"fitted_on": fitted_on, "config": identity(config)}
        if config.budget is None:
            codecs = {
                level: fit_codec(config.codec_of(level), tokens, spec.levels[level].grid)
                for level, tokens in sample.items()
            }
        else:
            chosen = {level: self._choose(level, tokens, config.budget, reporter) for level, tokens in sample.items()}
            codecs = {level: one.codec for level, one in chosen.items()}
            facts["chosen"] = {level: one.to_json() for level, one in chosen.items()}
            for level, one in chosen.items():
                reporter.say(f"codec of {config.name}/{level}: {one.choice}, {one.why}")
        statistics = {level: channel_statistics(tokens) for level, tokens in sample.items()}
        commit_codecs(store, spec, codecs, statistics, facts)

    def _choose(self, level: str, tokens: npt.NDArray[np.float32], budget: Budget, reporter: Reporter) -> Chosen:
        """The codec of one level, chosen by measuring: minutes when tokens are wide, so each candidate is told of."""
        name, spec = self._teacher.spec.name, self._teacher.spec.levels[level]
        total = len(candidates(spec.num_tokens, spec.dim, budget))
        with reporter.task(f"codec of {name}/{level}", total, "candidate") as task:
            return choose(tokens, budget, spec.grid, lambda choice: task.advance(1, choice))

    def _sample(self) -> dict[str, npt.NDArray[np.float32]]:
        """Tokens to fit on, float32 [N, T, D] a level; what the teacher said is kept for the units that it belongs to."""
        store, levels = self._store, self._teacher.spec.levels
        row_bytes = sum(4 * level.num_tokens * level.dim for level in levels.values())
        wanted, found = max(1, min(FIT_ROWS, FIT_BYTES // row_bytes)), 0
        for block in store.plan.blocks_of(TRAIN):
            seen = self._seen.setdefault(block, [])
            for batch in self._encoded(block, 0, drawn(store, self._policy, block, 0)):
                seen.append(batch)
                found += len(batch.hashes)
                if found >= wanted:
                    break
            if found >= wanted:
                break
        if not found:
            raise DataError(
                f"no training image of store {store.root} can be read", hint=f"see `stillhouse inspect {store.root}`"
            )
        batches = [batch for seen in self._seen.values() for batch in seen]
        joined = {level: np.concatenate([batch.tokens[level] for batch in batches])[:wanted] for level in levels}
        return {level: one[:: -(-one.shape[0] * one.shape[1] // FIT_TOKENS)] for level, one in joined.items()}

    def _encoded(
        self, block: int, view: int, params: npt.NDArray[np.int32], begin: Sequence["_Batch"] = ()
    ) -> Iterator["_Batch"]:
        """The batches of a unit: those of its beginning that are known, then what the teacher says of the rest."""
        yield from begin
        rows = self._store.good_rows(block)[sum(len(batch.hashes) for batch in begin) :]
        for pixels in self._rendered(block, rows, params):
            hashes = np.array([max(view_hash(one), 1) for one in pixels], np.uint64)
            yield _Batch(hashes, self._teacher(pixels))

    def run_unit(self, block: int, view: int, advance: Callable[[int], None]) -> None:
        """Render, encode and commit one view of one block."""
        store, name = self._store, self._teacher.spec.name
        codecs = {level: store.codec(name, level) for level in self._teacher.spec.levels}
        rows = store.good_rows(block)
        params = drawn(store, self._policy, block, view)
        codes = {level: [_no_codes(spec, codecs[level])] for level, spec in self._teacher.spec.levels.items()}
        hashes = np.full(len(params), layout.MISSING_HASH, np.uint64)
        done = 0
        for batch in self._encoded(block, view, params, self._seen.pop(block, ()) if view == 0 else ()):
            hashes[rows[done : done + len(batch.hashes)]] = batch.hashes
            for level, tokens_BTD in batch.tokens.items():
                codes[level].append(codecs[level].encode(tokens_BTD))
            done += len(batch.hashes)
            advance(len(batch.hashes))
        self._commit_view(block, view, params, hashes)
        together = {level: np.concatenate(batches) for level, batches in codes.items()}
        commit_features(store, name, view, block, together, rows, {})

    def _commit_view(
        self, block: int, view: int, params: npt.NDArray[np.int32], hashes: npt.NDArray[np.uint64]
    ) -> None:
        """Record the view, or compare its pixels with the record."""
        store = self._store
        if not store.done(layout.views_unit(view, block)):
            commit_view(store, view, block, params, hashes)
        wrong = np.flatnonzero(store.view_hashes(view, block) != hashes)
        if len(wrong):
            key = store.samples(block)[int(wrong[0])].key
            message = f"view {view} of {key!r} ({len(wrong)} in block {block}) renders to other pixels than recorded"
            raise CorruptError(message, hint="compare the Pillow version with the one that made the store")

    def _rendered(self, block: int, rows: npt.NDArray[np.int64], params: npt.NDArray[np.int32]) -> Iterator[Pixels]:
        """uint8 [B, size, size, 3] of the rows in order, rendered ahead of their use in threads."""
        batch, size = self._teacher.config.batch, self._policy.size

        def one(row: int) -> Pixels:
            return render(decode(self._store.image_bytes(block, row)), params[row], size)

        waiting: deque[Any] = deque()
        for start in range(0, len(rows), batch):
            waiting.append([self._pool.submit(one, int(row)) for row in rows[start : start + batch]])
            if len(waiting) > READ_AHEAD:
                yield np.stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield np.stack([future.result() for future in waiting.popleft()])
