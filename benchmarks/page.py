"""docs/benchmarks.md from the newest full run of each theme: `python benchmarks/page.py`."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Ratios measured in one run on one machine, medians over rounds in which all contestants took turns; the commands are in
[benchmarks/README.md](../benchmarks/README.md). This page is made from `benchmarks/results/` by `benchmarks/page.py`.
"""


def newest() -> dict[str, Path]:
    """The newest result of each theme, by the date in its name `<theme>-<date>.json`."""
    found: dict[str, Path] = {}
    for path in sorted(RESULTS.glob("*-????-??-??.json")):
        found[path.stem[:-11]] = path
    return found


def section(theme: str, result: dict[str, Any]) -> str:
    """One theme: its tables, then its bars."""
    machine = result["machine"]
    lines = [f"## {theme}", "", f"{result['date']}, {machine['cores']} cores, {machine['processor']}."]
    for title, table in result["tables"].items():
        if isinstance(table, list):  # lines over time, kept in the file alone
            continue
        columns = list(dict.fromkeys(column for row in table.values() for column in row))
        lines += ["", f"**{title}**", "", f"| | {' | '.join(column.replace('_', ' ') for column in columns)} |"]
        lines += [f"| --- |{' ---: |' * len(columns)}"]
        lines += [
            f"| {name} | {' | '.join(_number(row.get(column, '')) for column in columns)} |"
            for name, row in table.items()
        ]
    lines += ["", "| bar | measured | limit | |", "| --- | ---: | ---: | --- |"] if result["bars"] else []
    for bar in result["bars"]:
        verdict = "holds" if bar["holds"] else "short"
        lines += [f"| {bar['bar']} | {_number(bar['value'])} | {bar['relation']} {bar['limit']} | {verdict} |"]
    return "\n".join(lines) + "\n"


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    sections = [section(theme, json.loads(path.read_text(encoding="utf-8"))) for theme, path in newest().items()]
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
