"""A stop waits for the end of a piece of work; a second one does not."""

import signal
import threading
from collections.abc import Iterator

import pytest

from stillhouse.core.stops import STOPS, stops_wait, worker_threads


class Stop(BaseException):
    """What the handler of these tests raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every signal that stops raises `Stop` with its number."""

    def stop(number: int, _: object) -> None:
        raise Stop(number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_signal_waits_for_the_end(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Stop) as caught, stops_wait():
        done.append("begun")
        signal.raise_signal(number)
        done.append("ended")
    assert done == ["begun", "ended"] and caught.value.args == (number,)


def test_a_second_one_does_not() -> None:
    done = []
    with pytest.raises(Stop) as caught, stops_wait():
        signal.raise_signal(signal.SIGINT)
        done.append("begun")
        signal.raise_signal(signal.SIGTERM)
        done.append("ended")
    assert done == ["begun"] and caught.value.args == (signal.SIGTERM,)


def test_afterwards_signals_arrive_at_once() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with stops_wait():
        pass
    with pytest.raises(ZeroDivisionError), stops_wait():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in STOPS] == before


def test_an_error_goes_before_a_stop() -> None:
    with pytest.raises(ZeroDivisionError), stops_wait():
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError


def test_only_those_that_are_named_wait() -> None:
    done = []
    with pytest.raises(Stop), stops_wait(signal.SIGALRM):
        signal.raise_signal(signal.SIGALRM)
        done.append("waits")
        signal.raise_signal(signal.SIGTERM)
        done.append("does not")
    assert done == ["waits"]


def test_what_kills_without_a_handler_still_does_and_what_is_ignored_is() -> None:
    for action in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, action)
        with stops_wait():
            assert signal.getsignal(signal.SIGTERM) == action


def test_another_thread_may_use_it() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stops_wait():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_a_stop_does_not_wait_for_work_that_has_not_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        begun.set()
        go_on.wait()
        done.append(number)

    with pytest.raises(Stop), worker_threads(1, "work") as pool:
        for number in range(100):
            pool.submit(work, number)
        begun.wait()
        threading.Timer(0.05, go_on.set).start()
        signal.raise_signal(signal.SIGTERM)
    assert done == [0]
