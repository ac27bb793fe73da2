"""Stateless randomness: values that never change, and draws that do not know of each other.

The golden values are part of format 1: another value is another view of the same sample.
"""

import decimal
import hashlib
import itertools
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core import rng
from stillhouse.core.errors import UsageError
from stillhouse.core.rng import Draws, block, log_uniform_table, permutation, seed_bytes, uniform_words

SEED = seed_bytes(0)


def test_golden_values() -> None:
    assert SEED.hex() == "28a35a97f22b30d5deedc1d1e4a75b0d89be29bcb7a2d3ffd5a99da7558bc0da"
    assert seed_bytes(2**64 - 1).hex() == "90830ec59bdab8dd7ce469d0645782a7697e33d564a2c87985217242a394321d"
    assert block(SEED, "a/ü.jpg", 3, "crop.area") == (
        0x1691E04604237743,
        0xBDBCE6FF271A993E,
        0x587ACFDC437B7A19,
        0xFC50EFF53024AA67,
    )
    assert block(SEED, "", 0, "", 7) == (
        0xBAD518A7E948FC70,
        0xA0CA0AA0AE4E6540,
        0x1B1276396F7C2A01,
        0x40302E0C13C4EDAF,
    )
    draws = Draws(seed_bytes(7), "cat/1.jpg", 2)
    assert (draws.bits("op1.kind"), draws.bits("op1.kind", 1)) == (6518899270405251788, 3251304419422716608)
    assert draws.below(1000, "x") == 25
    assert draws.between_q16(-65536, 65536, "y") == -31891
    assert draws.normal_q16("z") == -16354
    assert draws.chance(Fraction(1, 3), "c")
    assert uniform_words(5, 3, "epoch", 2).tolist() == [3894672959706723844, 8378596370534684046, 10247739145388979432]
    assert permutation(5, 8, "epoch", 2).tolist() == [4, 7, 0, 6, 1, 2, 3, 5]


def test_the_recipe_written_down() -> None:
    """docs/format.md in code that shares nothing with ours."""
    key = hashlib.blake2b((9).to_bytes(8, "little"), digest_size=32, person=b"stillhouse-seed").digest()
    name, sample = b"crop.x", "bild/ü.png".encode()
    data = (4).to_bytes(8, "little") + (2).to_bytes(4, "little") + len(name).to_bytes(2, "little") + name + sample
    digest = hashlib.blake2b(data, digest_size=32, key=key, person=b"stillhouse-rng-1").digest()
    assert block(seed_bytes(9), "bild/ü.png", 4, "crop.x", 2) == struct.unpack("<4Q", digest)


def test_keys_are_normalised() -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert composed != decomposed
    assert block(SEED, composed, 0, "x") == block(SEED, decomposed, 0, "x")
    assert uniform_words(0, 4, composed).tolist() == uniform_words(0, 4, decomposed).tolist()
    assert block(SEED, "\ufb01", 0, "x") != block(SEED, "fi", 0, "x"), "NFC keeps what only looks alike"


def test_every_part_of_a_draw_matters() -> None:
    parts = itertools.product(("a", "b"), (0, 1), ("x", "y"), (0, 1))
    drawn = {block(seed_bytes(seed), key, view, name, n) for seed in (0, 1) for key, view, name, n in parts}
    assert len(drawn) == 16
    assert len({block(seed_bytes(seed), "a", 0, "x") for seed in range(100)}) == 100


def test_name_and_key_cannot_run_together() -> None:
    assert block(SEED, "bc", 0, "a") != block(SEED, "c", 0, "ab")
    assert uniform_words(0, 1, "a", "b").tolist() != uniform_words(0, 1, "ab").tolist()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(UsageError) as caught:
        seed_bytes(seed)
    assert str(caught.value) == f"seed {seed} is not in [0, 2^64)"
    with pytest.raises(UsageError):
        permutation(seed, 3)


def words(num: int, name: str = "x", view: int = 0) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([block(SEED, f"sample {i}", view, name)[0] for i in range(num)], np.uint64)


def bits(words: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """[N, 64] of ±1."""
    shifts = np.arange(64, dtype=np.uint64)
    return ((words[:, None] >> shifts) & np.uint64(1)).astype(np.int64) * 2 - 1


def test_bits_are_fair_and_independent() -> None:
    """Fixed inputs, so a fixed result: sums of ±1 stay inside five standard deviations."""
    num = 4000
    limit = 5 * math.sqrt(num)
    first = bits(words(num))
    assert (np.abs(first.sum(axis=0)) < limit).all()
    for other in (words(num, "y"), words(num, "x", 1), uniform_words(0, num, "stream")):
        correlation = first.T @ bits(other)
        assert (np.abs(correlation) < limit).all()
    among = first.T @ first - num * np.eye(64, dtype=np.int64)
    assert (np.abs(among) < limit).all()


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 10, 1000])
def test_below_is_uniform(bound: int) -> None:
    num = 6000
    counts = np.bincount([Draws(SEED, str(i), 0).below(bound, "n") for i in range(num)], minlength=bound)
    assert len(counts) == bound
    expected = num / bound
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < bound - 1 + 5 * math.sqrt(2 * bound)


@given(st.integers(1, 2**64), st.text(max_size=5))
def test_below_stays_below(bound: int, key: str) -> None:
    assert 0 <= Draws(SEED, key, 0).below(bound, "n") < bound


@given(st.integers(-(2**31), 2**31), st.integers(1, 2**31))
def test_between_stays_between(low: int, width: int) -> None:
    assert low <= Draws(SEED, "key", 0).between_q16(low, low + width, "n") < low + width


def test_chance() -> None:
    draws = [Draws(SEED, str(i), 0) for i in range(6000)]
    assert not any(draw.chance(Fraction(0), "c") for draw in draws)
    assert all(draw.chance(Fraction(1), "c") for draw in draws)
    share = sum(draw.chance(Fraction(1, 3), "c") for draw in draws) / 6000
    assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 6000)


def test_normal_has_the_moments_of_a_normal() -> None:
    z = np.array([Draws(SEED, str(i), 0).normal_q16("n") for i in range(6000)]) / rng.Q16
    assert abs(z.mean()) < 5 / math.sqrt(6000)
    assert abs(z.std() - 1) < 0.04
    assert abs((z**3).mean()) < 0.2
    assert abs((z**4).mean() - (3 - 1.2 / 12)) < 0.4, "Irwin-Hall of twelve"
    assert np.abs(z).max() < 6


def test_log_uniform_table() -> None:
    table = log_uniform_table(Fraction(3, 4), Fraction(4, 3))
    assert (len(table), table[0], table[127], table[128], table[255]) == (256, 49207, 65462, 65610, 87283)
    assert log_uniform_table(Fraction(3, 4), Fraction(4, 3), 4) == (52817, 60988, 70423, 81317)
    assert list(table) == sorted(set(table))
    exact = [0.75 * (16 / 9) ** ((i + 0.5) / 256) * 65536 for i in range(256)]
    np.testing.assert_allclose(table, exact, atol=0.501)


def test_the_table_does_not_depend_on_the_callers_decimal_context() -> None:
    with decimal.localcontext() as context:
        context.prec = 3
        context.rounding = decimal.ROUND_CEILING
        assert log_uniform_table(Fraction(3, 4), Fraction(4, 3), 4) == (52817, 60988, 70423, 81317)


@pytest.mark.parametrize("num", [0, 1, 2, 1000])
def test_permutations_are_permutations(num: int) -> None:
    order = permutation(3, num, "epoch", 1)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num))


def test_permutations_differ_by_label_and_are_fair() -> None:
    orders = np.array([permutation(0, 6, "epoch", epoch) for epoch in range(3000)])
    for place in range(6):
        counts = np.bincount(orders[:, place], minlength=6)
        assert (np.abs(counts - 500) < 5 * math.sqrt(3000 * 5 / 36)).all()
    assert permutation(0, 50, "a").tolist() != permutation(0, 50, "b").tolist() != permutation(1, 50, "b").tolist()


def test_longer_streams_begin_alike() -> None:
    assert uniform_words(1, 5, "x").tolist() == uniform_words(1, 9, "x").tolist()[:5]
