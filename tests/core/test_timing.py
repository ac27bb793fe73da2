import threading

from stillhouse.core.timing import Seconds, timed


def test_nobody_measures() -> None:
    with timed("read"):
        pass
    assert Seconds().spent() == {}


def test_parts_add_up_over_threads() -> None:
    seconds = Seconds()

    def work() -> None:
        with seconds.measure():
            for _ in range(2):
                with timed("read"):
                    pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds.add("render", 1.5)
    seconds.add("render", 0.25)
    assert seconds.spent().keys() == {"read", "render"} and seconds.spent()["render"] == 1.75


def test_what_is_measured_elsewhere_is_not_mixed_in() -> None:
    outer, inner = Seconds(), Seconds()
    with outer.measure():
        with inner.measure(), timed("read"):
            pass
        with timed("verify"):
            pass
    with timed("decode"):
        pass
    assert (set(outer.spent()), set(inner.spent())) == ({"verify"}, {"read"})
