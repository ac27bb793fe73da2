"""The fault campaign: every part, one table, one dated file.

    python tests/faults/campaign.py                     all of it; rewrites the table of docs/reliability.md
    python tests/faults/campaign.py --jobs 2            two parts at a time
    python tests/faults/campaign.py --quick             a fair draw of every part
    python tests/faults/campaign.py --only bit_flips    one part
    python tests/faults/campaign.py --only races --update tests/faults/results/faults-<date>.json
                                                        the outcomes of a part anew, in a whole campaign's file

Each part is a module beside this one with `campaign(folder, size) -> list[Outcome]`. Exit status 1 if a promise broke.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from outcome import Outcome, Size

PARTS = ("kill_sweep", "random_kills", "races", "bit_flips", "bad_images", "malicious_stores", "disk_faults")
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


def run_part(name: str, size: Size) -> list[dict[str, Any]]:
    """The outcomes of one part as JSON, each with the part's name and seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"stillhouse-{name}-") as folder:
        outcomes: list[Outcome] = importlib.import_module(name).campaign(Path(folder), size)
    seconds = round(time.monotonic() - began, 1)
    return [{"part": name, "seconds": seconds, **asdict(outcome)} for outcome in outcomes]


def run_parts(names: Sequence[str], size: Size, jobs: int) -> Iterator[list[dict[str, Any]]]:
    """The outcomes of each part as it ends; with several jobs each part is a process of its own."""
    if jobs == 1:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            yield run_part(name, size)
        return
    with tempfile.TemporaryDirectory(prefix="stillhouse-campaign-") as folder, ThreadPoolExecutor(jobs) as pool:

        def one(name: str) -> list[dict[str, Any]]:
            target = Path(folder) / f"{name}.json"
            command = [sys.executable, __file__, "--only", name, "--json", str(target)]
            command += ["--quick"] if size == "quick" else []
            done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
            if not target.exists():
                raise RuntimeError(f"part {name} ended with {done.returncode} and no outcome")
            found: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["outcomes"]
            return found

        for future in as_completed([pool.submit(one, name) for name in names]):
            yield future.result()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The outcomes as a Markdown table."""
    lines = ["| part | fault and promise | cases | broken | beside it |", "| --- | --- | ---: | ---: | --- |"]
    for row in rows:
        facts = ", ".join(f"{name} {_number(value)}" for name, value in row["facts"].items())
        cells = [row["part"], row["what"], f"{row['cases']:,}", str(len(row["violations"])), facts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def write_page(rows: Sequence[dict[str, Any]], day: str) -> None:
    """Put the table between the marks of docs/reliability.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\nCampaign of {day}.\n\n{table(rows)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Run what was asked for; 1 if any promise broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fair draw of every part")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="these parts alone")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="run N parts at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the outcomes go")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the outcomes of these parts in that file")
    asked = parser.parse_args()
    size: Size = "quick" if asked.quick else "full"
    day = date.today().isoformat()
    whole = not asked.quick and not asked.only
    target = asked.update or asked.json or (RESULTS / f"faults-{day}.json" if whole else None)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    rows: list[dict[str, Any]] = []
    if asked.update:
        kept = json.loads(asked.update.read_text(encoding="utf-8"))["outcomes"]
        rows = [row for row in kept if row["part"] not in (asked.only or PARTS)]
    for found in run_parts(asked.only or PARTS, size, asked.jobs):
        rows = sorted([*rows, *found], key=lambda row: PARTS.index(row["part"]))
        if target is not None:  # after every part: a campaign is long, what it found is kept
            target.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"date": day, "size": size, "machine": machine, "outcomes": rows}, indent=1)
            target.write_text(text + "\n", encoding="utf-8")
    print(table(rows))
    broken = [f"{row['part']}: {row['what']}: {line}" for row in rows for line in row["violations"]]
    for line in broken[:50]:
        print(f"broken: {line}")
    if whole or asked.update:
        write_page(rows, day)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
