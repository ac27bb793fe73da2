import subprocess
import sys

import numpy as np
import pytest
import torch

from stillhouse.core.errors import UsageError
from stillhouse.eval.linear import LEARNING_RATES, LinearConfig, LinearProbe
from stillhouse.eval.linear_heads import (
    Layout,
    Schedule,
    batches,
    initial_weights,
    judge_heads,
    train_heads,
    wide_features,
)
from stillhouse.eval.probe import Features, FloatArray, Probe
from stillhouse.eval.testing import ProbeTests, make_features, take
from stillhouse.eval.threads import one_thread_if

SCHEDULE = Schedule(iterations=60, batch=32, seed=3)


class TestLinearProbe(ProbeTests):
    def make_probe(self) -> Probe:
        return LinearProbe(LinearConfig(iterations=60, batch=64))


class TestLinearProbeStandardised(ProbeTests):
    def make_probe(self) -> Probe:
        return LinearProbe(LinearConfig(iterations=60, batch=64, standardise=True))


class TestLinearProbeOnTest(ProbeTests):
    def make_probe(self) -> Probe:
        return LinearProbe(LinearConfig(iterations=60, batch=64, selection="test"))

    def test_shuffled_labels_score_chance(self) -> None:
        """The best of 52 heads picked on the test labels beats chance by luck: the reason not to pick there."""


def alone(feats_ND: FloatArray, feats: Features, layout: Layout, rate: float) -> torch.nn.Linear:
    """One head trained by torch's own SGD and cosine schedule: the slow path."""
    head = torch.nn.Linear(feats_ND.shape[1], feats.num_classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(initial_weights(layout, rate, feats.num_classes, SCHEDULE.seed).T))
        head.bias.zero_()
    sgd = torch.optim.SGD(head.parameters(), lr=rate * SCHEDULE.batch / 256, momentum=0.9, weight_decay=0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, SCHEDULE.iterations, eta_min=0)
    data, labels = torch.from_numpy(feats_ND.copy()), torch.from_numpy(feats.labels.copy())
    for rows in batches(len(feats), SCHEDULE):
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(head(data[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        sgd.step()
        cosine.step()
    return head


def test_wide_heads_equal_heads_trained_alone() -> None:
    feats = make_features(150, 0, spread=1)
    feats_NW, layouts = wide_features(feats)
    for wide in train_heads(feats_NW, feats.labels, feats.num_classes, layouts, LEARNING_RATES, SCHEDULE):
        columns = slice(wide.layout.start, wide.layout.stop)
        for position, rate in enumerate(LEARNING_RATES):
            with one_thread_if(True):
                slow = alone(np.ascontiguousarray(feats_NW[:, columns]), feats, wide.layout, rate)
            own = slice(position * feats.num_classes, (position + 1) * feats.num_classes)
            torch.testing.assert_close(wide.weight_DHC[:, own].T, slow.weight.detach(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(wide.bias_HC[own], slow.bias.detach(), atol=1e-5, rtol=1e-5)


def test_layouts_are_the_published_inputs() -> None:
    feats = make_features(10, 0)
    feats_NW, layouts = wide_features(feats)
    inputs = {layout.name: feats_NW[:, layout.start : layout.stop] for layout in layouts}
    assert np.array_equal(inputs["cls1"], feats.blocks[-1])
    assert np.array_equal(inputs["cls1+patch"], np.concatenate([feats.blocks[-1], feats.patch_mean], axis=1))
    assert np.array_equal(inputs["cls4"], np.concatenate(feats.blocks, axis=1))
    assert np.array_equal(inputs["cls4+patch"], np.concatenate([*feats.blocks, feats.patch_mean], axis=1))


@pytest.mark.parametrize(("num_blocks", "names"), [(1, 2), (3, 2), (4, 4), (6, 4)])
def test_four_blocks_are_used_only_where_there_are_four(num_blocks: int, names: int) -> None:
    feats = make_features(10, 0, num_blocks=num_blocks)
    feats_NW, layouts = wide_features(feats)
    assert len(layouts) == names
    assert feats_NW.shape[1] == layouts[-1].stop
    assert np.array_equal(feats_NW[:, layouts[0].start : layouts[0].stop], feats.cls)


def test_every_epoch_sees_every_image_once() -> None:
    rows = np.concatenate([each.numpy() for each in batches(50, Schedule(iterations=30, batch=20, seed=0))])
    assert len(rows) == 600
    assert all(sorted(epoch) == list(range(50)) for epoch in rows.reshape(12, 50))
    assert not np.array_equal(rows[:50], rows[50:100])


def test_a_batch_may_be_larger_than_the_data() -> None:
    (rows,) = batches(10, Schedule(iterations=1, batch=35, seed=0))
    assert np.bincount(rows.numpy(), minlength=10).tolist().count(3) == 5


def test_starts_are_normal_and_belong_to_the_head() -> None:
    layout = Layout("cls1", 0, 200)
    weights = initial_weights(layout, 0.1, 50, 0)
    assert abs(float(weights.mean())) < 5e-4
    assert float(weights.std()) == pytest.approx(0.01, rel=0.03)
    assert not np.array_equal(weights, initial_weights(layout, 0.2, 50, 0))


def test_learning_rates_scale_with_the_batch_and_fall_to_zero() -> None:
    schedule = Schedule(iterations=10, batch=512, seed=0)
    assert schedule.factor(0) == 2.0
    assert schedule.factor(5) == pytest.approx(1.0)
    assert schedule.factor(10) == pytest.approx(0.0)


def test_predictions_of_a_head_are_its_own() -> None:
    feats = make_features(90, 0, spread=1)
    feats_NW, layouts = wide_features(feats)
    (both,) = train_heads(feats_NW, feats.labels, 3, layouts[:1], (1e-3, 0.1), SCHEDULE)
    (one,) = train_heads(feats_NW, feats.labels, 3, layouts[:1], (0.1,), SCHEDULE)
    pair, single = (judge_heads(feats_NW, feats.labels, head) for head in (both, one))
    assert np.array_equal(pair.predictions_HN[1], single.predictions_HN[0])
    logits = torch.from_numpy(feats.cls.copy()) @ one.weight_DHC + one.bias_HC
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(feats.labels))
    assert single.losses_H[0] == pytest.approx(float(loss), rel=1e-5)


def test_equal_scores_are_told_apart_by_cross_entropy() -> None:
    train, test = make_features(150, 0, spread=30), make_features(50, 1, spread=30)
    result = LinearProbe(LinearConfig(iterations=60, batch=64)).run(train, test)
    perfect = [score for scores in result.details["selection_top1"].values() for score in scores if score == 1]
    assert len(perfect) > 10
    assert result.chosen["learning_rate"] == LEARNING_RATES[-1]


def test_selection_on_test_is_named_and_never_scores_less() -> None:
    train, test = make_features(200, 0, spread=0.8), make_features(100, 1, spread=0.8)
    config = LinearConfig(iterations=40, batch=64, selection="test")
    result = LinearProbe(config).run(train, test)
    assert result.chosen["selection"] == "best of 52 heads on the test images"
    assert result.scores["top1"] == max(max(scores) for scores in result.details["selection_top1"].values())


def test_holdout_of_too_few_samples_is_refused() -> None:
    train, test = make_features(60, 0), make_features(20, 1)
    with pytest.raises(UsageError, match=r"holding out 0\.2 of 4 training samples for linear leaves none"):
        LinearProbe().run(take(train, np.arange(4)), test)


def test_reading_the_configs_of_probes_imports_nothing_heavy() -> None:
    names = "stillhouse.eval.knn, stillhouse.eval.linear, stillhouse.eval.logistic, stillhouse.eval.retention"
    heavy = "{'torch', 'sklearn', 'faiss', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, {names}; assert not {heavy}, {heavy}"], check=True)


@pytest.mark.parametrize("standardise", [False, True])
def test_a_classifier_predicts_as_the_probe(standardise: bool) -> None:
    """Fitted once for any test images, it says what a run on them says."""
    train, test = make_features(150, 0, spread=1), make_features(1100, 1, spread=1)
    probe = LinearProbe(LinearConfig(iterations=60, batch=64, standardise=standardise))
    result, classifier = probe.run(train, test), probe.fit(train)
    scores = classifier.scores(test)
    assert scores.shape == (1100, 3)
    assert np.array_equal(scores.argmax(axis=1), result.predictions)
    assert classifier.chosen.items() <= result.chosen.items()
    with pytest.raises(UsageError, match="set selection: holdout"):
        LinearProbe(LinearConfig(selection="test")).fit(train)


def test_a_head_is_chosen_on_the_rows_that_are_given() -> None:
    train, test = make_features(150, 0, spread=1), make_features(60, 1, spread=1)
    held = np.arange(100, 150)
    probe = LinearProbe(LinearConfig(iterations=60, batch=64))
    found = probe.run(train, test, held=held).details["selection_top1"]
    judged = LinearProbe(LinearConfig(iterations=60, batch=64, selection="test")).run(
        take(train, np.arange(100)), take(train, held)
    )
    assert found == judged.details["selection_top1"]
    with pytest.raises(UsageError, match="no training sample is held out"):
        probe.run(train, test, held=np.arange(0))
