"""What a run is: its config, what it was trained on, and how it looked at that. Two runs of one identity are one run."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.errors import SpecMismatchError
from stillhouse.storage.seal import Seal, content_digest, read_seal, seal_generations
from stillhouse.storage.specs import spec_differences
from stillhouse.storage.store import Store

from .config import DistillConfig
from .teachers import Taught, lead_of

MEANS = frozenset({"device", "threads", "accumulate", "pixel_cache_mb", "checkpoint_steps", "log_steps"})
"""Settings that may differ when a run goes on or is found finished. As with the number of ranks, a step is the same sum."""
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


class OtherContentError(SpecMismatchError):
    """A run is the one that is asked for but for what it was trained on."""

    folder: Path
    stored: dict[str, Any]
    """Its identity."""


_OTHERWISE = "name the new run otherwise (distill.name), or remove the folder"


def require_same(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """SpecMismatchError, naming every difference, unless the run in `folder` is the one that is asked for."""
    differences = list(spec_differences(_without_means(stored), _without_means(asked)))
    if differences:
        message = f"run {folder} was made with another setting: {'; '.join(differences)}"
        if len(differences) == 1 and stored["trained_on_sha256"] != asked["trained_on_sha256"]:
            error = OtherContentError(message, hint=_OTHERWISE)
            error.folder, error.stored = folder, stored
            raise error
        raise SpecMismatchError(message, hint=_OTHERWISE)


@contextlib.contextmanager
def growth_told(store: Store) -> Iterator[None]:
    """Say of a run that was trained on what an earlier seal of the store names, how the store has grown since."""
    try:
        yield
    except OtherContentError as error:
        teachers = list(error.stored.get("teachers") or [error.stored["teacher"]])
        for generation in seal_generations(store.root):
            sealed = read_seal(store.root, generation)
            if _trained_on(sealed, teachers) == error.stored["trained_on_sha256"]:
                then, now = (_extent(one) for one in (store.at(sealed.growths), store))
                message = f"run {error.folder} was trained on store {store.name} as it was by seal {generation}, {then}"
                raise SpecMismatchError(f"{message}; the store has grown to {now} since", hint=_OTHERWISE) from error
        raise


def _extent(store: Store) -> str:
    return f"{store.spec.num_views} views of {store.plan.num_samples:,} images"


def _without_means(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without the settings that say how a run goes, not what comes out of it.

    Before there were bases, heads predicted in channels; before there were several teachers, there was one.
    """
    config = {name: value for name, value in identity["config"].items() if name not in MEANS | AS_FOUND}
    return {"bases": {}, "teachers": {}, **identity, "config": config}
