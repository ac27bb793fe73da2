from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stillhouse.core.errors import UsageError
from stillhouse.eval import logistic_preconditioner
from stillhouse.eval.logistic import PRESETS, LogisticConfig, LogisticProbe, best_of
from stillhouse.eval.logistic_problem import Problem, contrasts
from stillhouse.eval.logistic_solver import Fit, fit_path
from stillhouse.eval.metrics import mean_per_class
from stillhouse.eval.probe import Probe
from stillhouse.eval.testing import ProbeTests, make_features, take


class TestLogisticDinov2(ProbeTests):
    def make_probe(self) -> Probe:
        return LogisticProbe(LogisticConfig(num_c=9))


class TestLogisticProteus(ProbeTests):
    def make_probe(self) -> Probe:
        return LogisticProbe(LogisticConfig(num_c=9, preset="proteus"))


def data(num: int, width: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, correlated dimensions of unequal scale, an offset."""
    random = np.random.default_rng(seed)
    targets = np.arange(num, dtype=np.int64) % num_classes
    mixed = random.standard_normal((num, width)) @ random.standard_normal((width, width)) / width**0.5
    centres = random.standard_normal((num_classes, width))
    return (mixed + centres[targets]) * np.geomspace(0.1, 3, width) + 5.0, targets


def probabilities(fit: Fit, feats: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(fit.logits(feats)), dim=1).numpy()


def sklearn_fit(feats: np.ndarray, targets: np.ndarray, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(feats, targets)


CASES = [(60, 5, 2), (90, 5, 3), (120, 8, 12), (30, 50, 3), (24, 40, 2)]


@pytest.mark.parametrize(("num", "width", "num_classes"), CASES)
def test_agrees_with_scikit_learn(num: int, width: int, num_classes: int) -> None:
    feats, targets = data(num, width, num_classes)
    unseen, _ = data(50, width, num_classes, seed=1)
    for fit in fit_path(feats, targets, num_classes, (1e-3, 1e-2, 0.1, 1.0, 10.0), 1000):
        theirs = sklearn_fit(feats, targets, fit.c)
        assert fit.converged
        np.testing.assert_allclose(probabilities(fit, unseen), theirs.predict_proba(unseen), atol=1e-6)
        weights = theirs.coef_ if num_classes > 2 else np.concatenate([-theirs.coef_, theirs.coef_]) / 2
        np.testing.assert_allclose(fit.weight_DK.T, weights, atol=1e-6 * (1 + np.abs(weights).max()))


@pytest.mark.parametrize("c", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("num", "width", "num_classes"), [(60, 5, 3), (30, 50, 3), (60, 5, 2), (120, 8, 12)])
def test_gradient_vanishes_at_any_c(num: int, width: int, num_classes: int, c: float) -> None:
    """Checked by the definition of the optimum, since scikit-learn does not get there at the ends of the grid."""
    feats, targets = data(num, width, num_classes)
    (fit,) = fit_path(feats, targets, num_classes, (c,), 1000)
    excess = probabilities(fit, feats) - np.eye(num_classes)[targets]
    assert fit.converged
    factor = 2 if num_classes == 2 else 1  # two classes: the penalty is on the difference of the two vectors
    pull = c * feats.T @ excess
    np.testing.assert_allclose(pull, -factor * fit.weight_DK, atol=1e-5 * np.abs(fit.weight_DK).max())
    assert np.abs(c * excess.sum(axis=0)).max() < 1e-5 * np.abs(pull).max()


def test_the_path_does_not_matter() -> None:
    feats, targets = data(90, 6, 3)
    *_, along = fit_path(feats, targets, 3, tuple(10.0 ** np.linspace(-6, 4, 21)), 1000)
    (alone,) = fit_path(feats, targets, 3, (1e4,), 1000)
    np.testing.assert_allclose(along.weight_DK, alone.weight_DK, rtol=1e-6)
    assert along.objective == pytest.approx(alone.objective, rel=1e-12)


def test_both_preconditioners_reach_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    feats, targets = data(150, 20, 4)
    cs = (1e-2, 1.0, 100.0)
    joint = list(fit_path(feats, targets, 4, cs, 1000))
    monkeypatch.setattr(logistic_preconditioner, "JOINT_UNKNOWNS", 0)
    shared = list(fit_path(feats, targets, 4, cs, 1000))
    for one, other in zip(joint, shared, strict=True):
        assert other.converged
        assert one.iterations <= other.iterations
        np.testing.assert_allclose(one.weight_DK, other.weight_DK, rtol=1e-5, atol=1e-8)


def test_the_factor_inverts_the_hessian() -> None:
    feats, targets = data(80, 6, 3)
    problem = Problem.build(torch.from_numpy(feats - feats.mean(axis=0)), torch.from_numpy(targets), 3)
    theta_ME = torch.randn(problem.zero.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, probs_KN = problem.objective(problem.logits(theta_ME), theta_ME, 2.0)
    product_ME = problem.hessian_product(probs_KN, theta_ME, problem.logits(theta_ME), 2.0)
    solved_ME = logistic_preconditioner.factor(problem, probs_KN, 2.0)(product_ME)
    torch.testing.assert_close(solved_ME, theta_ME, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_derivatives_are_those_of_the_objective(num_classes: int) -> None:
    feats, targets = data(40, 4, num_classes)
    problem = Problem.build(torch.from_numpy(feats - feats.mean(axis=0)), torch.from_numpy(targets), num_classes)
    generator = torch.Generator().manual_seed(0)
    theta, direction = (torch.randn(problem.zero.shape, dtype=torch.float64, generator=generator) for _ in range(2))

    def at(step: float) -> tuple[float, torch.Tensor]:
        moved = theta + step * direction
        value, probs = problem.objective(problem.logits(moved), moved, 0.7)
        return value, problem.gradient(probs, moved, 0.7)

    h = 1e-5
    slope = float((at(0)[1] * direction).sum())
    assert (at(h)[0] - at(-h)[0]) / (2 * h) == pytest.approx(slope, rel=1e-7)
    _, probs = problem.objective(problem.logits(theta), theta, 0.7)
    product = problem.hessian_product(probs, direction, problem.logits(direction), 0.7)
    torch.testing.assert_close((at(h)[1] - at(-h)[1]) / (2 * h), product, rtol=1e-6, atol=1e-6)


def test_contrasts_are_orthogonal_and_sum_to_zero() -> None:
    for num_classes in (2, 3, 7):
        columns_KM = contrasts(num_classes)
        length = 0.5 if num_classes == 2 else 1.0
        torch.testing.assert_close(columns_KM.T @ columns_KM, length * torch.eye(num_classes - 1, dtype=torch.float64))
        torch.testing.assert_close(columns_KM.sum(dim=0), torch.zeros(num_classes - 1, dtype=torch.float64))


def test_a_spent_budget_is_said() -> None:
    feats, targets = data(90, 6, 3)
    (fit,) = fit_path(feats, targets, 3, (1.0,), 2)
    assert not fit.converged
    assert fit.iterations == 2


def test_features_without_information_predict_the_commonest_class() -> None:
    targets = np.array([0, 1, 1, 2, 1, 1], dtype=np.int64)
    (fit,) = fit_path(np.full((6, 3), 7.0), targets, 3, (1.0,), 1000)
    assert fit.converged
    np.testing.assert_allclose(probabilities(fit, np.full((1, 3), 7.0))[0], [1 / 6, 4 / 6, 1 / 6], atol=1e-9)


def test_extreme_scales_still_converge() -> None:
    feats, targets = data(60, 4, 3)
    for scale in (1e-6, 1e3):
        fits = list(fit_path(feats * scale, targets, 3, (1e-6, 1.0, 1e6), 1000))
        assert all(fit.converged for fit in fits)
        assert all(np.isfinite(fit.weight_DK).all() for fit in fits)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    feats, targets = data(30, 4, 3)
    for _ in fit_path(feats, targets, 3, (1.0, 10.0), 1000):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(("preset", "low", "high"), [("dinov2", 1e-6, 1e5), ("proteus", 1e-5, 1e6)])
def test_grids_are_the_published_ones(preset: str, low: float, high: float) -> None:
    train, test = make_features(60, 0), make_features(30, 1)
    config = LogisticConfig.model_validate({"preset": preset})
    grid = LogisticProbe(config).run(train, test).details["grid"]
    assert len(grid) == 45
    assert (grid[0], grid[-1]) == (pytest.approx(low), pytest.approx(high))
    np.testing.assert_allclose(np.diff(np.log10(grid)), 0.25)


@pytest.mark.parametrize(("ties", "expected"), [("smallest", 1), ("largest", 3)])
def test_ties_keep_the_published_side(ties: str, expected: int) -> None:
    scores: Sequence[float] = [0.1, 0.9, 0.5, 0.9, 0.2]
    assert best_of(list(scores), "smallest" if ties == "smallest" else "largest") == expected
    assert {preset.ties for preset in PRESETS.values()} == {"smallest", "largest"}


def test_final_fit_is_scikit_learns_on_all_of_train() -> None:
    train, test = make_features(120, 0, spread=1), make_features(200, 1, spread=1)
    for preset in ("dinov2", "proteus"):
        result = LogisticProbe(LogisticConfig.model_validate({"preset": preset})).run(train, test)
        inputs = [each.cls.astype(np.float64) for each in (train, test)]
        if preset == "proteus":
            mean, std = inputs[0].mean(axis=0), inputs[0].std(axis=0)
            inputs = [(each - mean) / std for each in inputs]
        theirs = sklearn_fit(inputs[0], train.labels, result.chosen["c"])
        assert np.array_equal(result.predictions, theirs.predict(inputs[1]))
        assert result.details["not_converged"] == []
        assert result.details["final_converged"]


def test_holdout_of_too_few_samples_is_refused() -> None:
    train, test = make_features(60, 0), make_features(20, 1)
    with pytest.raises(UsageError, match="give at least 10 labelled training samples"):
        LogisticProbe().run(take(train, np.arange(9)), test)


@pytest.mark.parametrize("preset", ["dinov2", "proteus"])
def test_c_is_chosen_on_the_rows_that_are_given(preset: str) -> None:
    train, test = make_features(90, 0, spread=1), make_features(60, 1, spread=1)
    held = np.arange(60, 90)
    config = LogisticConfig.model_validate({"preset": preset, "num_c": 6, "select_by": "mean_per_class"})
    result = LogisticProbe(config).run(train, test, held=held)
    inputs = train.cls.astype(np.float64)
    if preset == "proteus":  # by the statistics of what is fitted, not of the validation part
        inputs = (inputs - inputs[:60].mean(axis=0)) / inputs[:60].std(axis=0)
    scores = []
    for c in result.details["grid"][:5]:
        theirs = sklearn_fit(inputs[:60], train.labels[:60], c).predict(inputs[60:])
        scores.append(mean_per_class(theirs, train.labels[60:]))
    assert result.details["selection_mean_per_class"][:5] == pytest.approx(scores)
    assert "on 30 held-out training images" in result.chosen["selection"]
    with pytest.raises(UsageError, match="no training sample is held out"):
        LogisticProbe(config).run(train, test, held=np.arange(0))
    with pytest.raises(UsageError, match="hold one class only"):
        LogisticProbe(config).run(train, test, held=np.flatnonzero(train.labels != 1))
