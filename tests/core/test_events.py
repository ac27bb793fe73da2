"""What a person and a log see of a run."""

import errno
import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from stillhouse.core.events import Reporter


def plain(**fields: bool) -> tuple[Reporter, io.StringIO]:
    """A reporter to a file, as in a batch job's log."""
    out = io.StringIO()
    return Reporter(console=Console(file=out, soft_wrap=True), **fields), out


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_progress_is_plain_lines_where_there_is_no_terminal(clock: Clock) -> None:
    reporter, out = plain()
    with reporter.task("ingest", 4000) as task:
        for _ in range(40):
            clock.now += 1
            task.advance(100, "loss 0.5")
    assert out.getvalue().splitlines() == [
        "ingest: 1,500/4,000 img (38 %), 100 img/s, 25 s left loss 0.5",
        "ingest: 3,000/4,000 img (75 %), 100 img/s, 10 s left loss 0.5",
    ]
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_short_steps_say_nothing(clock: Clock) -> None:
    reporter, out = plain()
    with reporter.task("ingest", 10) as task:
        clock.now += 14
        task.advance(10)
    assert out.getvalue() == ""
    assert (task.done, task.seconds) == (10, 14)


def test_what_was_done_before_does_not_count_into_the_rate(clock: Clock) -> None:
    reporter, out = plain()
    with reporter.task("distill", 1000, "step") as task:
        task.resume(500)
        clock.now += 20
        task.advance(100)
        assert task.rate == 5
    assert out.getvalue().strip() == "distill: 600/1,000 step (60 %), 5 step/s, 80 s left"


def test_a_task_of_nothing(clock: Clock) -> None:
    reporter, out = plain()
    with reporter.task("ingest", 0) as task:
        clock.now += 60
        task.advance(0)
    assert out.getvalue().strip() == "ingest: 0/0 img (0 %), 0 img/s, 0 s left"


@pytest.mark.parametrize(
    "text",
    ["[bold]x[/bold]", "[/]", "C:\\path\\[a]", "a :smile: face", "[link=http://x]y", "block 3 of 10, 'key'", "\\"],
)
def test_text_is_shown_as_it_is(text: str) -> None:
    reporter, out = plain()
    reporter.say(text)
    assert out.getvalue() == f"{text}\n"


def test_long_lines_stay_one_line() -> None:
    reporter, out = plain()
    reporter.say("word " * 100)
    assert out.getvalue().count("\n") == 1


def test_names_are_shown_as_they_are_on_a_terminal() -> None:
    out = io.StringIO()
    reporter = Reporter(console=Console(file=out, force_terminal=True, width=120, _environ={"TERM": "xterm"}))
    with reporter.task("extract [red]lite0[/]", 10) as task:
        task.advance(5, "note [/] [bold]")
        task.resume(7)
    assert "extract [red]lite0[/]" in out.getvalue()
    assert "img/s note [/] [bold]" in out.getvalue()


def test_quiet_is_quiet(clock: Clock) -> None:
    reporter, out = plain(quiet=True)
    reporter.say("hello")
    with reporter.task("ingest", 100) as task:
        clock.now += 60
        task.advance(50)
    assert out.getvalue() == ""


def test_a_quiet_reporter_shows_no_bar() -> None:
    out = io.StringIO()
    with Reporter(console=Console(file=out, force_terminal=True), quiet=True).task("ingest", 10) as task:
        task.advance(5)
    assert out.getvalue() == ""


def read(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def test_events_are_json_lines(tmp_path: Path, clock: Clock) -> None:
    reporter, _ = plain()
    reporter.event("lost", note="before there is a log")
    reporter.open_events(tmp_path / "run")
    reporter.event("block", step="ingest", block=3, key='é "quoted"\nline [b]')
    assert len(read(tmp_path / "run")) == 1  # flushed at once
    with reporter.task("extract é", 4, "unit") as task:
        clock.now += 2
        task.advance(4)
    reporter.close()
    reporter.event("lost", note="after it is closed")
    block, done = read(tmp_path / "run")
    assert isinstance(block.pop("time"), float) and isinstance(done.pop("time"), float)
    assert block == {"event": "block", "step": "ingest", "block": 3, "key": 'é "quoted"\nline [b]'}
    assert done == {"event": "task", "name": "extract é", "units": 4, "unit": "unit", "seconds": 2.0}


def test_events_are_appended(tmp_path: Path) -> None:
    for number in range(2):
        reporter, _ = plain()
        reporter.open_events(tmp_path)
        reporter.open_events(tmp_path)  # opening again closes the first
        reporter.event("start", number=number)
        reporter.close()
        reporter.close()
    assert [event["number"] for event in read(tmp_path)] == [0, 1]


def test_a_task_that_fails_is_not_reported_as_done(tmp_path: Path) -> None:
    reporter, _ = plain()
    reporter.open_events(tmp_path)
    with pytest.raises(KeyboardInterrupt), reporter.task("ingest", 10):
        raise KeyboardInterrupt
    reporter.close()
    assert read(tmp_path) == []


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_messages_that_nobody_can_keep_stop_nothing() -> None:
    Reporter(console=Console(file=Full())).say("hello")


def test_an_event_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    reporter, _ = plain()
    reporter.open_events(tmp_path)
    with pytest.raises(OSError, match="No space left") as caught:
        reporter.event("start")
    assert caught.value.filename == str(tmp_path / "events.jsonl")
    reporter.close()


def test_people_read_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().say("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")
