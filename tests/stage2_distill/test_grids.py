"""Resampling of patch tokens: torch's bilinear, as a matrix."""

import pytest
import torch
from torch.nn.functional import interpolate

from stillhouse.stage2_distill.grids import resampled, resampling


@pytest.mark.parametrize(
    ("found", "wanted"), [((2, 2), (4, 4)), ((4, 4), (7, 5)), ((16, 16), (37, 37)), ((1, 1), (3, 2))]
)
def test_onto_a_finer_grid_it_is_plain_bilinear(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    tokens_BSD = torch.randn(3, found[0] * found[1], 5, generator=torch.Generator().manual_seed(0))
    maps = tokens_BSD.transpose(1, 2).reshape(3, 5, *found)
    expected = interpolate(maps, size=wanted, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resampled(tokens_BSD, resampling(found, wanted)), expected)


def test_onto_its_own_grid_it_changes_nothing() -> None:
    torch.testing.assert_close(resampling((4, 3), (4, 3)), torch.eye(12))
    tokens = torch.randn(2, 12, 3)
    assert resampled(tokens, None) is tokens


@pytest.mark.parametrize("wanted", [(1, 1), (2, 2), (3, 4)])
def test_onto_a_coarser_grid_every_token_counts(wanted: tuple[int, int]) -> None:
    matrix_TS = resampling((8, 8), wanted)
    torch.testing.assert_close(matrix_TS.sum(dim=1), torch.ones(wanted[0] * wanted[1]))
    assert (matrix_TS.sum(dim=0) > 0).all()


def test_rows_and_columns_are_not_mixed_up() -> None:
    rows = torch.arange(8.0).repeat_interleave(6).reshape(1, 48, 1)
    found = resampled(rows, resampling((8, 6), (4, 3))).reshape(4, 3)
    torch.testing.assert_close(found, found[:, :1].expand(4, 3))
    torch.testing.assert_close(found[1:3, 0], torch.tensor([2.5, 4.5]))
