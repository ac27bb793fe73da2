"""How many processors this process may use."""

import os


def num_cores() -> int:
    """Those that the system lets it run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
