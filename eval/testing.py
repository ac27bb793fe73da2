"""What every probe must do: subclass `ProbeTests` beside a new probe's own tests."""

from dataclasses import replace

import numpy as np
import pytest

from stillhouse.core.errors import UsageError

from .probe import Features, FloatArray, IntArray, Probe

NUM_CLASSES = 3


def make_features(
    num: int, seed: int, *, spread: float = 4.0, width: int = 6, num_blocks: int = 4, num_classes: int = NUM_CLASSES
) -> Features:
    """Gaussian blobs, one a class, with centres `spread` standard deviations from zero; read-only float32 arrays."""
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(num) % num_classes).astype(np.int64)
    centres_CD = np.eye(num_classes, width) * spread
    blocks = [_frozen(centres_CD[labels_N] + random.standard_normal((num, width))) for _ in range(num_blocks)]
    patch_mean_ND = _frozen(centres_CD[labels_N] + random.standard_normal((num, width)))
    labels_N.setflags(write=False)
    return Features(tuple(blocks), patch_mean_ND, labels_N, num_classes)


def take(feats: Features, rows: IntArray) -> Features:
    """The features of some rows."""
    blocks = tuple(block[rows] for block in feats.blocks)
    return replace(feats, blocks=blocks, patch_mean=feats.patch_mean[rows], labels=feats.labels[rows])


def _frozen(array: np.ndarray) -> FloatArray:
    narrow: FloatArray = array.astype(np.float32)
    narrow.setflags(write=False)
    return narrow


class ProbeTests:
    """The contract of `Probe`, on 150 training and 240 test points of three classes."""

    num_train = 150

    def make_probe(self) -> Probe:
        """The probe under test, with settings small enough for a unit test."""
        raise NotImplementedError

    def test_separable_classes_are_all_found(self) -> None:
        result = self.make_probe().run(make_features(self.num_train, 0, spread=30), make_features(240, 1, spread=30))
        assert result.scores == {"top1": 1.0, "mean_per_class": 1.0}

    def test_shuffled_labels_score_chance(self) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1)
        labels_N = np.random.default_rng(2).permutation(test.labels)
        result = self.make_probe().run(train, replace(test, labels=labels_N))
        # 4.5 standard deviations of a binomial share with 240 tries
        assert abs(result.scores["top1"] - 1 / 3) < 4.5 * (2 / 9 / 240) ** 0.5

    def test_scores_and_predictions_are_whole(self) -> None:
        test = make_features(240, 1, spread=1)
        result = self.make_probe().run(make_features(self.num_train, 0, spread=1), test)
        assert result.name == self.make_probe().name
        assert set(result.scores) == {"top1", "mean_per_class"}
        assert all(0 <= score <= 1 for score in result.scores.values())
        assert result.predictions.shape == (240,)
        assert result.predictions.dtype == np.int64
        assert result.scores["top1"] == np.mean(result.predictions == test.labels)
        assert result.chosen

    def test_two_runs_agree(self) -> None:
        train, test = make_features(self.num_train, 0, spread=1), make_features(240, 1, spread=1)
        first, second = self.make_probe().run(train, test), self.make_probe().run(train, test)
        assert np.array_equal(first.predictions, second.predictions)
        assert (first.chosen, first.details) == (second.chosen, second.details)

    def test_inputs_stay_as_they_were(self) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1)
        self.make_probe().run(train, test)  # arrays are read-only: writing would raise
        again = make_features(self.num_train, 0)
        assert all(np.array_equal(a, b) for a, b in zip(train.blocks, again.blocks, strict=True))
        assert np.array_equal(train.labels, again.labels)

    def test_one_block_is_enough(self) -> None:
        train, test = make_features(self.num_train, 0, num_blocks=1), make_features(240, 1, num_blocks=1)
        assert self.make_probe().run(train, test).scores["top1"] > 0.9

    def test_a_class_without_training_samples_is_missed_not_fatal(self) -> None:
        train, test = make_features(self.num_train, 0, spread=30), make_features(240, 1, spread=30)
        result = self.make_probe().run(take(train, np.flatnonzero(train.labels != 2)), test)
        seen_N = test.labels != 2
        assert np.mean(result.predictions[seen_N] == test.labels[seen_N]) > 0.95

    def test_constant_dimensions_do_no_harm(self) -> None:
        train, test = make_features(self.num_train, 0, spread=30), make_features(240, 1, spread=30)
        train, test = (
            replace(each, blocks=(*each.blocks[:-1], np.where(np.arange(6) < 4, each.cls, np.float32(0.1))))
            for each in (train, test)
        )
        assert self.make_probe().run(train, test).scores["top1"] == 1.0

    def test_one_class_is_refused(self) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1)
        with pytest.raises(UsageError, match=r"hold one class only: \[1\]"):
            self.make_probe().run(take(train, np.flatnonzero(train.labels == 1)), test)

    @pytest.mark.parametrize("num", [0, 1])
    def test_too_few_samples_are_refused(self, num: int) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1)
        with pytest.raises(UsageError, match="samples"):
            self.make_probe().run(take(train, np.arange(num)), test)
        with pytest.raises(UsageError, match="the test features are empty: 0 samples"):
            self.make_probe().run(train, take(test, np.arange(0)))

    def test_features_that_are_not_finite_are_refused(self) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1)
        broken = train.cls.copy()
        broken[7, 2] = np.nan
        with pytest.raises(UsageError, match="block -1 holds NaN or infinity in 1 of 150 rows"):
            self.make_probe().run(replace(train, blocks=(*train.blocks[:-1], broken)), test)

    def test_features_that_do_not_fit_together_are_refused(self) -> None:
        train, test = make_features(self.num_train, 0), make_features(240, 1, width=5)
        with pytest.raises(UsageError, match="extract both with the same encoder"):
            self.make_probe().run(train, test)
        with pytest.raises(UsageError, match=r"labels span 0\.\.2; 2 classes"):
            self.make_probe().run(replace(train, num_classes=2), replace(test, num_classes=2))
