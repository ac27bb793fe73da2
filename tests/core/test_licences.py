"""What licences ask for: the table, and how people spell what is in it."""

import pytest

from stillhouse.core.errors import UsageError
from stillhouse.core.licences import LICENCES, licence_id, licence_warnings, missing_notice, require_notice


@pytest.mark.parametrize(
    ("spelled", "known"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("Apache 2.0", "apache-2.0"),
        ("The MIT License", "mit"),
        ("MIT", "mit"),
        ("BSD 3-Clause License", "bsd-3-clause"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("dinov3-license", "dinov3"),
        ("DINOv3 License", "dinov3"),
        ("openrail", "openrail-m"),
        ("", None),
        ("mine", None),
        ("MIT and others", None),
    ],
)
def test_spellings(spelled: str, known: str | None) -> None:
    assert licence_id(spelled) == known


def test_names_of_the_table_are_their_own_spelling() -> None:
    assert [name for name in LICENCES if licence_id(name) != name] == []


@pytest.mark.parametrize("name", LICENCES)
def test_a_notice_is_asked_for_where_the_table_says_so(name: str) -> None:
    wanted = LICENCES[name].notice
    assert bool(missing_notice("t", name, " \n")) == bool(wanted)
    assert missing_notice("t", name, "given") == ""
    require_notice("t", name, "given")
    if wanted:
        with pytest.raises(UsageError, match=f"'t' is under {name}, and what is made from it must carry {wanted}"):
            require_notice("t", name, "")
    assert bool(licence_warnings("t", name)) == bool(LICENCES[name].limits)


def test_what_is_not_known_is_a_warning_and_no_error() -> None:
    for licence in ("", "Secret 1.0"):
        require_notice("t", licence, "")
    assert licence_warnings("t", "Secret 1.0") == [
        "the licence of teacher 't', 'Secret 1.0', is not one that stillhouse knows: read it"
    ]
