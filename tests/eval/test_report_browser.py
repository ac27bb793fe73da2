"""The report in a real browser: its script sorts, and nothing complains on the console."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stillhouse.eval.report import render_report
from stillhouse.eval.report_data import (
    JudgedData,
    LossCurve,
    PictureRow,
    PictureSheet,
    ProbeResult,
    ReportData,
    Score,
    StageCost,
    Verdict,
)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--dump-dom"),
)
SORTING = """
const table = document.getElementById("retention-table");
const order = (column) => {
  const head = table.tHead.rows[0].cells[column];
  head.querySelector("button").click();
  const names = [...table.tBodies[0].rows].map((row) => row.cells[0].dataset.value);
  return [names.join(" "), head.getAttribute("aria-sort")];
};
const images = [...document.images].map((image) => image.naturalWidth);
document.body.dataset.found = JSON.stringify({ orders: [2, 2, 0, 0, 3].map(order), images }).replaceAll('"', "'");
"""


def report() -> ReportData:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    scores = (("b", 0.5, None), ("a", 0.8, 0.3), ("c10", 0.07, 0.04), ("c9", 0.9, 0.2))
    return ReportData(
        title="a report",
        run_name="run",
        verdict=Verdict(go=False, line="line", rule="rule"),
        judged=JudgedData(name="data", num_train=3, num_test=2, split_rule="by hash"),
        probes=tuple(
            ProbeResult(
                probe=name,
                metric="accuracy",
                teacher=Score(0.9),
                student=Score(student, student / 2),
                untrained=None if untrained is None else Score(untrained),
            )
            for name, student, untrained in scores
        ),
        curves=(LossCurve(name="total", steps=[0, 1], values=[2.0, 1.0]),),
        pictures=PictureSheet(
            encoders=("teacher",), rows=(PictureRow(key="<b>", view=0, pixels=pixels, maps=(pixels,)),)
        ),
        costs=(StageCost(name="ingest", seconds=1.5, num_images=10, once=True),),
        config_text="key: </script><script>throw 1</script>",
    )


def dumped_dom(html: str, folder: Path) -> str:
    """The page's DOM after its scripts have run; fails on any console message."""
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
def test_headers_sort_and_the_console_stays_empty(tmp_path: Path) -> None:
    html = render_report(report()).replace("</body>", f"<script>{SORTING}</script></body>")
    # The page's policy admits its own script only; this copy also admits the test's.
    digest = base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode()
    html = html.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    match = re.search('data-found="([^"]*)"', dumped_dom(html, tmp_path))
    assert match, "the test's script did not run"
    assert json.loads(match[1].replace("'", '"')) == {
        "orders": [
            ["c9 a b c10", "descending"],
            ["c10 b a c9", "ascending"],
            ["a b c9 c10", "ascending"],
            ["c10 c9 b a", "descending"],
            ["a c9 c10 b", "descending"],  # b has no untrained score: last
        ],
        "images": [224, 224],
    }


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
def test_the_console_check_sees_a_script_that_the_policy_stops(tmp_path: Path) -> None:
    html = render_report(report()).replace("</body>", "<script>document.title = 'changed'</script></body>")
    with pytest.raises(AssertionError, match="CONSOLE"):
        dumped_dom(html, tmp_path)
