"""Take a finished run and write its student in any format: no teacher, no store, no network."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stillhouse.core.errors import CorruptError, MissingError, UsageError
from stillhouse.core.licences import require_notice
from stillhouse.stage2_distill.result import DistillResult, finished_run
from stillhouse.storage.disk import disk_errors, names_in
from stillhouse.storage.signed_json import read_json

from . import FORMATS
from .base import Finished
from .card import teachers_of, write_folder
from .mask_token import read_mask_token
from .timm import CARD, CONFIG, WEIGHTS

AGAIN = "`stillhouse distill` makes it again"


@dataclass(frozen=True, slots=True)
class Handover:
    """Which student leaves, in which form, and what goes with it.

    Args:
        run: the folder of a finished run.
        to: a key of FORMATS.
        averaged: its averaged weights (`distill.ema`) instead of the last ones.
        notice: the text that the teacher's licence asks for, if its spec does not bring it.
        scores: of `student`, `teacher` and `untrained` by probe, if they were judged.
    """

    run: Path
    to: str
    averaged: bool = False
    notice: str = ""
    scores: Mapping[str, Any] | None = None


def hand_over(asked: Handover, out: Path) -> dict[str, Any]:
    """Write the student into the new folder `out`; returns its card.

    Raises:
        UsageError: no finished run, an unknown format, a student that has no such form, `out` is there already, or a
            licence that asks for a notice which nobody gave.
        CorruptError, MissingError: the run is damaged.
    """
    if asked.to not in FORMATS:
        raise UsageError(f"unknown format {asked.to!r}", hint=f"--to takes one of {', '.join(FORMATS)}")
    result = finished_run(asked.run)
    if out.is_file() or names_in(out):
        raise UsageError(f"{out} is there already", hint="name a new folder as --out, or remove it")
    finished, card = read_finished(asked.run, result, averaged=asked.averaged)
    for teacher in teachers_of(card):
        require_notice(teacher.name, teacher.licence, teacher.notice or asked.notice)
    more: dict[str, Any] = {"averaged": asked.averaged, "run": result.name, "made_with": made_with()}
    if asked.notice.strip():
        more["notice"] = asked.notice
    if asked.scores:
        more["scores"] = dict(asked.scores)
    place = Path(os.path.abspath(out))  # "." has no name to write beside
    return write_folder(place, finished, FORMATS[asked.to](finished), {**card, **more})


def read_finished(run: Path, result: DistillResult, *, averaged: bool) -> tuple[Finished, dict[str, Any]]:
    """The student of a finished run, compared with the hashes it was recorded with, and its card."""
    folder = run / (f"{result.student}-ema" if averaged else result.student)
    if averaged and not folder.is_dir():
        message = f"run {run} kept no averaged student"
        raise UsageError(message, hint="leave --ema out, or train with distill.ema above 0")
    card, config = read_json(folder / CARD, AGAIN), read_json(folder / CONFIG, AGAIN)
    try:
        with disk_errors(folder / WEIGHTS):
            data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        data = None
    if card is None or config is None or data is None:
        raise MissingError(f"{folder} is not a whole student", hint=AGAIN)
    expected = card.get("weights_sha256") if averaged else result.weights_sha256
    if hashlib.sha256(data).hexdigest() != expected:
        raise CorruptError(f"{folder / WEIGHTS} is not what the run has written", hint=AGAIN)
    weights: dict[str, Tensor] = safetensors.torch.load(data)
    return Finished(config, weights, read_mask_token(run, result.mask_token_sha256)), card


def made_with() -> dict[str, str]:
    """The versions that decide an export."""
    return {name: version(name) for name in ("stillhouse", "torch", "timm")}
