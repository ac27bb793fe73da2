"""Every codec keeps its promises; what is particular to one stands below its class."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stillhouse.core.errors import DataError, UsageError
from stillhouse.storage.codecs import CODECS, Codec, fit_codec, load_codec
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


def test_every_codec_has_its_conformance_class() -> None:
    tested = {
        cls.name
        for cls in globals().values()
        if isinstance(cls, type) and issubclass(cls, CodecTests) and cls is not CodecTests
    }
    assert tested == set(CODECS)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_zarr_accepts_type_and_fill_value(name: str, tmp_path: Path) -> None:
    """A row that does not exist reads as the reserved value in any Zarr reader."""
    kind = fit_codec(name, np.zeros((1, 1, 4), np.float32)).code_type
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
