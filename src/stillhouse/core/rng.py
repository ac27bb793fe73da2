"""Randomness without state: every draw is a keyed BLAKE2b hash of (seed, key, view, name, counter).

A draw is named ("crop.area", "op1.kind"), so adding or reordering draws changes no other draw, and worker count,
order, retries and library versions cannot matter. Decisions are made with integers only: no exp, log or sin, whose
last bits differ between C libraries.
"""

import hashlib
import struct
import unicodedata
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np

from .errors import UsageError

PERSON = b"stillhouse-rng-1"
Q16 = 1 << 16


def seed_bytes(seed: int) -> bytes:
    """The 32-byte BLAKE2b key of an integer seed in [0, 2^64)."""
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed {seed} is not in [0, 2^64)")
    return hashlib.blake2b(struct.pack("<Q", seed), digest_size=32, person=b"stillhouse-seed").digest()


def block(seed: bytes, key: str, view: int, name: str, counter: int = 0) -> tuple[int, int, int, int]:
    """Four independent uniform 64-bit integers for one named draw."""
    label = name.encode()
    data = struct.pack("<QIH", view, counter, len(label)) + label + unicodedata.normalize("NFC", key).encode()
    digest = hashlib.blake2b(data, digest_size=32, key=seed, person=PERSON).digest()
    words = struct.unpack("<4Q", digest)
    return words[0], words[1], words[2], words[3]


class Draws:
    """The named draws of one (seed, sample key, view)."""

    __slots__ = ("_key", "_seed", "_view")

    def __init__(self, seed: bytes, key: str, view: int) -> None:
        self._seed, self._key, self._view = seed, key, view

    def bits(self, name: str, counter: int = 0) -> int:
        """A uniform integer in [0, 2^64)."""
        return block(self._seed, self._key, self._view, name, counter)[0]

    def below(self, bound: int, name: str, counter: int = 0) -> int:
        """A uniform integer in [0, bound): multiply-shift; the bias is below bound / 2^64."""
        return (self.bits(name, counter) * bound) >> 64

    def chance(self, probability: Fraction, name: str) -> bool:
        """True with the given probability, an exact fraction."""
        return self.bits(name) * probability.denominator < probability.numerator << 64

    def between_q16(self, low: int, high: int, name: str, counter: int = 0) -> int:
        """A uniform fixed-point number in [low, high), both in 1/65536."""
        return low + self.below(high - low, name, counter)

    def normal_q16(self, name: str) -> int:
        """A standard normal in 1/65536: the centred sum of twelve 16-bit uniforms (Irwin-Hall), so |z| < 6."""
        words = block(self._seed, self._key, self._view, name)
        return sum((word >> shift) & 0xFFFF for word in words[:3] for shift in (0, 16, 32, 48)) - 6 * 0xFFFF


def log_uniform_table(low: Fraction, high: Fraction, entries: int = 256) -> tuple[int, ...]:
    """Midpoints of `entries` equal steps from log(low) to log(high), in 1/65536.

    `decimal` rounds exp and ln correctly by its specification, so the table is the same everywhere.
    """
    with localcontext(Context(prec=40, rounding=ROUND_HALF_EVEN)):  # whatever context the caller is in
        log_low = (Decimal(low.numerator) / low.denominator).ln()
        log_high = (Decimal(high.numerator) / high.denominator).ln()
        step = (log_high - log_low) / entries
        return tuple(
            int(((log_low + step * (i + Decimal("0.5"))).exp() * Q16).to_integral_value()) for i in range(entries)
        )


def uniform_words(seed: int, num: int, *labels: str | int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """`num` uniform uint64 words for a labelled purpose (an epoch's order, a step's mask).

    Raw Philox words: NumPy keeps bit streams stable over versions, which it does not promise for distributions.
    """
    label = "/".join(str(part) for part in labels)
    words = block(seed_bytes(seed), label, 0, "stream")
    return np.random.Philox(key=np.array(words[:2], dtype=np.uint64)).random_raw(num)


def permutation(seed: int, num: int, *labels: str | int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A uniform permutation of 0..num-1: a pure function of (seed, labels)."""
    return np.argsort(uniform_words(seed, num, *labels), kind="stable").astype(np.int64)
