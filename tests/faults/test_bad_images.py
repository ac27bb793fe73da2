"""Bad and odd images, a draw of the campaign; and that the campaign sees a decoder that breaks its promise."""

import os
import signal
import time
from pathlib import Path

import pytest
from bad_images import Told, examined, fuzzed, ingested, tell, violation
from image_files import Kind
from image_kinds import kinds
from large_images import large_kinds

from stillhouse.storage.decode import MAX_DECODE_BYTES, REASONS


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign holds decoders to 5 seconds; a test must not fail because the machine is busy."""
    monkeypatch.setattr("bad_images.SECONDS", 60)


def test_every_kind_gives_the_pixels_or_the_reason_that_the_rule_says(tmp_path: Path) -> None:
    chosen = list(kinds(0))
    told = list(examined(chosen, tmp_path / "images"))
    assert [violation(kind, one) for kind, one in told if violation(kind, one)] == []
    assert len(told) == len(chosen) >= 300
    assert {one.said for _, one in told if one.said in REASONS} == set(REASONS) - {"too-many-bytes"}
    assert len({kind.name for kind in chosen}) == len(chosen)


def test_fuzzed_files_give_pixels_or_a_reason(tmp_path: Path) -> None:
    told = list(examined(list(fuzzed(300, 1)), tmp_path / "images"))
    assert [violation(kind, one) for kind, one in told if violation(kind, one)] == []
    assert sum(one.said.startswith("pixels ") for _, one in told) > 50
    assert sum(one.said in REASONS for _, one in told) > 50


LARGE = ("png of 64 megapixels, alpha", "jpeg of 48 megapixels, progressive 4:4:4", "jpeg with 100 MB of fill bytes")


@pytest.mark.parametrize("name", LARGE)
def test_large_images_keep_to_the_memory(tmp_path: Path, name: str) -> None:
    chosen = [kind for kind in large_kinds() if kind.name == name]
    [(kind, told)] = examined(chosen, tmp_path / "images", chunk=1)
    assert violation(kind, told) == ""


def test_what_a_broken_decoder_does_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bad_images.SECONDS", 3)

    def broken(data: bytes) -> str:
        match data:
            case b"hang":
                time.sleep(60)
            case b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"leave":
                raise SystemExit(3)
            case b"eat":
                return f"pixels of {len(bytearray(MAX_DECODE_BYTES + (64 << 20)))} bytes"
            case b"eat nearly":
                return f"pixels of {len(b'x' * (MAX_DECODE_BYTES - (16 << 20)))} bytes"
        return "pixels 1234"

    def kind(data: bytes, expected: str = "any") -> Kind:
        return Kind(data.decode(), data.__bytes__, expected)

    words = (b"fine", b"hang", b"die", b"leave", b"eat", b"eat nearly", b"fine again")
    told = list(examined([kind(word) for word in words], tmp_path / "images", teller=broken))
    assert [one.name for one, _ in told] == [word.decode() for word in words]
    said = dict(zip(words, (violation(*one) for one in told), strict=True))
    assert said[b"fine"] == said[b"fine again"] == said[b"eat nearly"] == ""
    assert said[b"hang"].startswith("hang: more than the time allowed")
    assert said[b"die"].startswith("die: the decoder died: -9")
    assert said[b"leave"].startswith("leave: the decoder died: 1")
    assert said[b"eat"].startswith("eat: the decoder died: 1")  # MemoryError
    assert violation(kind(b"x", "corrupt"), Told("truncated", 0, 0)) == "x: truncated, expected corrupt"
    assert violation(kind(b"x", "pixels 1234"), Told("pixels 4321", 0, 0)) != ""
    assert violation(kind(b"x"), Told("ValueError: no", 0, 0)) != ""
    assert violation(kind(b"x"), Told("pixels 1", 4.0, 0)) == "x: 4.0 s"
    assert violation(kind(b"x"), Told("pixels 1", 0, 513)) == "x: took 513 MiB"


def test_errors_that_are_no_bad_image_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: bytes) -> None:
        raise KeyError("offset")

    monkeypatch.setattr("bad_images.decode", fails)
    assert tell(b"x") == "KeyError: 'offset'"


def test_bad_images_stop_no_block_of_ingest(tmp_path: Path) -> None:
    chosen = list(kinds(0))[::4]
    outcome = ingested(tmp_path, chosen)
    assert outcome.violations == ()
    assert outcome.cases == len(chosen) and outcome.facts["exit code"] == 7
    wrong = [Kind(kind.name, kind.make, "empty" if kind.expected == "truncated" else kind.expected) for kind in chosen]
    (tmp_path / "again").mkdir()
    assert ingested(tmp_path / "again", [*wrong, Kind("text", b"text".__bytes__, "pixels")]).violations
