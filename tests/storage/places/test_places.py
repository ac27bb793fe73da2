"""Every kind of place does the same, and one that fails never gives something else for what was asked."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from faults import (
    CutBody,
    DropAnswer,
    Fault,
    FlipBit,
    GzipBody,
    Plan,
    Redirect,
    Refuse,
    Reset,
    StaleETag,
    Stall,
    always,
    method,
    script,
    storm,
)
from seaweedfs import Bucket as SeaweedBucket
from static_server import StaticServer

from stillhouse.core.errors import CorruptError, MissingError, RemoteError, UsageError
from stillhouse.storage.places.arrival import bring, difference, read_whole
from stillhouse.storage.places.base import Access, Place, Told, WritablePlace, open_place, redacted
from stillhouse.storage.places.buckets import Bucket
from stillhouse.storage.places.folder import Folder
from stillhouse.storage.places.http import HttpServer
from stillhouse.storage.places.patience import Passing, Patience
from stillhouse.storage.records import ObjectEntry

DATA = bytes(range(256)) * 300
PATH = "features/tiny/patch/c/0/0"
WAITS_NOT = Patience(tries=6, wait=lambda seconds: None)


def entry_of(data: bytes, path: str = PATH) -> ObjectEntry:
    return ObjectEntry(path, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def keys(bucket: SeaweedBucket, monkeypatch: pytest.MonkeyPatch) -> SeaweedBucket:
    """A bucket whose keys are where the provider's tools look for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    return bucket


@pytest.fixture(params=["folder", "http", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place that holds one file, `DATA` at `PATH`."""
    source = tmp_path / "source"
    Folder(tmp_path / "served").write(PATH, _file(source, DATA), entry_of(DATA).sha256)
    if request.param == "folder":
        yield Folder(tmp_path / "served")
    elif request.param == "http":
        with StaticServer(tmp_path) as server:
            yield HttpServer(f"{server.url}/served")
    else:
        keys: SeaweedBucket = request.getfixturevalue("keys")
        found = Bucket(f"s3://{keys.name}/some/prefix", Access(endpoint=keys.endpoint, region="us-east-1"))
        found.write(PATH, source, entry_of(DATA).sha256)
        yield found


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class TestPlace:
    def test_a_file_comes_whole(self, place: Place) -> None:
        pieces = place.stream(PATH)
        assert pieces is not None and b"".join(pieces) == DATA
        assert read_whole(place, PATH, len(DATA), WAITS_NOT) == DATA

    def test_its_size_is_told(self, place: Place) -> None:
        told = place.told(PATH)
        assert told is not None and told.num_bytes == len(DATA)
        assert told.sha256 in (None, entry_of(DATA).sha256)

    def test_what_is_not_there(self, place: Place, tmp_path: Path) -> None:
        assert place.told("index/nothing") is None and place.stream("index/nothing") is None
        assert read_whole(place, "index/nothing", 10, WAITS_NOT) is None
        with pytest.raises(MissingError, match=r"index/nothing is not there; ask who shared the store"):
            bring(place, "index/nothing", entry_of(DATA), tmp_path / "here", WAITS_NOT)
        assert not (tmp_path / "here").exists()

    def test_one_that_is_too_large_is_refused(self, place: Place) -> None:
        with pytest.raises(CorruptError, match=f"is larger than {len(DATA) - 1} bytes"):
            read_whole(place, PATH, len(DATA) - 1, WAITS_NOT)

    @pytest.mark.parametrize(
        "path", ["../secret", "/etc/passwd", "a//b", "a/./b", "a/../b", "a\\b", "", ".hidden", "a b"]
    )
    def test_a_name_that_no_store_has_is_never_asked_for(self, place: Place, path: str) -> None:
        for ask in (place.told, place.stream):
            with pytest.raises(CorruptError, match="no name in a store"):
                ask(path)

    def test_it_comes_here_or_not_at_all(self, place: Place, tmp_path: Path) -> None:
        bring(place, PATH, entry_of(DATA), tmp_path / "new" / "here", WAITS_NOT)
        assert (tmp_path / "new" / "here").read_bytes() == DATA
        for other in (DATA[:-1] + b"\0", DATA[:-1], b""):
            with pytest.raises(CorruptError, match="is not what its record says"):
                bring(place, PATH, entry_of(other), tmp_path / "new" / "other", WAITS_NOT)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["here"]

    def test_it_is_compared_where_it_is(self, place: Place) -> None:
        assert difference(place, entry_of(DATA), WAITS_NOT) == ""
        assert "expected" in difference(place, entry_of(DATA[:-1] + b"\0"), WAITS_NOT)
        assert difference(place, entry_of(DATA[:-1]), WAITS_NOT) == f"more than {len(DATA) - 1} bytes"
        assert difference(place, entry_of(DATA + b"\0"), WAITS_NOT) == f"{len(DATA)} bytes, expected {len(DATA) + 1}"
        assert difference(place, entry_of(DATA, "index/nothing"), WAITS_NOT) == "is missing"

    def test_what_takes_files(self, place: Place, tmp_path: Path) -> None:
        if not isinstance(place, WritablePlace):
            assert isinstance(place, HttpServer)
            return
        assert place.create("_log/a.json", b"first") and not place.create("_log/a.json", b"second")
        assert read_whole(place, "_log/a.json", 99, WAITS_NOT) == b"first"
        place.write(PATH, _file(tmp_path / "other", b"other"), entry_of(b"other").sha256)
        assert read_whole(place, PATH, 99, WAITS_NOT) == b"other"
        large = bytes(range(256)) * 4096 * 9  # more than one part of a multipart upload
        place.write("images/large.tar", _file(tmp_path / "large", large), entry_of(large).sha256)
        assert difference(place, entry_of(large, "images/large.tar"), WAITS_NOT) == ""
        told = place.told("images/large.tar")
        expected = None if isinstance(place, Folder) else entry_of(large).sha256
        assert told == Told(len(large), expected)


# --- what a name means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("ftp://host/store", "ftp:// is no place for a store"),
        ("file:///etc", "file:// is no place for a store"),
        ("reference://x", "reference:// is no place"),
        ("s3:///x", "s3:// is no place"),
        ("https://me:secret@host/store", "https://host/store holds a name, a password or a query"),
        ("https://host/store?token=secret", "https://host/store holds a name, a password or a query"),
    ],
)
def test_what_is_no_place(where: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as found:
        open_place(where)
    assert "secret" not in str(found.value)


def test_secrets_are_not_repeated() -> None:
    assert redacted("https://me:secret@host:8443/store?token=secret#x") == "https://host:8443/store"


# --- faults ----------------------------------------------------------------------------------------------------------

PASSING: tuple[Fault, ...] = (
    Refuse(503),
    Refuse(500),
    Refuse(429, retry_after=1),
    Reset(),
    DropAnswer(),
    DropAnswer("reset"),
    CutBody(1000),
    CutBody(1000, honest=False),
    CutBody(0),
    FlipBit(777),
)


@pytest.fixture(params=["http", "s3"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Plan], Place]]:
    """Makes the place with `DATA` at `PATH`, seen through a proxy with a plan of faults."""
    if request.param == "http":
        Folder(tmp_path / "served").write(PATH, _file(tmp_path / "source", DATA), "")
        with StaticServer(tmp_path / "served") as server, FaultProxy(server.url) as proxy:

            def over_http(plan: Plan) -> Place:
                proxy.plan = plan
                return HttpServer(proxy.url, timeout_s=0.3)

            yield over_http
        return
    keys: SeaweedBucket = request.getfixturevalue("keys")
    url = f"s3://{keys.name}/store"
    straight = Bucket(url, Access(endpoint=keys.endpoint, region="us-east-1"))
    straight.write(PATH, _file(tmp_path / "source", DATA), entry_of(DATA).sha256)
    with FaultProxy(keys.endpoint) as proxy:

        def over_s3(plan: Plan) -> Place:
            proxy.plan = plan
            return Bucket(url, Access(endpoint=proxy.url, region="us-east-1"), timeout_s=0.3)

        yield over_s3


@pytest.mark.parametrize("fault", [*PASSING, Stall(), Stall(1000)], ids=str)
def test_what_passes_is_waited_for(broken: Callable[[Plan], Place], tmp_path: Path, fault: Fault) -> None:
    place = broken(script(fault, fault))
    bring(place, PATH, entry_of(DATA), tmp_path / "here", WAITS_NOT)
    assert (tmp_path / "here").read_bytes() == DATA


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_what_does_not_pass_is_an_error_in_the_end(
    broken: Callable[[Plan], Place], tmp_path: Path, fault: Fault
) -> None:
    place, asked = broken(always(fault)), list[float]()
    patience = Patience(tries=4, wait=asked.append)
    with pytest.raises((RemoteError, CorruptError)) as found:
        bring(place, PATH, entry_of(DATA), tmp_path / "here", patience)
    assert place.name in str(found.value) and found.value.hint
    assert not list(tmp_path.glob("*here*"))
    if isinstance(found.value, RemoteError):
        assert len(asked) == 3 and "asked 4 times" in found.value.message


def test_a_storm_of_all_of_them(broken: Callable[[Plan], Place], tmp_path: Path) -> None:
    """A third of all requests go wrong in one way or another: every object comes, whole."""
    place = broken(storm(1 / 3, PASSING, seed=0))
    for number in range(60):
        bring(place, PATH, entry_of(DATA), tmp_path / f"{number}", Patience(tries=12, wait=lambda seconds: None))
        assert (tmp_path / f"{number}").read_bytes() == DATA


def test_packed_bytes_are_not_taken_for_the_object(broken: Callable[[Plan], Place], tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="gzip"):
        bring(broken(always(GzipBody())), PATH, entry_of(DATA), tmp_path / "here", WAITS_NOT)
    assert not (tmp_path / "here").exists()


def test_another_etag_is_none_of_our_business(broken: Callable[[Plan], Place], tmp_path: Path) -> None:
    bring(broken(always(StaleETag())), PATH, entry_of(DATA), tmp_path / "here", WAITS_NOT)
    assert (tmp_path / "here").read_bytes() == DATA


def test_http_is_not_sent_on_to_another_host(tmp_path: Path) -> None:
    Folder(tmp_path / "served").write(PATH, _file(tmp_path / "source", DATA), "")
    with StaticServer(tmp_path / "served") as server, FaultProxy(server.url) as proxy:
        proxy.plan = always(Redirect("http://127.0.0.1:9/elsewhere"))
        with pytest.raises(RemoteError, match=r"sends us on to http://127.0.0.1:9/elsewhere") as found:
            bring(HttpServer(proxy.url), PATH, entry_of(DATA), tmp_path / "here", WAITS_NOT)
        assert "one host" in found.value.hint and len(proxy.exchanges) == 1


def test_a_server_that_is_not_up(tmp_path: Path) -> None:
    asked: list[float] = []
    with pytest.raises(RemoteError, match=r"asked 3 times.*refused; is the server up\?"):
        bring(
            HttpServer("http://127.0.0.1:9/store"), PATH, entry_of(DATA), tmp_path / "x", Patience(3, wait=asked.append)
        )
    assert len(asked) == 2


def test_no_right_to_read(keys: SeaweedBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    place = Bucket(f"s3://{keys.name}/x", Access(endpoint=keys.endpoint, region="us-east-1"))
    with pytest.raises(RemoteError, match="you may not") as found:
        place.stream(PATH)
    assert "wrong" not in str(found.value)


def test_no_such_bucket(keys: SeaweedBucket, tmp_path: Path) -> None:
    """To read from it is to find nothing; to write to it is an error."""
    place = Bucket("s3://no-such-bucket/store", Access(endpoint=keys.endpoint, region="us-east-1"))
    assert place.stream(PATH) is None and place.told(PATH) is None
    for write in (lambda: place.write(PATH, _file(tmp_path / "x", DATA), ""), lambda: place.create(PATH, DATA)):
        with pytest.raises(RemoteError, match="cannot be written: there is no such bucket; make the bucket first"):
            write()


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_waits_grow_and_are_drawn() -> None:
    patience = Patience(first_s=1, most_s=8)
    for number, most in enumerate((1, 2, 4, 8, 8, 8)):
        drawn = [patience.pause(number) for _ in range(200)]
        assert 0 <= min(drawn) < most / 4 and most * 3 / 4 < max(drawn) <= most
    assert 5 <= patience.pause(0, after_s=5) <= 6
    assert patience.pause(0, after_s=10**6) <= 9


def test_a_last_try_is_not_waited_for() -> None:
    waits, told = list[float](), list[str]()

    def fail() -> None:
        raise Passing("not now", after_s=2)

    with pytest.raises(RemoteError, match="it: asked 3 times, at last: not now"):
        Patience(3, wait=waits.append, tell=told.append).ask("it", fail)
    assert len(waits) == 2 and min(waits) >= 2
    assert told == ["it: not now; asking again, 3 times in all"]


def test_puts_that_are_answered_late(keys: SeaweedBucket, tmp_path: Path) -> None:
    """A write whose answer is lost has happened, and is done again; a `create` then finds its own file."""
    with FaultProxy(keys.endpoint) as proxy:
        place = Bucket(f"s3://{keys.name}/x", Access(endpoint=proxy.url, region="us-east-1"), timeout_s=0.5)
        proxy.plan = script(DropAnswer(), about=method("PUT"))
        source = _file(tmp_path / "source", DATA)
        WAITS_NOT.ask("write", lambda: place.write(PATH, source, entry_of(DATA).sha256))
        proxy.plan = script(DropAnswer(), about=method("PUT"))
        with pytest.raises(Passing):
            place.create("_log/a.json", b"mine")
        assert not place.create("_log/a.json", b"again")
        assert read_whole(place, "_log/a.json", 99, WAITS_NOT) == b"mine"
