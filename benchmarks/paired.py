"""Students compared seed by seed: means, deviations, paired intervals, verdicts.

Students of one seed share initialisation, order and masks, so their differences vary less than they do. A choice is `inside`
when |mean difference| <= 2 s sqrt(2 / n): s the deviation between the n seeds of the reference, s sqrt(2 / n) the deviation of
the difference of two means of n independent students. The interval beside it is of the paired differences:
mean +- t(0.975, n - 1) times their deviation over sqrt(n).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

REFERENCE, UNTRAINED = "fp16", "untrained"
MEASURES = ("knn", "linear", "objective")
NOISE = 2.0
"""Deviations within which a difference is noise."""

Line = dict[str, Any]
"""One student: choice, seed, measures."""
Row = dict[str, Any]


def table_of(lines: Sequence[Line], choices: Sequence[str], reference: str = REFERENCE) -> dict[str, Row]:
    """A row a choice that has students: what it takes and keeps, its students, and how far from those of `reference`."""
    by_choice = {name: {line["seed"]: line for line in lines if line["choice"] == name} for name in choices}
    theirs = by_choice.get(reference, {})
    return {name: _row(by_seed, {} if name == reference else theirs) for name, by_seed in by_choice.items() if by_seed}


def _row(by_seed: Mapping[int, Line], reference: Mapping[int, Line]) -> Row:
    one = next(iter(by_seed.values()))
    row: Row = {"seeds": len(by_seed)}
    if "bits" in one:
        points = one["points"]
        row |= {"bits": one["bits"], "nmse": points["patch"]["nmse"], "snr_db": points["patch"]["snr_db"]}
        row |= {"cls_nmse": points["cls"]["nmse"]}
    for measure in MEASURES:
        values = {seed: line[measure] for seed, line in by_seed.items() if line.get(measure) is not None}
        if not values:
            continue
        row[measure] = {"mean": statistics.mean(values.values())}
        if len(values) > 1:
            row[measure]["deviation"] = statistics.stdev(values.values())
        theirs = {seed: line[measure] for seed, line in reference.items() if line.get(measure) is not None}
        if theirs:
            row[measure] |= compared(values, theirs)
    return row


def compared(values: Mapping[int, float], reference: Mapping[int, float]) -> Row:
    """The mean difference to the reference over common seeds: paired interval, size in deviations, verdict.

    `in_deviations` is the difference over s sqrt(2 / n), the deviation of a difference of two means of n students, s that
    between the seeds of the reference; `inside` up to 2 of them.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    num = len(differences)
    if num == 0:
        return {}
    mean = statistics.mean(differences)
    if num == 1:
        return {"difference": mean}
    half = float(stats.t.ppf(0.975, num - 1)) * statistics.stdev(differences) / math.sqrt(num)
    found: Row = {"difference": mean, "low": mean - half, "high": mean + half}
    noise = statistics.stdev(reference.values()) * math.sqrt(2 / num)
    if noise > 0:
        size = mean / noise
        verdict = "inside" if abs(size) <= NOISE else "above" if size > 0 else "below"
        found |= {"in_deviations": size, "verdict": verdict}
    return found


def print_table(table: Mapping[str, Row], reference: str = REFERENCE) -> None:
    for name, row in table.items():
        kept = f"{row['bits']:6.3f} bits, {row['snr_db']:6.2f} dB" if "bits" in row else " " * 22
        print(f"{name:12} {kept}, {row['seeds']} seeds")
        for measure in MEASURES:
            if measure in row:
                print(f"  {measure:9} {_told(row[measure], reference)}")


def flat(row: Row, reference: str = REFERENCE) -> dict[str, float | str]:
    """A row for a page: one value a column, intervals as text."""
    found: dict[str, float | str] = {key: row[key] for key in ("bits", "snr_db", "seeds") if key in row}
    for measure in MEASURES:
        if measure not in row:
            continue
        it = row[measure]
        deviation = f" ± {it['deviation']:.3f}" if "deviation" in it else ""
        found[measure] = f"{it['mean']:.3f}{deviation}"
        if "low" in it:
            found[f"{measure} to {reference}"] = (
                f"{it['difference']:+.3f} [{it['low']:+.3f}, {it['high']:+.3f}] {it['verdict']}"
            )
    return found


def _told(found: Row, reference: str) -> str:
    parts = [f"{found['mean']:.4f}" + (f" ± {found['deviation']:.4f}" if "deviation" in found else "")]
    if "difference" in found:
        interval = f" [{found['low']:+.4f}, {found['high']:+.4f}]" if "low" in found else ""
        parts.append(f"to {reference} {found['difference']:+.4f}{interval}")
    if "verdict" in found:
        parts += [f"{found['in_deviations']:+.2f} deviations", found["verdict"]]
    return ", ".join(parts)
