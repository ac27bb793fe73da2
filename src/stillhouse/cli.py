"""The command line: one verb a step, and `run` for all of them. The verbs of a store by itself are in cli_store.py.

Exit codes: 0 done · 1 a fault of stillhouse · 2 wrong command, config or data · 3 another spec · 4 corrupt or missing
bytes · 5 busy · 6 disk, permission or package · 7 done, with samples in quarantine · 8 stopped, run again to go on.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stillhouse import __version__
from stillhouse.core.errors import EXIT_OK, EXIT_QUARANTINED
from stillhouse.core.launch import is_follower

from . import cli_sharing, cli_store
from .guarded import JsonOption, guarded

if TYPE_CHECKING:
    from stillhouse.core.events import Reporter
    from stillhouse.pipeline_config import PipelineConfig, StudentsConfig

C = TypeVar("C", bound="StudentsConfig")

app = typer.Typer(
    help="Run a vision teacher once, distil any number of students from the stored features.",
    epilog="Exit codes: 0 done, 1 a fault of stillhouse, 2 wrong command, config or data, 3 another spec, 4 corrupt or "
    "missing bytes, 5 busy, 6 disk, permission or package, 7 done with samples in quarantine, 8 stopped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[Path, typer.Argument(help="A pipeline.yaml.")]
OverridesArgument = Annotated[list[str] | None, typer.Argument(help="section.key=value, any number of them.")]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="So many seeds, from distill.seed on.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stillhouse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What can stand before a verb."""


@app.command("run")
def run_verb(
    config: ConfigArgument, overrides: OverridesArgument = None, seeds: SeedsOption = None, as_json: JsonOption = False
) -> None:
    """Walk the whole way: ingest, extract, distill, eval, report. What is done already is left alone."""

    def body(pipeline: "PipelineConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import page, summary
        from stillhouse.pipeline import run

        result = run(pipeline, _seeds(pipeline, seeds), reporter)
        report, drawn = page.write_report(pipeline, result, reporter)
        if not as_json:
            summary.print_table(result.judged)
        idle = result.ledger.idle and not drawn
        reporter.say(f"{'nothing to do, everything is there; ' if idle else ''}report: {report}")
        code = EXIT_QUARANTINED if result.ingested.quarantined else EXIT_OK
        return code, {**summary.as_json(result.judged), "report": str(report), "nothing_to_do": idle}

    _with_config(config, overrides, as_json, body)


@app.command("plan")
def plan_verb(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Assume so many samples.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of an hour of the device.")] = None,
    students: Annotated[int, typer.Option(min=1, help="Trained from the store.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="That the probe may take, loading apart.")] = 30.0,
    paper: Annotated[bool, typer.Option("--paper", help="Run nothing: count operations, at --tflops.")] = False,
    tflops: Annotated[float, typer.Option(min=0.001, help="What the device really does, in 10^12 a second.")] = 400.0,
    as_json: JsonOption = False,
) -> None:
    """Say what a pipeline is going to take before any of it: bytes, objects, hours, cost. A probe of half a minute."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import plan_verb
        from stillhouse.core.config import load_config
        from stillhouse.pipeline_config import PipelineConfig

        pipeline, rate = load_config(PipelineConfig, config, overrides or []), tflops if paper else None
        question = plan_verb.Question(samples, price, students, seconds, rate)
        plan = plan_verb.make_plan(pipeline, question, reporter)
        if not as_json:
            plan_verb.print_plan(plan)
        return EXIT_OK, plan_verb.as_json(plan)

    guarded(as_json, body)


@app.command("ingest")
def ingest_verb(config: ConfigArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Read the source images into the store. The last step that needs the original data."""

    def body(pipeline: "PipelineConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.ledger import Ledger
        from stillhouse.pipeline import run_ingest

        _, result = run_ingest(pipeline, reporter, Ledger(Path(pipeline.out)))
        facts = {"samples": result.num_samples, "quarantined": result.quarantined, "store": str(pipeline.store_path)}
        return (EXIT_QUARANTINED if result.quarantined else EXIT_OK), facts

    _with_config(config, overrides, as_json, body)


@app.command("extract")
def extract_verb(config: ConfigArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Run the teachers over the views of the store. The only step that needs them."""

    def body(pipeline: "PipelineConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.ledger import Ledger
        from stillhouse.pipeline import open_for_extract, run_extract
        from stillhouse.storage.seal import latest_seal

        run_extract(pipeline, open_for_extract(pipeline, reporter), reporter, Ledger(Path(pipeline.out)))
        sealed = latest_seal(pipeline.store_path)
        assert sealed is not None
        return EXIT_OK, {"store": str(pipeline.store_path), "content_sha256": sealed.content_sha256}

    _with_config(config, overrides, as_json, body)


@app.command("render")
def render_verb(config: ConfigArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Keep every training view as a JPEG beside the store, for distill.pixels: rendered. Optional, and only for speed."""

    def body(pipeline: "StudentsConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.ledger import Ledger
        from stillhouse.pipeline import run_render
        from stillhouse.pipeline_config import open_stored
        from stillhouse.storage.rendered import rendered_folder

        store = open_stored(pipeline, reporter)
        result = run_render(pipeline, store, reporter, Ledger(Path(pipeline.out)))
        facts = {"views": result.num_views, "written": result.num_written, "bytes": result.num_bytes}
        return EXIT_OK, {"rendered": str(rendered_folder(store.root)), **facts}

    _with_students(config, overrides, as_json, body)


@app.command("distill")
def distill_verb(
    config: ConfigArgument, overrides: OverridesArgument = None, seeds: SeedsOption = None, as_json: JsonOption = False
) -> None:
    """Train a student purely from the store: no teacher, no original data, no network."""

    def body(pipeline: "StudentsConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.ledger import Ledger
        from stillhouse.pipeline import run_distill
        from stillhouse.pipeline_config import open_stored, student_folder

        chosen = _seeds(pipeline, seeds)
        results = run_distill(pipeline, open_stored(pipeline, reporter), chosen, reporter, Ledger(Path(pipeline.out)))
        folders = [str(student_folder(pipeline, seed)) for seed in chosen]
        for folder in folders:
            reporter.say(f"student: {folder}/student")
        facts = [result.model_dump(mode="json") for result in results]
        return EXIT_OK, {"students": facts, "folders": folders}

    _with_students(config, overrides, as_json, body, in_ranks=True)


@app.command("sweep")
def sweep_verb(config: ConfigArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Train many students from the store, over the section `sweep`, judge each, and rank them."""

    def body(pipeline: "StudentsConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.pipeline_config import load_students_config
        from stillhouse.sweep_table import print_sweep
        from stillhouse.sweeping import sweep

        swept = sweep(pipeline, lambda more: load_students_config(config, [*(overrides or []), *more]), reporter)
        if not as_json:
            print_sweep(swept)
        return EXIT_OK, swept.to_json()

    _with_students(config, overrides, as_json, body)


@app.command("eval")
def eval_verb(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    seeds: SeedsOption = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Only the teachers, by their stored features: no image, no weights.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge teacher, students and untrained students on the held-out images."""

    def body(pipeline: "StudentsConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import summary
        from stillhouse.pipeline import judge, judge_stored

        if stored:
            scores = judge_stored(pipeline, reporter)
            if not as_json:
                summary.print_stored(scores, pipeline.eval.metric)
            return EXIT_OK, summary.stored_as_json(scores)
        result = judge(pipeline, _seeds(pipeline, seeds), reporter)
        if not as_json:
            summary.print_table(result)
        return EXIT_OK, summary.as_json(result)

    _with_students(config, overrides, as_json, body)


@app.command("report")
def report_verb(
    config: ConfigArgument, overrides: OverridesArgument = None, seeds: SeedsOption = None, as_json: JsonOption = False
) -> None:
    """Make the page of a finished run again from what is on disk. Trains and judges nothing."""

    def body(pipeline: "StudentsConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import page, summary
        from stillhouse.pipeline import finished

        result = finished(pipeline, _seeds(pipeline, seeds), reporter)
        report, _ = page.write_report(pipeline, result, reporter, again=True)
        reporter.say(f"report: {report}")
        return EXIT_OK, {**summary.as_json(result.judged), "report": str(report)}

    _with_students(config, overrides, as_json, body)


@app.command("export")
def export_verb(
    run: Annotated[
        Path, typer.Argument(help="The folder of a finished run, such as out/demo/students/vit-demo-seed0.")
    ],
    to: Annotated[str, typer.Option(help="timm, dinov2, proteus, transformers or onnx.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there yet.")],
    ema: Annotated[bool, typer.Option("--ema", help="The averaged weights instead of the last ones.")] = False,
    notice: Annotated[Path | None, typer.Option(help="A text file: what the teacher's licence asks for.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a finished student as others read it. Needs neither teacher nor store nor network."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.exporting import export_run

        return EXIT_OK, export_run(run, to, out, averaged=ema, notice=notice, reporter=reporter)

    guarded(as_json, body)


@app.command("repair")
def repair_verb(
    config: ConfigArgument,
    units: Annotated[
        list[str] | None, typer.Argument(help="Units of work, as `verify` names them, and section.key=value.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make damaged units of a store again, or those that are named, and no others."""
    overrides = [text for text in units or () if "=" in text]
    names = [text for text in units or () if "=" not in text]

    def body(pipeline: "PipelineConfig", reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.pipeline import run_repair

        return run_repair(pipeline, names, reporter)

    _with_config(config, overrides, as_json, body)


@app.command("models")
def models_verb(
    pattern: Annotated[str, typer.Argument(help="A part of the name, or a pattern such as 'vit_*dinov2*'.")] = "",
    pretrained: Annotated[bool, typer.Option(help="Only those with released weights, as teachers need.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that teachers and students can be: width, tokens, parameters, licence, bytes a view."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import models

        names, rows = models.list_models(pattern, pretrained)
        if not as_json:
            models.print_models(names, rows)
        return EXIT_OK, models.as_json(names, rows)

    guarded(as_json, body)


def _seeds(pipeline: "StudentsConfig", num: int | None) -> list[int]:
    first = pipeline.distill.seed
    return list(range(first, first + (num or 1)))


def _with_config(
    path: Path,
    overrides: list[str] | None,
    as_json: bool,
    body: Callable[["PipelineConfig", "Reporter"], tuple[int, dict[str, Any]]],
    *,
    in_ranks: bool = False,
) -> None:
    """Load a whole pipeline, keep its resolved form beside the output, and run a verb on it."""

    def load() -> "PipelineConfig":
        from stillhouse.core.config import load_config
        from stillhouse.pipeline_config import PipelineConfig

        return load_config(PipelineConfig, path, overrides or [])

    _run_on(load, as_json, body, in_ranks)


def _with_students(
    path: Path,
    overrides: list[str] | None,
    as_json: bool,
    body: Callable[["StudentsConfig", "Reporter"], tuple[int, dict[str, Any]]],
    *,
    in_ranks: bool = False,
) -> None:
    """As `_with_config`, for a verb that needs no more of a pipeline than what is done with a store."""

    def load() -> "StudentsConfig":
        from stillhouse.pipeline_config import load_students_config

        return load_students_config(path, overrides or [])

    _run_on(load, as_json, body, in_ranks)


def _run_on(
    load: Callable[[], C], as_json: bool, body: Callable[[C, "Reporter"], tuple[int, dict[str, Any]]], in_ranks: bool
) -> None:
    def loaded(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.pipeline_config import save_resolved

        pipeline = load()
        if not is_follower():
            save_resolved(pipeline)
            reporter.open_events(Path(pipeline.out))
        return body(pipeline, reporter)

    guarded(as_json, loaded, in_ranks=in_ranks)


app.add_typer(cli_store.app)
app.add_typer(cli_sharing.app)


def main() -> None:
    """Entry point of `stillhouse`."""
    try:
        app()
    finally:
        gc.freeze()  # or the interpreter looks for garbage in all of torch, for a second, before it ends
