"""Each fault once, seen by a client that does nothing by itself, and by a second proxy that sees what gets through."""

import gzip
import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
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
    Request,
    Reset,
    SlowBody,
    StaleETag,
    Stall,
    WrongRange,
    always,
    method,
    script,
    storm,
)
from loopback import LoopbackServer, free_ports
from static_server import StaticServer

DATA = bytes(range(256)) * 40
PATIENCE = 0.3  # s, of a client that waits in vain


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[FaultProxy]:
    """A static server behind a proxy that only takes down what reaches it."""
    (tmp_path / "object").write_bytes(DATA)
    with StaticServer(tmp_path) as server, FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(inner: FaultProxy) -> Iterator[FaultProxy]:
    with FaultProxy(inner.url) as proxy:
        yield proxy


@contextmanager
def ask(
    server: LoopbackServer, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = 30
) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)) as connection:
        connection.request(method, "/object", headers=headers or {})
        yield connection.getresponse()


def meet(proxy: FaultProxy, fault: Fault, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer to a GET that meets the fault."""
    proxy.plan = script(fault)
    with ask(proxy, headers=headers) as answer:
        return answer, answer.read()


def test_without_a_fault_nothing_is_changed(proxy: FaultProxy, inner: FaultProxy) -> None:
    asks: tuple[dict[str, str], ...] = ({}, {"Range": "bytes=5-9"}, {"Range": "bytes=99999-"}, {"If-None-Match": "*"})
    for asked in asks:
        for name in ("GET", "HEAD"):
            with ask(proxy, name, asked) as through, ask(inner, name, asked) as direct:
                told = [(key, value) for key, value in through.getheaders() if key != "Date"]
                assert told == [(key, value) for key, value in direct.getheaders() if key != "Date"]
                assert (through.status, through.read()) == (direct.status, direct.read())
    assert {exchange.fault for exchange in proxy.exchanges} == {None}


def test_the_host_and_the_path_go_on_as_they_came(proxy: FaultProxy, inner: FaultProxy) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
        connection.request("PUT", "/a%20b%2Fc?x=%C3%BC", b"body", {"Host": "bucket.example", "X-Odd-CASE": "1"})
        connection.getresponse().read()
    (seen,) = inner.exchanges
    assert (seen.request.path, seen.request.headers["host"]) == ("/a%20b%2Fc?x=%C3%BC", "bucket.example")
    assert seen.request.headers == proxy.exchanges[0].request.headers


@pytest.mark.parametrize("retry_after", [None, 7])
def test_refuse(proxy: FaultProxy, inner: FaultProxy, retry_after: int | None) -> None:
    answer, _ = meet(proxy, Refuse(429, retry_after))
    assert (answer.status, answer.getheader("Retry-After")) == (429, retry_after and str(retry_after))
    assert meet(proxy, Refuse())[0].status == 503
    assert inner.exchanges == []
    assert [exchange.status for exchange in proxy.exchanges] == [None, None]


def test_refuse_what_was_done(proxy: FaultProxy, inner: FaultProxy) -> None:
    assert meet(proxy, Refuse(504, done=True))[0].status == 504
    assert [exchange.status for exchange in proxy.exchanges + inner.exchanges] == [200, 200]


def test_reset(proxy: FaultProxy, inner: FaultProxy) -> None:
    with pytest.raises(ConnectionResetError):
        meet(proxy, Reset())
    assert inner.exchanges == []


@pytest.mark.parametrize(
    "fault, seen",
    [
        (DropAnswer(), http.client.RemoteDisconnected),
        (DropAnswer("reset"), ConnectionResetError),
        (DropAnswer("silence"), TimeoutError),
    ],
)
def test_drop_answer(proxy: FaultProxy, inner: FaultProxy, fault: Fault, seen: type[OSError]) -> None:
    proxy.plan = script(fault)
    with pytest.raises(seen) as caught, ask(proxy, timeout=PATIENCE):
        pass
    assert caught.type is seen
    assert [(exchange.fault, exchange.status) for exchange in proxy.exchanges] == [(fault, 200)]
    assert len(inner.exchanges) == 1


def test_stall(proxy: FaultProxy, inner: FaultProxy) -> None:
    proxy.plan = script(Stall(), Stall(after=100))
    with pytest.raises(TimeoutError), ask(proxy, timeout=PATIENCE):
        pass
    assert inner.exchanges == []
    with ask(proxy, timeout=PATIENCE) as answer:
        assert (answer.length, answer.read(100)) == (len(DATA), DATA[:100])
        with pytest.raises(TimeoutError):
            answer.read(1)


def test_cut_body(proxy: FaultProxy) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        meet(proxy, CutBody(100))
    assert (caught.value.partial, caught.value.expected) == (DATA[:100], len(DATA) - 100)
    answer, body = meet(proxy, CutBody(100, honest=False))
    assert (answer.status, answer.getheader("Content-Length"), body) == (200, "100", DATA[:100])


def test_slow_body(proxy: FaultProxy) -> None:
    proxy.plan = script(SlowBody(40_000))
    with ask(proxy) as answer:
        first = answer.read1(len(DATA))
        assert 0 < len(first) < len(DATA)
        assert first + answer.read() == DATA


def test_wrong_range(proxy: FaultProxy) -> None:
    asked = {"Range": "bytes=10-19"}
    answer, body = meet(proxy, WrongRange("bytes"), **asked)
    assert (answer.status, answer.getheader("Content-Range")) == (206, f"bytes 10-19/{len(DATA)}")
    assert len(body) == 10 and body != DATA[10:20]
    answer, body = meet(proxy, WrongRange("header"), **asked)
    assert (answer.status, answer.getheader("Content-Range")) == (206, f"bytes 11-20/{len(DATA)}")
    assert body == DATA[10:20]
    answer, body = meet(proxy, WrongRange("whole"), **asked)
    assert (answer.status, answer.getheader("Content-Range"), body) == (200, None, DATA)
    answer, body = meet(proxy, WrongRange("whole"), **asked, Authorization="signed")
    assert (answer.status, answer.getheader("Content-Range"), body) == (200, None, DATA[10:20])
    answer, body = meet(proxy, WrongRange("bytes"))
    assert (answer.status, body) == (200, DATA)


def test_flip_bit(proxy: FaultProxy) -> None:
    answer, body = meet(proxy, FlipBit(at=len(DATA) + 7))
    assert answer.getheader("Content-Length") == str(len(DATA))
    assert [(at, held ^ body[at]) for at, held in enumerate(DATA) if held != body[at]] == [(7, 1)]


def test_stale_e_tag(proxy: FaultProxy) -> None:
    answer, body = meet(proxy, StaleETag('"old"'))
    assert (answer.msg.get_all("ETag"), body) == (['"old"'], DATA)


def test_redirect(proxy: FaultProxy, inner: FaultProxy) -> None:
    answer, _ = meet(proxy, Redirect("http://127.0.0.2:9"))
    assert (answer.status, answer.getheader("Location")) == (307, "http://127.0.0.2:9/object")
    assert inner.exchanges == []


def test_gzip_body(proxy: FaultProxy) -> None:
    answer, body = meet(proxy, GzipBody())
    assert (answer.getheader("Content-Encoding"), answer.getheader("Content-Length")) == ("gzip", str(len(body)))
    assert gzip.decompress(body) == DATA


def test_heads_have_no_body(proxy: FaultProxy) -> None:
    """Whatever the fault, the connection serves the next request, too."""
    proxy.plan = script(
        Refuse(), FlipBit(), GzipBody(), StaleETag(), Redirect("http://127.0.0.2:9"), WrongRange("bytes")
    )
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
        for _ in range(7):
            connection.request("HEAD", "/object")
            assert connection.getresponse().read() == b""


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with FaultProxy(f"http://127.0.0.1:{port}") as proxy, ask(proxy) as answer:
        assert (answer.status, b"Connection refused" in answer.read()) == (502, True)


def test_it_stops_while_clients_wait(inner: FaultProxy) -> None:
    """A stalled one, one that gets a byte an hour, and one that says nothing."""
    with FaultProxy(inner.url, script(Stall(), SlowBody(1))) as proxy:
        clients = [socket.create_connection(("127.0.0.1", proxy.port), timeout=30) for _ in range(3)]
        clients[0].sendall(b"GET /object HTTP/1.1\r\nHost: a\r\n\r\n")
        while len(proxy.exchanges) < 1:
            pass
        clients[1].sendall(b"GET /object HTTP/1.1\r\nHost: a\r\n\r\n")
        assert clients[1].recv(9) == b"HTTP/1.1 "
    assert clients[0].recv(1) == b""
    for client in clients:
        client.close()


def drawn(plan: Plan, requests: int = 400) -> list[Fault | None]:
    return [plan.fault(Request("GET", "/", {})) for _ in range(requests)]


def test_a_storm_is_the_same_for_the_same_seed() -> None:
    kinds = (Refuse(), Reset(), DropAnswer())
    first = drawn(storm(0.3, kinds, seed=1))
    assert first == drawn(storm(0.3, kinds, seed=1))
    assert first != drawn(storm(0.3, kinds, seed=2))
    assert set(first) == {None, *kinds}
    assert 80 < sum(fault is not None for fault in first) < 160
    assert drawn(storm(0.0, kinds, seed=1), 50) == [None] * 50
    assert None not in drawn(storm(1.0, kinds, seed=1), 50)


def test_a_plan_counts_what_it_is_about() -> None:
    plan = script(None, Reset(), about=method("PUT", "DELETE"))
    asked = ("GET", "PUT", "GET", "DELETE", "PUT")
    assert [plan.fault(Request(name, "/", {})) for name in asked] == [None, None, None, Reset(), None]
    assert drawn(always(Reset()), 3) == [Reset()] * 3
