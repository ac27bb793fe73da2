"""The page of a finished run: gathers from store, students and probes what `report.html` shows."""

import hashlib
import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import yaml

from stillhouse import __version__
from stillhouse.core.config import config_digest
from stillhouse.core.errors import CorruptError
from stillhouse.core.events import Reporter
from stillhouse.eval.rates import codec_choices
from stillhouse.eval.report import render_report
from stillhouse.eval.report_data import (
    ColumnFacts,
    JudgedData,
    LossCurve,
    Quarantined,
    ReportData,
    StoreFacts,
    StudentFacts,
    TeacherFacts,
    Watch,
    WatchCurve,
)
from stillhouse.eval.report_json import report_json
from stillhouse.eval.run import Evaluation
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.watch import WATCH
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import canonical_json, read_json
from stillhouse.storage.store import Store

from .inspection import inspect_store
from .page_costs import break_even, stage_costs
from .page_pictures import leakage_sheet, neighbour_pictures, view_pictures
from .page_scores import score_row, seed_table, task_sections
from .pipeline import RunResult
from .pipeline_config import StudentsConfig, student_folder
from .summary import as_json

PACKAGES = ("torch", "timm", "numpy", "pillow", "zarr", "pyarrow", "faiss-cpu", "scikit-learn")


def write_report(
    config: StudentsConfig, result: RunResult, reporter: Reporter, *, again: bool = False
) -> tuple[Path, bool]:
    """Write `<out>/report.html` and its tables as `report-data.json`: (the page's path, whether it was written).

    What is there already and shows this very run is left alone, unless it is to be made `again`.
    """
    path, tables = (Path(config.out) / name for name in ("report.html", "report-data.json"))
    identity = {
        "version": __version__,
        "config": config_digest(config.model_dump(mode="json")),
        "scores": config_digest(as_json(result.judged)),
        "students": [student.weights_sha256 for student in result.students],
        "seconds": result.ledger.seconds,
    }
    marker = Path(config.out) / "report.json"
    if not again and path.exists() and tables.exists():
        there = {"html_sha256": _sha256(path.read_bytes()), "data_sha256": _sha256(tables.read_bytes())}
        if _marked(marker) == {**identity, **there}:
            return path, False
    reporter.say("report: drawing")
    data = _report_data(config, result)
    html, plain = render_report(data).encode(), canonical_json(report_json(data))
    replace_file(path, html)
    replace_file(tables, plain)
    replace_file(marker, canonical_json({**identity, "html_sha256": _sha256(html), "data_sha256": _sha256(plain)}))
    return path, True


def _marked(marker: Path) -> dict[str, Any] | None:
    """What the report beside it shows; None when that is not known."""
    try:
        return read_json(marker)
    except CorruptError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _report_data(config: StudentsConfig, result: RunResult) -> ReportData:
    """Everything the page shows."""
    judged, evaluation = result.judged, result.judged.evaluation
    several = len(judged.seeds) > 1
    return ReportData(
        title=f"What {config.distill.name} kept of {result.students[0].teacher}",
        run_name=config.name,
        verdict=judged.verdict,
        judged=_judged_data(evaluation) if config.eval.has_probes else None,
        probes=tuple(score_row(rows) for rows in zip(*judged.kept, strict=True)),
        tasks=task_sections(judged.tasks),
        curves=_curves(student_folder(config, judged.seeds[0]) / "metrics.jsonl"),
        watch=_watch(student_folder(config, judged.seeds[0]) / WATCH),
        seeds=seed_table(judged) if several else None,
        neighbours=neighbour_pictures(config, judged) if config.eval.pictures else None,
        pictures=view_pictures(config, result) if config.eval.pictures else None,
        leakage=None if judged.leakage is None else leakage_sheet(judged.leakage, evaluation, config.eval),
        store=_store_facts(result.store),
        codecs=codec_choices(result.store),
        teachers=tuple(_teacher_facts(result.store, spec.name) for spec in result.store.teachers()),
        student=_student_facts(result),
        costs=stage_costs(result),
        num_students=len(result.students),
        break_even=break_even(result),
        environment=_environment(),
        config_text=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
    )


def _judged_data(evaluation: Evaluation) -> JudgedData:
    return JudgedData(
        name=_data_name(evaluation.store),
        num_train=len(evaluation.train.keys),
        num_test=len(evaluation.test.keys),
        split_rule=f"keyed hash of the sample key, {_shares(evaluation.store)}",
        num_classes=len(evaluation.classes),
    )


def _data_name(store: Store) -> str:
    """The source of a store as its config named it."""
    source = store.spec.ingest["source"]
    named = [str(source[key]) for key in ("package", "folder", "path", "paths", "name") if source.get(key)]
    return f"{source['kind']}: {', '.join(named)}" if named else str(source["kind"])


def _shares(store: Store) -> str:
    shares = store.spec.ingest["split"]
    return ", ".join(f"{100 * share:g} % {name}" for name, share in shares.items()) or "all in train"


def _curves(path: Path) -> tuple[LossCurve, ...]:
    lines = read_metrics(path) if path.exists() else []
    names = [name for name in ("total", "token", "feature", "patch") if lines and name in lines[0]]
    steps = [int(line["step"]) for line in lines]
    return tuple(LossCurve(name=name, steps=steps, values=[line[name] for line in lines]) for name in names)


def _watch(path: Path) -> Watch | None:
    """The looks at a student while it was trained: lines with `step`, the score `knn` and, at most once, a `warning`."""
    lines: list[dict[str, Any]] = [*read_metrics(path)] if path.exists() else []
    if not lines:
        return None
    curve = WatchCurve(probe="knn", steps=[int(line["step"]) for line in lines], values=[line["knn"] for line in lines])
    warned = next((line for line in lines if "warning" in line), None)
    if warned is None:
        return Watch(curves=(curve,))
    return Watch(curves=(curve,), warning=warned["warning"], warned_at=int(warned["step"]))


def _store_facts(store: Store) -> StoreFacts:
    facts = inspect_store(store)
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


def _environment() -> dict[str, str]:
    found = {"stillhouse": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
