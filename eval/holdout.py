"""The part of the training samples on which hyper-parameters are chosen, so that the test part never is."""

import math

import numpy as np

from stillhouse.core.errors import UsageError
from stillhouse.core.rng import permutation

from .probe import IntArray, check_classes


def hold_out(labels_N: IntArray, fraction: float, seed: int, purpose: str) -> tuple[IntArray, IntArray]:
    """Row numbers (fit, held), int64: the first floor(fraction * N) rows of a seeded permutation are held out.

    The published probes cut the same way from their own libraries' permutations (numpy's or torch's seed 0).

    Raises:
        UsageError: nothing would be held out, or fewer than two classes would be left to fit.
    """
    num = len(labels_N)
    num_held = math.floor(fraction * num)
    if num_held < 1:
        raise UsageError(
            f"holding out {fraction:g} of {num} training samples for {purpose} leaves none to choose on",
            hint=f"give at least {math.ceil(1 / fraction)} labelled training samples",
        )
    order_N = permutation(seed, num, "holdout", purpose)
    fit, held = order_N[num_held:], order_N[:num_held]
    check_classes(labels_N[fit], f"the training samples left after holding out {num_held} for {purpose}")
    return fit, held


def rest_of(labels_N: IntArray, held: IntArray, purpose: str) -> IntArray:
    """The rows that are not in `held`, rising: what is fitted where the rows to choose on are given.

    Raises:
        UsageError: nothing is held out, or fewer than two classes would be left to fit.
    """
    fit = np.setdiff1d(np.arange(len(labels_N)), held)
    if not len(held):
        raise UsageError(
            f"no training sample is held out for {purpose}",
            hint="give more labelled training samples, or a validation part",
        )
    check_classes(labels_N[fit], f"the training samples left after holding out {len(held)} for {purpose}")
    return fit
