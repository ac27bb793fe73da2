"""The loader: batches of codes and rendered pixels, in the order of training, ahead of their use.

Codes come whole shards at a time, verified and unpacked, the next window of blocks in a thread of its own while one is used.
Pixels are replayed from the stored images and parameters, or decoded from rendered views, in threads (PIL releases the
interpreter lock) and kept in memory as far as they fit, since a view that comes back in a later epoch has the same pixels.

Legend: B batch, T tokens, C codes a token, S side of the student's input.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stillhouse.core.pixels import resize_pixels
from stillhouse.core.timing import Seconds, timed
from stillhouse.storage.features import Features
from stillhouse.storage.features import Window as CodeWindow
from stillhouse.storage.labels import block_classes
from stillhouse.storage.remote.ahead import fetch_ahead, fetch_indexes_ahead
from stillhouse.storage.rendered import read_rendered, require_rendered
from stillhouse.storage.replay import replay
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

from .config import DistillConfig
from .order import Window, epoch_windows, num_steps, views_of
from .parts import WHOLE, Part

READ_AHEAD = 4

Pixels = npt.NDArray[np.uint8]
Codes = npt.NDArray[Any]
Level = tuple[str, str]
"""(teacher, level)"""
_Codes = Mapping[Level, CodeWindow]


@dataclass(frozen=True, slots=True)
class Batch:
    """uint8 pixels [B, S, S, 3], codes by teacher and level [B, T, C], which (block, row) they are, int64 [B, 2].

    label_B are class numbers, int64, when they are asked for.
    """

    pixels_BSSC: Pixels
    codes: Mapping[str, Mapping[str, Codes]]
    pairs: npt.NDArray[np.int64]
    label_B: npt.NDArray[np.int64] | None = None

    def turn(self, number: int, of: int) -> "Batch":
        """Its rows `number`, `number` + `of`, …, not copied."""
        rows = slice(number, None, of)
        codes = {
            teacher: {level: each[rows] for level, each in levels.items()} for teacher, levels in self.codes.items()
        }
        return Batch(
            self.pixels_BSSC[rows], codes, self.pairs[rows], None if self.label_B is None else self.label_B[rows]
        )


class Loader:
    """Batches of one store for one student's input size. Use as a context manager: it owns threads.

    Args:
        levels: teacher -> the levels to read.
        classes: labels in the order of their numbers; empty: labels are not read.
        part: which rows of every batch are wanted; the others are neither taken nor rendered.

    Raises:
        UsageError: fewer views than `repeats`, or a sample without the label that is asked for.
        MissingError: rendered views are asked for, and some are not there.
    """

    def __init__(
        self,
        store: Store,
        levels: Mapping[str, Collection[str]],
        config: DistillConfig,
        image_size: int,
        classes: Sequence[str] = (),
        part: Part = WHOLE,
    ) -> None:
        self._store, self._config, self._size, self._part = store, config, image_size, part
        self._levels = levels
        views_of(0, store.spec.num_views, config.repeats)
        self._features = {
            teacher: {level: store.features(teacher, level) for level in names} for teacher, names in levels.items()
        }
        self._blocks = store.plan.blocks_of(TRAIN)
        self.num_rows = sum(len(store.good_rows(block)) for block in self._blocks)
        number = {label: place for place, label in enumerate(classes)}
        fetch_indexes_ahead(store, self._blocks if classes else ())
        self._classes = {block: block_classes(store, block, number) for block in self._blocks} if classes else {}
        self.steps_per_epoch = num_steps(self.num_rows, config.batch)
        if config.pixels == "rendered":
            require_rendered(store, self._blocks)
        self._view = read_rendered if config.pixels == "rendered" else replay
        self.spent = Seconds()
        """What the threads beside training do: read, verify, decode, render."""
        self._pool = ThreadPoolExecutor(config.threads, "loader")
        self._reader = ThreadPoolExecutor(1, "windows")
        self._cache: dict[tuple[int, int, int], Pixels] = {}
        self._cache_room = config.pixel_cache_mb * 2**20 // (image_size * image_size * 3)

    @property
    def missing_cache_mb(self) -> int:
        """What `pixel_cache_mb` lacks to hold every view that training comes back to; 0: it holds them."""
        views = self._store.spec.num_views
        comes_back = self._config.epochs * self._config.repeats > views
        missing = self.num_rows * views - self._cache_room if comes_back else 0
        return max(0, -(-missing * self._size**2 * 3 // 2**20))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._store.objects is not None:
            self._store.objects.drop()
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.shutdown(wait=True)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on: what an undisturbed run would see there."""
        windows = epoch_windows(
            self._blocks,
            self._store.good_rows,
            seed=self._config.seed,
            epoch=epoch,
            window_blocks=self._config.window_blocks,
            views=views_of(epoch, self._store.spec.num_views, self._config.repeats),
            most=self.num_rows,
        )
        waiting: deque[Future[Batch]] = deque()
        for pieces in self._batches(windows, start):
            waiting.append(self._pool.submit(self._make, pieces))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _batches(self, windows: Iterator[Window], start: int) -> Iterator[list["_Piece"]]:
        """The rows of each batch that are wanted, as pieces of the windows they come from; a batch may span two windows."""
        batch, step, first_needed = self._config.batch, 0, start * self._config.batch
        pieces: list[_Piece] = []
        have = seen = 0
        for window, codes in self._ahead(windows, first_needed):
            if codes is None:
                have = (have + len(window.pairs)) % batch
                seen += len(window.pairs)
                step = seen // batch
                continue
            position = 0
            while position < len(window.pairs):
                take = min(batch - have, len(window.pairs) - position)
                if seen >= first_needed:
                    first = position + (self._part.number - have) % self._part.of
                    pieces.append(_Piece(codes, window, slice(first, position + take, self._part.of)))
                position, have, seen = position + take, have + take, seen + take
                if have == batch:
                    if step >= start:
                        yield pieces
                    pieces, have, step = [], 0, step + 1

    def _ahead(self, windows: Iterator[Window], first_needed: int) -> Iterator[tuple[Window, "Future[_Codes] | None"]]:
        """Windows and their codes, the next one's being read while one is used; None: all before the first row needed."""
        seen, waiting = 0, deque[tuple[Window, Future[_Codes] | None]]()
        for window in windows:
            seen += len(window.pairs)
            needed = seen > first_needed
            if needed:
                fetch_ahead(self._store, window.blocks, window.views, self._levels)
            waiting.append((window, self._reader.submit(self._window_codes, window) if needed else None))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting

    def _window_codes(self, window: Window) -> "_Codes":
        num = sum(len(self._store.good_rows(block)) for block in window.blocks)

        def every_view(features: Features) -> CodeWindow:
            out = features.buffer(num * len(window.views))
            for turn, view in enumerate(window.views):
                features.window(view, window.blocks, out[turn * num : (turn + 1) * num])
            return CodeWindow(features, out)

        with self.spent.measure():
            return {
                (teacher, level): every_view(features)
                for teacher, levels in self._features.items()
                for level, features in levels.items()
            }

    def _make(self, pieces: list["_Piece"]) -> Batch:
        pairs = np.concatenate([piece.window.pairs[piece.rows] for piece in pieces])
        views = np.concatenate([piece.window.views_n[piece.rows] for piece in pieces])
        codes: dict[str, dict[str, Codes]] = {}
        for teacher, levels in self._features.items():
            codes[teacher] = {}
            for level, features in levels.items():
                out, filled = features.buffer(len(pairs)), 0
                for piece in pieces:
                    places = piece.window.places[piece.rows]
                    piece.codes.result()[teacher, level].take(places, out[filled : filled + len(places)])
                    filled += len(places)
                codes[teacher][level] = features.codes(out)
        seen = zip(views.tolist(), pairs.tolist(), strict=True)
        with self.spent.measure():
            pixels = np.stack([self._pixels(view, block, row) for view, (block, row) in seen])
        label_B = np.array([self._classes[b][r] for b, r in pairs.tolist()], np.int64) if self._classes else None
        return Batch(pixels, codes, pairs, label_B)

    def _pixels(self, view: int, block: int, row: int) -> Pixels:
        """uint8 [S, S, 3] of one view at the student's size."""
        key = (view, block, row)
        kept = self._cache.get(key)
        if kept is None:
            whole = self._view(self._store, view, block, row)
            with timed("render"):
                kept = resize_pixels(whole[None], self._size)[0]
            if len(self._cache) < self._cache_room:
                self._cache[key] = kept
        return kept


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a window."""

    codes: Future[_Codes]
    window: Window
    rows: slice
