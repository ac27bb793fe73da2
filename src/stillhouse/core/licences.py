"""What the licence of a teacher asks of whoever passes on a student made from it. This file holds the table.

Whether a student is a derivative of its teacher is for lawyers; we take it that it is, which is the careful side.
No legal advice: the table says what the text of each licence asks of copies and derivatives.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Terms:
    """What must go with copies, and what they may not be used for; "" is nothing."""

    notice: str = ""
    limits: str = ""


_COPYRIGHT = "its copyright line and permission text"
_CREDIT = "the credit line of its authors with a link to the licence"
_AGREEMENT = "a copy of the licence agreement"
_NO_SALE = "non-commercial use only"
_NO_CHANGE = "nothing made from it may be passed on"

LICENCES: Final[Mapping[str, Terms]] = {
    "apache-2.0": Terms(),  # a NOTICE file must go along where the teacher came with one (section 4d); few do
    "mit": Terms(_COPYRIGHT),
    "bsd-2-clause": Terms(_COPYRIGHT),
    "bsd-3-clause": Terms(_COPYRIGHT),
    "isc": Terms(_COPYRIGHT),
    "mit-0": Terms(),
    "0bsd": Terms(),
    "cc0-1.0": Terms(),
    "unlicense": Terms(),
    "cc-by-3.0": Terms(_CREDIT),
    "cc-by-4.0": Terms(_CREDIT),
    "cc-by-sa-3.0": Terms(_CREDIT, "shared under the same licence only"),
    "cc-by-sa-4.0": Terms(_CREDIT, "shared under the same licence only"),
    "cc-by-nc-4.0": Terms(_CREDIT, _NO_SALE),
    "cc-by-nc-sa-4.0": Terms(_CREDIT, f"{_NO_SALE}, shared under the same licence only"),
    "cc-by-nd-4.0": Terms(_CREDIT, _NO_CHANGE),
    "cc-by-nc-nd-4.0": Terms(_CREDIT, f"{_NO_SALE}, {_NO_CHANGE}"),
    "dinov3": Terms(_AGREEMENT, "not for military, nuclear, espionage or weapons purposes; publications name DINOv3"),
    "openrail-m": Terms(_AGREEMENT, "the use restrictions of the licence pass on"),
    "creativeml-openrail-m": Terms(_AGREEMENT, "the use restrictions of the licence pass on"),
}
"""By SPDX name in lower case, or the name of a licence of models that has none."""

_SPELLINGS: Final[Mapping[str, str]] = {
    "apache": "apache-2.0",
    "apache2": "apache-2.0",
    "apache-2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "bsd": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "expat": "mit",
    "openrail": "openrail-m",
}


def licence_id(licence: str) -> str | None:
    """The table's name of a licence as people spell it ("Apache License 2.0", "CC BY-NC 4.0"); None if it has none."""
    words = [word for word in re.split(r"[\s_,]+", licence.strip().lower()) if word not in ("the", "version")]
    plain = "-".join(word for word in words if word not in ("license", "licence", "agreement"))
    plain = re.sub(r"-(licen[cs]e)$", "", plain)
    plain = _SPELLINGS.get(plain, plain)
    return plain if plain in LICENCES else None


def missing_notice(teacher: str, licence: str, notice: str) -> str:
    """What a teacher's licence asks for and `notice` does not give, as a sentence; "" when nothing is missing."""
    known = licence_id(licence)
    if known is None or notice.strip() or not LICENCES[known].notice:
        return ""
    return f"teacher {teacher!r} is under {licence}, and what is made from it must carry {LICENCES[known].notice}"


def require_notice(teacher: str, licence: str, notice: str) -> None:
    """UsageError when a student of this teacher may not be passed on without a notice, and there is none."""
    if missing := missing_notice(teacher, licence, notice):
        hint = "give it as --notice FILE; for stores to come, as `notice` of the teacher in the config"
        raise UsageError(f"{missing}; none was given", hint=hint)


def licence_warnings(teacher: str, licence: str) -> list[str]:
    """What whoever gets a student of this teacher has to know."""
    known = licence_id(licence)
    if not licence.strip():
        return [f"teacher {teacher!r} names no licence: find out what its weights allow before you pass this on"]
    if known is None:
        return [f"the licence of teacher {teacher!r}, {licence!r}, is not one that stillhouse knows: read it"]
    return [f"{licence} of teacher {teacher!r}: {LICENCES[known].limits}"] if LICENCES[known].limits else []
