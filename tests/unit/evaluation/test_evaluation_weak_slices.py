"""Weak slices: a planted one is found and named, nothing is found where there is nothing, and tests are on unseen rows."""

import builtins
import json

import numpy as np
import pytest

from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.metadata import Metadata, described
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.slices import computed_columns
from regraft.evaluation.weak_search import candidates_of, conditions_of, overlap
from regraft.evaluation.weak_slices import WeakSlice, weak_slices_of

OPTIONS = JudgeOptions(resamples=1000)
ROWS = 6000
LABELS = ("a", "b", "c")


def world(seed, rows=ROWS, planted=True, features=None):
    """Nine tenths of the rows are right; in the planted slice, 3 % of them, seven tenths."""
    rng = np.random.default_rng(seed)
    country = rng.choice(["DE", "FR", "US", "ES", "IT"], p=[0.3, 0.2, 0.2, 0.2, 0.1], size=rows)
    device = rng.choice(["phone", "web", ""], size=rows)
    length = np.exp(rng.normal(4.5, 0.9, rows)).astype(int) + 3
    bad = (country == "IT") & (length > np.quantile(length, 0.7))
    right = rng.random(rows) < np.where(bad & planted, 0.7, 0.9)
    targets = rng.integers(0, 3, rows)
    outputs = np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
    known = Metadata(
        columns=(described("country", country.tolist()), described("device", device.tolist())),
        computed=computed_columns(length, None, []),
        numbers_N=np.arange(rows) + 1,
        features_ND=features,
    )
    return targets, outputs, known, bad


def found_in(targets, outputs, known, seed=0, options=OPTIONS):
    return weak_slices_of(kind_of("classes", LABELS), targets, outputs, known, options, seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_slice_is_found_and_named(seed):
    targets, outputs, known, bad = world(seed)
    found = found_in(targets, outputs, known, seed)
    best = found[0]
    assert best.rule.startswith("country = IT and length > ")
    cut = int(best.rule.rpartition(" ")[2])
    inside = np.array([known.columns[0].values[code] == "IT" for code in known.columns[0].codes_N])
    inside &= known.computed[0].numbers() > cut
    assert best.n == inside.sum()
    assert best.share == pytest.approx(inside.mean())
    assert overlap(inside, bad) > 0.5
    assert best.p_holm < 0.05
    assert best.found.high < best.overall
    right = outputs.argmax(axis=1) == targets
    assert best.overall == pytest.approx(right.mean())
    assert best.found.n < best.n, "the interval is of the half that tested the rule"
    assert 0.55 < best.found.value < 0.82
    assert set(best.examples) <= set(np.flatnonzero(inside & ~right) + 1)
    assert len(best.examples) == 5


def test_nothing_is_found_in_twenty_clean_sets():
    alarms = [found_in(*world(100 + seed, rows=2000, planted=False)[:3], seed) for seed in range(20)]
    assert alarms == [()] * 20


def test_every_rule_is_tested_on_rows_that_it_was_not_found_on(monkeypatch):
    """A search that remembers its rows by heart finds what is not there; the other half does not confirm it."""
    targets, outputs, known, _ = world(7, rows=1000, planted=False)
    wrong = outputs.argmax(axis=1) != targets
    searched = []

    def by_heart(conditions, known, costs_N, rows, seed):
        inside = np.zeros(len(costs_N), dtype=bool)
        inside[rows[wrong[rows]]] = True
        inside[np.setdiff1d(np.arange(len(costs_N)), rows)[::3]] = True
        searched.append(rows)
        condition = conditions[0]
        return [type("Rule", (), {"rule": "by heart", "inside_N": inside, "worth": 1.0, "conditions": (condition,)})()]

    monkeypatch.setattr("regraft.evaluation.weak_slices.candidates_of", by_heart)
    assert found_in(targets, outputs, known) == ()
    assert len(searched) == 2
    assert sorted(np.concatenate(searched).tolist()) == list(range(1000))


def test_the_same_seed_finds_the_same_and_json_keeps_it():
    targets, outputs, known, _ = world(1)
    found, again = (found_in(targets, outputs, known, 3) for _ in range(2))
    assert found == again
    told = json.loads(json.dumps([one.to_json() for one in found], allow_nan=False))
    assert [WeakSlice.from_json(one) for one in told] == list(found)
    assert list(told[0]) == [
        "rule",
        "n",
        "share",
        "metric",
        "value",
        "low",
        "high",
        "n_tested",
        "overall",
        "p_value",
        "p_holm",
        "examples",
    ]


def test_a_rule_is_as_simple_as_it_can_be():
    targets, outputs, known, _ = world(2, planted=False)
    phones = np.array([code >= 0 and known.columns[1].values[code] == "phone" for code in known.columns[1].codes_N])
    outputs[phones & (np.arange(ROWS) % 3 == 0)] = 1 / 3
    given = outputs.copy()
    given[phones & (np.arange(ROWS) % 3 == 0)] = np.roll(np.eye(3)[targets], 1, axis=1)[phones & (np.arange(ROWS) % 3 == 0)]
    assert [one.rule for one in found_in(targets, given, known)] == ["device = phone"]


def test_rows_without_a_value_can_be_weak():
    targets, outputs, known, _ = world(3, planted=False)
    missing = known.columns[1].codes_N < 0
    outputs[missing & (np.arange(ROWS) % 2 == 0)] = np.roll(np.eye(3)[targets], 1, axis=1)[missing & (np.arange(ROWS) % 2 == 0)]
    assert [one.rule for one in found_in(targets, outputs, known)] == ["device is missing"]


def test_a_cluster_of_features_can_be_weak():
    rng = np.random.default_rng(0)
    place = rng.integers(0, 8, ROWS)
    centres = rng.normal(size=(8, 12)) * 6
    features = (centres[place] + rng.normal(size=(ROWS, 12))).astype(np.float32)
    targets, outputs, known, _ = world(4, planted=False, features=features)
    wrong = (place == 5) & (rng.random(ROWS) < 0.5)
    outputs[wrong] = np.roll(np.eye(3)[targets], 1, axis=1)[wrong]
    known = Metadata(numbers_N=known.numbers_N, features_ND=features)
    found = found_in(targets, outputs, known)
    assert found[0].rule.startswith("features in cluster ")
    assert {int(place[row - 1]) for row in found[0].examples} == {5}


def test_costs_of_numbers_are_searched_as_well():
    rng = np.random.default_rng(0)
    targets, _, known, bad = world(5)
    truth = rng.normal(size=ROWS)
    outputs = (truth + rng.normal(size=ROWS) * np.where(bad, 3.0, 1.0))[:, None]
    found = weak_slices_of(kind_of("numbers"), truth, outputs, known, OPTIONS, 0)
    assert "country = IT" in found[0].rule
    assert "length > " in found[0].rule
    assert found[0].metric == "mae"
    assert found[0].found.low > found[0].overall


def test_label_sets_are_searched_by_their_log_loss():
    rng = np.random.default_rng(0)
    _, _, known, bad = world(6)
    truth = (rng.random((ROWS, 3)) < 0.4).astype(int)
    flipped = rng.random((ROWS, 3)) < np.where(bad, 0.4, 0.1)[:, None]
    outputs = np.where(truth.astype(bool) ^ flipped, 0.9, 0.1)
    found = weak_slices_of(kind_of("label-sets", LABELS), truth, outputs, known, OPTIONS, 0)
    assert "country = IT" in found[0].rule
    assert found[0].metric == "micro-f1"
    assert found[0].found.high < found[0].overall


def test_too_few_rows_are_not_searched():
    targets, outputs, known, _ = world(0, rows=199)
    assert found_in(targets, outputs, known) is None


def test_perfect_answers_have_no_weak_slice():
    targets, _, known, _ = world(0, rows=600)
    assert found_in(targets, np.eye(3)[targets], known) == ()


def test_without_scikit_learn_pairs_of_conditions_are_searched(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named '{name}'", name="sklearn")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    targets, outputs, known, _ = world(1)
    assert found_in(targets, outputs, known, 3)[0].rule.startswith("country = IT and length > ")


def test_a_tree_finds_a_rule_of_three_conditions():
    rng = np.random.default_rng(0)
    rows = 4000
    age, height = rng.uniform(0, 100, rows), rng.uniform(0, 100, rows)
    sex = rng.choice(["f", "m"], rows)
    bad = (sex == "f") & (age > 61.3) & (height > 57.7)
    costs = np.where(bad, 1.0, rng.random(rows) < 0.02).astype(float)
    columns = [described("age", age.tolist()), described("height", height.tolist()), described("sex", sex.tolist())]
    known = Metadata(columns=tuple(columns), numbers_N=np.arange(rows))
    found = candidates_of(conditions_of(known, 0), known, costs, np.arange(rows), 0)
    assert max(overlap(one.inside_N, bad) for one in found) > 0.95
    best = max(found, key=lambda one: overlap(one.inside_N, bad))
    assert "sex = f" in best.rule or "sex is not m" in best.rule
    assert "age > 61" in best.rule


def test_what_is_read_is_what_is_applied():
    """Limits are rounded as they are shown, and rows are chosen by the rounded ones."""
    numbers = np.random.default_rng(0).normal(1000, 1, 500) / 3
    known = Metadata(columns=(described("price", numbers.tolist()),), numbers_N=np.arange(500))
    for condition in conditions_of(known, 0):
        shown = float(condition.text.rpartition(" ")[2])
        expected = numbers > shown if condition.sign == ">" else numbers <= shown
        np.testing.assert_array_equal(condition.inside_N, expected)
