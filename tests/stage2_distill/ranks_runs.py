"""What `torchrun` starts in test_ranks.py: runs of several ranks, one after the other.

ranks_runs.py STORE FOLDER PIPELINE OUT
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stillhouse.core.errors import StillhouseError
from stillhouse.core.events import Reporter
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.ranks import joined
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store
from stillhouse.testing import run_here

TRAIN_STEP = Trainer.train_step


def join_again_and_again() -> None:
    """A process joins once; here a run is one of many, which find each other under a name of their own."""
    init, runs = dist.init_process_group, itertools.count()
    host, port, rank, num = (os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    found = dist.TCPStore(host, int(port), is_master=False)  # type: ignore[attr-defined]

    def join(backend: str, timeout: Any) -> None:
        store = dist.PrefixStore(f"run {next(runs)}", found)  # type: ignore[attr-defined]
        init(backend, store=store, rank=int(rank), world_size=int(num), timeout=timeout)

    dist.init_process_group = join  # type: ignore[assignment]


def stopping(rank: int, *steps: int) -> Any:
    """A step in which one rank gets a signal."""

    def train_step(self: Trainer, batch: Any) -> Any:
        if self.ranks.number == rank and self.step in steps:
            signal.raise_signal(signal.SIGTERM)
        return TRAIN_STEP(self, batch)

    return train_step


def train(store: Store, folder: Path, **fields: Any) -> str:
    """How a run of these ranks came to its end; each of them says the same."""
    config = DistillConfig.model_validate(json.loads((folder.parent / "config.json").read_text()) | fields)
    try:
        with joined(torch.device("cpu"), Reporter(quiet=True)) as ranks:
            _, worked = distill(store, config, folder, Reporter(quiet=True), ranks=ranks)
        return f"worked {worked}"
    except (StillhouseError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"


def main(store: Store, folder: Path, pipeline: Path, out: Path) -> None:
    torch.set_num_threads(1)
    join_again_and_again()
    ends = {"undisturbed": [train(store, folder / "undisturbed"), train(store, folder / "undisturbed")]}
    ends["accumulated"] = [train(store, folder / "accumulated", accumulate=2)]
    ends["goes on"] = [train(store, folder / "goes-on")]
    for step, rank in ((3, 0), (4, 1)):
        Trainer.train_step = stopping(rank, step)  # type: ignore[method-assign]
        ends.setdefault("stopped", []).append(train(store, folder / "stopped", checkpoint_steps=1000))
        ends[f"left at {step}"] = [train(store, folder / f"left-{step}", checkpoint_steps=1000)]
    Trainer.train_step = TRAIN_STEP  # type: ignore[method-assign]
    ends["stopped"].append(train(store, folder / "stopped"))
    ends["indivisible"] = [train(store, folder / "indivisible", batch=7, objectives={"token": 1.0})]
    shown = run_here("distill", pipeline, f"out={out}", "--json")
    ends["verb"] = [str(shown.status), shown.out, shown.err]
    assert not dist.is_initialized(), "whoever joined has left"
    (folder / f"ends-{os.environ['RANK']}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Store.open(Path(sys.argv[1])), *map(Path, sys.argv[2:5]))
