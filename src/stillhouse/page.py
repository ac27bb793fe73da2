"""The page of a finished run: gathers from store, students and probes what `report.html` shows."""

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stillhouse import __version__
from stillhouse.core.config import config_digest
from stillhouse.core.errors import CorruptError
from stillhouse.core.events import Reporter
from stillhouse.eval.features import patch_maps
from stillhouse.eval.kept import Kept
from stillhouse.eval.pictures import pca_rgb
from stillhouse.eval.rates import codec_choices
from stillhouse.eval.report import render_report
from stillhouse.eval.report_data import (
    ColumnFacts,
    JudgedData,
    LossCurve,
    PictureRow,
    PictureSheet,
    ProbeResult,
    Quarantined,
    ReportData,
    Score,
    SeedScores,
    SeedTable,
    StageCost,
    StoreFacts,
    StudentFacts,
    TeacherFacts,
)
from stillhouse.eval.retention import seed_interval
from stillhouse.eval.subjects import exported_student, untrained_student
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.run import STUDENT
from stillhouse.storage.decode import decode
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import canonical_json, read_json
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.views import render

from .inspection import inspect_store
from .pipeline import Judged, PipelineConfig, RunResult, student_folder
from .summary import as_json

PACKAGES = ("torch", "timm", "numpy", "pillow", "zarr", "pyarrow", "faiss-cpu", "scikit-learn")


def write_report(config: PipelineConfig, result: RunResult, reporter: Reporter) -> tuple[Path, bool]:
    """Write `<out>/report.html` unless the one that is there shows this very run: (its path, whether it was written)."""
    path = Path(config.out) / "report.html"
    identity = {
        "version": __version__,
        "config": config_digest(config.model_dump(mode="json")),
        "scores": config_digest(as_json(result.judged)),
        "students": [student.weights_sha256 for student in result.students],
        "seconds": result.ledger.seconds,
    }
    marker = Path(config.out) / "report.json"
    if path.exists() and _marked(marker) == {**identity, "html_sha256": _sha256(path.read_bytes())}:
        return path, False
    reporter.say("report: drawing")
    html = render_report(_report_data(config, result)).encode()
    replace_file(path, html)
    replace_file(marker, canonical_json({**identity, "html_sha256": _sha256(html)}))
    return path, True


def _marked(marker: Path) -> dict[str, Any] | None:
    """What the report beside it shows; None when that is not known."""
    try:
        return read_json(marker)
    except CorruptError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _report_data(config: PipelineConfig, result: RunResult) -> ReportData:
    """Everything the page shows."""
    judged, evaluation = result.judged, result.judged.evaluation
    several = len(judged.seeds) > 1
    return ReportData(
        title=f"What {config.distill.name} kept of {result.students[0].teacher}",
        run_name=config.name,
        verdict=judged.verdict,
        judged=JudgedData(
            name=_data_name(evaluation.store),
            num_train=len(evaluation.train.keys),
            num_test=len(evaluation.test.keys),
            split_rule=f"keyed hash of the sample key, {_shares(evaluation.store)}",
            num_classes=len(evaluation.classes),
        ),
        probes=tuple(_probe_row(rows, config.eval.metric) for rows in zip(*judged.kept, strict=True)),
        curves=_curves(student_folder(config, judged.seeds[0]) / "metrics.jsonl"),
        seeds=_seed_table(judged) if several else None,
        pictures=_pictures(config, result) if config.eval.pictures else None,
        store=_store_facts(result.store),
        codecs=codec_choices(result.store),
        teachers=tuple(_teacher_facts(result.store, spec.name) for spec in result.store.teachers()),
        student=_student_facts(result),
        costs=_costs(result),
        environment=_environment(),
        config_text=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
    )


def _data_name(store: Store) -> str:
    """The source of a store as its config named it."""
    source = store.spec.ingest["source"]
    named = [str(source[key]) for key in ("package", "folder", "path", "paths", "name") if source.get(key)]
    return f"{source['kind']}: {', '.join(named)}" if named else str(source["kind"])


def _shares(store: Store) -> str:
    shares = store.spec.ingest["split"]
    return ", ".join(f"{100 * share:g} % {name}" for name, share in shares.items()) or "all in train"


def _probe_row(rows: Sequence[Kept], metric: str) -> ProbeResult:
    """One row of the retention table; over several seeds the means, with t-intervals."""
    first = rows[0]
    if len(rows) == 1:
        student = Score(first.student, first.student_low, first.student_high)
        untrained = Score(first.untrained)
        gain = Score(first.gain, first.gain_low, first.gain_high)
    else:
        student, untrained, gain = (
            _over_seeds([getattr(kept, name) for kept in rows]) for name in ("student", "untrained", "gain")
        )
    return ProbeResult(
        probe=first.probe,
        metric=metric.replace("_", " "),
        teacher=Score(first.teacher, first.teacher_low, first.teacher_high),
        student=student,
        untrained=untrained,
        share=float(np.mean([kept.share for kept in rows])),
        gap_closed=float(np.mean([kept.gap_closed for kept in rows])),
        gain=gain,
    )


def _over_seeds(values: Sequence[float]) -> Score:
    over = seed_interval(values)
    return Score(over.value, over.low, over.high)


def _curves(path: Path) -> tuple[LossCurve, ...]:
    lines = read_metrics(path) if path.exists() else []
    names = [name for name in ("total", "token", "feature", "patch") if lines and name in lines[0]]
    steps = [int(line["step"]) for line in lines]
    return tuple(LossCurve(name=name, steps=steps, values=[line[name] for line in lines]) for name in names)


def _seed_table(judged: Judged) -> SeedTable:
    rows = []
    for kept in zip(*judged.kept, strict=True):
        for encoder in ("student", "untrained"):
            scores = tuple(getattr(one, encoder) for one in kept)
            mean = _over_seeds(scores)
            rows.append(SeedScores(probe=kept[0].probe, encoder=encoder, scores=scores, mean=mean))
    return SeedTable(seeds=judged.seeds, rows=tuple(rows))


def _pictures(config: PipelineConfig, result: RunResult) -> PictureSheet | None:
    """Stored views beside patch maps: the teacher's from the store, those of the student before and after training.

    None when the store has no patches of the teacher.
    """
    store, student, seed = result.store, result.students[0], result.judged.seeds[0]
    if "patch" not in store.teacher(student.teacher).levels:
        return None
    shown = _shown(store, config.eval.pictures)
    pixels = np.stack([_view(store, view, block, row) for view, block, row in shown])
    codec, grid = store.codec(student.teacher, "patch"), store.teacher(student.teacher).levels["patch"].grid
    stored = [codec.decode(store.codes(student.teacher, "patch", v, b, [i]))[0] for v, b, i in shown]
    maps = [pca_rgb(stored, [grid or (1, len(stored[0]))] * len(stored))]
    folder = student_folder(config, seed) / STUDENT
    for subject in (exported_student(folder, "student"), untrained_student(folder, "untrained", seed)):
        tokens, its_grid = patch_maps(subject, pixels, config.eval)
        maps.append(pca_rgb(tokens, [its_grid] * len(tokens)))
    samples = [store.samples(block)[row] for _, block, row in shown]
    pictures = [
        PictureRow(
            key=sample.key,
            view=view,
            pixels=pixels[n],
            maps=tuple(each[n] for each in maps),
            label=sample.label or "",
        )
        for n, ((view, _, _), sample) in enumerate(zip(shown, samples, strict=True))
    ]
    return PictureSheet(encoders=("teacher", "student", "untrained"), rows=tuple(pictures))


def _shown(store: Store, num: int) -> list[tuple[int, int, int]]:
    """(view, block, row) of up to `num` training samples: the labels in turn, the views in turn."""
    queues: dict[str | None, list[tuple[int, int]]] = {}
    for block in store.plan.blocks_of(TRAIN):
        samples = store.samples(block)
        for row in store.good_rows(block).tolist():
            queues.setdefault(samples[row].label, []).append((block, row))
        if min(map(len, queues.values()), default=0) >= num:
            break
    mixed = [at for group in zip_longest(*queues.values()) for at in group if at is not None]
    return [(n % store.spec.num_views, block, row) for n, (block, row) in enumerate(mixed[:num])]


def _view(store: Store, view: int, block: int, row: int) -> npt.NDArray[np.uint8]:
    """uint8 [S, S, 3]: one stored view, replayed."""
    image = decode(store.image_bytes(block, row))
    return render(image, store.view_params(view, block)[row], store.spec.view_size)


def _store_facts(store: Store) -> StoreFacts:
    facts = inspect_store(store.root)
    levels = {
        f"features/{teacher['name']}/{level}": (shape["bytes_per_token"], shape["codec"] or "")
        for teacher in facts["teachers"]
        for level, shape in teacher["levels"].items()
    }
    columns = []
    for name, num_bytes in facts["bytes"].items():
        per_token, codec = levels.get(name, (None, ""))
        columns.append(ColumnFacts(name=name, num_bytes=num_bytes, bytes_per_token=per_token, codec=codec))
    return StoreFacts(
        path=facts["store"],
        store_id=facts["store_id"],
        format_version=str(facts["format_version"]),
        num_samples=facts["samples"],
        num_blocks=facts["blocks"],
        num_views=store.spec.num_views,
        content_digest=facts["sealed"]["content_sha256"],
        columns=tuple(columns),
        quarantined=tuple(Quarantined(key=bad["key"], reason=bad["reason"]) for bad in facts["quarantined"]),
    )


def _teacher_facts(store: Store, name: str) -> TeacherFacts:
    spec = store.teacher(name)
    seen = spec.preprocessing
    return TeacherFacts(
        name=spec.name,
        model=spec.model,
        weights_hash=spec.weights_sha256,
        preprocessing=f"{seen.size} pixels, mean {list(seen.mean)}, std {list(seen.std)}, {spec.precision}",
        licence=spec.licence,
    )


def _student_facts(result: RunResult) -> StudentFacts:
    student = result.students[0]
    return StudentFacts(
        model=f"{student.config['student']['model']} at {student.image_size} pixels",
        num_params=student.num_parameters,
        num_steps=student.num_steps,
        images_per_s=student.images_per_second,
        checkpoint_digest=student.weights_sha256,
    )


def _costs(result: RunResult) -> tuple[StageCost, ...]:
    seconds, store = result.ledger.seconds, result.store
    views = store.spec.num_views * sum(store.plan.blocks[b].num_rows for b in store.plan.blocks_of(TRAIN))
    steps = sum(student.num_steps * int(student.config["batch"]) for student in result.students)
    each = f"{len(result.students)} students" if len(result.students) > 1 else "this student"
    stages = (
        StageCost(name="ingest", seconds=seconds.get("ingest", 0.0), num_images=store.plan.num_samples, once=True),
        StageCost(name="teacher pass", seconds=seconds.get("extract", 0.0), num_images=views, once=True),
        StageCost(name="distill", seconds=sum(s.seconds for s in result.students), num_images=steps, note=each),
        StageCost(name="eval", seconds=seconds.get("eval", 0.0), note="teacher, students, untrained students"),
    )
    return stages


def _environment() -> dict[str, str]:
    found = {"stillhouse": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
