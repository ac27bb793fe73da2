"""Whether this process is one of several that `torchrun` started together. Needs no torch."""

import os


def is_launched() -> bool:
    """Whether `torchrun` started it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_follower() -> bool:
    """Whether another one speaks and writes for it: every rank but the first."""
    return is_launched() and os.environ.get("RANK", "0") != "0"
