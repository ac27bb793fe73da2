"""How bare obstore takes each fault: the table in docs/reliability.md, line by line.

The product does not build on what stands here as wrong or silent; it checks by itself. A line that fails after an
update of obstore is news, and the table is to be changed with it.
"""

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_proxy import FaultProxy
from faults import (
    CutBody,
    DropAnswer,
    Fault,
    FlipBit,
    GzipBody,
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
)
from loopback import free_ports
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import HTTPStore, S3Store
from seaweedfs import Bucket, SeaweedFS
from static_server import StaticServer

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ClientConfig, RetryConfig

DATA = bytes(range(256)) * 40
OTHER = bytes(reversed(DATA))
RETRIES: "RetryConfig" = {
    "max_retries": 2,
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5), "base": 2},
}
CLIENT: "ClientConfig" = {"allow_http": True, "timeout": timedelta(seconds=30)}
HASTY: "ClientConfig" = {"allow_http": True, "timeout": timedelta(milliseconds=600)}


class Client:
    """`object` behind a proxy: `store` asks it, `put` changes it without the proxy."""

    def __init__(
        self, proxy: FaultProxy, put: Callable[[bytes], object], open: Callable[["ClientConfig"], S3Store | HTTPStore]
    ):
        self.proxy = proxy
        self.put = put
        self.open = open
        self.store = open(CLIENT)

    def meet(self, *faults: Fault | None) -> None:
        self.proxy.forget()
        self.proxy.plan = script(*faults)

    def always(self, fault: Fault) -> None:
        self.proxy.forget()
        self.proxy.plan = always(fault)

    @property
    def num_requests(self) -> int:
        return len(self.proxy.exchanges)

    def get(self) -> bytes:
        return bytes(self.store.get("object").bytes())

    def range(self) -> bytes:
        return bytes(self.store.get_range("object", start=10, end=20))


@pytest.fixture(scope="module")
def shared(seaweedfs: SeaweedFS) -> Iterator[Bucket]:
    """One for all tests here: the first PUT into a bucket takes 0.2 s."""
    with seaweedfs.bucket() as bucket:
        yield bucket


@pytest.fixture
def s3(shared: Bucket) -> Iterator[Client]:
    prefix = secrets.token_hex(4)
    with FaultProxy(shared.endpoint) as proxy:
        client = Client(
            proxy,
            lambda data: shared.store(prefix=prefix).put("object", data),
            lambda options: shared.store(proxy.url, prefix=prefix, client_options=options, retry_config=RETRIES),
        )
        client.put(DATA)
        yield client


@pytest.fixture(params=["s3", "http"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    if request.param == "s3":
        yield request.getfixturevalue("s3")
        return
    with StaticServer(tmp_path) as server, FaultProxy(server.url) as proxy:
        client = Client(
            proxy,
            (tmp_path / "object").write_bytes,
            lambda options: HTTPStore(proxy.url, client_options=options, retry_config=RETRIES),
        )
        client.put(DATA)
        yield client


BROKEN: list[Fault] = [DropAnswer(), DropAnswer("reset"), Refuse()]
STATUSES = (408, 429, 500, 501, 502, 503, 504)
AGAIN: list[Fault] = [*(Refuse(status) for status in STATUSES), Reset(), DropAnswer(), DropAnswer("reset")]


@pytest.mark.parametrize("fault", AGAIN, ids=str)
def test_reads_are_tried_again(client: Client, fault: Fault) -> None:
    for read in (client.get, client.range, lambda: client.store.head("object")):
        client.meet(fault)
        read()
        assert client.num_requests == 2
        client.always(fault)
        with pytest.raises(GenericError):
            read()
        assert client.num_requests == 3
    client.meet(fault)
    assert client.get() == DATA


@pytest.mark.parametrize("status, error", [(403, PermissionDeniedError), (404, FileNotFoundError), (400, GenericError)])
def test_what_is_not_tried_again(client: Client, status: int, error: type[Exception]) -> None:
    client.meet(Refuse(status))
    with pytest.raises(error):
        client.get()
    assert client.num_requests == 1


def test_409_is_called_already_exists(s3: Client) -> None:
    """AWS answers it when two conditional writes overlap: nothing need be there."""
    asks: tuple[Callable[[], object], ...] = (s3.get, lambda: s3.store.put("fresh", b"bytes", mode="create"))
    for ask in asks:
        s3.meet(Refuse(409))
        with pytest.raises(AlreadyExistsError):
            ask()
        assert s3.num_requests == 1


def test_retry_after_is_ignored(client: Client) -> None:
    client.meet(Refuse(429, retry_after=3600))
    assert client.get() == DATA


def test_nobody_listens(shared: Bucket) -> None:
    store = shared.store(f"http://127.0.0.1:{free_ports(1)[0]}", retry_config=RETRIES)
    for ask in (lambda: store.get("object"), lambda: store.put("object", b"", mode="create")):
        with pytest.raises(GenericError, match="after 2 retries"):
            ask()


def test_a_timeout_is_one_of_each_try(client: Client) -> None:
    client.store = client.open(HASTY)
    client.meet(Stall())
    assert client.get() == DATA
    client.always(Stall())
    with pytest.raises(GenericError, match="error sending request"):
        client.get()
    assert client.num_requests == 3


@pytest.mark.parametrize("fault", [CutBody(5000), Stall(after=5000), SlowBody(10_000)], ids=str)
def test_a_body_that_ends_early_is_resumed(client: Client, fault: Fault) -> None:
    """From the byte where it ended. The timeout is one of the whole body, so a slow one ends early, too."""
    client.store = client.open(HASTY)
    client.meet(fault)
    assert client.get() == DATA
    first, second = client.proxy.exchanges
    assert "range" not in first.request.headers
    assert second.request.headers["range"].endswith(f"-{len(DATA) - 1}")
    assert "if-match" not in second.request.headers
    client.always(CutBody(100))
    with pytest.raises(GenericError, match="response body error"):
        client.get()


def put_before_second(client: Client, data: bytes) -> Callable[[Request], bool]:
    seen = []

    def about(request: Request) -> bool:
        seen.append(request)
        if len(seen) == 2:
            client.put(data)
        return True

    return about


def test_a_resumed_body_is_spliced_when_the_etag_says_nothing(tmp_path: Path) -> None:
    """nginx, and our server, make the ETag of seconds and bytes: two versions of one length in a second share it."""
    with StaticServer(tmp_path) as server, FaultProxy(server.url) as proxy:
        client = Client(
            proxy,
            (tmp_path / "object").write_bytes,
            lambda options: HTTPStore(proxy.url, client_options=options, retry_config=RETRIES),
        )
        client.put(DATA)
        e_tag = client.store.head("object")["e_tag"]
        about = put_before_second(client, OTHER)
        proxy.plan = script(CutBody(5000), StaleETag(e_tag or ""), about=about)
        assert client.get() == DATA[:5000] + OTHER[5000:]


def test_a_resumed_body_of_another_version_is_refused(s3: Client) -> None:
    s3.proxy.plan = script(CutBody(5000), about=put_before_second(s3, OTHER))
    with pytest.raises(GenericError):
        s3.get()
    assert s3.get() == OTHER


def test_what_is_wrong_without_a_word(client: Client) -> None:
    client.meet(CutBody(100, honest=False))
    assert client.get() == DATA[:100]
    client.meet(CutBody(5, honest=False))
    assert client.range() == DATA[10:15]
    client.meet(WrongRange("bytes"))
    assert client.range() == DATA[11:20] + DATA[10:11]
    client.meet(FlipBit(3))
    assert client.get() != DATA
    client.meet(GzipBody(), GzipBody())
    zipped = client.store.get("object")
    assert zipped.attributes["Content-Encoding"] == "gzip"
    assert bytes(zipped.bytes())[:2] == b"\x1f\x8b"
    e_tag = client.store.head("object")["e_tag"]
    client.meet(StaleETag('"old"'))
    assert client.store.get("object", options={"if_match": e_tag}).meta["e_tag"] == '"old"'


def test_what_is_wrong_and_told(client: Client) -> None:
    client.meet(WrongRange("header"))
    with pytest.raises(GenericError, match=r"Requested 10\.\.20, got 11\.\.21"):
        client.range()
    client.meet(WrongRange("whole"))
    told = r"Received non-partial response|Range request not supported"
    with pytest.raises((GenericError, NotSupportedError), match=told):  # S3Store's, HTTPStore's
        client.range()


def test_reads_follow_redirects_anywhere_writes_do_not(client: Client, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with StaticServer(elsewhere) as other, FaultProxy(other.url) as target:
        client.always(Redirect(target.url))
        with pytest.raises(FileNotFoundError):  # the target's answer
            client.get()
        assert client.num_requests == len(target.exchanges) == 1
        assert "authorization" not in target.exchanges[0].request.headers
        with pytest.raises(GenericError, match="307"):
            client.store.put("other", b"bytes")
        assert len(target.exchanges) == 1


def test_puts_are_tried_again(s3: Client) -> None:
    for fault in AGAIN:
        s3.meet(fault)
        s3.store.put("other", DATA)
        assert s3.num_requests == 2
    assert bytes(s3.store.get("other").bytes()) == DATA


@pytest.mark.parametrize("status", STATUSES)
def test_conditional_puts_are_tried_again_after_a_status(s3: Client, status: int) -> None:
    s3.meet(Refuse(status))
    s3.store.put("fresh", OTHER, mode="create")
    assert s3.num_requests == 2


UPDATE = pytest.mark.parametrize("update", [False, True], ids=["create", "update"])


@UPDATE
@pytest.mark.parametrize("fault", [Reset(), DropAnswer("reset"), DropAnswer("silence")], ids=str)
def test_after_an_error_a_conditional_put_may_have_landed(s3: Client, fault: Fault, update: bool) -> None:
    s3.store = s3.open(HASTY)
    name, mode = conditional(s3, update)
    s3.meet(fault)
    with pytest.raises(GenericError, match="error sending request"):
        s3.store.put(name, OTHER, mode=mode)
    assert s3.num_requests == 1
    assert is_there(s3, name) == (fault != Reset())


@UPDATE
@pytest.mark.parametrize("fault", [DropAnswer(), Refuse(502, done=True), Refuse(504, done=True)], ids=str)
def test_a_conditional_put_that_is_tried_again_loses_to_itself(s3: Client, fault: Fault, update: bool) -> None:
    name, mode = conditional(s3, update)
    s3.meet(fault)
    with pytest.raises(PreconditionError if update else AlreadyExistsError):
        s3.store.put(name, OTHER, mode=mode)
    assert [exchange.status for exchange in s3.proxy.exchanges] == [200, 412]
    assert is_there(s3, name)


def conditional(client: Client, update: bool) -> tuple[str, "PutMode"]:
    if update:
        return "object", {"e_tag": client.store.head("object")["e_tag"]}
    return "fresh", "create"


def is_there(client: Client, name: str) -> bool:
    client.meet()
    try:
        return bytes(client.store.get(name).bytes()) == OTHER
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("fault", BROKEN, ids=str)
@pytest.mark.parametrize("step", ["?uploads", "partNumber=1&", "POST uploadId"])
def test_every_step_of_a_put_in_parts_is_tried_again(s3: Client, fault: Fault, step: str) -> None:
    kind, _, part = step.rpartition(" ")

    def about(request: Request) -> bool:
        return part in request.path and request.method == (kind or request.method)

    big = bytes(6 * 2**20)
    s3.proxy.plan = script(fault, about=about)
    s3.store.put("parts", big)
    assert fault in [exchange.fault for exchange in s3.proxy.exchanges]
    s3.meet()
    assert bytes(s3.store.get("parts").bytes()) == big


def test_copies_are_tried_again_deletes_only_after_a_clean_close(s3: Client) -> None:
    for fault in AGAIN:
        s3.proxy.plan = script(fault, about=method("PUT"))
        s3.store.copy("object", "copy")
    s3.meet(DropAnswer())
    s3.store.delete("copy")
    s3.meet(DropAnswer("reset"))
    with pytest.raises(GenericError):
        s3.store.delete("copy")


def test_a_body_that_drips_is_no_stall(s3: Client) -> None:
    """`read_timeout` is one of each read."""
    s3.store = s3.open({"allow_http": True, "read_timeout": timedelta(milliseconds=800)})
    s3.meet(SlowBody(6_000))
    assert s3.get() == DATA
    assert s3.num_requests == 1
    s3.meet(Stall(after=5000))
    assert s3.get() == DATA
    assert s3.num_requests == 2
