"""What a store over plain HTTP builds on, asked of nginx (configured as users are told) and of our own server."""

import http.client
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from nginx import Nginx, no_nginx
from obstore.exceptions import GenericError, NotModifiedError, PermissionDeniedError, PreconditionError
from obstore.store import HTTPStore

DATA = bytes(range(256)) * 40
TEXT = b'{"name": "value"}' * 500  # what a server would like to compress

Serve = Callable[[Path], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "www"
    (root / "store" / "_log").mkdir(parents=True)
    (root / "store" / "object").write_bytes(DATA)
    (root / "store" / "zarr.json").write_bytes(TEXT)
    (root / "store" / "empty").touch()
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "store" / "link").symlink_to(tmp_path / "secret")
    return root


@pytest.fixture
def url(serve: Serve, root: Path) -> str:
    return serve(root)


@pytest.fixture
def store(url: str) -> HTTPStore:
    return HTTPStore(f"{url}/store", client_options={"allow_http": True})


def ask(url: str, method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_objects_come_back_whole_and_in_ranges(store: HTTPStore) -> None:
    assert bytes(store.get("object").bytes()) == DATA
    assert store.head("object")["size"] == len(DATA)
    assert bytes(store.get("empty").bytes()) == b""
    ranged = store.get("object", options={"range": (300, 400)})
    assert (ranged.range, ranged.meta["size"], bytes(ranged.bytes())) == ((300, 400), len(DATA), DATA[300:400])
    assert bytes(store.get("object", options={"range": {"suffix": 7}}).bytes()) == DATA[-7:]
    assert bytes(store.get_range("object", start=len(DATA) - 3, end=len(DATA) + 9)) == DATA[-3:]
    with pytest.raises(GenericError, match="416"):
        store.get_range("object", start=len(DATA), end=len(DATA) + 1)


def test_what_is_not_there_is_not_found_and_folders_are_not_listed(store: HTTPStore) -> None:
    for name in ("missing", "_log/missing", "object/below"):
        with pytest.raises(FileNotFoundError):
            store.get(name)
        with pytest.raises(FileNotFoundError):
            store.head(name)
    with pytest.raises(PermissionDeniedError):
        store.get("_log")


def test_nothing_outside_the_folder_is_served(url: str) -> None:
    for path in ("/../secret", "/store/../../secret", "/store/%2e%2e/%2e%2e/secret", "/store/link"):
        status, _, body = ask(url, "GET", path)
        assert (status >= 400, b"secret\n" in body + b"\n") == (True, False), path


def test_nothing_is_written(url: str, store: HTTPStore, root: Path) -> None:
    for method in ("PUT", "POST", "DELETE", "PROPFIND"):
        assert ask(url, method, "/store/object")[0] in (403, 405), method
    with pytest.raises((GenericError, PermissionDeniedError)):
        store.put("other", b"bytes")
    assert (root / "store" / "object").read_bytes() == DATA
    assert not (root / "store" / "other").exists()


def test_versions(store: HTTPStore) -> None:
    e_tag = store.head("object")["e_tag"]
    assert bytes(store.get("object", options={"if_match": e_tag}).bytes()) == DATA
    with pytest.raises(PreconditionError):
        store.get("object", options={"if_match": '"other"'})
    with pytest.raises(NotModifiedError):
        store.get("object", options={"if_none_match": e_tag})


def test_bytes_are_never_compressed(url: str) -> None:
    _, headers, body = ask(url, "GET", "/store/zarr.json", Accept_Encoding="gzip, deflate, br")
    assert (headers["Content-Encoding"], body) == (None, TEXT)
    status, headers, body = ask(url, "GET", "/store/zarr.json", Accept_Encoding="gzip", Range="bytes=3-9")
    assert (status, headers["Content-Encoding"], body) == (206, None, TEXT[3:10])


def test_a_connection_serves_many_requests(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.connect()
    first = connection.sock
    for start in range(200):
        connection.request("GET", "/store/object", headers={"Range": f"bytes={start}-{start + 9}"})
        assert connection.getresponse().read() == DATA[start : start + 10]
        assert connection.sock is first
    connection.close()


@pytest.fixture
def nginx(root: Path, tmp_path: Path) -> Nginx:
    if why := no_nginx():
        pytest.skip(why)
    return Nginx(root, tmp_path / "nginx")


def test_nginx_lets_browsers_read_ranges(nginx: Nginx) -> None:
    with nginx:
        status, headers, _ = ask(
            nginx.url, "GET", "/store/object", Range="bytes=0-9", Origin="https://elsewhere.example"
        )
        assert (status, headers["Access-Control-Allow-Origin"]) == (206, "*")
        exposed = {name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")}
        assert {"Content-Range", "Content-Length", "ETag"} <= exposed
        assert headers["Cache-Control"] == "no-cache"
        asked = {"Origin": "https://elsewhere.example", "Access_Control_Request_Method": "GET"}
        status, headers, _ = ask(nginx.url, "OPTIONS", "/store/object", **asked)
        assert (status, "Range" in headers["Access-Control-Allow-Headers"]) == (204, True)
        status, headers, _ = ask(nginx.url, "GET", "/store/missing", Origin="https://elsewhere.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (404, "*")


def test_nginx_writes_in_its_folder_alone_and_is_gone_at_the_end(nginx: Nginx) -> None:
    with nginx:
        assert ask(nginx.url, "GET", "/store/object")[2] == DATA
        processes = psutil.Process(nginx.pid).children(recursive=True)
        assert [process.name() for process in processes] == ["nginx"]
        for process in processes:
            assert all(connection.laddr.ip == "127.0.0.1" for connection in process.net_connections("inet"))
            written = [file.path for file in process.open_files() if getattr(file, "mode", "r") != "r"]
            assert all(Path(path).is_relative_to(nginx.folder) for path in written), written
    assert not any(process.is_running() for process in processes)
