"""The README of a store: Markdown with the front matter that hubs read. Whatever a store says is quoted, never obeyed."""

import re
from collections.abc import Iterator, Mapping

from stillhouse.core.licences import licence_id

from .facts import CardFacts, LevelFacts, TeacherFacts

Scores = Mapping[str, Mapping[str, float]]
"""By teacher, then by probe."""

READING = """import numpy as np, zarr

store = zarr.open_group("STORE", mode="r")
codes = store["features/{teacher}/{level}"][0, 0]  # view 0, row 0: [{tokens}, codes]; rows that are not there hold the fill value
codec = store["features/{teacher}/codecs/{level}"]
print(codec.attrs["codec"], codes.shape, codes.dtype)
{decode}"""
DECODE = {
    "fp16": "tokens = codes.astype(np.float32)",
    "bf16": "tokens = (codes.astype(np.uint32) << 16).view(np.float32)",
    "int8": 'tokens = codec["offset"][:] + codec["scale"][:] * codes.astype(np.float32)',
}
OTHERWISE = "# docs/format.md of stillhouse decodes this codec in numpy alone"


def readme(facts: CardFacts, scores: Scores) -> str:
    """The text of README.md."""
    return "\n".join(_lines(facts, scores))


def _lines(facts: CardFacts, scores: Scores) -> Iterator[str]:
    licence = licence_id(facts.licence)
    num = sum(facts.splits.values())
    yield from ("---", f"license: {licence or 'other'}", "task_categories: [image-feature-extraction]")
    yield from (f"tags: [stillhouse, zarr, croissant]\nsize_categories: [{size_category(num)}]", "---", "")
    names = ", ".join(plain(one.spec.name) for one in facts.teachers) or "no teacher yet"
    yield from (f"# Features of {num:,} images: {names}", "")
    yield "A stillhouse store: images, augmented views by their parameters, and what teachers say of each view, so that students"
    yield from ("can be distilled without the teachers and without the images' source.", "")
    for warning in facts.warnings:
        yield from (f"**Mind:** {plain(warning)}", "")
    yield from _data(facts)
    for teacher in facts.teachers:
        yield from _teacher(teacher, int(facts.views["num"]), scores.get(teacher.spec.name, {}))
    yield from _use(facts)
    yield from _cite(facts)


def _data(facts: CardFacts) -> Iterator[str]:
    splits = ", ".join(f"{num:,} {plain(name)}" for name, num in facts.splits.items())
    yield from ("## Images and views", "", "| | |", "| --- | --- |")
    yield f"| images | {splits}, in {facts.num_blocks:,} blocks |"
    yield f"| source | {plain(facts.source)} |"
    yield f"| licence of the images | {plain(facts.licence) or 'not stated'} |"
    if facts.quarantined:
        reasons = ", ".join(f"{num:,} {plain(reason)}" for reason, num in facts.quarantined.items())
        yield f"| left out | {reasons} |"
    yield f"| views | {facts.views['num']} of each training image, {facts.views['size']} x {facts.views['size']} pixels |"
    rest = {name: value for name, value in facts.views.items() if name not in ("num", "size")}
    yield f"| drawn by | {', '.join(f'{plain(name)} {plain(str(value))}' for name, value in sorted(rest.items()))} |"
    for name, num_bytes in facts.num_bytes.items():
        yield f"| {plain(name)} | {megabytes(num_bytes)} |"
    yield from (f"| all | {megabytes(facts.total_bytes)} in {facts.sealed.num_objects:,} objects |", "")


def _teacher(teacher: TeacherFacts, num_views: int, scores: Mapping[str, float]) -> Iterator[str]:
    spec = teacher.spec
    yield from (f"## Teacher {plain(spec.name)}", "", "| | |", "| --- | --- |")
    yield from (f"| model | {plain(spec.model)} |", f"| weights (sha256) | `{plain(spec.weights_sha256)}` |")
    seen = spec.preprocessing
    yield f"| sees | RGB of {seen.size} x {seen.size} pixels, value / 255, minus {list(seen.mean)}, over {list(seen.std)} |"
    yield f"| precision | {plain(spec.precision)} |"
    yield from (f"| licence | {plain(spec.licence) or 'not stated'} |", "")
    yield "| level | tokens x dimensions | codec | bits a dimension | error (share of the variance) | size |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for level in teacher.levels:
        yield f"| {plain(level.name)} | {level.num_tokens} x {level.dim} | {plain(level.codec)} | {_error_and_size(level)} |"
    yield ""
    if scores:
        told = ", ".join(f"{plain(name)} {value:.3f}" for name, value in scores.items())
        yield from (f"From the store alone (`stillhouse eval --stored`): {told}.", "")
    if spec.notice.strip():
        yield from ("````text", spec.notice.strip().replace("````", "'''"), "````", "")


def _error_and_size(level: LevelFacts) -> str:
    error = "not measured" if level.nmse is None else f"{level.nmse:.2e}"
    bits = "nothing yet" if level.bits is None else f"{level.bits:.2f}"
    return f"{bits} | {error} | {megabytes(level.num_bytes)}"


def _use(facts: CardFacts) -> Iterator[str]:
    yield from ("## Use", "", "```", "stillhouse pull PLACE store --expect " + pin(facts))
    yield from ("stillhouse distill students.yaml store=store", "```", "")
    yield "The pin is the sha256 of the seal, which covers every object and what the records say. It says nothing unless it came to you on"
    yield from ("another way than the store did. `stillhouse verify PLACE` compares every object.", "")
    if facts.teachers and facts.teachers[0].levels:
        teacher, level = facts.teachers[0].spec.name, facts.teachers[0].levels[0]
        decode = DECODE.get(level.codec, OTHERWISE)
        code = READING.format(teacher=teacher, level=level.name, tokens=level.num_tokens, decode=decode)
        yield from ("Without stillhouse:", "", "```python", code, "```", "")


def _cite(facts: CardFacts) -> Iterator[str]:
    names = " and ".join(plain(one.spec.name) for one in facts.teachers) or "images"
    digest = facts.sealed.content_sha256
    yield from ("## Cite", "", "```bibtex", f"@misc{{stillhouse_{digest[:12]},")
    yield f"  title = {{A stillhouse store of {sum(facts.splits.values())} images: {names}}},"
    yield from (f"  note = {{content sha256 {digest}}}", "}", "```", "")
    yield "Name the teachers as their own licences and papers ask. The way of training students from such features is that of"
    yield from ("Proteus (ICLR 2025).", "")
    if facts.origin is not None:
        origin = facts.origin
        yield f"Taken ({plain(origin.selection.told())}) from store {plain(origin.store_id)} with content {plain(origin.content_sha256)}."
        yield ""


def pin(facts: CardFacts) -> str:
    return f"sha256:{facts.sealed.root_sha256}"


def size_category(num: int) -> str:
    """As hubs put it."""
    for most, name in (
        (10**3, "n<1K"),
        (10**4, "1K<n<10K"),
        (10**5, "10K<n<100K"),
        (10**6, "100K<n<1M"),
        (10**7, "1M<n<10M"),
    ):
        if num < most:
            return name
    return "n>10M"


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def plain(text: str) -> str:
    """Text of a store on one line, with nothing in it that Markdown or HTML would take for its own."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return re.sub(r"([\\`*_\[\]<>|#{}~!])", r"\\\1", line) if re.search(r"[\\`*\[\]<>|{}]", line) else line
