"""Rate and distortion: against known answers, and against what is on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.storage import layout
from stillhouse.storage.codecs import CODECS, fit_codec
from stillhouse.storage.codecs.distortion import bits_on_disk, channel_covariance, gaussian_bound, measure
from stillhouse.storage.testing import LEVELS, StoreShape, make_store


def test_white_tokens_gain_six_decibels_a_bit() -> None:
    for bits in (0.0, 0.5, 1.0, 3.0):
        assert gaussian_bound(np.eye(7) * 3, bits) == pytest.approx(2.0 ** (-2 * bits))


def test_two_components_by_hand() -> None:
    """Variances 4 and 1: up to half a bit a dimension the first takes all, then both share."""
    covariance = np.diag([4.0, 1.0])
    assert gaussian_bound(covariance, 0) == pytest.approx(1)
    assert gaussian_bound(covariance, 0.25) == pytest.approx((4 * 2.0**-1 + 1) / 5)
    assert gaussian_bound(covariance, 0.5) == pytest.approx((1 + 1) / 5)
    assert gaussian_bound(covariance, 1.5) == pytest.approx(2 * 2.0**-2 / 5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0, 6))
def test_the_bound_by_bisection(variances: list[float], bits: float) -> None:
    """The same water level found the slow way."""
    values = np.array(variances)
    if values.sum() < 1e-6:
        return
    low, high = 1e-12 * values.sum(), float(values.max())
    for _ in range(200):
        level = np.sqrt(low * high)
        used = 0.5 * np.log2(np.maximum(values / level, 1)).sum() / len(values)
        low, high = (level, high) if used > bits else (low, level)
    expected = np.minimum(values, high).sum() / values.sum()
    assert gaussian_bound(np.diag(values), bits) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("choice", CODECS)
def test_bits_are_those_of_the_shards(tmp_path: Path, choice: str) -> None:
    shape = StoreShape(teachers={"tiny": choice}, bad_rows=frozenset(), blocks=(("train", 4),))
    store = make_store(tmp_path / "store", shape)
    for level, spec in LEVELS.items():
        codes = store.features("tiny", level).read(1, 0)
        size = (store.root / layout.features_chunk("tiny", level, 1, 0)).stat().st_size
        bits = bits_on_disk(store.codec("tiny", level), codes)
        assert bits == pytest.approx(8 * (size - 4) / (4 * spec.num_tokens * spec.dim))  # 4: the crc of the index


def test_no_codec_beats_the_bound_on_gaussian_tokens() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    mix = np.linalg.qr(random.standard_normal((24, 24)))[0] * np.geomspace(3, 0.03, 24)[:, None]
    fitted, held_out = ((random.standard_normal((60, 64, 24)) @ mix + 1).astype(np.float32) for _ in range(2))
    for choice in ("bf16", "int8", "int4", "klt:1", "klt:2", "klt:4", "pq:3", "opq:3", "rq:3"):
        point = measure(choice, fit_codec(choice, fitted), held_out)
        assert point.bound_nmse <= point.nmse * 1.02, point
        if choice.startswith("klt"):
            assert point.leading_nmse < 0.5 * point.nmse  # what is given up is what varies least
        assert point.nmse < 1 and 0 < point.cosine <= 1 and point.snr_db == pytest.approx(-10 * np.log10(point.nmse))
    assert channel_covariance(held_out).shape == (24, 24)
