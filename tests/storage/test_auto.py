"""The choice of a codec: by what was measured, and by nothing else."""

import numpy as np
import numpy.typing as npt
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.codecs.auto import Budget, candidates, choose
from stillhouse.storage.codecs.distortion import Spectrum, measure


def tokens(kind: str, rows: int = 64) -> npt.NDArray[np.float32]:
    """float32 [rows, 16, 32]: `sparse` as behind an activation, `dense` and correlated as a ViT's."""
    random = np.random.Generator(np.random.PCG64(3))
    if kind == "sparse":
        values = np.maximum(random.standard_normal((rows, 16, 32)) - 1.5, 0)
    else:
        mixed = np.linalg.qr(random.standard_normal((32, 32)))[0] * np.geomspace(4, 0.01, 32)[:, None]
        values = random.standard_normal((rows, 16, 32)) @ mixed
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("limit", [6.0, 12.0, 40.0])
def test_the_best_within_the_bytes_is_chosen(kind: str, limit: float) -> None:
    chosen = choose(tokens(kind), Budget(bytes_per_token=limit))
    within = [point for point in chosen.curve if point.bits * 32 / 8 <= limit]
    assert chosen.choice == min(within, key=lambda point: point.nmse).choice
    assert f"of {len(within)} candidate{'s' * (len(within) > 1)} with at most {limit:g} bytes a token" in chosen.why
    again = measure(chosen.choice, chosen.codec, tokens(kind))
    assert again.bits * 32 / 8 <= limit * 1.1  # fitted on all of it, measured on all of it


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("limit", [0.3, 0.05, 1e-4])
def test_the_smallest_within_the_error_is_chosen(kind: str, limit: float) -> None:
    chosen = choose(tokens(kind), Budget(max_nmse=limit))
    within = [point for point in chosen.curve if point.nmse <= limit]
    assert chosen.choice == min(within, key=lambda point: point.bits).choice


def test_teachers_differ() -> None:
    """At twelve bytes for 32 dimensions: steps on what is mostly zero, on principal axes for what is dense."""
    assert choose(tokens("sparse"), Budget(bytes_per_token=12)).choice.startswith("ecsq:")
    assert choose(tokens("dense"), Budget(bytes_per_token=12)).choice.startswith("klt:")


def test_a_choice_is_the_same_twice() -> None:
    first, second = (choose(tokens("dense"), Budget(max_nmse=0.1)) for _ in range(2))
    assert first.to_json() == second.to_json()
    np.testing.assert_array_equal(first.codec.encode(tokens("dense")), second.codec.encode(tokens("dense")))


def test_the_curve_is_measured_on_rows_that_were_not_fitted() -> None:
    found = tokens("dense")
    chosen = choose(found, Budget(max_nmse=0.1))
    of_all = Spectrum.of(found)
    by_hand = {
        point.choice: measure(point.choice, fit_codec(point.choice, found[:48]), found[48:], of_all)
        for point in chosen.curve
    }
    assert all(by_hand[point.choice] == point for point in chosen.curve)


def test_what_cannot_be_kept_is_refused_with_what_can() -> None:
    with pytest.raises(UsageError, match=r"no codec keeps at most 0\.5 bytes a token; \S+ takes .* at an NMSE of"):
        choose(tokens("dense"), Budget(bytes_per_token=0.5))
    with pytest.raises(UsageError, match="codec auto has 3 images to choose by"):
        choose(tokens("dense", 3), Budget(max_nmse=0.5))


def test_a_candidate_that_cannot_hold_the_tokens_is_dropped() -> None:
    found = tokens("dense")
    found[:, :, 3] *= 1e6
    chosen = choose(found, Budget(max_nmse=1e-6))
    assert "does not fit fp16" in chosen.dropped["fp16"] and chosen.choice != "fp16"


def test_candidates_of_odd_widths() -> None:
    assert "pq:1" in candidates(1, 7, Budget(bytes_per_token=25)) and "pq:7" in candidates(
        16, 7, Budget(bytes_per_token=25)
    )
    assert not [name for name in candidates(1, 7, Budget(bytes_per_token=3)) if name.startswith("pq")]
    assert not [name for name in candidates(16, 1024, Budget(max_nmse=0.1)) if name.startswith("opq")]
