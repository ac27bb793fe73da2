"""What every benchmark shares: alternated rounds, ratios of medians per round, bars, JSON.

A bar is a ratio measured in one process on one machine in one run. Readers take turns, a slice of work each, in an order
that changes from round to round, so that a noisy neighbour hits all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillhouse.core import rng

Work = Callable[[int], int]
"""Does the slice of a round (given its number) and returns the bytes or items it delivered."""


@dataclass
class Rounds:
    """Rates per round of each contestant, and the CPU seconds behind them."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_per_unit: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.rates[name])

    def ratio(self, name: str, reference: str) -> float:
        """Median over rounds of the ratio within a round."""
        pairs = zip(self.rates[name], self.rates[reference], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def alternate(contestants: Mapping[str, Work], num_rounds: int, *, seed: int = 0) -> Rounds:
    """Run every contestant once a round, in a shuffled order, after one warm-up round."""
    names = list(contestants)
    found = Rounds({name: [] for name in names}, {name: [] for name in names})
    for number in range(-1, num_rounds):
        for position in rng.permutation(seed, len(names), "round", number):
            name = names[int(position)]
            begin, cpu = time.perf_counter(), time.process_time()
            units = contestants[name](max(number, 0))
            seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
            if number >= 0:
                found.rates[name].append(units / seconds)
                found.cpu_per_unit[name].append(cpu_seconds / units)
    return found


@dataclass
class Bars:
    """The bars of one script, printed as it goes and kept for the JSON file."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, value: float, relation: str, limit: float) -> None:
        holds = value >= limit if relation == ">=" else value <= limit
        self.lines.append({"bar": name, "value": round(value, 4), "relation": relation, "limit": limit, "holds": holds})

    def print(self) -> None:
        for line in self.lines:
            verdict = "holds" if line["holds"] else "short"
            print(f"bar {line['bar']} {line['value']:.3f} {line['relation']} {line['limit']} {verdict}")


def parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that every script has; `quick` tells what it leaves out."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--quick", action="store_true", help=quick)
    found.add_argument("--json", type=Path, help="keep the result in this file")
    return found


def print_table(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """A line for each contestant; `title` names the columns."""
    print(f"\n{title}")
    for name, row in table.items():
        print(f"  {name:12} {' '.join(f'{value:8.3f}' for value in row.values())}", flush=True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path | None, bars: Bars, tables: Mapping[str, Any]) -> None:
    """Keep a run as a dated file's content."""
    if path is None:
        return
    machine = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    machine |= {"cores": str(os.cpu_count()), "processor": _processor()}
    body = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "bars": bars.lines, "tables": dict(tables)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
