"""The card of an export, for machines (card.json) and people (README.md), and the folder that holds it all."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.config import parse_config
from stillhouse.core.licences import licence_id, licence_warnings
from stillhouse.storage.disk import disk_errors, publish_folder, write_synced
from stillhouse.storage.signed_json import canonical_json
from stillhouse.storage.specs import TeacherSpec

from .base import Finished, Written

INTENDED_USE = (
    "Frozen image features for nearest neighbours, linear heads and dense prediction, on images like those that it was "
    "trained on. It names no classes and takes no decisions. What its teacher and its images do not show it does not "
    "know either: judge it on your own images before you rely on it."
)
RECIPE = ("objectives", "targets", "epochs", "batch", "lr", "weight_decay", "mask", "precision", "seed")
"""Settings of training that the README lists; card.json has all of them."""


def teachers_of(card: Mapping[str, Any]) -> list[TeacherSpec]:
    """The teachers that a card names: one, or several by name."""
    one = [card["teacher_spec"]] if "teacher_spec" in card else []
    found = list(card["teacher_specs"].values()) if "teacher_specs" in card else one
    return [parse_config(TeacherSpec, spec, where="card.json: teacher_spec") for spec in found]


def warnings_of(card: Mapping[str, Any]) -> list[str]:
    """What whoever gets the student has to know of the licences of its teachers."""
    return [line for spec in teachers_of(card) for line in licence_warnings(spec.name, spec.licence)]


def write_folder(
    folder: Path, finished: Finished, written: Written, card: Mapping[str, Any], *, replace: bool = False
) -> dict[str, Any]:
    """Write an export with its card and README into a new `folder`, all of it or nothing; returns the card.

    Args:
        replace: put it in the place of the folder that is there.
    """
    seen = {"image_size": finished.image_size, "mean": finished.mean, "std": finished.std}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in written.files.items()}
    whole = {
        **card,
        **written.facts,
        "files": hashes,
        "architecture": finished.config["architecture"],
        "input": seen,
        "intended_use": INTENDED_USE,
        "warnings": warnings_of(card),
    }
    texts = {"card.json": canonical_json(whole), "README.md": "\n".join(_readme(whole, written)).encode()}
    staged = folder.with_name(f".{folder.name}.writing")
    with disk_errors(folder):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for name, data in {**written.files, **texts}.items():
            write_synced(staged / name, [data])
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
    publish_folder(staged, folder)
    return whole


def _readme(card: Mapping[str, Any], written: Written) -> Iterator[str]:
    """The lines of README.md."""
    teachers, seen = teachers_of(card), card["input"]
    licences = {licence_id(spec.licence) for spec in teachers}
    licence = next(iter(licences)) if len(licences) == 1 else None
    yield from ("---", f"library_name: {written.library}", "pipeline_tag: image-feature-extraction")
    yield from (f"license: {licence or 'other'}", "tags: [stillhouse, distillation]", "---", "")
    made_from = " and ".join(_plain(spec.name) for spec in teachers) or "its teacher"
    yield from (f"# {_plain(str(card['architecture']))}, distilled from {made_from}", "")
    yield f"Input: RGB of {seen['image_size']} x {seen['image_size']} pixels, value / 255, minus {seen['mean']}, over"
    yield from (f"{seen['std']}.", "", "```python", written.usage.rstrip(), "```", "")
    yield from (f"Intended use: {card['intended_use']}", "")
    for warning in card["warnings"]:
        yield from (f"**Mind:** {_plain(warning)}", "")
    yield from _training(card, teachers)
    yield from _scores(card.get("scores"))
    yield from ("## Licence", "", "A student carries the licence of its teacher.", "")
    notices = [*(spec.notice for spec in teachers), str(card.get("notice", ""))]
    for notice in filter(None, notices):
        yield from ("````text", notice.strip().replace("````", "'''"), "````", "")
    yield from ("`card.json` says all of this for machines, with the sha256 of each file.", "")


def _training(card: Mapping[str, Any], teachers: list[TeacherSpec]) -> Iterator[str]:
    if teachers:
        yield from ("## Training", "", "| teacher | model | weights (sha256) | licence |", "| --- | --- | --- | --- |")
        for spec in teachers:
            cells = (spec.name, spec.model, spec.weights_sha256[:16], spec.licence or "not named")
            yield f"| {' | '.join(map(_plain, cells))} |"
        yield ""
    facts = {"store (content sha256)": str(card.get("store_sha256", ""))[:16], "steps": card.get("num_steps", "")}
    config = card.get("config", {})
    facts |= {name: config[name] for name in RECIPE if name in config}
    facts |= {"weights averaged over steps": "yes"} if card.get("averaged") else {}
    yield from ("| setting | value |", "| --- | --- |")
    yield from (f"| {name} | {_plain(str(value))} |" for name, value in facts.items() if value != "")
    yield ""


def _scores(scores: Mapping[str, Any] | None) -> Iterator[str]:
    """Of student, teacher and untrained student, on the same images."""
    yield from ("## Scores", "")
    if not scores:
        yield from ("Not judged.", "")
        return
    who = [name for name in ("student", "teacher", "untrained") if name in scores]
    yield f"| probe | metric | {' | '.join(who)} |"
    yield f"| --- | --- |{' --- |' * len(who)}"
    for probe, found in scores["student"].items():
        for metric in found:
            cells = (scores[name].get(probe, {}).get(metric) for name in who)
            yield f"| {probe} | {metric} | {' | '.join('' if cell is None else f'{cell:.3f}' for cell in cells)} |"
    yield from ("", "`untrained` is the same network before its first step.", "")


def _plain(text: str) -> str:
    """Text of a config or of a store of others as one table cell of Markdown."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
