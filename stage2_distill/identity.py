"""What a run is: its config, what it was trained on, and how it looked at that. Two runs of one identity are one run."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.errors import SpecMismatchError
from stillhouse.storage.seal import Seal, content_digest
from stillhouse.storage.specs import spec_differences

from .config import DistillConfig
from .teachers import Taught, lead_of

MEANS = frozenset({"device", "threads", "pixel_cache_mb", "checkpoint_steps", "log_steps"})
"""Settings that may differ when a run goes on or is found finished."""
AS_FOUND = frozenset({"recipe", "teacher", "basis"})
"""Settings of which the identity holds what they came to."""


def identity_of(config: DistillConfig, taught: Sequence[Taught], sealed: Seal) -> dict[str, Any]:
    """The identity of a run as results and checkpoints keep it."""
    several = len(taught) > 1
    return {
        "config": config.described(),
        "trained_on_sha256": _trained_on(sealed, [one.name for one in taught]),
        "teacher": lead_of(taught).name,
        "teachers": {one.name: one.weight for one in taught} if several else {},
        "bases": {
            f"{one.name}/{level}" if several else level: codec for one in taught for level, codec in one.bases.items()
        },
    }


def _trained_on(sealed: Seal, teachers: Collection[str]) -> str:
    """Digest of what a student of some teachers is trained on; another one in the store does not change it."""
    folders = ("images/", "index/", "views/", *(f"features/{teacher}/" for teacher in teachers))
    return content_digest([entry for entry in sealed.objects if entry.path.startswith(folders)])


def require_same(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """SpecMismatchError, naming every difference, unless the run in `folder` is the one that is asked for."""
    differences = list(spec_differences(_without_means(stored), _without_means(asked)))
    if differences:
        message = f"run {folder} was made with another setting: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="name the new run otherwise (distill.name), or remove the folder")


def _without_means(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without the settings that say how a run goes, not what comes out of it.

    Before there were bases, heads predicted in channels; before there were several teachers, there was one.
    """
    config = {name: value for name, value in identity["config"].items() if name not in MEANS | AS_FOUND}
    return {"bases": {}, "teachers": {}, **identity, "config": config}
