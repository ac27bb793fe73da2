"""docs/teachers.md: its examples are configs, its table is that of the families."""

from pathlib import Path

import yaml

from stillhouse.core.encoders import require_model
from stillhouse.core.factories import is_factory
from stillhouse.core.families import FAMILIES
from stillhouse.stage1_extract.config import TeacherConfig

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_every_example_is_a_teacher() -> None:
    found = [TeacherConfig.model_validate(yaml.safe_load(line)) for line in PAGE.splitlines() if line.startswith("{")]
    assert {teacher.keys for teacher in found} == {*FAMILIES, "exact"}
    for teacher in found:
        if not is_factory(teacher.model):
            require_model(teacher.model)


def test_the_table_says_what_the_families_do() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    told = {row[1].strip("`"): row for row in rows[1:] if row[1].startswith("`") and row[1] != "`keys`"}
    assert set(told) == set(FAMILIES)
    for key, family in FAMILIES.items():
        rule, licence = told[key][3], told[key][5]
        assert family.licence in licence
        assert rule in ("rotary", "none") or f"`{family.positions({})}`" in rule
