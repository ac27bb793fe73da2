"""What a store over S3 builds on, asked of a real server with bare obstore."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import psutil
import pytest
from fault_proxy import FaultProxy
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store
from seaweedfs import Bucket, SeaweedFS, no_seaweedfs

DATA = bytes(range(256)) * 40
BIG = bytes(range(256)) * 4096 * 6  # 6 MiB: two parts


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    return bucket.store()


def test_objects_come_back_whole_and_in_ranges(store: S3Store) -> None:
    put = store.put("folder/object", DATA)
    assert bytes(store.get("folder/object").bytes()) == DATA
    head = store.head("folder/object")
    assert (head["size"], head["e_tag"]) == (len(DATA), put["e_tag"])
    assert bytes(store.get_range("folder/object", start=300, end=400)) == DATA[300:400]
    ranged = store.get("folder/object", options={"range": (300, 400)})
    assert (ranged.range, ranged.meta["size"]) == ((300, 400), len(DATA))
    assert bytes(store.get("folder/object", options={"range": {"suffix": 7}}).bytes()) == DATA[-7:]
    assert bytes(store.get("folder/object", options={"range": {"suffix": 10**6}}).bytes()) == DATA
    assert bytes(store.get_range("folder/object", start=len(DATA) - 3, end=len(DATA) + 9)) == DATA[-3:]
    with pytest.raises(GenericError, match="416"):
        store.get_range("folder/object", start=len(DATA), end=len(DATA) + 1)


def test_what_is_not_there_is_said_so(store: S3Store, seaweedfs: SeaweedFS) -> None:
    asks: tuple[Callable[[], object], ...] = (
        lambda: store.get("missing"),
        lambda: store.head("missing"),
        lambda: store.get_range("missing", start=0, end=1),
        lambda: store.copy("missing", "elsewhere"),
    )
    for ask in asks:
        with pytest.raises(FileNotFoundError):
            ask()
    store.delete("missing")
    elsewhere = Bucket("no-such-bucket", seaweedfs.url, seaweedfs.access_key, seaweedfs.secret_key).store()
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        elsewhere.put("object", DATA, mode="create")


def test_who_has_no_key_is_refused(bucket: Bucket) -> None:
    bucket.store().put("object", DATA)
    stranger = Bucket(bucket.name, bucket.endpoint, bucket.access_key, "guessed").store()
    with pytest.raises(PermissionDeniedError, match="SignatureDoesNotMatch"):
        stranger.get("object")
    with pytest.raises(PermissionDeniedError):
        stranger.put("object", b"other")
    assert bytes(bucket.store().get("object").bytes()) == DATA


def test_metadata_stay_with_the_object(store: S3Store) -> None:
    attributes = {"SHA256": "ab" * 32, "Content-Type": "application/json"}
    held = {"sha256": "ab" * 32, "Content-Type": "application/json"}
    store.put("object", DATA, attributes=attributes, mode="create")
    store.put("parts", BIG, attributes=attributes)
    store.copy("object", "copy")
    for name in ("object", "parts", "copy"):
        assert store.get(name, options={"head": True}).attributes == held, name
    assert bytes(store.get("copy").bytes()) == DATA


def test_an_object_in_parts_is_whole(store: S3Store) -> None:
    put = store.put("parts", BIG)
    assert put["e_tag"] and put["e_tag"].endswith('-2"')
    assert store.head("parts")["size"] == len(BIG)
    assert bytes(store.get("parts").bytes()) == BIG


def test_listing(store: S3Store) -> None:
    for name in ("a/1", "a/2", "a/b/3", "c"):
        store.put(name, name.encode())
    assert [(meta["path"], meta["size"]) for page in store.list("a") for meta in page] == [
        ("a/1", 3),
        ("a/2", 3),
        ("a/b/3", 5),
    ]
    found = store.list_with_delimiter("a")
    assert (found["common_prefixes"], [meta["path"] for meta in found["objects"]]) == (["a/b"], ["a/1", "a/2"])
    assert list(store.list("nowhere")) == []


def test_a_conditional_put_refuses_the_second(store: S3Store) -> None:
    store.put("object", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        store.put("object", b"second", mode="create")
    e_tag = store.head("object")["e_tag"]
    store.put("object", b"third", mode={"e_tag": e_tag})
    for name in ("object", "missing"):
        with pytest.raises(PreconditionError):
            store.put(name, b"fourth", mode={"e_tag": e_tag})
    assert bytes(store.get("object").bytes()) == b"third"


def create_race(bucket: Bucket, racers: int, rounds: int) -> list[tuple[list[int], bytes]]:
    """For each round: who was told that it created the key, and what the key then held."""
    stores = [bucket.store() for _ in range(racers)]
    start = threading.Barrier(racers)

    def one(racer: int, number: int) -> bool:
        start.wait()
        try:
            stores[racer].put(f"race-{number}", str(racer).encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True

    ended = []
    with ThreadPoolExecutor(racers) as pool:
        for number in range(rounds):
            won = list(pool.map(one, range(racers), [number] * racers))
            held = bytes(stores[0].get(f"race-{number}").bytes())
            ended.append(([racer for racer in range(racers) if won[racer]], held))
    return ended


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_of_eight_that_create_a_key_one_wins(bucket: Bucket, rounds: int) -> None:
    """1.6 s a round: SeaweedFS lets those who wait for one key wait for 0.2 s each."""
    for winners, held in create_race(bucket, racers=8, rounds=rounds):
        assert [str(racer).encode() for racer in winners] == [held]


def test_a_signature_holds_through_the_proxy(bucket: Bucket) -> None:
    with FaultProxy(bucket.endpoint) as proxy:
        store = bucket.store(proxy.url)
        store.put("a b+c=ü%/object", DATA, attributes={"note": "1"}, mode="create")
        assert bytes(store.get_range("a b+c=ü%/object", start=2, end=5)) == DATA[2:5]
        store.put("parts", BIG)
        assert len(obstore.get(store, "parts").bytes()) == len(BIG)
        assert [meta["path"] for page in store.list() for meta in page] == ["a b+c=ü%/object", "parts"]
        store.delete("parts")
    assert {exchange.fault for exchange in proxy.exchanges} == {None}
    assert proxy.exchanges[0].request.headers["host"] == proxy.url.removeprefix("http://")


def test_it_speaks_to_this_machine_alone(bucket: Bucket, seaweedfs: SeaweedFS) -> None:
    bucket.store().put("object", DATA)
    (server,) = psutil.Process(seaweedfs.pid).children()
    connections = server.net_connections("inet")
    assert len(connections) > 8
    for connection in connections:
        ends = (connection.laddr, connection.raddr)
        assert all(end.ip == "127.0.0.1" for end in ends if end), connection


def test_it_takes_little_disk(seaweedfs: SeaweedFS, bucket: Bucket) -> None:
    """Nothing is preallocated: what lies there beyond the objects is logs of kilobytes."""
    before = sum(path.stat().st_blocks for path in seaweedfs.folder.rglob("*")) * 512
    bucket.store().put("object", DATA)
    after = sum(path.stat().st_blocks for path in seaweedfs.folder.rglob("*")) * 512
    assert after - before < 2**20


needs_seaweedfs = pytest.mark.skipif(bool(no_seaweedfs()), reason=no_seaweedfs())
STARTER = """
import sys
from pathlib import Path
from seaweedfs import SeaweedFS
with SeaweedFS(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@needs_seaweedfs
def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "server")],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdin and starter.stdout
    with starter.stdin, starter.stdout:
        guard = psutil.Process(int(starter.stdout.readline()))
        processes = [guard, *guard.children(recursive=True)]
        sockets = [Path(path) for path in guard.cmdline()[4].split(":")]
        assert [process.name() for process in processes[1:]] == ["weed"]
        assert [path.exists() for path in sockets] == [True] * 4
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert [path.exists() for path in sockets] == [False] * 4
