"""Hadamard matrices: entries +1 and -1, rows at right angles.

Sylvester (1867) doubles one; Paley (1933) makes one of q + 1 rows for a prime q of the form 4k + 3, and of 2 (q + 1) rows for
4k + 1. Together they give every width that teachers have: 192, 384 and 768 are 12 doubled, 1280 is 20, 1408 is 44.
"""

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import UsageError

Matrix = npt.NDArray[np.float64]


def hadamard(width: int) -> Matrix:
    """[width, width] of +1 and -1, H H^T = width I.

    Raises:
        UsageError: none of that width is known here; there is none unless it is 1, 2 or a multiple of 4.
    """
    half, doublings = width, 0
    while half >= 1:
        core = _paley(half)
        if core is not None:
            for _ in range(doublings):
                core = np.block([[core, core], [core, -core]])
            return core
        if half % 2:
            break
        half, doublings = half // 2, doublings + 1
    message = f"targets phi_s: no Hadamard matrix of width {width} is known here"
    raise UsageError(message, hint="use distill.targets: standardised, or centred")


def _paley(width: int) -> Matrix | None:
    """A matrix that is not a doubled one, or None."""
    if width == 1:
        return np.ones((1, 1))
    if width % 4:
        return None
    if _is_prime(width - 1):
        return _bordered(width - 1, sign=-1) + np.eye(width)
    if _is_prime(width // 2 - 1) and (width // 2 - 1) % 4 == 1:
        conference = _bordered(width // 2 - 1, sign=1)
        eye = np.eye(width // 2)
        return np.block([[conference + eye, conference - eye], [conference - eye, -conference - eye]])
    return None


def _bordered(prime: int, *, sign: int) -> Matrix:
    """[q + 1, q + 1]: the matrix of quadratic residues with a border of ones; C C^T = q I.

    Args:
        sign: of its first column; -1 makes it skew (q = 4k + 3), 1 symmetric (q = 4k + 1).
    """
    residues = {i * i % prime for i in range(1, prime)}
    character = np.array([0] + [1 if i in residues else -1 for i in range(1, prime)], np.float64)
    numbers = np.arange(prime)
    bordered = np.zeros((prime + 1, prime + 1))
    bordered[0, 1:], bordered[1:, 0] = 1, sign
    bordered[1:, 1:] = character[(numbers[None, :] - numbers[:, None]) % prime]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))
