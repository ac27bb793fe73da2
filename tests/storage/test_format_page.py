"""What docs/format.md says to do without stillhouse gives what stillhouse gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.storage.codecs import CODECS
from stillhouse.storage.testing import StoreShape, make_store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "format.md"


@pytest.mark.parametrize("name", [*CODECS, "ecsq:40", "klt:40", "klt:200"])
def test_the_lines_of_the_page_decode_every_codec(tmp_path: Path, name: str) -> None:
    """With few codes that are not zero, many, and with escapes."""
    store = make_store(tmp_path / "S", StoreShape(teachers={"lite0": name}, bad_rows=frozenset()))
    reading, unpacking, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = (unpacking + reading).replace('"S"', repr(str(store.root))).replace("[0, 5]", "[0, 2]")
    found: dict[str, Any] = {}
    exec(lines, found)  # noqa: S102 - the page is ours
    expected = store.codec("lite0", "patch").decode(store.codes("lite0", "patch", 0, 0, [2]))[0]
    np.testing.assert_array_equal(found["tokens"], expected)


def test_the_page_lists_every_codec() -> None:
    listed = re.findall(r"^\| `([a-z0-9]+)(?::\w+)?` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(CODECS)
