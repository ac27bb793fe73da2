"""Memory that a network's activations have left stays with the process, for those of the next batch.

glibc hands blocks of more than 32 MiB, and the end of its heap, back to the system as they are freed. Every batch on a CPU then
begins on fresh pages, which the kernel fills with zeros first: a quarter of a ViT's forward pass on two cores.
"""

import ctypes

KEPT = {-3: 2**30, -1: 2**31 - 1}
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: bytes from which a block, or the end of the heap, is handed back."""


def keep_freed_memory() -> None:
    """Tell glibc so, for this process and from now on; without glibc there is nothing to tell."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, num_bytes in KEPT.items():
            mallopt(parameter, num_bytes)
