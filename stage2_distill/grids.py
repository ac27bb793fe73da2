"""Patch tokens from one grid to another: bilinear, as one matrix.

A matrix gives gradients that are the same on every run, which scattering kernels of GPUs do not.

Legend: S tokens of the grid that they come from, T tokens of the grid that they are wanted on.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Grid = tuple[int, int]


def resampling(found: Grid, wanted: Grid) -> Tensor:
    """float32 [T, S]: tokens on `wanted` are its product with tokens on `found`, both row by row.

    Bilinear between the middles of cells; onto a coarser grid each token averages over what its cell covers, so that none
    is passed over. Rows sum to 1, therefore any affine map of channels may come before or after.
    """
    num = found[0] * found[1]
    units_SHW = torch.eye(num).reshape(num, 1, *found)
    spread = interpolate(units_SHW, size=wanted, mode="bilinear", antialias=True, align_corners=False)
    return spread.reshape(num, wanted[0] * wanted[1]).T.contiguous()


def resampled(tokens_BSD: Tensor, matrix_TS: Tensor | None) -> Tensor:
    """Tokens [B, T, D]; None: the grids are one."""
    return tokens_BSD if matrix_TS is None else matrix_TS @ tokens_BSD
