"""What `stillhouse plan` says against what the run then takes, on three pipelines that have little in common.

`python benchmarks/plan.py --data cifar10 --work /tmp/plan` takes about half an hour on two cores. `--data` is a folder with
`train.tar` and `test.tar` of labelled JPEG images, as for testbed.py. First `plan` is asked, before anything is there; then
`ingest`, `extract` and `distill` run one after the other, each timed from the start of its process to its end. Bytes are those
of every file of the store. Nothing else may use the machine meanwhile: a plan foretells the machine as it finds it.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from harness import Bars, parser, print_table, write_json
from testbed import config, unpack

STEPS = ("ingest", "extract", "distill")
BYTES, TIME = 0.02, 0.20

Row = dict[str, float]


def pipelines(work: Path, *, quick: bool) -> dict[str, dict[str, Any]]:
    """By name: fixed-width codes of a CNN; entropy-coded ones of four augmented views; a ViT from a ViT, one view."""
    images = work / "images"
    fixed = config(images, work, "cnn", epochs=2 if quick else 10)
    if quick:
        fixed["ingest"]["subset"] = {"num": 512}
        return {"fixed": fixed}
    coded = config(images, work, "cnn", epochs=6, codec={"cls": "ecsq:3", "patch": "ecsq:1"})
    coded["ingest"] |= {"subset": {"of_each_class": 0.5}, "block_samples": 256}
    coded["views"] |= {"policy": "proteus", "num": 4}
    vit = config(images, work, "vit", epochs=4, codec={"cls": "klt:4", "patch": "klt:1"})
    vit["views"]["num"] = 1
    return {"fixed": fixed, "coded": coded, "vit": vit}


def stillhouse(verb: str, pipeline: Path, *options: str) -> tuple[float, dict[str, Any]]:
    """(seconds of a verb from the start of its process to its end, what it prints as JSON)."""
    command = [sys.executable, "-m", "stillhouse", verb, str(pipeline), *options, "--json"]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - begin, json.loads(done.stdout)


def columns_of(store: Path, levels: Sequence[str]) -> dict[str, int]:
    """Bytes of the files of each column. `levels`: as `plan` names them, `<teacher>/<level>`."""

    def of(*folders: Path) -> int:
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    found = {name: of(store / name) for name in ("images", "index", "views")}
    for name in levels:
        teacher, _, level = name.partition("/")
        folder = store / "features" / teacher
        found[name] = of(folder / level, folder / "codecs" / level)
    return found | {"total": of(store)}


def judge(name: str, settings: dict[str, Any], work: Path, seconds: float, bars: Bars) -> tuple[Row, Row]:
    """Plan, then run. Both tables: by column of the store, and by step, foretold over found."""
    out, path = work / "out" / name, work / f"{name}.yaml"
    shutil.rmtree(out, ignore_errors=True)
    path.write_text(yaml.safe_dump({**settings, "name": name, "out": str(out)}, sort_keys=False), encoding="utf-8")
    spent, plan = stillhouse("plan", path, "--seconds", f"{seconds:g}")
    taken = {step: stillhouse(step, path)[0] for step in STEPS}
    told = {column: number["value"] for column, number in plan["bytes"].items()} | {
        "total": plan["total_bytes"]["value"]
    }
    found = columns_of(out / "store", [column for column in told if "/" in column])
    of_bytes = {column: told[column] / num for column, num in found.items()} | {"total_mb": found["total"] / 1e6}
    extract = sum(number["value"] for number in plan["seconds"]["extract"].values())
    foretold = {step: plan["seconds"][step]["value"] for step in ("ingest", "distill")} | {"extract": extract}
    of_time = {step: foretold[step] / taken[step] for step in STEPS}
    of_time["total"] = sum(foretold.values()) / sum(taken.values())
    of_time |= {f"{step}_s": taken[step] for step in STEPS} | {"plan_s": spent}
    bars.check(f"plan.{name}.bytes", abs(of_bytes["total"] - 1), "<=", BYTES)
    bars.check(f"plan.{name}.time", abs(of_time["total"] - 1), "<=", TIME)
    return of_bytes, of_time


def main() -> None:
    options_of = parser(__doc__, quick="one small run, a probe of ten seconds")
    options_of.add_argument("--data", type=Path, required=True, help="a folder with train.tar and test.tar")
    options_of.add_argument("--work", type=Path, required=True, help="where stores and students go; made anew")
    options_of.add_argument("--only", help="one of the pipelines")
    options = options_of.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    unpack(options.data, options.work / "images")
    bars, of_bytes, of_time = Bars(), dict[str, Row](), dict[str, Row]()
    for name, settings in pipelines(options.work, quick=options.quick).items():
        if options.only in (None, name):
            of_bytes[name], of_time[name] = judge(name, settings, options.work, 10 if options.quick else 30, bars)
            print_table(f"bytes, foretold over found: {', '.join(of_bytes[name])}", {name: of_bytes[name]})
            print_table(f"time, foretold over found: {', '.join(of_time[name])}", {name: of_time[name]})
    bars.print()
    write_json(options.json, bars, {"bytes, foretold over found": of_bytes, "time, foretold over found": of_time})


if __name__ == "__main__":
    main()
