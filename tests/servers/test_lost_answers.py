"""Commits by conditional PUT whose answers are lost: each unit is decided once, and every writer knows by whom.

Written on bare obstore, as the smallest protocol that holds; the product's own commit is to be held to the same.
"""

import json
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import pytest
from fault_proxy import FaultProxy
from faults import DropAnswer, Fault, Refuse, Request, Reset, always, storm
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import S3Store
from seaweedfs import Bucket

if TYPE_CHECKING:
    from obstore.store import RetryConfig

WRITERS = 4
LOST: Sequence[Fault] = (DropAnswer(), DropAnswer("reset"), Refuse(502, done=True))
RETRIES: "RetryConfig" = {
    "max_retries": 3,
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=20), "base": 2},
}
TRIES = 200

Outcome = Literal["ours", "theirs"]


def commit(store: S3Store, unit: str, attempt: str) -> Outcome:
    """Decide `unit` for `attempt`, or learn that it was decided for another.

    Neither an error nor "already exists" says anything: the answer to our own PUT may have been lost. What lies there
    does. Nothing there: no try has landed (SeaweedFS and S3 read what was written), so another try is safe.
    """
    record = json.dumps({"unit": unit, "attempt": attempt}).encode()
    for _ in range(TRIES):
        try:
            store.put(unit, record, mode="create")
            return "ours"
        except (AlreadyExistsError, GenericError):
            pass
        try:
            held = json.loads(bytes(store.get(unit).bytes()))
        except (FileNotFoundError, GenericError):
            continue
        return "ours" if held["attempt"] == attempt else "theirs"
    raise AssertionError(f"{unit}: still unknown after {TRIES} tries")


def create(request: Request) -> bool:
    return request.headers.get("if-none-match") == "*"


def work(store: S3Store, units: Sequence[str], seed: int) -> dict[str, tuple[str, Outcome]]:
    """One writer that commits all units in an order of its own: {unit: (attempt, outcome)}."""
    ended = {}
    for unit in random.Random(seed).sample(units, len(units)):
        attempt = secrets.token_hex(16)
        ended[unit] = (attempt, commit(store, unit, attempt))
    return ended


def race(bucket: Bucket, proxy: FaultProxy, num_units: int, together: bool = False) -> list[str]:
    """What was wrong when `WRITERS` raced for each of `num_units`, in one order or each in its own."""
    seeds = [0] * WRITERS if together else range(WRITERS)
    units = [f"unit-{number}" for number in range(num_units)]
    stores = [bucket.store(proxy.url, retry_config=RETRIES) for _ in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        ended = list(pool.map(work, stores, [units] * WRITERS, seeds))
    wrong = []
    direct = bucket.store()
    for unit in units:
        held = json.loads(bytes(direct.get(unit).bytes()))["attempt"]
        winners = [attempt for attempt, outcome in (writer[unit] for writer in ended) if outcome == "ours"]
        if winners != [held]:
            wrong.append(f"{unit}: {held} lies there, {winners} were told that it is theirs")
    landed = Counter(
        exchange.request.path for exchange in proxy.exchanges if created(exchange.request, exchange.status)
    )
    wrong += [f"{path}: created {times} times" for path, times in landed.items() if times != 1]
    if len(landed) != num_units:
        wrong.append(f"{len(landed)} of {num_units} units were created")
    return wrong


def created(request: Request, status: int | None) -> bool:
    return create(request) and status == 200


SIZES = pytest.mark.parametrize(
    "num_units, together",
    [
        (100, False),
        pytest.param(300, False, marks=pytest.mark.slow),
        pytest.param(300, True, marks=pytest.mark.slow),
    ],
)


@SIZES
def test_a_commit_whose_answers_are_all_lost_is_known_all_the_same(
    bucket: Bucket, num_units: int, together: bool
) -> None:
    with FaultProxy(bucket.endpoint, always(DropAnswer(), about=create)) as proxy:
        assert race(bucket, proxy, num_units, together) == []
    dropped = [
        exchange for exchange in proxy.exchanges if exchange.fault and created(exchange.request, exchange.status)
    ]
    assert len(dropped) == num_units


@SIZES
def test_a_storm_that_loses_answers_and_requests(bucket: Bucket, num_units: int, together: bool) -> None:
    """Of all requests, reads too, a third meet a fault."""
    with FaultProxy(bucket.endpoint, storm(0.33, (*LOST, Reset(), Refuse(503)), seed=1)) as proxy:
        assert race(bucket, proxy, num_units, together) == []
    met = {exchange.fault for exchange in proxy.exchanges if exchange.fault}
    assert met == {*LOST, Reset(), Refuse(503)}


def gullible(store: S3Store, unit: str, attempt: str) -> Outcome:
    """Takes an error at its word."""
    try:
        store.put(unit, json.dumps({"attempt": attempt}).encode(), mode="create")
        return "ours"
    except (AlreadyExistsError, GenericError):
        return "theirs"


def unconditional(store: S3Store, unit: str, attempt: str) -> Outcome:
    """Works on any server, and decides nothing."""
    store.put(unit, json.dumps({"attempt": attempt}).encode())
    return "ours"


@pytest.mark.parametrize("careless", [gullible, unconditional])
def test_a_careless_commit_would_be_noticed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, careless: Callable[[S3Store, str, str], Outcome]
) -> None:
    monkeypatch.setitem(globals(), "commit", careless)
    with FaultProxy(bucket.endpoint, always(DropAnswer(), about=create)) as proxy:
        assert {line.split(":")[0] for line in race(bucket, proxy, 3)} >= {"unit-0", "unit-1", "unit-2"}
