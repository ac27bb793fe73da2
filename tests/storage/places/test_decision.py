"""Conditional PUTs whose answers are lost: one writer of each decision, and every writer knows which."""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from faults import DropAnswer, Plan, Refuse, Request, Reset, always, method, storm
from seaweedfs import Bucket as SeaweedBucket

from stillhouse.core.errors import RemoteError
from stillhouse.storage.places.base import Access
from stillhouse.storage.places.buckets import Bucket
from stillhouse.storage.places.decision import decide
from stillhouse.storage.places.folder import Folder
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.signed_json import signed_json

WAITS_NOT = Patience(tries=20, wait=lambda seconds: None)
WRITERS = 3


def conditional(request: Request) -> bool:
    return request.method == "PUT" and "if-none-match" in request.headers


@pytest.fixture
def keys(bucket: SeaweedBucket, monkeypatch: pytest.MonkeyPatch) -> SeaweedBucket:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    return bucket


def record(unit: int) -> bytes:
    return signed_json({"unit": f"images/{unit:06d}", "attempt": secrets.token_hex(16)})


def race(place: Bucket, units: range) -> None:
    """Every unit is wanted by all writers at once; each comes to one decision that all know of."""
    for unit in units:
        path, tried = f"_log/units/images/{unit:06d}.json", [record(unit) for _ in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            found = list(pool.map(lambda data, path=path: decide(place, path, data, 1 << 16, WAITS_NOT), tried))
        assert len(set(found)) == 1 and found[0] in tried
        assert sum(json.loads(data)["attempt"] == json.loads(found[0])["attempt"] for data in tried) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_every_answer_is_lost(keys: SeaweedBucket, end: str) -> None:
    """No conditional PUT is ever answered, more than 300 of them: each unit is decided once, by its first writer or in a race."""
    with FaultProxy(keys.endpoint) as proxy:
        place = Bucket(f"s3://{keys.name}/store", Access(endpoint=proxy.url, region="us-east-1"), timeout_s=5)
        proxy.plan = always(DropAnswer(end), about=conditional)  # type: ignore[arg-type]
        for unit in range(150):
            path, mine = f"_log/units/images/{unit:06d}.json", record(unit)
            assert decide(place, path, mine, 1 << 16, WAITS_NOT) == mine
            assert decide(place, path, record(unit), 1 << 16, WAITS_NOT) == mine
        race(place, range(150, 158))
        assert sum(one.fault is not None for one in proxy.exchanges) >= 300


def test_a_storm_of_everything(keys: SeaweedBucket) -> None:
    with FaultProxy(keys.endpoint) as proxy:
        place = Bucket(f"s3://{keys.name}/store", Access(endpoint=proxy.url, region="us-east-1"), timeout_s=5)
        proxy.plan = storm(0.4, [DropAnswer(), DropAnswer("reset"), Refuse(503), Reset()], seed=3)
        race(place, range(8))


def test_nothing_is_claimed_when_the_place_does_not_say(keys: SeaweedBucket) -> None:
    with FaultProxy(keys.endpoint) as proxy:
        place = Bucket(f"s3://{keys.name}/store", Access(endpoint=proxy.url, region="us-east-1"), timeout_s=5)
        proxy.plan = always(Refuse(503), about=method("GET", "PUT", "HEAD"))
        with pytest.raises(RemoteError, match="asked 3 times"):
            decide(place, "_log/a.json", b"mine", 99, Patience(3, wait=lambda seconds: None))
        proxy.plan = Plan(lambda number: None)
        assert decide(place, "_log/a.json", b"theirs", 99, WAITS_NOT) == b"theirs"


def test_in_a_folder(tmp_path: Path) -> None:
    assert decide(Folder(tmp_path), "_log/a.json", b"first", 99, WAITS_NOT) == b"first"
    assert decide(Folder(tmp_path), "_log/a.json", b"second", 99, WAITS_NOT) == b"first"
