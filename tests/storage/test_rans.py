"""The entropy coder gives back what it was given, near the entropy of its model, and no bytes can lead it astray."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stillhouse.core.errors import CorruptError
from stillhouse.storage.codecs.rans import LANE_BITS, MAX_VALUE, NUM_CONTEXTS, Model, contexts

Codes = npt.NDArray[np.int16]


def drawn(num_rows: int, num_tokens: int = 9, num_channels: int = 21, seed: int = 0) -> Codes:
    """Codes of very unequal channels, from always zero to hundreds."""
    random = np.random.Generator(np.random.PCG64(seed))
    spread = np.concatenate([[0.0], np.geomspace(0.05, 200, num_channels - 1)])
    codes: Codes = np.rint(random.laplace(size=(num_rows, num_tokens, num_channels)) * spread).astype(np.int16)
    return codes


def fitted(codes: Codes, lanes: int, num_bands: int = 2) -> Model:
    """A model whose bands are as many shares of the tokens, on a square grid."""
    num_tokens = codes.shape[1]
    bands = (np.arange(num_tokens) * num_bands // num_tokens).astype(np.uint8)
    return Model.fit(codes, bands, int(num_tokens**0.5), lanes)


def padded(streams: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    longest = max(map(len, streams)) + 2
    found = np.zeros((len(streams), longest + longest % 2), np.uint8)
    for row, stream in zip(found, streams, strict=True):
        row[: len(stream)] = stream
    return found


@pytest.mark.parametrize("lanes", [1, 2, 7, 8, 21, 64])
def test_codes_come_back(lanes: int) -> None:
    model = fitted(drawn(50), lanes)
    for codes in (
        drawn(50),
        drawn(20, seed=1),
        np.full((3, 9, 21), MAX_VALUE, np.int16),
        np.zeros((1, 9, 21), np.int16),
    ):
        np.testing.assert_array_equal(model.decode(padded(model.encode(codes)), 9), codes)


@given(st_numpy.arrays(np.int16, (3, 4, 5), elements=st.integers(-MAX_VALUE, MAX_VALUE)), st.integers(1, 9))
def test_any_codes_come_back(codes: Codes, lanes: int) -> None:
    """With a model of the codes themselves, and with one of other codes."""
    for model in (fitted(codes, lanes), fitted(codes[:, :, ::-1] // 3, lanes)):
        np.testing.assert_array_equal(model.decode(padded(model.encode(codes)), 4), codes)


def test_it_takes_what_the_model_says() -> None:
    model = fitted(drawn(400), 8)
    unseen = drawn(100, seed=1)
    told = model.row_bits(unseen)
    taken = np.array([8 * len(stream) for stream in model.encode(unseen)])
    assert (np.abs(taken - told) <= 16 * 8 + 0.01 * told).all()


def test_it_is_near_the_entropy() -> None:
    """Independent channels: the sum of their entropies, to within the classes and the twelve bits of a frequency."""
    random = np.random.Generator(np.random.PCG64(0))
    shares = np.linspace(0.01, 0.5, 32)
    codes = (random.random((500, 16, 32)) < shares).astype(np.int16)
    entropy = float(-(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares)).sum()) * 500 * 16
    model = fitted(codes, 8)
    taken = sum(8 * len(stream) for stream in model.encode(codes)) - 500 * 8 * LANE_BITS
    assert taken == pytest.approx(entropy, rel=0.02)


def test_neighbours_tell() -> None:
    """Where whole stretches are empty, contexts make codes much cheaper than channels alone."""
    random = np.random.Generator(np.random.PCG64(0))
    rows = np.repeat(random.random((400, 4, 1, 8)) < 0.3, 4, axis=2).reshape(400, 16, 8)
    codes = (rows * random.integers(1, 3, rows.shape)).astype(np.int16)
    alone = fitted(codes.reshape(-1, 1, 8), 1).row_bits(codes.reshape(-1, 1, 8)).sum() - LANE_BITS * 400 * 16
    together = fitted(codes, 1).row_bits(codes).sum() - LANE_BITS * 400
    assert together < 0.85 * alone


def test_bands_tell() -> None:
    """Tokens that differ as spatial frequencies do."""
    random = np.random.Generator(np.random.PCG64(0))
    spread = np.array([20.0, 2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.2])[:, None]
    codes = np.rint(random.laplace(size=(400, 9, 6)) * spread).astype(np.int16)
    bands = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2], np.uint8)
    together = Model.fit(codes, bands, 3, 1).row_bits(codes).sum()
    assert together < 0.9 * Model.fit(codes, 0 * bands, 3, 1).row_bits(codes).sum()


def test_contexts_look_left_and_up() -> None:
    codes = np.zeros((1, 9, 1), np.int16)
    codes[0, 4] = -5
    found = contexts(codes, 3)[0, :, 0].tolist()
    assert found == [0, 0, 0, 0, 0, 2, 0, 6, 0] and NUM_CONTEXTS == 9


def test_a_stream_that_is_cut_is_refused() -> None:
    model = fitted(drawn(50), 4)
    streams = padded(model.encode(drawn(5, seed=1)))
    with pytest.raises(CorruptError, match="a coded row ends too early"):
        model.decode(np.ascontiguousarray(streams[:, : streams.shape[1] // 4 * 2]), 9)


@given(st.binary(min_size=16, max_size=400))
def test_no_bytes_lead_it_astray(data: bytes) -> None:
    """Codes of the right shape, or a CorruptError."""
    model = fitted(drawn(5), 4)
    stream = np.frombuffer(data[: len(data) // 2 * 2], np.uint8)[None]
    try:
        assert model.decode(stream, 9).shape == (1, 9, 21)
    except CorruptError as error:
        assert "ends too early" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 200.0),
        ("classes", -1.0),
        ("frequencies", -1.0),
        ("frequencies", 1.0),
        ("layout", 0.0),
        ("bands", 7.0),
    ],
)
def test_a_model_that_is_none_is_refused(name: str, value: float) -> None:
    arrays = fitted(drawn(5), 4).arrays()
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(CorruptError, match="the entropy model of a codec is not one"):
        Model.from_arrays(arrays, 21)
