"""Training checkpoints: safetensors and JSON, complete or not there at all.

A checkpoint is a folder `step-NNNNNNNN` that appears by one rename, after its files and a COMPLETE.json with their
sha256, and its own, are on disk. The newest whose hashes hold is used; the two newest are kept.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stillhouse.core.errors import CorruptError, ResourceError
from stillhouse.storage.disk import disk_errors, names_in, publish_folder, replace_file, write_synced
from stillhouse.storage.signed_json import read_signed_json, signed_json

KEEP = 2
_TENSORS = "state.safetensors"
_COMPLETE = "COMPLETE.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on: tensors by name, and facts (step, digests)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of `step` below `folder`, then drop all but the newest two."""
    final = folder / f"step-{step:08d}"
    staged = folder / f".{final.name}.writing"
    with disk_errors(folder):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        _, sha256 = write_synced(staged / _TENSORS, [safetensors.torch.save(contiguous)])
        complete = {"step": step, "sha256": {_TENSORS: sha256}, "facts": checkpoint.facts}
        write_synced(staged / _COMPLETE, [signed_json(complete)])
        shutil.rmtree(final, ignore_errors=True)
    publish_folder(staged, final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest whole checkpoint below `folder`, and the damaged ones that are newer than it."""
    damaged: list[Path] = []
    for path in (folder / name for name in reversed(names_in(folder)) if name.startswith("step-")):
        found = _load(path)
        if found is not None:
            return found, damaged
        damaged.append(path)
    return None, damaged


def _load(path: Path) -> Checkpoint | None:
    try:
        complete = read_signed_json(path / _COMPLETE, "")
        data = (path / _TENSORS).read_bytes()
    except (OSError, CorruptError, ResourceError):  # whatever is wrong with it, an older checkpoint may be whole
        return None
    if complete is None or complete["sha256"][_TENSORS] != hashlib.sha256(data).hexdigest():
        return None
    return Checkpoint(safetensors.torch.load(data), complete["facts"])


def truncate_jsonl(path: Path, last_step: int) -> None:
    """Drop the lines of a metrics log beyond `last_step`, which a resumed run will write again."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    kept = "".join(f"{line}\n" for line in text.splitlines() if _step_of(line) <= last_step)
    if kept != text:  # replaced as one: a kill here must not cost the lines of steps that are not run again
        replace_file(path, kept.encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
