"""The mask token of a finished run: no part of the encoder, and so of no timm model, but of DINOv2's.

Legend: D width.
"""

import hashlib
from pathlib import Path

import safetensors.torch
from torch import Tensor

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage.disk import disk_errors, replace_file

FILE = "mask_token.safetensors"
AGAIN = "remove result.json: `stillhouse distill` then finishes the run again from its last checkpoint"


def save_mask_token(run: Path, mask_token_1D: Tensor | None) -> str:
    """Keep it in the run's folder; returns the sha256 of the file, "" for a student without one."""
    if mask_token_1D is None:
        return ""
    data: bytes = safetensors.torch.save({"mask_token": mask_token_1D.detach().cpu().contiguous()})
    replace_file(run / FILE, data)
    return hashlib.sha256(data).hexdigest()


def read_mask_token(run: Path, sha256: str) -> Tensor | None:
    """What `save_mask_token` kept under this sha256; None for "": students without one, and runs from before it was kept.

    Raises:
        MissingError, CorruptError: the file is gone, or another.
    """
    if not sha256:
        return None
    try:
        with disk_errors(run / FILE):
            data = (run / FILE).read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"{run / FILE} is not there", hint=AGAIN) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptError(f"{run / FILE} is not what the run has written", hint=AGAIN)
    return safetensors.torch.load(data)["mask_token"]
