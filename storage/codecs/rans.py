"""Entropy coding of small integers: interleaved range asymmetric numeral systems with a fitted model.

Every symbol is coded with the table of its class (Duda, Asymmetric numeral systems, 2013; interleaving after Giesen,
Interleaved entropy coders, 2014). The class of a symbol follows from its channel, from the band of its token (spatial
frequencies differ as channels do), and from how large the codes of the same channel are in the token before it and in the token
above it: what is empty in one place of an image is mostly empty beside it. All rows and lanes advance together, in numpy.

A row's stream is little-endian 16-bit words: the states of its lanes (low word first), the words that the lanes take up, lane
after lane in each step, and last the values of the escapes, in the order of their symbols. A step decodes the channels
g * lanes .. (g + 1) * lanes of one token; tokens follow each other, and so do the steps of a token.

Legend: N rows, T tokens, C channels, L lanes, G steps of a token, K classes, A symbols, B bands, X contexts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError

PRECISION = 12
"""Frequencies of a class add up to 2**12."""
TOTAL = 1 << PRECISION
LOWEST = 1 << 16
"""A state is at least this between two steps, and below 2**32."""
LARGEST = 127
"""Codes beyond are escapes, whose value follows as a word of its own."""
ESCAPE = 2 * LARGEST + 1
NUM_SYMBOLS = 2 * LARGEST + 2
ALWAYS = [LARGEST - 1, LARGEST, LARGEST + 1, ESCAPE]
"""What every class has. So escapes are larger than one, and as contexts they need no value."""
NUM_CONTEXTS = 9
NUM_CLASSES = 64
REFINEMENTS = 8
LEANING = 4
"""Symbols as its channel has them, added to the counts of a context."""
MAX_VALUE = (1 << 15) - 1
LANE_BITS = 24
"""What a lane takes beyond the symbols' own bits, on average."""
LANES_SHARE = 0.03
CHUNK_SYMBOLS = 1 << 24
CHUNK_LANES = 1 << 13
"""States that advance together: enough for numpy to be busy with work and not with calls, few enough for the cache."""

Int = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]
Bytes = npt.NDArray[np.uint8]


def contexts(codes_NTC: Codes, above: int) -> npt.NDArray[np.uint8]:
    """uint8 [N, T, C] in 0..8: how large the code of this channel is in the token before, and `above` tokens before."""
    size = np.minimum(np.abs(codes_NTC), 2).astype(np.uint8)
    found = np.zeros_like(size)
    found[:, 1:] += size[:, :-1]
    found[:, above:] += 3 * size[:, : size.shape[1] - above]
    return found


def symbols(codes_NTC: Codes) -> npt.NDArray[np.uint8]:
    """uint8 [N, T, C]: what is coded."""
    return np.where(np.abs(codes_NTC) > LARGEST, ESCAPE, codes_NTC + LARGEST).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Model:
    """Which class a channel is of in each context, and how frequent each class' symbols are.

    Args:
        classes_BCX: uint8.
        bands_T: uint8, the band of each token.
        frequencies_KA: of 4096.
        above: tokens from a token to the one above it.
        lanes: L, the states of a row.
    """

    classes_BCX: npt.NDArray[np.uint8]
    bands_T: npt.NDArray[np.uint8]
    frequencies_KA: npt.NDArray[np.uint16]
    above: int
    lanes: int

    @classmethod
    def fit(cls, codes_NTC: Codes, bands_T: npt.NDArray[np.uint8], above: int, lanes: int | None = None) -> "Model":
        """The classes and frequencies of a sample; lanes as its rows need them, unless they are given."""
        counts_BCXA = _counts(codes_NTC, bands_T, above)
        classes_V = _classes(counts_BCXA.reshape(-1, NUM_CONTEXTS, NUM_SYMBOLS))
        pooled_KA = np.zeros((NUM_CLASSES, NUM_SYMBOLS))
        np.add.at(pooled_KA, classes_V, counts_BCXA.reshape(-1, NUM_SYMBOLS))
        kept, numbers = np.unique(classes_V, return_inverse=True)
        frequencies_KA = np.stack([_frequencies(pooled_KA[k]) for k in kept])
        classes_BCX = numbers.reshape(counts_BCXA.shape[:3]).astype(np.uint8)
        found = cls(classes_BCX, bands_T, frequencies_KA, above, lanes or 1)
        return found if lanes else replace(found, lanes=_lanes_for(float(found.row_bits(codes_NTC[:64]).mean())))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.float32]], num_channels: int) -> "Model":
        """What `arrays` of a fitted model describe; CorruptError when they cannot be a model."""
        classes, frequencies, layout = (arrays[name] for name in ("classes", "frequencies", "layout"))
        bands = arrays["bands"]
        whole = classes.shape[1:] == (num_channels, NUM_CONTEXTS) and frequencies.shape[1:] == (NUM_SYMBOLS,)
        whole = whole and bands.ndim == 1 and 0 <= bands.min(initial=0) and bands.max(initial=0) < len(classes) <= 256
        whole = whole and 0 <= classes.min(initial=0) and classes.max(initial=0) < len(frequencies) <= 256
        whole = whole and frequencies.min(initial=0) >= 0 and bool((frequencies.sum(axis=1) == TOTAL).all())
        whole = whole and bool((frequencies[:, ALWAYS] > 0).all()) and layout.shape == (2,)
        above, lanes = (int(value) for value in layout) if layout.shape == (2,) else (0, 0)
        if not whole or above < 1 or not 1 <= lanes <= 1 << 12:
            raise CorruptError("the entropy model of a codec is not one", hint="run `stillhouse verify` on the store")
        return cls(classes.astype(np.uint8), bands.astype(np.uint8), frequencies.astype(np.uint16), above, lanes)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """All that a decoder needs."""
        return {
            "classes": self.classes_BCX.astype(np.float32),
            "bands": self.bands_T.astype(np.float32),
            "frequencies": self.frequencies_KA.astype(np.float32),
            "layout": np.array([self.above, self.lanes], np.float32),
        }

    @cached_property
    def _cumulative_KA(self) -> Int:
        return np.cumsum(self.frequencies_KA, axis=1, dtype=np.int64) - self.frequencies_KA

    @cached_property
    def _slots(self) -> Int:
        """[K * 4096]: symbol << 24 | frequency - 1 << 12 | slot - where the symbol's slots begin."""
        table = np.empty((len(self.frequencies_KA), TOTAL), np.int64)
        for k, row in enumerate(self.frequencies_KA.astype(np.int64)):
            found = np.repeat(np.arange(NUM_SYMBOLS), row)
            table[k] = found << 24 | (row[found] - 1) << 12 | np.arange(TOTAL) - self._cumulative_KA[k][found]
        return table.reshape(-1)

    @cached_property
    def bits_KA(self) -> npt.NDArray[np.float32]:
        """What each symbol costs; one that a class lacks is an escape."""
        bits = PRECISION - np.log2(np.maximum(self.frequencies_KA, 1))
        bits[:, ESCAPE] += 16
        return np.where(self.frequencies_KA > 0, bits, bits[:, ESCAPE:]).astype(np.float32)

    def row_bits(self, codes_NTC: Codes) -> npt.NDArray[np.float64]:
        """[N]: bits of each row's stream, to within a word."""
        classes_P, at_TC = self.classes_BCX.reshape(-1).astype(np.int64), _places(self.bands_T, codes_NTC.shape[2])
        bits = [
            self.bits_KA[classes_P[at_TC + contexts(row, self.above)], symbols(row)].sum(dtype=np.float64)
            for row in codes_NTC[:, None]
        ]
        return np.array(bits) + LANE_BITS * self.lanes

    def encode(self, codes_NTC: Codes) -> list[Bytes]:
        """A stream for each row. Values are at most 32767 in size."""
        rows = max(1, CHUNK_SYMBOLS // max(1, codes_NTC[0].size if len(codes_NTC) else 1))
        parts = [self._encode(codes_NTC[start : start + rows]) for start in range(0, len(codes_NTC), rows)]
        return [stream for part in parts for stream in part]

    def _encode(self, codes_NTC: Codes) -> list[Bytes]:
        (num_rows, _, num_channels), lanes = codes_NTC.shape, self.lanes
        places = _places(self.bands_T, num_channels) + contexts(codes_NTC, self.above)
        classes = self.classes_BCX.reshape(-1)[places]
        found = symbols(codes_NTC)
        found[self.frequencies_KA[classes, found] == 0] = ESCAPE
        escaped = found == ESCAPE
        at_STNL = _by_step(classes.astype(np.int64) * NUM_SYMBOLS + found, lanes)
        frequency, start = (table.astype(np.int64).reshape(-1) for table in (self.frequencies_KA, self._cumulative_KA))
        real = _is_real(num_channels, lanes)
        state = np.full((num_rows, lanes), LOWEST, np.int64)
        num_steps = len(at_STNL)
        words = np.empty((num_steps, num_rows, lanes), np.uint16)
        taken = np.zeros((num_steps, num_rows, lanes), bool)
        for step in range(num_steps - 1, -1, -1):
            f, c = np.maximum(frequency[at_STNL[step]], 1), start[at_STNL[step]]
            mask = real[step % len(real)]
            full = (state >= f << 20) & mask
            words[step], taken[step] = state & 0xFFFF, full
            state = np.where(full, state >> 16, state)
            quotient, rest = np.divmod(state, f)
            state = np.where(mask, (quotient << PRECISION) + rest + c, state)
        streams = []
        for n in range(num_rows):
            heads = state[n].astype("<u4").view("<u2")
            values = codes_NTC[n][escaped[n]].astype("<i2").view("<u2")
            streams.append(np.concatenate([heads, words[:, n][taken[:, n]].astype("<u2"), values]).view(np.uint8))
        return streams

    def decode(self, streams_NW: Bytes, num_tokens: int) -> Codes:
        """int16 [N, T, C] of streams that are padded to one even length.

        Raises:
            CorruptError: a stream ends before its symbols do, or the model is of another number of tokens.
        """
        if num_tokens != len(self.bands_T):
            message = f"a row has {num_tokens} tokens, the entropy model {len(self.bands_T)}"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        rows = max(1, CHUNK_LANES // self.lanes)
        parts = [self._decode(streams_NW[n : n + rows], num_tokens) for n in range(0, len(streams_NW), rows)]
        return np.concatenate(parts) if parts else np.empty((0, num_tokens, self.classes_BCX.shape[1]), np.int16)

    def _decode(self, streams_NW: Bytes, num_tokens: int) -> Codes:
        num_rows, lanes = len(streams_NW), self.lanes
        num_bands, num_channels = self.classes_BCX.shape[:2]
        padded = np.zeros((num_rows, streams_NW.shape[1] // 2 + lanes), np.uint16)  # a step may look past the end
        padded[:, :-lanes] = np.ascontiguousarray(streams_NW).view("<u2")
        width, words = padded.shape[1], padded.reshape(-1).astype(np.int64)
        heads = words.reshape(num_rows, width)[:, : 2 * lanes].reshape(num_rows, lanes, 2)
        state = heads[..., 0] | heads[..., 1] << 16
        groups = -(-num_channels // lanes)
        last = num_channels - (groups - 1) * lanes
        classes = np.zeros((num_bands, groups * lanes, NUM_CONTEXTS), np.int64)
        classes[:, :num_channels] = self.classes_BCX
        bases_BP = (classes << PRECISION).reshape(num_bands, -1)
        at_C = np.arange(groups * lanes) * NUM_CONTEXTS
        first = np.arange(num_rows) * width
        position = first + 2 * lanes
        end = first + width - lanes
        codes = np.zeros((num_rows, num_tokens, num_channels), np.int16)
        size = np.zeros((num_tokens, num_rows, groups * lanes), np.int8)
        entries = np.zeros((groups, num_rows, lanes), np.int64)
        for t in range(num_tokens):
            context = np.zeros((num_rows, groups * lanes), np.int64)
            if t >= 1:
                context += size[t - 1]
            if t >= self.above:
                context += 3 * size[t - self.above]
            base = np.ascontiguousarray(
                bases_BP[self.bands_T[t]][context + at_C].reshape(num_rows, groups, lanes).swapaxes(0, 1)
            )
            position = self._token(state, base, entries, words, position, last)
            found = (entries >> 24).swapaxes(0, 1).reshape(num_rows, -1)
            size[t] = np.minimum(np.abs(found - LARGEST), 2)
            codes[:, t] = found[:, :num_channels] - LARGEST
            if (position > end).any():
                raise CorruptError("a coded row ends too early", hint="run `stillhouse verify` on the store")
        self._fill_escapes(codes, words, position, end)
        return codes

    def _token(self, state: Int, base_GNL: Int, entries_GNL: Int, words: Int, position: Int, last: int) -> Int:
        """Decode one token of all rows into `entries_GNL`; advances `state`, returns the positions after it."""
        slots = self._slots
        lanes = state.shape[1]
        index, high, entry, need = np.empty_like(state), np.empty_like(state), np.empty_like(state), state < 0
        rank = np.empty_like(state)
        for g in range(len(base_GNL)):
            old = state[:, last:].copy() if g == len(base_GNL) - 1 and last < lanes else None
            np.bitwise_and(state, TOTAL - 1, out=index)
            np.add(index, base_GNL[g], out=index)
            entry = entries_GNL[g]
            np.take(slots, index, out=entry, mode="clip")
            np.right_shift(state, PRECISION, out=high)
            np.right_shift(entry, 12, out=index)
            np.bitwise_and(index, 0xFFF, out=index)
            np.add(index, 1, out=index)
            np.multiply(index, high, out=state)
            np.bitwise_and(entry, 0xFFF, out=index)
            np.add(state, index, out=state)
            if old is not None:
                state[:, last:] = old
            np.less(state, LOWEST, out=need)
            np.cumsum(need, axis=1, out=rank)
            total = rank[:, -1].copy()
            rank -= need
            rank += position[:, None]
            np.take(words, rank, out=index, mode="clip")
            np.left_shift(state, 16, out=high)
            np.bitwise_or(high, index, out=high)
            np.copyto(state, high, where=need)
            position = position + total
        return position

    def _fill_escapes(self, codes_NTC: Codes, words: Int, position: Int, end: Int) -> None:
        """Read the values of the escapes in place."""
        rows, tokens, channels = np.nonzero(codes_NTC == ESCAPE - LARGEST)
        counts = np.bincount(rows, minlength=len(codes_NTC))
        if (position + counts > end).any():
            raise CorruptError("a coded row ends too early", hint="run `stillhouse verify` on the store")
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes_NTC[rows, tokens, channels] = words[position[rows] + rank].astype(np.uint16).view(np.int16)


def _places(bands_T: npt.NDArray[np.uint8], num_channels: int) -> npt.NDArray[np.int64]:
    """[T, C]: where the contexts of a channel begin, counted over bands and channels."""
    return (bands_T.astype(np.int64)[:, None] * num_channels + np.arange(num_channels)) * NUM_CONTEXTS


def _counts(codes_NTC: Codes, bands_T: npt.NDArray[np.uint8], above: int) -> npt.NDArray[np.float64]:
    """[B, C, X, A]: how often each symbol was seen."""
    shape = (int(bands_T.max(initial=0)) + 1, codes_NTC.shape[2], NUM_CONTEXTS, NUM_SYMBOLS)
    found, at_TC = np.zeros(prod(shape)), _places(bands_T, codes_NTC.shape[2])
    rows = max(1, (1 << 22) // max(1, codes_NTC[0].size))
    for start in range(0, len(codes_NTC), rows):
        part = codes_NTC[start : start + rows]
        index = (at_TC + contexts(part, above)) * NUM_SYMBOLS + symbols(part)
        found += np.bincount(index.reshape(-1), minlength=len(found))
    return found.reshape(shape)


def _classes(counts_CXA: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """[C * X]: which class each channel (of each band) is of in each context, by k-means in bits: what its symbols cost with a class' table.

    Contexts that were seen little lean on their channel. Classes start as shares of all channels in the order of their size.
    """
    counts_VA, own_CA = counts_CXA.reshape(-1, NUM_SYMBOLS), counts_CXA.sum(axis=1)
    used = np.flatnonzero(own_CA.sum(axis=0))
    own_CA = own_CA[:, used] / np.maximum(own_CA.sum(axis=1, keepdims=True), 1)
    smooth_VA = (counts_VA[:, used] + LEANING * np.repeat(own_CA, NUM_CONTEXTS, axis=0)).astype(np.float32)
    size_V = (smooth_VA @ np.abs(used - LARGEST)) / np.maximum(smooth_VA.sum(axis=1), 1e-9)
    order = np.argsort(size_V, kind="stable")
    share = np.cumsum((counts_VA.sum(axis=1)[order] + 0.1) * np.sqrt(size_V[order] + 1e-3))
    classes_V = np.empty(len(order), np.int64)
    classes_V[order] = np.minimum((share / share[-1] * NUM_CLASSES).astype(np.int64), NUM_CLASSES - 1)
    for _ in range(REFINEMENTS):
        pooled_KA = np.full((NUM_CLASSES, len(used)), 0.02)
        np.add.at(pooled_KA, classes_V, smooth_VA)
        bits_KA = -np.log2(pooled_KA / pooled_KA.sum(axis=1, keepdims=True))
        classes_V = (smooth_VA @ bits_KA.T.astype(np.float32)).argmin(axis=1)
    return classes_V


def _frequencies(counts_A: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """uint16 [A] that add up to 4096: at least one for what was seen and for what every class has."""
    seen = counts_A > 0
    seen[ALWAYS] = True
    room = TOTAL - int(seen.sum())
    exact = np.where(seen, counts_A / max(counts_A.sum(), 1) * room, 0)
    found = np.floor(exact).astype(np.int64) + seen
    left = TOTAL - int(found.sum())
    most = np.argsort(-(exact - np.floor(exact)) * seen, kind="stable")[:left]
    found[most] += 1
    if found.sum() < TOTAL:
        found[int(found.argmax())] += TOTAL - found.sum()
    return found.astype(np.uint16)


def _by_step(values_NTC: Int, lanes: int) -> Int:
    """[T * G, N, L], padded with the first symbol of the first class."""
    num_rows, num_tokens, num_channels = values_NTC.shape
    groups = -(-num_channels // lanes)
    padded = np.zeros((num_rows, num_tokens, groups * lanes), np.int64)
    padded[..., :num_channels] = values_NTC
    turned = padded.reshape(num_rows, num_tokens * groups, lanes).swapaxes(0, 1)
    return np.ascontiguousarray(turned)


def _lanes_for(row_bits: float) -> int:
    """A power of two; the lanes' states are some three per cent of a row."""
    return 1 << int(np.clip(np.log2(max(row_bits, 1.0) * LANES_SHARE / LANE_BITS), 0, 7))


def _is_real(num_channels: int, lanes: int) -> npt.NDArray[np.bool_]:
    """bool [G, L]: False where a lane has no channel in the last step of a token."""
    groups = -(-num_channels // lanes)
    return (np.arange(groups * lanes) < num_channels).reshape(groups, lanes)
