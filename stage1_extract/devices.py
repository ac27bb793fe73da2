"""How many workers the teacher pass has on this machine, and which device and threads each of them gets."""

import torch

from .config import LOCAL, ExtractConfig


def num_workers(run: ExtractConfig) -> int | None:
    """Worker processes on this machine; None when they are elsewhere."""
    if run.cluster != LOCAL:
        return None
    if run.workers != "auto":
        return run.workers
    return max(1, torch.cuda.device_count()) if _any_gpu(run.device) else 1


def device_of(device: str, worker: int) -> str:
    """The device of one of several workers on a machine: its GPUs in turn, unless one is named."""
    return f"cuda:{worker % torch.cuda.device_count()}" if _any_gpu(device) else device


def threads_of(num: int) -> int:
    """Threads that torch may use in each of so many workers on this machine."""
    return max(1, torch.get_num_threads() // num)


def _any_gpu(device: str) -> bool:
    return device in ("auto", "cuda") and torch.cuda.is_available()
