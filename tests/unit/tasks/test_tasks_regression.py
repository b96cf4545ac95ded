"""Regression: targets, losses, quantiles and the rules of the gates, against closed forms, torch and scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from regraft.errors import DataError, OptionsError
from regraft.options import build
from regraft.tasks.regression import Regression, RegressionOptions
from regraft.types import Ledger, Prediction

VALUES = [3.0, -1.5, "2.25", 7, np.float64(0.5), " 1e1 "]
NUMBERS = np.array([3.0, -1.5, 2.25, 7.0, 0.5, 10.0])


def learnt(values=VALUES, **options):
    task = Regression(RegressionOptions(**options))
    task.learn(values, Ledger())
    return task


def refused(values, error=DataError, **options):
    with pytest.raises(error) as caught:
        learnt(values, **options)
    return str(caught.value)


def test_mean_and_deviation_are_those_of_the_training_targets():
    task = learnt()
    assert (task.mean, task.scale) == (pytest.approx(NUMBERS.mean(), rel=1e-15), pytest.approx(NUMBERS.std(), rel=1e-15))
    np.testing.assert_array_equal(task.targets(VALUES), NUMBERS)
    again = Regression.restore(task.options, json.loads(json.dumps(task.state())))
    assert again.state() == task.state()


@pytest.mark.parametrize("values", [[1e308, -1e308, 5e307], [1e-300, 2e-300, 4e-300], [1e15, 1e15 + 1, 1e15 + 2]])
def test_numbers_of_any_size_are_scaled(values):
    task = learnt(values)
    z = (np.array(values) - task.mean) / task.scale
    assert math.isfinite(task.scale)
    np.testing.assert_allclose(z.std(), 1.0, rtol=1e-6)


def test_the_answer_is_in_the_unit_of_the_target():
    task = learnt()
    (answer,) = task.decode(np.array([[0.75]], dtype=np.float32))
    assert answer.value == pytest.approx(NUMBERS.mean() + 0.75 * NUMBERS.std(), rel=1e-12)
    assert answer.to_json() == {"prediction": answer.value}, "nothing is said about probabilities that there are not"
    assert answer.numbers == {}


def test_a_network_that_gives_no_number_is_said_to():
    answers = learnt().decode(np.array([[np.nan], [0.0], [np.inf]]))
    assert [answer.value is None for answer in answers] == [True, False, True]
    assert answers[0].error == "the network's output for this row is not a finite number"


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_losses_are_those_of_torch_on_standardised_targets(loss):
    task = learnt(loss=loss, huber_delta=0.7)
    output = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.from_numpy((NUMBERS - NUMBERS.mean()) / NUMBERS.std())
    made = {"squared": torch.nn.MSELoss(), "absolute": torch.nn.L1Loss(), "huber": torch.nn.HuberLoss(delta=0.7)}[loss]
    found = task.loss(output, torch.from_numpy(task.targets(VALUES)))
    assert float(found.total / found.weight) == pytest.approx(float(made(output[:, 0], z)), rel=1e-12)


def test_small_differences_of_large_numbers_survive_single_precision():
    values = [1e9 + 1, 1e9 + 2, 1e9 + 3]
    task = learnt(values)
    perfect = torch.tensor([[-math.sqrt(1.5)], [0.0], [math.sqrt(1.5)]], dtype=torch.float32)
    assert float(task.loss(perfect, torch.from_numpy(task.targets(values))).total) < 1e-12


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_the_best_constant_is_the_mean_or_the_median(loss):
    task = learnt(loss=loss)
    targets = torch.from_numpy(task.targets(VALUES))
    tried = np.linspace(-2, 2, 4001)
    losses = [float(task.loss(torch.full((6, 1), z, dtype=torch.float64), targets).total) for z in tried]
    best = task.mean + task.scale * tried[int(np.argmin(losses))]
    if loss == "squared":
        assert best == pytest.approx(NUMBERS.mean(), abs=task.scale * 1e-3)
    else:
        assert np.median(NUMBERS) - 0.4 <= best <= np.median(NUMBERS) + 0.4  # between the middle two all are equally good


def test_quantiles_never_cross_and_the_median_is_the_answer():
    task = learnt(quantiles=(0.9, 0.1))
    assert task.names == ("0.1", "0.5", "0.9")
    assert (task.answers, task.metrics[0], task.validation_metric) == ("quantiles", "pinball", "pinball")
    output = 5 * np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = task.probabilities(output)
    assert (np.diff(found, axis=1) > 0).all()
    answer = task.decode(output)[0]
    assert answer.quantiles == dict(zip(("0.1", "0.5", "0.9"), found[0].tolist(), strict=True))
    assert answer.value == answer.quantiles["0.5"]
    assert answer.to_json() == {"prediction": answer.value, "quantiles": dict(answer.quantiles)}
    assert tuple(answer.numbers) == task.answer_columns == ("quantile.0.1", "quantile.0.5", "quantile.0.9")


def test_the_pinball_loss_is_least_at_the_quantiles():
    values = stats.gamma(2.0).rvs(size=4000, random_state=0).tolist()
    task = learnt(values, quantiles=(0.1, 0.9))
    targets = torch.from_numpy(task.targets(values))
    output = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.Adam([output], lr=0.02)
    for _ in range(600):
        descent.zero_grad()
        task.loss(output.expand(len(targets), 3), targets).total.backward()
        descent.step()
    found = task.probabilities(output.detach().numpy())[0]
    np.testing.assert_allclose(found, np.quantile(values, [0.1, 0.5, 0.9]), rtol=0.03)


def test_the_loss_of_quantiles_is_that_of_scikit_learn():
    from sklearn.metrics import mean_pinball_loss

    task = learnt(quantiles=(0.2, 0.8))
    output = np.random.default_rng(1).normal(size=(6, 3))
    found = task.loss(torch.from_numpy(output), torch.from_numpy(task.targets(VALUES)))
    given = task.probabilities(output)
    expected = np.mean([mean_pinball_loss(NUMBERS, given[:, i], alpha=q) for i, q in enumerate((0.2, 0.5, 0.8))])
    assert float(found.total / found.weight) * task.scale == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_estimated_says_what_to_do():
    text = refused(["12", "n/a", "3,5", "nan", "4"])
    assert "the target has values that are no finite numbers (write a point before the fraction" in text
    assert "3 of 5 rows, such as 'n/a', '3,5', 'nan'" in text
    assert "names of classes are for --task classification" in text
    assert "true and false are classes" in refused([True, False])
    assert "1 of 2 rows, such as inf" in refused([1.0, math.inf])
    text = refused([7, 7.0, "7"])
    assert "the target is constant: there is nothing to estimate" in text
    assert "3 rows, all 7" in text
    assert "choose another target column" in text
    assert "the target is constant" in refused([0, 0])
    assert "too few rows" in refused([1.0])
    assert "leave out one of the two" in refused([1.0, 2.0], OptionsError, quantiles=(0.1,), loss="huber")
    with pytest.raises(OptionsError, match="less than 1"):
        build(RegressionOptions, {"quantiles": [0.1, 1.5]})


def test_a_later_value_that_is_no_number_is_named():
    task = learnt()
    assert task.target_problem("1,234.5").startswith("'1,234.5' is not a number")
    assert task.target_problem(10**400) == f"{10**400!r:.80} is not a finite number"
    with pytest.raises(DataError, match=r"'many' is not a number(.|\n)*value 1"):
        task.targets([1, "many"])


def test_answers_agree_as_far_as_raw_outputs_may_move():
    task = learnt([100.0, 300.0])
    was, near, far = (task.decode(np.array([[raw]]))[0] for raw in (0.5, 0.5 + 0.9e-5, 0.5 + 1.2e-5))
    assert task.same_answer(was, near, 1e-5)
    assert not task.same_answer(was, far, 1e-5)
    large, moved = (task.decode(np.array([[raw]]))[0] for raw in (50.0, 50.0 + 40e-5))
    assert task.same_answer(large, moved, 1e-5), "large outputs may move in proportion, as the raw ones do"
    assert not task.same_answer(was, Prediction(value=None, error="no"), 1e-5)


def test_quantiles_agree_as_far_as_their_parts_may_move():
    task = learnt([100.0, 300.0], quantiles=(0.1, 0.9))
    raw = np.array([[0.5, 1.0, 1.0]])
    was, now = task.decode(raw)[0], task.decode(raw + 0.9e-5)[0]
    assert task.same_answer(was, now, 1e-5)
    assert not task.same_answer(was, task.decode(raw + 1e-4)[0], 1e-5)


def test_under_reduced_precision_a_tenth_of_a_deviation_is_alike_and_distances_are_held_against_each_other():
    task = learnt([100.0, 300.0])  # deviation 100
    assert task.alike(150.0, 159.0)
    assert not task.alike(150.0, 161.0)
    assert task.cost("120", 150.0) == 30.0
    assert math.isnan(task.cost("n/a", 150.0))
