"""The report in a real browser: its script sorts every table, its pictures are there, nothing complains or loads.

Skipped, and said so, where there is no /usr/bin/chromium.
"""

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sample_report import full, minimal, probe

from stillhouse.eval.report import render_report

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--dump-dom"),
)
LOOKING = """
addEventListener("load", () => {
  const keys = (table, column) => [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  });
  const clicked = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    head.querySelector("button").click();
    return [head.getAttribute("aria-sort"), head.classList.contains("num"), keys(table, column)];
  };
  const tables = [...document.querySelectorAll("table")].map((table) =>
    [...table.tHead.rows[0].cells].flatMap((head, column) =>
      head.querySelector("button") ? [[clicked(table, column), clicked(table, column)]] : []));
  const found = {
    tables,
    names: keys(document.getElementById("retention-table"), 0),
    images: [...document.images].map((image) => image.naturalWidth * image.naturalHeight),
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 5)),
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    narrow: getComputedStyle(document.querySelector(".chart.narrow")).display,
  };
  document.body.dataset.found = JSON.stringify(found).replaceAll('"', "\\u0001");
});
"""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"NO BROWSER TEST OF THE REPORT: {CHROMIUM} is not there")


def dumped_dom(html: str, folder: Path, *flags: str) -> str:
    """The page's DOM after its scripts have run; fails on any console message."""
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def look(html: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What LOOKING finds on a page. The page's policy admits its own script only; this copy also admits the test's."""
    digest = base64.b64encode(hashlib.sha256(LOOKING.encode()).digest()).decode()
    html = html.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    html = html.replace("</body>", f"<script>{LOOKING}</script></body>")
    match = re.search('data-found="([^"]*)"', dumped_dom(html, folder, *flags))
    assert match, "the test's script did not run"
    found: dict[str, Any] = json.loads(match[1].replace("\x01", '"'))
    return found


@pytest.mark.parametrize("width", [1200, 500])
def test_every_table_sorts_and_every_picture_is_there(tmp_path: Path, width: int) -> None:
    html = render_report(full("a-long-name/of.something_that_has_no-space.in_it"))
    found = look(html, tmp_path, f"--window-size={width},900")
    assert len(found["tables"]) == html.count("<table") > 8
    for columns in found["tables"]:
        assert columns
        for (first, is_number, keys), (second, _, reversed_keys) in columns:
            assert {first, second} == {"ascending", "descending"}
            assert first == ("descending" if is_number else "ascending")
            assert sorted(keys) == sorted(reversed_keys)
            if is_number:
                filled = [float(key) for key in keys if key]
                assert filled == sorted(filled, reverse=True) and keys[len(filled) :] == [""] * (
                    len(keys) - len(filled)
                )
                assert [float(key) for key in reversed_keys if key] == filled[::-1]
            else:
                named = [key for key in keys if key]
                assert [key for key in reversed_keys if key] == named[::-1] or len(set(named)) < len(named)
    assert len(found["images"]) == html.count("<img") > 8 and min(found["images"]) > 0
    assert set(found["loaded"]) <= {"data:"}
    assert found["needed"] <= found["width"] == width  # the page itself is never scrolled sideways
    assert (found["narrow"] == "none") == (width > 640)


def test_text_sorts_as_people_count_and_what_is_missing_is_last(tmp_path: Path) -> None:
    scores = {"b": 0.5, "a": 0.8, "c10": 0.07, "c9": 0.9}
    lost = minimal().probes  # its student has no score
    probes = (*lost, *(probe(name, 0.9, student, 0.04) for name, student in scores.items()))
    found = look(render_report(dataclasses.replace(minimal(), probes=probes)), tmp_path)
    (columns,) = found["tables"]
    assert columns[0][0][2] == ["a", "b", "c9", "c10", "word"]
    assert columns[2][0][2] == ["0.9", "0.8", "0.5", "0.07", ""]
    assert columns[2][1][2] == ["0.07", "0.5", "0.8", "0.9", ""]


def test_the_console_check_sees_a_script_that_the_policy_stops(tmp_path: Path) -> None:
    html = render_report(minimal()).replace("</body>", "<script>document.title = 'changed'</script></body>")
    with pytest.raises(AssertionError, match="CONSOLE"):
        dumped_dom(html, tmp_path)
