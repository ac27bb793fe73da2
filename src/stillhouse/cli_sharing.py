"""Verbs of the command line that move stores: `pull`, `push` and `merge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.core.errors import EXIT_OK

from .guarded import JsonOption, guarded

if TYPE_CHECKING:
    from stillhouse.core.events import Reporter
    from stillhouse.storage.remote.config import RemoteConfig
    from stillhouse.storage.sharing.pull import Moved
    from stillhouse.storage.sharing.selection import Selection

app = typer.Typer()

StorePlace = Annotated[str, typer.Argument(help="A folder, s3://bucket/path, gs://, az:// or https://host/path.")]
RemoteSettings = Annotated[
    list[str] | None, typer.Argument(help="Settings of the section `remote`, such as endpoint=http://127.0.0.1:8333.")
]
ViewsOption = Annotated[int | None, typer.Option(min=1, help="The first so many views.")]
ColumnsOption = Annotated[
    str | None, typer.Option(help="Teachers, levels or both, with commas between: lite0, cls, lite0/cls.")
]
BlocksOption = Annotated[str | None, typer.Option(metavar="FIRST:LAST", help="Blocks, the last one not included.")]
SplitOption = Annotated[str | None, typer.Option(help="The blocks of one split.")]
ShareOption = Annotated[float | None, typer.Option(help="A share of the blocks of each split, such as 0.1.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Objects that move at once.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only tell what would move.")]
ExpectOption = Annotated[str | None, typer.Option(metavar="sha256:…", help="The pin that the store must have.")]


@app.command("pull")
def pull_verb(
    source: StorePlace,
    folder: Annotated[Path, typer.Argument(help="Where the store is going to be.")],
    settings: RemoteSettings = None,
    views: ViewsOption = None,
    columns: ColumnsOption = None,
    blocks: BlocksOption = None,
    split: SplitOption = None,
    share: ShareOption = None,
    expect: ExpectOption = None,
    threads: ThreadsOption = 8,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a store, or a part of it, as a store in itself. Goes on where it was stopped."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.storage.sharing.pull import pull

        asked, remote = _selection(views, columns, blocks, split, share), remote_of(settings)
        found = pull(
            source,
            folder,
            asked,
            remote.reach(),
            reporter,
            expect=expect or remote.expect,
            threads=threads,
            dry_run=dry_run,
        )
        return _told("pull", found, str(folder), dry_run, reporter)

    guarded(as_json, body)


@app.command("push")
def push_verb(
    folder: Annotated[Path, typer.Argument(help="The folder of a sealed store.")],
    target: StorePlace,
    settings: RemoteSettings = None,
    views: ViewsOption = None,
    columns: ColumnsOption = None,
    blocks: BlocksOption = None,
    split: SplitOption = None,
    share: ShareOption = None,
    threads: ThreadsOption = 8,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Share a store, or a part of it: a bucket, or a folder that a server or a hub client takes it from."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.storage.sharing.push import push

        asked, remote = _selection(views, columns, blocks, split, share), remote_of(settings)
        found = push(folder, target, asked, remote.reach(), reporter, threads=threads, dry_run=dry_run)
        return _told("push", found, target, dry_run, reporter)

    guarded(as_json, body)


@app.command("merge")
def merge_verb(
    store: Annotated[Path, typer.Argument(help="The folder of the store that grows.")],
    other: StorePlace,
    settings: RemoteSettings = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring into a store what another one has: teachers, views, other samples. No object of either changes."""

    def body(reporter: "Reporter") -> tuple[int, dict[str, Any]]:
        from stillhouse.storage.remote.opening import open_store
        from stillhouse.storage.sharing.merge import merge

        remote = remote_of(settings)
        found = merge(
            store, open_store(other, remote.reach(), reporter, expect=remote.expect), reporter, dry_run=dry_run
        )
        told = f"{found.units:,} units of work, {found.num_bytes / 1e6:,.1f} MB"
        grown = f", {found.num_blocks:,} blocks of other samples" if found.num_blocks else ""
        grown += f", {found.num_views:,} more views" if found.num_views else ""
        grown += f", teacher {', '.join(found.teachers)}" if found.teachers else ""
        reporter.say(f"merge: {told}{grown} {'would come' if dry_run else 'came'} from {other}")
        if found.missing:
            reporter.say(f"merge: {found.missing:,} units have no features yet: `stillhouse extract` makes them")
        facts: dict[str, Any] = {
            "units": found.units,
            "bytes": found.num_bytes,
            "blocks": found.num_blocks,
            "views": found.num_views,
        }
        facts |= {"teachers": list(found.teachers), "missing": found.missing}
        sealed = {} if found.seal is None else {"content_sha256": found.seal.content_sha256}
        return EXIT_OK, {**facts, **sealed}

    guarded(as_json, body)


def remote_of(settings: list[str] | None) -> "RemoteConfig":
    """The section `remote` from `key=value` alone."""
    from stillhouse.core.config import config_of
    from stillhouse.storage.remote.config import RemoteConfig

    return config_of(RemoteConfig, settings or ())


def _selection(
    views: int | None, columns: str | None, blocks: str | None, split: str | None, share: float | None
) -> "Selection":
    from stillhouse.storage.sharing.selection import Selection

    named = None if columns is None else tuple(one.strip() for one in columns.split(",") if one.strip())
    return Selection(views=views, columns=named, blocks=blocks, split=split, share=share)


def _told(verb: str, found: "Moved", where: str, dry_run: bool, reporter: "Reporter") -> tuple[int, dict[str, Any]]:
    facts = {
        "store": where,
        "objects": found.num_objects,
        "bytes": found.num_bytes,
        "moved_objects": 0 if dry_run else found.moved_objects,
        "moved_bytes": 0 if dry_run else found.moved_bytes,
        "missing_objects": found.moved_objects if dry_run else 0,
        "missing_bytes": found.moved_bytes if dry_run else 0,
        "content_sha256": found.sealed.content_sha256,
        "pin": f"sha256:{found.sealed.root_sha256}",
        "seconds": round(found.seconds, 3),
    }
    if not dry_run:
        already = "; all of it was there" if not found.moved_objects else f" in {found.seconds:,.1f} s"
        size = f"{found.num_objects:,} objects, {found.num_bytes / 1e6:,.1f} MB"
        reporter.say(f"{verb}: {size}, whole in {where}{already}; its pin is sha256:{found.sealed.root_sha256}")
    return EXIT_OK, facts
