"""`stillhouse models`: what teachers and students can be, and what a view of each takes in a store.

Models are built without memory for their weights (torch's meta device), and nothing is downloaded or kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError
from stillhouse.core.families import FAMILIES
from stillhouse.core.families.base import Family

MEASURED = 20
"""Models of a listing that are built, about a fifth of a second each; of the others there is the name alone."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model at the size it was released for.

    Args:
        keys: the family whose official files it reads, by the word for `keys`; empty if there is none.
        size: pixels a side.
        width: of cls, and of patch tokens.
        grid: rows and columns of patch tokens.
        num_parameters: without the classifier.
        licence: of its released weights, as far as timm or the family says.
        bytes_per_view: of cls and patch in fp16.
    """

    name: str
    keys: str
    size: int
    width: tuple[int, int]
    grid: tuple[int, int]
    num_parameters: int
    licence: str
    bytes_per_view: int


def list_models(pattern: str, pretrained: bool) -> tuple[list[str], list[ModelRow]]:
    """(all names that match, families first; the first `MEASURED` of them in numbers).

    Raises:
        UsageError: none matches.
    """
    wanted = pattern if "*" in pattern else f"*{pattern}*"
    names = timm.list_models(wanted, pretrained=pretrained)
    if not names:
        raise UsageError(f"no model matches {pattern!r}", hint="try a shorter part of the name")
    if pattern:
        names = sorted(names, key=lambda name: family_of(name) is None)
    rows = [row for name in names[:MEASURED] if (row := measure(name)) is not None] if pattern else []
    return names, rows


def family_of(name: str) -> Family | None:
    """The family whose official files a timm model reads, by its name with or without its tag."""
    for family in FAMILIES.values():
        if name in family.examples or name in {example.partition(".")[0] for example in family.examples}:
            return family
    return None


def measure(name: str) -> ModelRow | None:
    """A model in numbers; None for one that cannot be built without memory."""
    try:
        with torch.device("meta"), torch.inference_mode():
            model: Any = timm.create_model(name, num_classes=0).eval()
            size = int(model.pretrained_cfg["input_size"][1])
            tokens = Encoder(model, name)(torch.empty(1, 3, size, size))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, KeyError, AssertionError):
        return None  # timm has a thousand models, some of which compute with their weights as they are built
    cls, patch, family = tokens.cls_BD.shape[1], tokens.patch_BTD.shape[2], family_of(name)
    licence = (family.licence if family else "") or str(model.pretrained_cfg.get("license") or "")
    return ModelRow(
        name=name,
        keys=family.key if family else "",
        size=size,
        width=(cls, patch),
        grid=tokens.grid,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        licence=licence,
        bytes_per_view=2 * (cls + patch * tokens.patch_BTD.shape[1]),
    )


def as_json(names: Sequence[str], rows: Sequence[ModelRow]) -> dict[str, Any]:
    """All names, the numbers of the first ones, and the families of official files."""
    return {"models": list(names), "rows": [asdict(row) for row in rows], "families": _families()}


def _families() -> list[Mapping[str, Any]]:
    return [
        {"title": family.title, "keys": key, "licence": family.licence, "models": list(family.examples)}
        for key, family in FAMILIES.items()
    ]


def print_models(names: Sequence[str], rows: Sequence[ModelRow]) -> None:
    """The families when everything is listed, else the numbers of the first models; then the other names."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    if rows:
        console.print(_table_of(rows))
    elif len(names) > MEASURED:
        console.print(_families_table())
    measured = {row.name for row in rows}
    for name in names:
        if name not in measured:
            print(name)
    if rows and len(names) > MEASURED:
        print(f"{len(names):,} models match; the first {MEASURED} are in numbers, a narrower pattern gives the others")


def _table_of(rows: Sequence[ModelRow]) -> Table:
    table = Table("model", "keys", "size", "width", "tokens", "parameters", "bytes a view", "licence")
    for column in table.columns[2:7]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    for row in rows:
        cls, patch = row.width
        table.add_row(
            row.name,
            row.keys,
            f"{row.size}",
            f"{cls}" if cls == patch else f"{cls}, {patch}",
            f"1 + {row.grid[0]}x{row.grid[1]}",
            f"{row.num_parameters / 1e6:,.1f} M",
            f"{row.bytes_per_view:,}",
            row.licence,
        )
    return table


def _families_table() -> Table:
    table = Table("official files of", "keys", "licence", "models, for example", title="families")
    for family in FAMILIES.values():
        table.add_row(family.title, family.key, family.licence or "by release", ", ".join(family.examples[:2]))
    return table
