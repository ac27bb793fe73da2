"""The work of a teacher on units, each one view of one block: render, ask the teacher, encode, commit.

The four overlap. Threads render ahead, into the next unit too, while the teacher works in the calling thread; one more
thread encodes and commits behind it. Each waits for the next one when it is too far ahead, so memory stays bounded.

Legend: B views of a batch, N rows, T tokens, D dimensions, P view parameters.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError
from stillhouse.core.pixels import resize_pixels
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.codecs import Codec
from stillhouse.storage.decode import decode
from stillhouse.storage.specs import LevelSpec
from stillhouse.storage.store import Store
from stillhouse.storage.views import FIELDS, render, view_hash
from stillhouse.storage.writer import commit_features, commit_view

from .policies import ViewPolicyConfig, draw
from .teachers import Asked, Teacher

READ_AHEAD = 4
"""Batches, and ends of units, that are being rendered while the teacher works on an earlier one."""
WRITE_BEHIND = 2
"""Batches, and ends of units, that are being encoded or committed while the teacher works on a later one."""

Pixels = npt.NDArray[np.uint8]


class Unit(NamedTuple):
    """One view of one block: what is rendered, encoded, committed and retried together."""

    block: int
    view: int


def is_done(store: Store, teacher: str, unit: Unit) -> bool:
    """True when features and view of a unit are decided; publishes what a crash left half-way."""
    features, views = layout.features_unit(teacher, unit.view, unit.block), layout.views_unit(unit.view, unit.block)
    return store.done(features) and store.done(views)


def drawn(store: Store, policy: ViewPolicyConfig, block: int, view: int) -> npt.NDArray[np.int32]:
    """int32 [rows, P]: the parameters of a view, as recorded or else as the policy draws them."""
    if store.done(layout.views_unit(view, block)):
        return store.view_params(view, block)
    params = np.full((store.plan.blocks[block].num_rows, len(FIELDS)), layout.MISSING_PARAM, np.int32)
    for i, sample in enumerate(store.samples(block)):
        if sample.reason is None:
            params[i] = draw(policy, sample.key, sample.width, sample.height, view)
    return params


class Seen(NamedTuple):
    """Hashes of some views' pixels, uint64 [B], and what the teacher says of them."""

    hashes: npt.NDArray[np.uint64]
    said: Asked


@dataclass(slots=True)
class _Begun:
    """A unit in the works; `codes` per level and `hashes` grow batch by batch."""

    unit: Unit
    params: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    known: deque[Seen]
    codecs: dict[str, Codec]
    codes: dict[str, list[npt.NDArray[Any]]]
    hashes: npt.NDArray[np.uint64]
    num_done: int = 0

    def add(self, seen: Seen) -> int:
        """Encode the next batch; how many images it has."""
        num = len(seen.hashes)
        for level, tokens_BTD in seen.said.tokens().items():
            self.codes[level].append(self.codecs[level].encode(tokens_BTD))
        self.hashes[self.rows[self.num_done : self.num_done + num]] = seen.hashes
        self.num_done += num
        return num


@dataclass(slots=True)
class _Rendering:
    """A batch on its way from the render threads into `pixels` and `hashes`; one without rows is the end of a unit."""

    begun: _Begun
    pixels: Pixels
    hashes: npt.NDArray[np.uint64]
    threads: list[Future[None]] = field(default_factory=list)


class TeacherPass:
    """A store, a teacher and the threads that render for it: what one unit after the other shares."""

    def __init__(self, store: Store, teacher: Teacher, policy: ViewPolicyConfig, pool: ThreadPoolExecutor) -> None:
        self.store, self.teacher, self.policy = store, teacher, policy
        self.kept: dict[Unit, deque[Seen]] = {}
        """The beginnings of units that the teacher has been asked about already, by the fit of the codecs."""
        self.pool = pool

    def ask(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Seen]]:
        """What the teacher says of each batch of units, in order; nothing is written."""
        for rendering in self._rendered(self._begin(unit, {}) for unit in units):
            if len(rendering.hashes):
                yield rendering.begun.unit, Seen(rendering.hashes, self.teacher.ask(rendering.pixels))

    def write(
        self, units: Iterable[Unit], on_images: Callable[[int], None], on_unit: Callable[[Unit, bool], None]
    ) -> None:
        """Commit units in order.

        Args:
            units: asked for the next one when rendering of it begins.
            on_images: told, in the calling thread, of images that are encoded.
            on_unit: told, in the calling thread, of each unit that is through, and whether we were the first.
        """
        behind: deque[tuple[Future[int], Unit | None]] = deque()

        def wait(most: int) -> None:
            while len(behind) > most:
                working, ended = behind.popleft()
                num = working.result()
                if ended is None:
                    on_images(num)
                else:
                    on_unit(ended, bool(num))

        with worker_threads(1, "write") as writer:
            begun = (self._begin(unit, self._codecs()) for unit in units)
            for rendering in self._rendered(begun):
                unit = rendering.begun
                while unit.known:
                    behind.append((writer.submit(unit.add, unit.known.popleft()), None))
                    wait(WRITE_BEHIND)
                if len(rendering.hashes):
                    seen = Seen(rendering.hashes, self.teacher.ask(rendering.pixels))
                    behind.append((writer.submit(unit.add, seen), None))
                else:
                    behind.append((writer.submit(self._commit, unit), unit.unit))
                wait(WRITE_BEHIND)
            wait(0)

    def _codecs(self) -> dict[str, Codec]:
        name, levels = self.teacher.spec.name, self.teacher.spec.levels
        return {level: self.store.codec(name, level) for level in levels}

    def _begin(self, unit: Unit, codecs: dict[str, Codec]) -> _Begun:
        params, levels = drawn(self.store, self.policy, unit.block, unit.view), self.teacher.spec.levels
        return _Begun(
            unit=unit,
            params=params,
            rows=self.store.good_rows(unit.block),
            known=self.kept.pop(unit, deque()),
            codecs=codecs,
            codes={level: [_no_codes(levels[level], codec)] for level, codec in codecs.items()},
            hashes=np.full(len(params), layout.MISSING_HASH, np.uint64),
        )

    def _rendered(self, units: Iterable[_Begun]) -> Iterator[_Rendering]:
        """The batches of units in order, rendered ahead of their use in threads; after each unit one without rows."""
        waiting: deque[_Rendering] = deque()
        for begun in units:
            first = sum(len(seen.hashes) for seen in begun.known)
            batch = self.teacher.config.batch
            pieces = [begun.rows[start : start + batch] for start in range(first, len(begun.rows), batch)]
            for rows in [*pieces, begun.rows[:0]]:
                waiting.append(self._begin_rendering(begun, rows))
                if len(waiting) > READ_AHEAD:
                    yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())

    def _begin_rendering(self, begun: _Begun, rows: npt.NDArray[np.int64]) -> _Rendering:
        size, seen_size = self.policy.size, self.teacher.preprocessing.size
        found = _Rendering(begun, self.teacher.empty_pixels(len(rows)), np.empty(len(rows), np.uint64))

        def one(i: int, row: int) -> None:
            pixels = render(decode(self.store.image_bytes(begun.unit.block, row)), begun.params[row], size)
            found.hashes[i] = view_hash(pixels)
            found.pixels[i] = resize_pixels(pixels[None], seen_size)[0]

        found.threads += [self.pool.submit(one, i, row) for i, row in enumerate(rows.tolist())]
        return found

    def _commit(self, begun: _Begun) -> int:
        """How many units were committed: none when somebody else was faster."""
        (block, view), name = begun.unit, self.teacher.spec.name
        if is_done(self.store, name, begun.unit):
            return 0
        self._commit_view(begun)
        together = {level: np.concatenate(batches) for level, batches in begun.codes.items()}
        commit_features(self.store, name, view, block, together, begun.rows, {})
        return 1

    def _commit_view(self, begun: _Begun) -> None:
        """Record the view, or compare its pixels with the record."""
        store, (block, view) = self.store, begun.unit
        if not store.done(layout.views_unit(view, block)):
            commit_view(store, view, block, begun.params, begun.hashes)
        wrong = np.flatnonzero(store.view_hashes(view, block) != begun.hashes)
        if len(wrong):
            key = store.samples(block)[int(wrong[0])].key
            message = f"view {view} of {key!r} ({len(wrong)} in block {block}) renders to other pixels than recorded"
            raise CorruptError(message, hint="compare the Pillow version with the one that made the store")


def _finished(rendering: _Rendering) -> _Rendering:
    for thread in rendering.threads:
        thread.result()
    return rendering


def _no_codes(level: LevelSpec, codec: Codec) -> npt.NDArray[Any]:
    """[0, T, C]: what a block without a good image has."""
    return np.empty((0, level.num_tokens, codec.code_type.width), codec.code_type.dtype)
