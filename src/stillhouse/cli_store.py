"""Verbs of the command line about a store by itself: what is in it, whether it is whole, whether it can live here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.core.errors import EXIT_OK, UsageError

from .cli_sharing import ExpectOption, RemoteSettings, StorePlace, remote_of
from .guarded import JsonOption, guarded

if TYPE_CHECKING:
    from stillhouse.core.events import Reporter
    from stillhouse.storage.store import Store

app = typer.Typer()

StoreArgument = Annotated[Path, typer.Argument(help="The folder of a store.")]


@app.command("inspect")
def inspect_verb(store: StorePlace, settings: RemoteSettings = None, as_json: JsonOption = False) -> None:
    """Say what is in a store: samples, views, teachers, sizes, quarantine. Reads metadata only."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.inspection import inspect_store, print_inspection

        facts = inspect_store(opened(store, settings, None, reporter))
        if not as_json:
            print_inspection(facts)
        return EXIT_OK, facts

    guarded(as_json, body)


@app.command("verify")
def verify_verb(
    store: StorePlace,
    settings: RemoteSettings = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every row, image and index.")] = False,
    pixels: Annotated[bool, typer.Option("--pixels", help="Also render every view again and compare.")] = False,
    recompute: Annotated[int, typer.Option(min=0, help="Also ask the teachers of --config again about K rows.")] = 0,
    config: Annotated[Path | None, typer.Option(help="The pipeline.yaml with the teachers for --recompute.")] = None,
    expect: ExpectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every object of a store, where it lies, and compare it with its record."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.inspection import Checks, verify_store
        from stillhouse.storage.places.base import is_url

        if (config is not None) != (recompute > 0):
            raise UsageError("--recompute K and --config FILE go together", hint="give both or none")
        if is_url(store) and (deep or pixels or recompute):
            message = "--deep, --pixels and --recompute read a store over and over"
            raise UsageError(message, hint="`stillhouse pull` it to a folder first")
        found = opened(store, settings, expect, reporter)
        if config is None:
            return verify_store(found, Checks(deep, pixels), reporter)
        from stillhouse.core.config import load_config
        from stillhouse.pipeline_config import PipelineConfig

        pipeline = load_config(PipelineConfig, config)
        checks = Checks(deep, pixels, recompute, pipeline.teachers, pipeline.extract)
        return verify_store(found, checks, reporter)

    guarded(as_json, body)


@app.command("card")
def card_verb(
    store: StorePlace,
    settings: RemoteSettings = None,
    to: Annotated[Path | None, typer.Option(help="Folder for both files; by default <store>.card beside it.")] = None,
    scores: Annotated[Path | None, typer.Option(help="The `eval` folder of a run of `eval --stored`.")] = None,
    licence: Annotated[str, typer.Option(help="Of the images, such as CC-BY-4.0; a store does not know it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write what a store is, for people (README.md) and for catalogues (croissant.json)."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.carding import card_folder, write_card

        found = opened(store, settings, None, reporter)
        return EXIT_OK, write_card(found, to or card_folder(found, store), scores, licence, reporter)

    guarded(as_json, body)


@app.command("drop")
def drop_verb(
    store: StoreArgument,
    teacher: Annotated[str, typer.Argument(help="Its name in the store.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take a teacher that was dropped back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Seal a store without one of its teachers. Its objects stay until `gc --dropped`."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.inspection import drop_teacher

        return EXIT_OK, drop_teacher(store, teacher, undo, reporter)

    guarded(as_json, body)


@app.command("gc")
def gc_verb(
    store: StoreArgument,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="HOURS", help="Default: 24, or twice the longest unit if longer.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Also remove teachers that were dropped, for good.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what interrupted work has left in a store and nothing names."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.inspection import collect_store, free_dropped

        freed = free_dropped(store, dry_run, reporter) if dropped else {}
        code, facts = collect_store(store, older_than, dry_run, reporter)
        return code, facts | freed

    guarded(as_json, body)


@app.command("doctor")
def doctor_verb(
    folder: Annotated[Path, typer.Argument(help="Where the store is or is going to be.")] = Path(),
    hub: Annotated[bool, typer.Option(help="Try to reach the hub that weights come from.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Find out whether this machine and this disk can do the work: memory, devices, packages, locks, links, fsync, hub."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse import doctor

        findings = doctor.examine(folder, hub=hub)
        if not as_json:
            doctor.print_findings(findings)
        return doctor.exit_code(findings), doctor.as_json(findings)

    guarded(as_json, body)


def opened(where: str, settings: list[str] | None, expect: str | None, reporter: "Reporter") -> "Store":
    """A store in a folder or at a URL."""
    from stillhouse.storage.remote.opening import open_store

    remote = remote_of(settings)
    return open_store(where, remote.reach(), reporter, expect=expect or remote.expect)
