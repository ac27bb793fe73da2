"""Decoders: torch gives what each codec's numpy gives, on the training device."""

import numpy as np
import pytest
import torch

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.decoders import DECODERS, Basis, TargetScaling, build_decoder
from stillhouse.storage.codecs import CODECS, fit_codec
from stillhouse.storage.codecs.fp16 import Fp16

CPU = torch.device("cpu")
RATES = {"ecsq": "ecsq:8", "klt": "klt:8"}
"""Rows of five tokens are so short that at the codecs' own rates their overheads leave nothing for codes but zeros."""


def tokens(num: int = 9) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """float32 [num, 5, 24] with channels of very different sizes, as teachers have."""
    generator = np.random.Generator(np.random.PCG64(0))
    scales = np.logspace(-2, 1.5, 24)
    drawn: np.ndarray[tuple[int, int, int], np.dtype[np.float32]] = (
        generator.normal(0.3, 1.0, (num, 5, 24)) * scales
    ).astype(np.float32)
    return drawn


def test_every_codec_has_a_decoder() -> None:
    assert DECODERS.keys() == CODECS.keys()


@pytest.mark.parametrize("name", CODECS)
def test_torch_decodes_what_numpy_decodes(name: str) -> None:
    codec = fit_codec(RATES.get(name, name), tokens())
    codes = codec.encode(tokens(40))
    assert len(np.unique(codes)) > 4
    expected = codec.decode(codes)
    decoded = build_decoder(codec, CPU)(torch.from_numpy(codes))
    assert decoded.dtype == torch.float32
    assert decoded.shape == (40, 5, codec.dim)
    largest = np.abs(expected).max(axis=(0, 1))  # of each channel
    np.testing.assert_allclose(decoded.numpy() / largest, expected / largest, rtol=0, atol=1e-6)


def test_a_codec_without_decoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fp16, "name", "fp17")
    with pytest.raises(UsageError, match="codec 'fp17' has no decoder for training; known: fp16, bf16, int8, int4"):
        build_decoder(Fp16(4), CPU)


@pytest.mark.parametrize(("name", "width"), [("klt", None), ("opq", 24)])
def test_a_transform_hands_out_what_stands_before_it(name: str, width: int | None) -> None:
    """Values keep every distance between tokens, and the tokens are where the basis puts them."""
    codec = fit_codec(RATES.get(name, name), tokens())
    codes = torch.from_numpy(codec.encode(tokens(40)))
    decoder = build_decoder(codec, CPU)
    assert decoder.basis is not None and decoder.basis.is_orthonormal
    values = decoder.values(codes)
    assert values.shape == (40, 5, width or len(codec.arrays()["axes"])) and values.dtype == torch.float32
    decoded = decoder(codes)
    torch.testing.assert_close(decoder.basis.tokens(values), decoded, rtol=0, atol=0)
    torch.testing.assert_close(decoder.basis.values(decoded), values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((values[1:] - values[:-1]).norm(dim=-1), (decoded[1:] - decoded[:-1]).norm(dim=-1))


@pytest.mark.parametrize("name", sorted(CODECS.keys() - {"klt", "opq"}))
def test_values_of_other_codecs_are_tokens(name: str) -> None:
    codec = fit_codec(RATES.get(name, name), tokens())
    codes, decoder = torch.from_numpy(codec.encode(tokens(4))), build_decoder(codec, CPU)
    assert decoder.basis is None
    assert torch.equal(decoder.values(codes).clone(), decoder(codes))


@pytest.mark.parametrize("name", CODECS)
def test_a_decoder_takes_one_batch_after_the_other(name: str) -> None:
    """Memory is used anew: a batch is what a fresh decoder makes of it, of any size, and codes stay as they are."""
    codec = fit_codec(RATES.get(name, name), tokens())
    codes = torch.from_numpy(codec.encode(tokens(40)))
    before, decoder = codes.clone(), build_decoder(codec, CPU)
    for part in (codes[:8], codes[8:16], codes[16:], codes[:8]):
        torch.testing.assert_close(decoder(part), build_decoder(codec, CPU)(part), rtol=0, atol=0)
    assert torch.equal(codes.view(torch.uint8), before.view(torch.uint8))


def test_a_loss_of_tokens_that_were_overwritten_has_no_gradient() -> None:
    decoder, predicted = build_decoder(Fp16(4), CPU), torch.zeros(2, 3, 4, requires_grad=True)
    loss = torch.nn.functional.mse_loss(predicted, decoder(torch.ones(2, 3, 4).half()))
    decoder(torch.zeros(2, 3, 4).half())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_scaling_leaves_tokens_as_they_are() -> None:
    given = torch.from_numpy(tokens(4))
    before, scaling = given.clone(), TargetScaling(np.ones(24, np.float32), np.full(24, 2, np.float32), CPU)
    first = scaling(given)
    assert torch.equal(given, before)
    torch.testing.assert_close(first, (before - 1) / 2)
    assert scaling(given) is first


def test_axes_that_are_not_orthonormal_are_found() -> None:
    axes_KD = torch.linalg.qr(torch.randn(24, 7, generator=torch.Generator().manual_seed(0))).Q.T
    assert Basis(axes_KD).is_orthonormal
    assert not Basis(axes_KD * 1.01).is_orthonormal
    assert not Basis(torch.cat([axes_KD, axes_KD[:1]])).is_orthonormal


def test_centred_targets_have_no_mean_and_one_scale() -> None:
    found = tokens(200)
    mean, std = found.mean(axis=(0, 1)), found.std(axis=(0, 1))
    scaled = TargetScaling(mean, std, CPU)(torch.from_numpy(found)).numpy()
    np.testing.assert_allclose(scaled.mean(axis=(0, 1)), 0, atol=1e-5)
    assert np.mean(scaled.astype(np.float64) ** 2) == pytest.approx(1, rel=1e-4)
    ratio = scaled.std(axis=(0, 1)) / std
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_constant_features_stay_finite() -> None:
    scaling = TargetScaling(np.full(3, 2.0, np.float32), np.zeros(3, np.float32), CPU)
    assert (scaling(torch.full((1, 1, 3), 2.0)) == 0).all()
