"""Tasks over any number of subjects: what is known is kept, and used again while encoder, data and settings are the same.

`<folder>/<task>/<subject>.json` holds what a task found, `<subject>.npy` its items beside it, and `<subject>/` its pictures.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.storage.decode import decode, encode_png
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import read_signed_json, signed_json

from ..judged import not_judged
from ..subjects import Subject
from .base import Context, Example, Items, Task, TaskResult


@dataclass(frozen=True, eq=False)
class TaskJudgement:
    """What a task says of one subject."""

    subject: str
    score: float
    result: TaskResult


class TaskRuns:
    """One folder of results; a subject is loaded only when there is something to do."""

    def __init__(self, folder: Path, context: Context, *, only_kept: bool = False) -> None:
        """With `only_kept` nobody is judged: what was not kept of an earlier run is an error."""
        self._folder, self._context, self._only_kept = folder, context, only_kept
        self.num_judged = 0

    def judge(self, task: Task, name: str, weights: str, load: Callable[[], Subject]) -> TaskJudgement:
        """Run a task on a subject, or read what an earlier run found.

        Args:
            weights: names the subject's weights without loading them.
            load: builds the subject; not called when all is known.

        Raises:
            MissingError: the data set is not there.
            UsageError: the task gave items whose score is not a finite number; with `only_kept`, there is nothing kept of
                these weights, data and settings.
        """
        identity = {"weights": weights, "task": task.identity()}
        folder = self._folder / task.name
        try:
            found = _read(folder, name, identity)
        except CorruptError as error:
            self._context.reporter.say(f"eval {name}, {task.name}: {error.message}; it is judged again")
            found = None
        if found is None:
            if self._only_kept:
                raise not_judged(folder / f"{name}.json")
            found = task.run(load(), self._context)
            _write(folder, name, identity, found)
            self.num_judged += 1
        score = task.score(found.items_NK)
        if not np.isfinite(score):
            raise UsageError(
                f"task {task.name} on {name}: its {task.metric.name} is {score}", hint="look at its details"
            )
        return TaskJudgement(name, float(score), found)


def _write(folder: Path, name: str, identity: dict[str, Any], found: TaskResult) -> None:
    items = io.BytesIO()
    np.save(items, np.ascontiguousarray(found.items_NK, np.float64), allow_pickle=False)
    replace_file(folder / f"{name}.npy", items.getvalue())
    examples = []
    for number, example in enumerate(found.examples):
        files = []
        for place, (title, pixels) in enumerate(example.panels):
            data, file = encode_png(pixels), f"{number:03d}-{place}.png"
            replace_file(folder / name / file, data)
            files.append({"title": title, "file": file, "sha256": hashlib.sha256(data).hexdigest()})
        examples.append({"key": example.key, "panels": files})
    body = {
        "identity": identity,
        "items_sha256": hashlib.sha256(items.getvalue()).hexdigest(),
        "chosen": found.chosen,
        "details": found.details,
        "examples": examples,
    }
    replace_file(folder / f"{name}.json", signed_json(body))


def _read(folder: Path, name: str, identity: dict[str, Any]) -> TaskResult | None:
    """What is kept of this very encoder, data and settings; CorruptError when a part of it is damaged or gone."""
    body = read_signed_json(folder / f"{name}.json", "")
    if body is None or body["identity"] != identity:
        return None
    items: Items = np.load(io.BytesIO(_checked(folder / f"{name}.npy", body["items_sha256"])), allow_pickle=False)
    examples = tuple(
        Example(
            key=each["key"],
            panels=tuple(
                (panel["title"], np.asarray(decode(_checked(folder / name / panel["file"], panel["sha256"]))))
                for panel in each["panels"]
            ),
        )
        for each in body["examples"]
    )
    return TaskResult(items_NK=items, chosen=body["chosen"], details=body["details"], examples=examples)


def _checked(path: Path, sha256: str) -> bytes:
    data = path.read_bytes() if path.is_file() else None
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptError(f"{path} is {'gone' if data is None else 'damaged'}")
    return data
