"""Hadamard matrices of every width that teachers have, and a refusal of widths that none is known of."""

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.hadamard import hadamard

WIDTHS = (1, 2, 4, 8, 12, 20, 28, 36, 44, 48, 192, 320, 384, 448, 512, 640, 768, 1024, 1152, 1280, 1408, 1536)
"""12, 20, 44: Paley's first construction; 28, 36: a prime of the form 4k + 1 or a first of it; the others doubled."""


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_signs_at_right_angles(width: int) -> None:
    matrix = hadamard(width)
    assert matrix.shape == (width, width) and (np.abs(matrix) == 1).all()
    np.testing.assert_array_equal(matrix @ matrix.T, width * np.eye(width))


@pytest.mark.parametrize("width", [3, 6, 7, 30, 92, 1000 - 2])
def test_a_width_without_one_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match=rf"no Hadamard matrix of width {width} is known here; use distill.targets: "):
        hadamard(width)
