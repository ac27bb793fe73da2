"""A verb from its start to its exit code: messages, errors in one line, and stops."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.core.errors import EXIT_INTERNAL, EXIT_PREEMPTED, EXIT_RESOURCE, Preempted, UsageError
from stillhouse.core.launch import is_follower, is_launched

if TYPE_CHECKING:
    from stillhouse.core.events import Reporter

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]

AGAIN_S = 3.0
"""Seconds after which a stop is asked for again, should nothing have come of it."""


def guarded(as_json: bool, body: Callable[["Reporter"], tuple[int, dict[str, Any]]], *, in_ranks: bool = False) -> None:
    """Run a verb; errors become one line (or one JSON object) and an exit code.

    Args:
        in_ranks: it can be several processes, as `torchrun` starts them, of which the first one prints the result.
    """
    from stillhouse.core.events import Reporter
    from stillhouse.explain import explained

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a path may be no text at all
    reporter, as_json = Reporter(), as_json and not is_follower()
    stopped_by = _stop_on_signals()
    try:
        if not in_ranks:
            _require_alone(reporter)
        code, facts = body(reporter)
        if as_json:
            typer.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))
    except BrokenPipeError:
        raise  # whoever read the output has seen enough; typer ends quietly
    except (Exception, KeyboardInterrupt) as found:  # noqa: BLE001 - the one place where everything is explained
        _on_signals(signal.SIG_IGN)  # it ends in a moment
        signal.setitimer(signal.ITIMER_REAL, 0)
        error = explained(KeyboardInterrupt(stopped_by()) if stopped_by() else found)  # a cleanup may fail after it
        code = error.exit_code
        if code == EXIT_INTERNAL:
            traceback.print_exc()
        if as_json:
            told = {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": code}
            with contextlib.suppress(OSError):  # a full disk behind stdout may be what is explained here
                typer.echo(json.dumps({"error": told}, ensure_ascii=False))
        reporter.say(f"{'stopped' if isinstance(error, Preempted) else 'error'}: {error}")
    finally:
        _on_signals(signal.SIG_IGN)  # what is done is done, and says so
        signal.setitimer(signal.ITIMER_REAL, 0)
        reporter.close()
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or it is tried again at the end, and told badly
        code = code or EXIT_RESOURCE
        print(f"error: what was to be printed could not be: {error.strerror}", file=sys.stderr)
    raise typer.Exit(code)


def _require_alone(reporter: "Reporter") -> None:
    if is_launched():
        reporter.quiet = is_follower()
        message = "torchrun starts this verb several times at once, and it is one process"
        raise UsageError(
            message, hint="run it without torchrun, which is for `stillhouse distill` of a store that is made"
        )


def _stop_on_signals() -> Callable[[], str]:
    """SIGINT and SIGTERM stop at the next chance with exit code 8; a second one at once.

    Returns a function that names the signal that came, if one did.

    What is raised is a KeyboardInterrupt: libraries catch any Exception of an import that fails, and would lose it.
    Some lose this too: Python drops what is raised in a callback of its garbage collector. So an alarm repeats it.
    """
    name = ""

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal name
        _on_signals(lambda *_: os._exit(EXIT_PREEMPTED))
        name = name or signal.Signals(number).name
        importing = frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")
        signal.setitimer(signal.ITIMER_REAL, 0.01 if importing else AGAIN_S)
        if not importing:
            raise KeyboardInterrupt(name)

    _on_signals(stop)
    signal.signal(signal.SIGALRM, stop)
    return lambda: name


def _on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
