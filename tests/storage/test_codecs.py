"""Every codec keeps its promises; what is particular to one stands below its class."""

import functools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stillhouse.core.errors import CorruptError, DataError, UsageError
from stillhouse.storage.codecs import CODECS, Codec, fit_codec, load_codec, pack, stored_type, unpack
from stillhouse.storage.codecs.distortion import bits_on_disk, measure
from stillhouse.storage.codecs.klt import Klt
from stillhouse.storage.layout import array_metadata
from stillhouse.storage.testing import CodecTests

FLOAT32_MAX = float(np.finfo(np.float32).max)


class TestFp16(CodecTests):
    name = "fp16"
    largest = 65504.0

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """2^-11 of the value, and half the smallest denormal number near zero."""
        return np.maximum(np.abs(tokens_NTD.astype(np.float64)) * 2.0**-11, 2.0**-25)

    @pytest.mark.parametrize("value", [65505.0, -65520.0, 1e6, FLOAT32_MAX])
    def test_overflow_is_refused(self, value: float) -> None:
        tokens = self.tokens()
        tokens[7, 1, 2] = value
        with pytest.raises(DataError) as caught:
            fit_codec("fp16", tokens).encode(tokens)
        said = f"a feature of {abs(value):.4g} does not fit fp16 (at most 65504.0); use codec: int8"
        assert str(caught.value) == said

    def test_nan_is_told_apart(self) -> None:
        with pytest.raises(DataError, match=r"a feature of nan does not fit fp16.*; look for the image that makes it"):
            fit_codec("fp16", self.tokens()).encode(np.full((1, 1, 12), np.nan, np.float32))

    def test_nothing_is_fitted(self) -> None:
        assert fit_codec("fp16", self.tokens(0)) == fit_codec("fp16", self.tokens(1, 50))


class TestInt8(CodecTests):
    name = "int8"
    largest = 1e38

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """(max - min) / 508 of the channel, and what rounding to float32 adds at its largest value."""
        flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
        rounding = 8 * np.spacing(np.abs(flat).max(axis=0).astype(np.float32)).astype(np.float64)
        bound: npt.NDArray[np.float64] = np.ptp(flat, axis=0) / 508 + rounding
        return bound

    def test_the_whole_range_is_used(self) -> None:
        codes = fit_codec("int8", self.tokens()).encode(self.tokens())
        assert codes.min() == -127 and codes.max() == 127
        np.testing.assert_array_equal(codes.reshape(-1, 12).min(axis=0), -127)

    def test_values_outside_are_clipped(self) -> None:
        codec = fit_codec("int8", self.tokens())
        assert (codec.encode(np.full((1, 1, 12), FLOAT32_MAX, np.float32)) == 127).all()
        assert (codec.encode(np.full((1, 1, 12), -FLOAT32_MAX, np.float32)) == -127).all()

    def test_nan_has_a_text(self) -> None:
        with pytest.raises(DataError, match="a feature is NaN or infinite; look for the image that makes it"):
            fit_codec("int8", self.tokens()).encode(np.full((1, 1, 12), np.nan, np.float32))

    @given(st_numpy.arrays(np.float32, (4, 2, 3), elements=st.floats(-1e6, 1e6, width=32)))
    def test_decoding_stays_inside_the_fitted_range(self, tokens: npt.NDArray[np.float32]) -> None:
        codec = fit_codec("int8", tokens)
        decoded = codec.decode(codec.encode(tokens)).astype(np.float64)
        slack = self.error_bound(codec, tokens)
        flat = tokens.reshape(-1, 3).astype(np.float64)
        assert (decoded <= flat.max(axis=0) + slack).all() and (decoded >= flat.min(axis=0) - slack).all()
        assert (np.abs(decoded - tokens) <= slack).all()

    def test_a_known_answer(self) -> None:
        """The numbers of docs/format.md: x = offset + scale * code."""
        codec = load_codec(
            "int8", 2, {"offset": np.array([1, -1], np.float32), "scale": np.array([0.5, 0.25], np.float32)}
        )
        codes = codec.encode(np.array([[[2.0, -2.0], [1.2, -1.1]]], np.float32))
        np.testing.assert_array_equal(codes, np.array([[[2, -4], [0, 0]]], np.int8))
        np.testing.assert_array_equal(codec.decode(codes), np.array([[[2.0, -2.0], [1.0, -1.0]]], np.float32))


class TestBf16(CodecTests):
    name = "bf16"
    largest = 3e38

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """2^-8 of the value where it is normal: half of the last of eight bits."""
        return np.maximum(np.abs(tokens_NTD.astype(np.float64)) * 2.0**-8, 2.0**-133)

    @given(st.floats(-(2.0**100), 2.0**100, width=32))
    def test_it_rounds_as_torch_does(self, value: float) -> None:
        codes = fit_codec("bf16", self.tokens()).encode(np.full((1, 1, 12), value, np.float32))
        expected = torch.tensor([value], dtype=torch.float32).to(torch.bfloat16).float().item()
        assert (fit_codec("bf16", self.tokens()).decode(codes) == expected).all()

    def test_beyond_the_largest_is_the_largest(self) -> None:
        codec = fit_codec("bf16", self.tokens())
        decoded = codec.decode(codec.encode(np.full((1, 1, 12), -FLOAT32_MAX, np.float32)))
        assert np.isfinite(decoded).all() and (decoded < -3.38e38).all()


class TestInt4(CodecTests):
    name = "int4"
    largest = 1e38

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """A whole step and what lies beyond the levels; half a step is lost where zero is moved onto one."""
        flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
        arrays = codec.arrays()
        scale, offset, levels = (arrays[name].astype(np.float64) for name in ("scale", "offset", "levels"))
        beyond = np.maximum(np.abs(flat - offset).max(axis=0) - scale * levels, 0)
        rounding = 8 * np.spacing(np.abs(flat).max(axis=0).astype(np.float32)).astype(np.float64)
        bound: npt.NDArray[np.float64] = scale / 2 + beyond + rounding
        return bound

    def test_most_channels_have_fifteen_levels_and_outliers_255(self) -> None:
        tokens = self.tokens()
        tokens[..., :] = tokens[..., :1]
        tokens[..., 5] *= 50
        codes = fit_codec("int4", tokens).encode(tokens)
        assert np.abs(np.delete(codes, 5, axis=-1)).max() <= 7 and np.abs(codes[..., 5]).max() == 127

    def test_zeros_stay_zeros(self) -> None:
        """Behind a ReLU most values are zero, and nothing else should come back for them."""
        tokens = np.maximum(self.tokens(), 0)
        codec = fit_codec("int4", tokens)
        assert (codec.decode(codec.encode(tokens))[tokens == 0] == 0).all()


class CoderTests(CodecTests):
    """What the entropy-coded codecs share."""

    largest = 1e15

    @pytest.mark.parametrize("bits", [0.5, 1, 2, 4])
    def test_the_rate_is_what_was_asked_for(self, bits: float) -> None:
        """On rows that it was not fitted on, with all that lies on disk."""
        codec = fit_codec(f"{self.name}:{bits}", wide_tokens(0, 256))
        unseen = wide_tokens(1, 64)
        assert 0.9 * bits <= bits_on_disk(codec, codec.encode(unseen)) <= 1.1 * bits

    def test_more_bits_less_error(self) -> None:
        tokens, errors = wide_tokens(0, 32), []
        for bits in (0.5, 1, 2, 4, 8):
            codec = fit_codec(f"{self.name}:{bits}", tokens)
            errors.append(float(((codec.decode(codec.encode(tokens)) - tokens) ** 2).mean()))
        assert (np.diff(errors) < 0).all()

    def test_a_row_that_needs_more_room_than_there_is_loses_its_smallest_codes(self) -> None:
        codec = fit_codec(f"{self.name}:1", wide_tokens(0, 64))
        wild = wide_tokens(2, 8) * np.float32(30)
        codes = codec.encode(wild)
        np.testing.assert_array_equal(unpack(codec, pack(codec, codes)), codes)
        error = float(((codec.decode(codes) - wild) ** 2).mean())
        assert error < 0.9 * float((wild**2).mean())

    def test_codes_of_another_codec_are_refused(self) -> None:
        codec = fit_codec(f"{self.name}:1", wide_tokens(0, 64))
        other = np.random.Generator(np.random.PCG64(0)).integers(-3000, 3000, codec.encode(wide_tokens(1, 4)).shape)
        with pytest.raises(DataError, match="a row of codes takes"):
            pack(codec, other.astype(np.int16))

    def test_no_bytes_are_codes_that_were_not_written(self) -> None:
        codec = fit_codec(f"{self.name}:1", wide_tokens(0, 64))
        stored = pack(codec, codec.encode(wide_tokens(1, 4))).copy()
        stored[2] = 255
        with pytest.raises(CorruptError, match="a coded row ends too early"):
            unpack(codec, stored)

    @pytest.mark.parametrize(("name", "value"), [("bytes", 1e9), ("bytes", 0.0), ("step", 0.0), ("step", -1.0)])
    def test_rows_of_gigabytes_and_steps_that_are_none_are_refused(self, name: str, value: float) -> None:
        arrays = dict(fit_codec(f"{self.name}:2", dense_tokens()).arrays()) | {name: np.array([value], np.float32)}
        with pytest.raises(CorruptError, match="that is missing or of no use"):
            load_codec(self.name, 32, arrays)


class TestEcsq(CoderTests):
    name = "ecsq"

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """A step, and what rounding to float32 adds."""
        return np.full(codec.dim, 1.2 * float(codec.arrays()["step"][0]) + 1e-6 * float(np.abs(tokens_NTD).max()))

    def test_zeros_stay_zeros_and_cost_little(self) -> None:
        tokens = np.maximum(wide_tokens(0, 128) - 2, 0)
        codec = fit_codec("ecsq:1", tokens)
        codes = codec.encode(tokens)
        assert (tokens == 0).mean() > 0.9 and (codes[tokens == 0] == 0).all()
        error = float(((codec.decode(codes) - tokens) ** 2).mean())
        assert error < 0.01 * tokens.var()


class TestKlt(CoderTests):
    name = "klt"

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Each coordinate is less than 1.2 steps away: the root of their sum of squares."""
        step = float(codec.arrays()["step"][0])
        largest = float(np.abs(tokens_NTD).max())
        return np.full(codec.dim, 1.2 * step * np.sqrt(codec.dim) + 1e-4 * largest)

    def test_it_is_near_the_bound_of_gaussian_tokens(self) -> None:
        """Two decibels: a quarter of a bit is 1.5, and contexts, escapes and overheads take their part."""
        codec = fit_codec("klt:2", wide_tokens(0, 256))
        point = measure("klt:2", codec, wide_tokens(1, 64))
        assert -2.5 < point.snr_db + 10 * np.log10(point.bound_nmse) < 0

    def test_axes_are_orthonormal_and_ordered(self) -> None:
        codec = fit_codec("klt:8", dense_tokens())
        axes = codec.arrays()["axes"].astype(np.float64)
        np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-5)
        spread = (dense_tokens().reshape(-1, 32) @ axes.T).std(axis=0)
        assert (np.diff(spread) <= 1e-4 * spread[0]).all()

    def test_the_mean_of_a_component_does_not_move(self) -> None:
        """What a code stands for is the mean of what has it, on average (decision 0005)."""
        tokens = wide_tokens(0, 256)
        codec = fit_codec("klt:2", tokens)
        assert isinstance(codec, Klt)
        axes, waves = codec.arrays()["axes"], codec.arrays()["cosines"]
        found = waves @ ((tokens - codec.arrays()["mean"]) @ axes.T)
        codes = codec.encode(tokens)
        values = codec.coefficients.values(codes)
        for k in range(3):
            used = codes[..., k] != 0
            along = np.sign(codes[..., k]) * (found - values)[..., k]
            assert abs(along[used].mean()) < 0.01 * float(codec.arrays()["step"][0])

    @pytest.mark.parametrize("grid", [(4, 4), (2, 8), (16, 1), None])
    def test_waves_are_orthonormal_and_the_first_is_the_mean(self, grid: tuple[int, int] | None) -> None:
        codec = fit_codec("klt:2", dense_tokens(), grid)
        waves = codec.arrays()["cosines"].astype(np.float64)
        np.testing.assert_allclose(waves @ waves.T, np.eye(16), atol=1e-6)
        np.testing.assert_allclose(waves[0], 0.25, atol=1e-6)
        whole = codec.decode(codec.encode(dense_tokens()))
        assert float(((whole - dense_tokens()) ** 2).mean()) < 0.2 * dense_tokens().var()

    def test_tokens_that_are_alike_cost_less(self) -> None:
        """Four tokens of one image share most of what they are: fewer bits or less error than each for itself."""
        random = np.random.Generator(np.random.PCG64(0))
        shared = random.standard_normal((256, 1, 64)) * 3
        tokens = (shared + random.standard_normal((256, 64, 64))).astype(np.float32)
        alone = tokens.reshape(-1, 1, 64)
        errors = []
        for part in (tokens, alone):
            codec = fit_codec("klt:2", part)
            errors.append(float(((codec.decode(codec.encode(part)) - part) ** 2).mean()))
        assert errors[0] < 0.5 * errors[1]


class VectorTests(CodecTests):
    """What the codecs with codebooks share. 160 tokens are fewer than centroids: each is one."""

    largest = 1e15

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.full(codec.dim, 1e-5 * float(np.abs(tokens_NTD).max()) + 1e-30)

    def test_error_falls_with_bytes(self) -> None:
        tokens, errors = dense_tokens(), []
        for num_bytes in (1, 2, 4, 8):
            codec = fit_codec(f"{self.name}:{num_bytes}", tokens)
            codes = codec.encode(tokens)
            assert codes.shape[-1] == num_bytes and codes.dtype == np.uint8 and codes.max() < 255
            errors.append(float(((codec.decode(codes) - tokens) ** 2).mean()))
        assert (np.diff(errors) < 0).all() and errors[0] < tokens.var()


class TestPq(VectorTests):
    name = "pq"

    def test_bytes_must_divide_the_dimensions(self) -> None:
        with pytest.raises(
            UsageError, match="5 bytes a token do not divide 12 dimensions; these do: 1, 2, 3, 4, 6, 12"
        ):
            fit_codec("pq:5", self.tokens())

    def test_it_finds_the_nearest(self) -> None:
        tokens = dense_tokens()
        codec = fit_codec("pq:4", tokens)
        books = codec.arrays()["books"].astype(np.float64)
        parts = tokens.reshape(-1, 4, 8).astype(np.float64)
        distances = ((parts[:200, :, None] - books) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(codec.encode(tokens).reshape(-1, 4)[:200], distances.argmin(axis=-1))


class TestOpq(VectorTests):
    name = "opq"

    def test_the_rotation_is_orthonormal_and_helps(self) -> None:
        tokens = dense_tokens()
        opq, pq = fit_codec("opq:4", tokens), fit_codec("pq:4", tokens)
        rotation = opq.arrays()["rotation"].astype(np.float64)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(32), atol=1e-4)
        rotated, plain = (float(((c.decode(c.encode(tokens)) - tokens) ** 2).mean()) for c in (opq, pq))
        assert rotated < plain


class TestRq(VectorTests):
    name = "rq"

    def test_the_search_is_no_worse_than_greed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tokens = dense_tokens()
        codec = fit_codec("rq:4", tokens)
        error = float(((codec.decode(codec.encode(tokens)) - tokens) ** 2).mean())
        monkeypatch.setattr("stillhouse.storage.codecs.rq.PATHS", 1)
        greedy = float(((codec.decode(codec.encode(tokens)) - tokens) ** 2).mean())
        assert error < greedy


@functools.cache
def dense_tokens() -> npt.NDArray[np.float32]:
    """float32 [64, 16, 32]: correlated channels of falling spread, as of a ViT."""
    random = np.random.Generator(np.random.PCG64(5))
    mixed, _ = np.linalg.qr(random.standard_normal((32, 32)))
    drawn = random.standard_normal((64, 16, 32)) * np.geomspace(4, 0.02, 32)
    tokens: npt.NDArray[np.float32] = (drawn @ mixed + random.standard_normal(32)).astype(np.float32)
    tokens.flags.writeable = False
    return tokens


@functools.cache
def wide_tokens(seed: int, num_rows: int) -> npt.NDArray[np.float32]:
    """float32 [N, 64, 64]: Gaussian, correlated, the same channels for every seed."""
    mixed, _ = np.linalg.qr(np.random.Generator(np.random.PCG64(7)).standard_normal((64, 64)))
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal((num_rows, 64, 64)) * np.geomspace(4, 0.1, 64)
    tokens: npt.NDArray[np.float32] = (drawn @ mixed).astype(np.float32)
    tokens.flags.writeable = False
    return tokens


@pytest.mark.parametrize("choice", ["klt:0", "ecsq:0", "klt:x", "klt:", "pq:1.5", "rq:-1", "opq:99999999"])
def test_rates_that_are_none(choice: str) -> None:
    with pytest.raises(UsageError, match="has a rate that is no number of b"):
        fit_codec(choice, dense_tokens())


def test_a_rate_for_a_codec_without() -> None:
    with pytest.raises(UsageError, match="codec 'fp16' has no rate, got '2'; write `codec: fp16`"):
        fit_codec("fp16:2", dense_tokens())


@pytest.mark.parametrize("name", sorted(CODECS))
def test_arrays_of_other_shapes_are_refused(name: str) -> None:
    codec = fit_codec(name, dense_tokens())
    for array in codec.arrays():
        wrong = {key: value[..., :-1] if key == array else value for key, value in codec.arrays().items()}
        with pytest.raises(CorruptError):
            loaded = load_codec(name, 32, wrong)
            unpack(loaded, pack(codec, codec.encode(dense_tokens()[:2])))  # only here are tokens known to be too few
        with pytest.raises(CorruptError):
            load_codec(name, 32, {key: value for key, value in codec.arrays().items() if key != array})


def test_every_codec_has_its_conformance_class() -> None:
    tested = {
        cls.name
        for cls in globals().values()
        if isinstance(cls, type) and issubclass(cls, CodecTests) and cls.__name__.startswith("Test")
    }
    assert tested == set(CODECS)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_zarr_accepts_type_and_fill_value(name: str, tmp_path: Path) -> None:
    """A row that does not exist reads as the reserved value in any Zarr reader."""
    kind = stored_type(fit_codec(name, np.zeros((1, 1, 4), np.float32)))
    metadata = array_metadata(
        shape=(3, kind.width),
        chunk=(3, kind.width),
        dtype=kind.dtype,
        fill_value=kind.fill_value,
        dimension_names=("r", "c"),
    )
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    read = np.asarray(zarr.open_array(tmp_path, mode="r")[:])
    assert read.dtype == np.dtype(kind.dtype)
    assert np.isnan(read).all() if kind.fill_value == "NaN" else (read == kind.fill_value).all()


def test_unknown_names_are_answered_with_the_known() -> None:
    said = f"unknown codec 'int9'; known: {', '.join(CODECS)}"
    with pytest.raises(UsageError) as caught:
        fit_codec("int9", np.zeros((1, 1, 1), np.float32))
    assert str(caught.value) == said
    with pytest.raises(UsageError) as caught:
        load_codec("int9", 1, {})
    assert str(caught.value) == said
