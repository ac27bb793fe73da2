import builtins
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.config import parse_config
from stillhouse.core.errors import ResourceError, UsageError
from stillhouse.eval import knn
from stillhouse.eval.knn import KnnConfig, KnnProbe, nearest, unit_rows
from stillhouse.eval.probe import Features, Probe
from stillhouse.eval.testing import ProbeTests, make_features, take


class TestKnnProbe(ProbeTests):
    def make_probe(self) -> Probe:
        return KnnProbe()


def brute_force(train: Features, test: Features, ks: tuple[int, ...], temperature: float) -> dict[int, np.ndarray]:
    """Votes per k, image by image, from the published definition."""
    votes = {k: np.zeros((len(test), train.num_classes)) for k in ks}
    units = [unit_rows(each.cls).astype(np.float64) for each in (train, test)]
    for row, query in enumerate(units[1]):
        sims = units[0] @ query
        order = np.argsort(-sims, kind="stable")[: max(ks)]
        weights = np.exp(sims[order] / temperature)
        weights /= weights.sum()
        for k in ks:
            for neighbour, weight in zip(order[:k], weights[:k], strict=True):
                votes[k][row, train.labels[neighbour]] += weight
    return votes


def test_agrees_with_brute_force_at_every_k() -> None:
    train, test = make_features(300, 0, spread=0.7), make_features(100, 1, spread=0.7)
    result = KnnProbe().run(train, test)
    expected = brute_force(train, test, (10, 20, 100, 200), 0.07)
    for k, votes in expected.items():
        assert result.details[f"top1_k{k}"] == np.mean(votes.argmax(axis=1) == test.labels)
    assert np.array_equal(result.predictions, expected[20].argmax(axis=1))


def test_headline_k_is_fixed_and_capped_to_the_training_images() -> None:
    train, test = make_features(30, 0), make_features(20, 1)
    result = KnnProbe(KnnConfig(report_k=100)).run(train, test)
    assert result.chosen["k"] == 30
    assert [key for key in result.details if key.startswith("top1")] == ["top1_k10", "top1_k20", "top1_k30"]
    assert result.details["top1_k30"] == result.scores["top1"]


def test_many_classes_report_top5() -> None:
    train, test = make_features(160, 0, width=8, num_classes=8), make_features(80, 1, width=8, num_classes=8)
    details = KnnProbe().run(train, test).details
    assert details["top1_k20"] <= details["top5_k20"] <= 1


def test_copies_of_an_image_rank_by_row() -> None:
    random = np.random.default_rng(0)
    distinct = unit_rows(random.standard_normal((7, 33)).astype(np.float32))
    train = distinct[random.integers(0, 7, 500)]
    rows, sims = nearest(train, distinct[:1], 100)
    assert np.array_equal(rows[0], np.lexsort((np.arange(500), -(train.astype(float) @ distinct[0])))[:100])
    assert (np.diff(sims[0]) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**31))
def test_nearest_is_exact_though_candidates_are_approximate(num: int, width: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    train = unit_rows(random.integers(-1, 2, (num, width)).astype(np.float32))  # a coarse grid: ties everywhere
    queries = unit_rows(random.integers(-2, 3, (5, width)).astype(np.float32))
    rows, sims = nearest(train, queries, min(k, num))
    exact = np.einsum("qd,nd->qn", queries.astype(np.float64), train.astype(np.float64))
    expected = np.argsort(-exact, axis=1, kind="stable")[:, : min(k, num)]
    assert np.array_equal(rows, expected)
    assert np.array_equal(sims, np.take_along_axis(exact, expected, axis=1))


def test_answers_do_not_depend_on_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make_features(300, 0, spread=0.7), make_features(100, 1, spread=0.7)
    whole = nearest(unit_rows(train.cls), unit_rows(test.cls), 200)
    monkeypatch.setattr(knn, "SEARCH_ROWS", 7)
    monkeypatch.setattr(knn, "RESCORE_ROWS", 3)
    parts = nearest(unit_rows(train.cls), unit_rows(test.cls), 200)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


def test_a_zero_row_stays_zero() -> None:
    assert np.array_equal(unit_rows(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))


def test_missing_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ResourceError, match=r"pip install 'stillhouse\[cpu\]'"):
        KnnProbe().run(make_features(30, 0), make_features(20, 1))


def test_report_k_must_be_one_of_ks() -> None:
    with pytest.raises(UsageError, match=r"report_k must be one of ks \[5, 10\]"):
        parse_config(KnnConfig, {"ks": [5, 10]}, where="test")


def test_a_classifier_votes_as_the_probe() -> None:
    train, test = make_features(150, 0, spread=1), make_features(240, 1, spread=1)
    probe = KnnProbe(KnnConfig(ks=(5, 20), report_k=5))
    votes = probe.fit(train).scores(test)
    assert np.array_equal(votes.argmax(axis=1), probe.run(train, test).predictions)
    np.testing.assert_allclose(votes.sum(axis=1), 1)
    assert probe.fit(take(train, np.arange(3))).k == 3
