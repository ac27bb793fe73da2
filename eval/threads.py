"""How many threads a small computation in torch should use: one.

A product of some microseconds gains nothing from more threads and waits for all of them. Where cores are shared with other
work the wait is long: a test that trains 52 tiny heads took 0.8 s on one thread and 27 s on two of two busy cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """Run the body on one torch thread when `small`; torch's number is put back afterwards."""
    before = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
