"""The verb `export`: a finished run's student in the form that others read, with what is known of it on its card."""

from pathlib import Path
from typing import Any

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage2_distill.export.handover import Handover, hand_over
from stillhouse.stage2_distill.result import DistillResult, finished_run
from stillhouse.storage.signed_json import read_signed_json

MAX_NOTICE_BYTES = 1 << 16


def export_run(
    run: Path, to: str, out: Path, *, averaged: bool, notice: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """Write the student of a run into the new folder `out`; returns what `--json` prints."""
    text = "" if notice is None else _notice(notice)
    scores = None if averaged else found_scores(run, finished_run(run))
    card = hand_over(Handover(run, to, averaged, text, scores), out)
    for warning in card["warnings"]:
        reporter.say(f"mind: {warning}")
    files = ", ".join(card["files"])
    judged = "with its scores" if scores else "not judged"
    reporter.say(f"export: {card['architecture']} as {to} in {out} ({files}, card.json, README.md), {judged}")
    return {"folder": str(out), **{name: card[name] for name in ("format", "files", "weights_sha256", "warnings")}}


def found_scores(run: Path, result: DistillResult) -> dict[str, Any] | None:
    """What `eval` has said of this student, its teacher and its untrained self, on the same images; None if nothing.

    A run lies in `<out>/students/`, what its probes said in `<out>/eval/`.
    """
    folder, name = run.absolute().parent.parent / "eval", f"{result.name}-seed{result.config['seed']}"
    files = {"student": name, "teacher": f"teacher-{result.teacher}", "untrained": f"{name}-untrained"}
    hint = "run `stillhouse eval` again"
    bodies = {who: read_signed_json(folder / f"{file}.json", hint) for who, file in files.items()}
    student = bodies["student"]
    if student is None or student["identity"]["weights"] != result.weights_sha256:
        return None
    same = {key: value for key, value in student["identity"].items() if key not in ("weights", "sees")}
    configs = {probe: found.get("config") for probe, found in student["probes"].items()}
    return {
        who: {
            probe: found["scores"]
            for probe, found in body["probes"].items()
            if probe in configs and found.get("config") == configs[probe]
        }
        for who, body in bodies.items()
        if body is not None and same.items() <= body["identity"].items()
    }


def _notice(path: Path) -> str:
    try:
        data = path.read_bytes()
        text = data.decode()
    except OSError as error:
        raise UsageError(f"notice {path}: {error.strerror or error}", hint="name a file that exists") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"notice {path}: not UTF-8 text (byte {error.start})") from error
    if not text.strip() or len(data) > MAX_NOTICE_BYTES:
        raise UsageError(f"notice {path} has {len(data):,} bytes; a notice has 1 to {MAX_NOTICE_BYTES:,}")
    return text
