"""Freed memory stays with the process, which is told by the pages that it asks the system for."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from stillhouse.core.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(64 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

handed_back = faults()
keep_freed_memory()
faults()
print(handed_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this system's C library has no mallopt")
def test_the_pages_of_freed_blocks_are_used_again() -> None:
    """In a process of its own, since it cannot be taken back."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    handed_back, kept = map(int, ended.stdout.split())
    assert handed_back > 100 and kept < handed_back / 10
