"""The metrics of retrieval against plain loops over all orders, chance against its closed form, baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.pairs import BACK, THERE, places
from regraft.evaluation.rung import Rows, RungRows
from regraft.evaluation.rungs_of_pairs import Chance, FirstPartAlone, SecondPartAlone
from regraft.tasks.retrieval import Retrieval

KIND = kind_of("pairs", ("picture", "name"))


def hits_by_loops(targets: np.ndarray, first: np.ndarray, second: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Recall at k by sorting, ties broken at random many times; a thing stands where its best row stands."""
    rng, things = np.random.default_rng(seed), np.unique(targets)
    found = np.zeros(len(targets))
    draws = 4000
    for row in range(len(targets)):
        best = np.array([max(round(float(first[row] @ second[j]), 9) for j in np.flatnonzero(targets == t)) for t in things])
        for _ in range(draws):
            order = np.lexsort((rng.random(len(things)), -best))
            found[row] += things[order[:most]].tolist().count(targets[row])
    return found / draws


def unit(rows: int, width: int, seed: int, levels: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, width))
    values = np.round(values * levels) + 0.1 if levels else values
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("levels", [0, 1])
def test_recall_is_that_of_sorting_with_ties_at_random(levels):
    targets = np.array([5, 5, 2, 9, 2, 7, 1, 1])
    first, second = unit(8, 2, 0, levels), unit(8, 2, 1, levels)
    outputs = np.concatenate([3 * first, 0.5 * second], axis=1)
    for most in (1, 2, 4):
        np.testing.assert_allclose(
            places(targets, outputs, *THERE).hits(most), hits_by_loops(targets, first, second, most), atol=0.04
        )
        np.testing.assert_allclose(
            places(targets, outputs, *BACK).hits(most), hits_by_loops(targets, second, first, most), atol=0.04
        )


def test_a_constant_answer_is_chance_in_closed_form():
    targets = np.arange(40)
    same = np.tile(KIND.constant(targets), (40, 1))
    judged = KIND.judge(Retrieval.metrics, *KIND.checked(targets, same), options=JudgeOptions(resamples=100))
    values = {name: metric.value for name, metric in judged.metrics.items()}
    for way in ("there", "back"):
        for most in (1, 5, 10):
            assert values[f"recall-at-{most}-{way}"] == pytest.approx(most / 40)
        assert values[f"median-rank-{way}"] == pytest.approx(41 / 2)
    harmonic = np.mean(1 / np.arange(1, 41))
    assert KIND.measures(["reciprocal-rank"])["reciprocal-rank"].value(targets, same) == pytest.approx(harmonic)
    assert any("chance has a recall at 10 of 0.250 and a median rank of 20.5" in note for note in judged.notes)


def test_random_vectors_find_what_the_closed_form_says():
    drawn = [np.random.default_rng(seed).normal(size=(200, 32)) for seed in range(40)]
    found = [[places(np.arange(200), outputs, way).hits(10).mean() for way in ("there", "back")] for outputs in drawn]
    deviation = np.sqrt(0.05 * 0.95 / (40 * 2 * 200))
    assert np.mean(found) == pytest.approx(10 / 200, abs=4 * deviation)


def test_right_answers_are_perfect_and_the_scale_of_vectors_plays_no_part():
    vectors = np.random.default_rng(0).normal(size=(30, 6))
    targets = np.arange(30) // 2  # every thing twice
    vectors[1::2] = vectors[::2]
    outputs = np.concatenate([vectors, np.linspace(0.1, 9, 30)[:, None] * vectors], axis=1)
    judged = KIND.judge(Retrieval.metrics, *KIND.checked(targets, outputs), options=JudgeOptions(resamples=100))
    assert {name: metric.value for name, metric in judged.metrics.items()} == dict.fromkeys(Retrieval.metrics, 1.0)
    assert "among 15 things" in judged.notes[0]


def test_the_weighted_median_is_that_of_repeated_rows():
    rng = np.random.default_rng(3)
    outputs, targets = rng.normal(size=(25, 8)), np.arange(25)
    measure = KIND.measures(["median-rank-there"])["median-rank-there"]
    weights = rng.multinomial(25, np.full(25, 1 / 25), size=40).T.astype(float)
    ranks = places(targets, outputs, "there").ranks()
    expected = [np.median(np.repeat(ranks, weights[:, draw].astype(int))) for draw in range(40)]
    np.testing.assert_allclose(measure.values(targets, outputs, weights), expected)


def test_better_vectors_are_said_to_be_better_both_ways():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(120, 16))
    near, far = (np.concatenate([truth, truth + noise * rng.normal(size=(120, 16))], axis=1) for noise in (0.5, 4.0))
    found = KIND.compare(np.arange(120), (far, near), ("far", "near"), options=JudgeOptions(resamples=300))
    assert (found.verdict, found.quantity) == ("better", "recall-at-10")
    assert found.only_b_right > found.only_a_right
    assert KIND.goodness(np.arange(120), near) > KIND.goodness(np.arange(120), far)


@pytest.mark.parametrize(
    ("targets", "outputs", "told"),
    [
        (np.arange(3), np.ones((3, 5)), "two vectors a row (N, 2 W)"),
        (np.arange(3), np.ones((2, 4)), "cannot be judged on these arrays"),
        (np.zeros(3), np.ones((3, 4)), "rows of two things are needed"),
        (np.arange(2), np.array([[1, 1, 0, 0], [1, 1, 1, 1.0]]), "has no vector of the part 'name' for some"),
        (np.arange(2), np.array([[1, np.nan, 1, 1], [1, 1, 1, 1.0]]), "are not finite numbers"),
    ],
)
def test_what_cannot_be_judged_says_why(targets, outputs, told):
    with pytest.raises(DataError) as caught:
        KIND.checked(targets, outputs)
    assert told in str(caught.value)


def carried_by_hand(train: Rows, cut: int, row: np.ndarray, asks: int) -> np.ndarray:
    """The mean of the other part of the five training rows nearest in the part that asks; in loops."""
    parts = [(train.features_ND[:, :cut], row[:cut]), (train.features_ND[:, cut:], row[cut:])]
    means = [known.mean(axis=0) for known, _ in parts]
    cosines = []
    for known in parts[asks][0]:
        one, two = known - means[asks], parts[asks][1] - means[asks]
        cosines.append(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    other = [parts[1 - asks][0][place] - means[1 - asks] for place in np.argsort(cosines)[::-1][:5]]
    return np.mean([vector / np.linalg.norm(vector) for vector in other], axis=0)


@pytest.mark.parametrize(("rung_class", "asks"), [(FirstPartAlone, 0), (SecondPartAlone, 1)])
def test_one_part_alone_is_what_its_nearest_training_rows_have(rung_class, asks):
    rng = np.random.default_rng(0)
    train, test = Rows(rng.normal(size=(40, 9)), np.arange(40), (4, 5)), rng.normal(size=(3, 9))
    rung = rung_class(0)
    rung.fit(RungRows(train=train, valid=train, class_counts_C=np.empty(0), kind=KIND))
    found = rung.probabilities(test)
    width = 5 if asks == 0 else 4
    sides = found[:, :width], found[:, width:]
    for row in range(3):
        carried = carried_by_hand(train, 4, test[row], asks)
        np.testing.assert_allclose(sides[asks][row], carried / np.linalg.norm(carried), atol=1e-12)
        own = (
            (test[row, 4:] - train.features_ND[:, 4:].mean(axis=0))
            if asks == 0
            else (test[row, :4] - train.features_ND[:, :4].mean(axis=0))
        )
        np.testing.assert_allclose(sides[1 - asks][row], own / np.linalg.norm(own), atol=1e-12)
    assert rung.note == f"by '{KIND.columns[asks]}' alone, the 5 nearest training rows"


def test_chance_needs_no_features():
    chance = Chance(0)
    assert not Chance.uses_features
    assert chance.probabilities(np.empty((4, 7))).tolist() == np.ones((4, 2)).tolist()
