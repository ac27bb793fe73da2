"""PHI-S and standardised targets: unit variance, a rotation and one scalar, and the same through every codec.

Legend: N rows, T tokens, D width.
"""

from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.decoders import NEAR_DEAD, TargetScaling
from stillhouse.stage2_distill.phi_s import moments, phi_s
from stillhouse.stage2_distill.targets import own_bases, turned_targets
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.store import Store

CPU = torch.device("cpu")
D = 24


def tokens(num: int = 400) -> Any:
    """float32 [num, 3, D]: channels that depend on each other, of very different sizes."""
    generator = np.random.Generator(np.random.PCG64(0))
    mixing = generator.normal(size=(D, D)) * np.logspace(-2, 1.5, D)
    return (generator.normal(size=(num, 3, D)) @ mixing + 3).astype(np.float32)


def moments_of(tokens_NTD: Any) -> Any:
    flat = tokens_NTD.reshape(-1, D).astype(np.float64)
    return flat.mean(axis=0), np.cov(flat.T, bias=True)


def test_every_dimension_has_variance_one() -> None:
    given = tokens()
    turned = phi_s(*moments_of(given))
    out = given.reshape(-1, D) @ turned.matrix_DD.astype(np.float64) + turned.shift_D
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4)


def test_it_is_a_rotation_and_one_scalar() -> None:
    turned = phi_s(*moments_of(tokens()))
    gram = turned.matrix_DD.astype(np.float64) @ turned.matrix_DD.T
    variance = moments_of(tokens())[1].diagonal().mean()
    np.testing.assert_allclose(gram * variance, np.eye(D), atol=1e-5)


@pytest.mark.parametrize("codec", ["fp16", "int8", "klt:8", "opq"])
def test_targets_are_the_map_of_what_the_codec_decodes(codec: str) -> None:
    fitted, turned = fit_codec(codec, tokens()), phi_s(*moments_of(tokens()))
    codes = fitted.encode(tokens()[:9])
    expected = fitted.decode(codes).astype(np.float64) @ turned.matrix_DD + turned.shift_D
    targets = turned_targets(fitted, CPU, turned)
    assert targets.width == D and targets.dropped == 0
    np.testing.assert_allclose(targets(torch.from_numpy(codes)).numpy(), expected, rtol=1e-3, atol=2e-4)


def test_moments_are_those_of_the_store(sealed_store: Store) -> None:
    """A small store is measured whole: 28 rows in two views."""
    codec = sealed_store.codec("tiny", "patch")
    stored = [codec.decode(sealed_store.features("tiny", "patch").read(v, b)) for v in (0, 1) for b in range(4)]
    flat = np.concatenate(stored).reshape(-1, 48).astype(np.float64)
    assert len(flat) == 2 * 28 * 16
    mean_D, covariance_DD = moments(sealed_store, "tiny", "patch")
    np.testing.assert_allclose(mean_D, flat.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(covariance_DD, np.cov(flat.T, bias=True), rtol=1e-6, atol=1e-9)


def test_a_width_without_a_hadamard_matrix_is_refused() -> None:
    with pytest.raises(UsageError, match="targets phi_s: no Hadamard matrix of width 30 is known here"):
        phi_s(np.zeros(30), np.eye(30))


def test_targets_bound_to_channels_are_in_no_other_basis() -> None:
    codecs = {"patch": fit_codec("opq", tokens())}
    assert own_bases(("token",), codecs, targets="centred") == {"patch": "opq"}
    for targets in ("standardised", "phi_s"):
        assert own_bases(("token",), codecs, targets=targets) == {}
    for objective in ("theia", "radio_patch", "radio_summary"):
        assert own_bases((objective, "token"), codecs) == {}
    assert own_bases(("kl", "token"), codecs) == {"patch": "opq"}
    assert own_bases(("kl",), codecs) == {}


def test_standardised_is_each_channel_over_its_deviation() -> None:
    given = tokens().reshape(-1, D) / np.logspace(-1, 1, D, dtype=np.float32)
    mean_D, std_D = given.mean(axis=0), given.std(axis=0)
    assert 5 < std_D.max() / std_D.min() < 100
    out = TargetScaling(mean_D, std_D, CPU, per_channel=True)(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(out, (given - mean_D) / std_D, rtol=1e-3, atol=1e-4)


def test_a_channel_that_hardly_varies_is_not_blown_up() -> None:
    """Theia divides by whatever the deviation is: one of 2e-6 turns noise into targets of size one."""
    std_D = np.array([1.0, 1.0, 1e-6, 0.0], np.float32)
    out = TargetScaling(np.zeros(4, np.float32), std_D, CPU, per_channel=True)(torch.full((1, 1, 4), 1e-6))
    whole = float(np.sqrt((std_D.astype(np.float64) ** 2).mean()))
    np.testing.assert_allclose(out[0, 0, 2:], 1e-6 / (NEAR_DEAD * whole), rtol=1e-5)
