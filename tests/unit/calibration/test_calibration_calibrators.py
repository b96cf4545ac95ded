"""Calibrators against scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from regraft.calibration.beta import Beta
from regraft.calibration.choosing import FOLDS, choose, folds, names_for
from regraft.calibration.isotonic import STEEPEST, Isotonic, pooled
from regraft.calibration.links import Levels, Sigmoids, Softmax, Steps
from regraft.calibration.shift import Shift
from regraft.calibration.temperature import Temperature
from regraft.calibration.vector import Vector


def overconfident(rows=3000, classes=4, factor=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(rows, classes))
    truth = (rng.random((rows, 1)) > np.cumsum(softmax(logits, axis=1), axis=1)).sum(axis=1)
    return factor * logits, truth


@pytest.mark.parametrize("link", [Softmax(), Sigmoids(), Steps()])
def test_slopes_are_the_derivatives_of_losses(link):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3))
    truth = rng.integers(0, 2, (6, 3)) if type(link) is Sigmoids else rng.integers(0, 3, 6)

    def loss(flat):
        return link.losses(flat.reshape(6, 3), truth).sum()

    assert check_grad(loss, lambda flat: link.slopes(flat.reshape(6, 3), truth).ravel(), logits.ravel()) < 1e-5


def test_softmax_losses_and_odds_are_those_of_scipy():
    logits, truth = overconfident(200)
    link = Softmax()
    np.testing.assert_allclose(link.losses(logits, truth), -log_softmax(logits, axis=1)[np.arange(200), truth], atol=1e-12)
    np.testing.assert_allclose(link.odds(logits / 3), logit(softmax(logits / 3, axis=1)), rtol=1e-8, atol=1e-8)
    far = np.array([[0.0, 30.0, -5.0]])
    assert link.odds(far)[0, 1] == pytest.approx(30.0 - np.log1p(np.exp(-5.0)), abs=1e-12), "nothing cancels near 1"


def test_a_temperature_is_the_one_at_which_the_log_loss_is_smallest():
    logits, truth = overconfident()

    def loss(log_t):
        return -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(truth)), truth].sum()

    best = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    free = Temperature.fit(logits, truth, Softmax(), strength=0.0)
    assert free.temperatures[0] == pytest.approx(best, rel=1e-4)
    assert Temperature.fit(logits, truth, Softmax()).temperatures[0] == pytest.approx(best, rel=2e-3), "the prior says little"
    assert best == pytest.approx(3.0, rel=0.05)


def test_a_temperature_never_changes_the_answer():
    logits, truth = overconfident(500)
    changed = Temperature.fit(logits, truth, Softmax()).apply(logits, Softmax())
    assert np.array_equal(changed.argmax(axis=1), logits.argmax(axis=1))


def test_rows_that_are_all_right_do_not_say_that_the_temperature_is_0():
    logits, _ = overconfident(200)
    free, bound = (Temperature.fit(logits, logits.argmax(axis=1), Softmax(), strength=each) for each in (0.0, 1.0))
    assert free.temperatures[0] < 0.01
    assert bound.temperatures[0] > 0.05


def test_vector_scaling_of_labels_is_platt_scaling():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2000, 2)) * 4
    truth = (rng.random((2000, 2)) < expit(0.5 * logits + np.array([0.4, -0.3]))).astype(int)
    found = Vector.fit(logits, truth, Sigmoids(), strength=0.0)
    for column in range(2):
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, [column]], truth[:, column])
        assert found.weights_C[column] == pytest.approx(reference.coef_[0, 0], rel=1e-4)
        assert found.biases_C[column] == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_beta_is_logistic_regression_on_the_logarithms():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4000, 1)) * 2
    truth = (rng.random((4000, 1)) < expit(0.6 * np.log(expit(logits)) - 1.4 * np.log(expit(-logits)) + 0.2)).astype(int)
    features = np.concatenate([np.log(expit(logits)), -np.log(expit(-logits))], axis=1)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(features, truth[:, 0])
    found = Beta.fit(logits, truth, Sigmoids(), strength=0.0)
    np.testing.assert_allclose(found.powers_3C[:2, 0], reference.coef_[0], rtol=2e-3)
    assert found.powers_3C[2, 0] == pytest.approx(reference.intercept_[0], abs=2e-3)
    np.testing.assert_allclose(expit(found.apply(logits, Sigmoids()))[:, 0], reference.predict_proba(features)[:, 1], atol=1e-3)


def test_two_classes_are_one_binary_problem():
    """Class against class is one question: what both columns say is the same, so that making them add up changes nothing."""
    logits, truth = overconfident(classes=2)
    for cls in (Beta, Isotonic):
        learnt = cls.fit(logits, truth, Softmax())
        shares = softmax(learnt.apply(logits, Softmax()), axis=1)
        binary = cls.fit(logits[:, [1]] - logits[:, [0]], truth[:, None], Sigmoids())
        alone = expit(binary.apply(logits[:, [1]] - logits[:, [0]], Sigmoids()))[:, 0]
        np.testing.assert_allclose(shares[:, 1], alone, atol=2e-3)


def test_pooling_is_isotonic_regression():
    rng = np.random.default_rng(3)
    values, weights = rng.random(300), rng.integers(1, 5, 300).astype(float)
    means, starts = pooled(values, weights)
    reference = IsotonicRegression().fit(np.arange(300), values, sample_weight=weights).predict(np.arange(300))
    sizes = np.diff(np.r_[starts, 300])
    np.testing.assert_allclose(np.repeat(means, sizes), reference, atol=1e-12)


def test_isotonic_follows_scikit_learn_where_rows_are_many():
    rng = np.random.default_rng(4)
    logits = 3 * rng.normal(size=(20000, 1))
    truth = (rng.random((20000, 1)) < expit(logits / 3)).astype(int)
    reference = IsotonicRegression(out_of_bounds="clip").fit(logits[:, 0], truth[:, 0])
    learnt = Isotonic.fit(logits, truth, Sigmoids())
    new = 3 * rng.normal(size=(5000, 1))
    shares = expit(learnt.apply(new, Sigmoids()))[:, 0]
    assert np.abs(shares - reference.predict(new[:, 0])).mean() < 0.01
    assert (np.diff(shares[np.argsort(new[:, 0])]) >= 0).all(), "it never falls"
    assert (np.diff(learnt.knots[0][1]) / np.diff(learnt.knots[0][0])).max() <= STEEPEST


def test_isotonic_says_nothing_is_impossible():
    learnt = Isotonic.fit(np.array([[-1.0], [-0.5], [0.5], [1.0]]), np.array([[0], [0], [1], [1]]), Sigmoids())
    shares = expit(learnt.apply(np.array([[-50.0], [50.0]]), Sigmoids()))[:, 0]
    np.testing.assert_allclose(shares, [1 / 6, 5 / 6])


def test_steps_between_ranks_count_only_where_they_are_reached():
    marks = Steps().marks(np.array([0, 1, 2]), 2)
    np.testing.assert_array_equal(marks, [[0.0, np.nan], [1.0, 0.0], [1.0, 1.0]])


def test_quantiles_are_moved_to_the_shares_they_name():
    rng = np.random.default_rng(5)
    link, truth = Levels((0.1, 0.5, 0.9)), rng.normal(size=999)
    narrow = np.tile([[-0.2, 0.0, 0.2]], (999, 1))
    learnt = Shift.fit(narrow, truth, link)
    ordered = np.sort(truth)
    np.testing.assert_allclose(narrow[0] + learnt.shifts_Q, ordered[[99, 499, 899]], atol=1e-12)
    new = rng.normal(size=20000)
    shares = (new[:, None] <= learnt.apply(np.tile(narrow[:1], (20000, 1)), link)).mean(axis=0)
    np.testing.assert_allclose(shares, [0.1, 0.5, 0.9], atol=0.03)
    crossed = Shift(np.array([2.0, 0.0, -2.0])).apply(narrow[:1], link)
    assert (np.diff(crossed) >= 0).all(), "levels stay in order"


def test_folds_are_even_and_spread_over_classes():
    truth = np.repeat([0, 1], [80, 20])
    fold = folds(truth, FOLDS, seed=0)
    assert np.bincount(fold).tolist() == [20] * 5
    assert np.bincount(fold[truth == 1]).tolist() == [4] * 5


def test_too_sure_a_network_gets_a_temperature_and_an_honest_one_nothing():
    link = Softmax()
    sure, truth = overconfident()
    found = choose(names_for(link), sure, truth, link, seed=0)
    assert found.calibrator.name == "temperature"
    assert found.losses["temperature"] < found.losses["none"]
    honest = choose(names_for(link), sure / 3, truth, link, seed=0)
    assert honest.calibrator.name == "none"


def test_isotonic_does_not_win_by_learning_rows_by_heart():
    link = Softmax()
    sure, truth = overconfident(rows=150, classes=8, seed=3)
    inside = {
        cls.name: link.losses(cls.fit(sure, truth, link).apply(sure, link), truth).mean() for cls in (Isotonic, Temperature)
    }
    found = choose(names_for(link), sure, truth, link, seed=0)
    assert inside["isotonic"] < inside["temperature"], "on its own rows it is the best"
    assert found.calibrator.name == "temperature"


def test_what_only_a_curve_can_mend_gets_a_curve():
    rng = np.random.default_rng(6)
    logits = 4 * rng.normal(size=(6000, 1))
    truth = (rng.random((6000, 1)) < np.where(np.abs(logits) < 2, 0.5, np.where(logits > 0, 0.7, 0.1))).astype(int)
    link = Sigmoids()
    assert choose(names_for(link), logits, truth, link, seed=0).calibrator.name == "isotonic"


def test_the_loss_that_chooses_is_of_rows_that_were_not_learnt_from():
    link = Softmax()
    sure, truth = overconfident(rows=100)
    found = choose(["none", "isotonic"], sure, truth, link, seed=0)
    fold, outside = folds(truth, FOLDS, 0), np.empty_like(sure)
    for each in range(FOLDS):
        own = fold == each
        outside[own] = Isotonic.fit(sure[~own], truth[~own], link).apply(sure[own], link)
    assert found.losses["isotonic"] == pytest.approx(link.losses(outside, truth).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("cls", "state"),
    [
        (Temperature, {"temperatures": [0.0]}),
        (Temperature, {"temperatures": [float("nan")]}),
        (Vector, {"weights": [-1.0], "biases": [0.0]}),
        (Isotonic, {"columns": [{"at": [1.0, 0.0], "odds": [0.0, 1.0]}]}),
        (Isotonic, {"columns": [{"at": [], "odds": []}]}),
        (Shift, {}),
    ],
)
def test_a_state_that_cannot_be_is_refused(cls, state):
    with pytest.raises((ValueError, KeyError)):
        cls.restore(state)
