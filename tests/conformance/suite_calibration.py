"""What every calibrator and every score must do. Each check takes a registered name."""

from __future__ import annotations

import json

import numpy as np
from assembly import check_options_class

from regraft.calibration import CALIBRATORS, SCORES
from regraft.calibration.links import Levels, Sigmoids, Softmax, Steps
from regraft.calibration.score import Conformal, Ranked
from regraft.evaluation import ANSWERS
from regraft.options import build

ROWS = 400


def made(link, rows=ROWS, columns=4, seed=0):
    """Evidence that is too sure of itself by a factor of 3, and what is true."""
    rng = np.random.default_rng(seed)
    if link.kind == "levels":
        truth = rng.normal(size=rows)
        return np.tile(np.array([[-0.3, 0.0, 0.3]]), (rows, 1)) + 0.1 * truth[:, None], truth
    logits = rng.normal(size=(rows, columns)) * 1.5
    if isinstance(link, Sigmoids) and not isinstance(link, Steps):
        truth = (rng.random((rows, columns)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    elif isinstance(link, Steps):
        steps = rng.random((rows, columns)) < 1 / (1 + np.exp(-logits))
        truth = np.cumprod(steps, axis=1).sum(axis=1)
    else:
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = (rng.random((rows, 1)) > np.cumsum(shares, axis=1)).sum(axis=1).clip(max=columns - 1)
    return 3.0 * logits, truth


def links_of(name):
    every = (Softmax(), Sigmoids(), Steps(), Levels((0.1, 0.5, 0.9)))
    return [link for link in every if link.kind in CALIBRATORS.get(name).kinds]


def check_it_is_for_something(name):
    assert CALIBRATORS.get(name).name == name
    assert links_of(name)


def check_state_survives_json(name):
    for link in links_of(name):
        evidence, truth = made(link)
        learnt = CALIBRATORS.get(name).fit(evidence, truth, link)
        again = type(learnt).restore(json.loads(json.dumps(learnt.state(), allow_nan=False)))
        assert again.state() == learnt.state()
        assert again.apply(evidence, link).tobytes() == learnt.apply(evidence, link).tobytes(), "the same bits after loading"


def check_it_is_not_worse_than_nothing(name):
    for link in links_of(name):
        evidence, truth = made(link)
        learnt = CALIBRATORS.get(name).fit(evidence, truth, link)
        new, known = made(link, rows=2000, seed=1)
        before, after = (float(link.losses(each, known).mean()) for each in (new, learnt.apply(new, link)))
        assert after <= before
        if name != "none":
            assert after < 0.9 * before, "three times too sure is seen"


def check_a_row_does_not_depend_on_its_batch(name):
    for link in links_of(name):
        evidence, truth = made(link)
        learnt = CALIBRATORS.get(name).fit(evidence, truth, link)
        together = learnt.apply(evidence[:9], link)
        assert all(learnt.apply(evidence[row : row + 1], link).tobytes() == together[row].tobytes() for row in range(9))


def check_moves_grow_by_no_more_than_stated(name):
    rng = np.random.default_rng(3)
    for link in links_of(name):
        evidence, truth = made(link)
        learnt = CALIBRATORS.get(name).fit(evidence, truth, link)
        moved = evidence + 1e-6 * rng.choice([-1.0, 1.0], size=evidence.shape)
        far = np.abs(learnt.apply(moved, link) - learnt.apply(evidence, link)).max()
        assert far <= 1e-6 * learnt.steepness * 1.01
        assert learnt.steepness < 20, "a last bit stays a last bit"


def check_extreme_rows_stay_finite(name):
    for link in links_of(name):
        evidence, truth = made(link)
        extreme = np.concatenate([evidence, 1e4 * evidence[:4], 0 * evidence[:4]])
        sure = np.concatenate([truth, truth[:4], truth[:4]])
        learnt = CALIBRATORS.get(name).fit(evidence, truth, link)
        assert np.isfinite(learnt.apply(extreme, link)).all()
        assert np.isfinite(link.losses(learnt.apply(extreme, link), sure)).all()


def check_rows_all_right_do_not_say_infinitely_sure(name):
    for link in links_of(name):
        evidence, truth = made(link)
        if isinstance(link, Softmax):
            learnt = CALIBRATORS.get(name).fit(evidence, evidence.argmax(axis=1), link)
            odds = link.odds(learnt.apply(evidence, link))
            assert learnt.steepness < 50
            assert np.isfinite(odds).all()


def check_scores_declare_themselves(name):
    cls = SCORES.get(name)
    assert cls.name == name
    assert cls.answers
    assert cls.answers <= set(ANSWERS.names())
    check_options_class(cls.Options)


def judged_for(name, rows=300, seed=0):
    cls, rng = SCORES.get(name), np.random.default_rng(seed)
    score = cls(build(cls.Options, {}))
    if score.gives_sets:
        logits, truth = made(Softmax(), rows, 6, seed)
        shares = np.exp(logits / 3) / np.exp(logits / 3).sum(axis=1, keepdims=True)
        return score, shares, truth
    truth = rng.normal(size=rows)
    return score, 0.5 * truth[:, None] + np.array([[-0.4, 0.0, 0.4]] if "quantiles" in cls.answers else [[0.0]]), truth


def check_the_true_answer_is_inside_exactly_where_its_score_is_small(name):
    score, judged, truth = judged_for(name)
    values = score.of_truth(judged, truth)
    for limit in np.quantile(values, [0.2, 0.5, 0.9]):
        if score.gives_sets:
            inside = score.sets(judged, np.full(judged.shape[1], limit))[np.arange(len(truth)), truth]
        else:
            ends = score.intervals(judged, limit)
            assert (ends[:, 0] <= ends[:, 1]).all()
            inside = (ends[:, 0] <= truth + 1e-12) & (truth <= ends[:, 1] + 1e-12)
        assert np.array_equal(inside, values <= limit + 1e-12) or (inside >= (values <= limit)).all()


def check_scores_survive_json_and_cover(name):
    covered = []
    for seed in range(60):
        score, judged, truth = judged_for(name, 400, seed)
        known = Conformal.of(score, judged[:200], truth[:200])
        again = Conformal(score, tuple(Ranked.from_json(json.loads(json.dumps(one.to_json()))) for one in known.ranked))
        if score.gives_sets:
            sets = known.sets(judged[200:], 0.8)
            assert np.array_equal(sets, again.sets(judged[200:], 0.8))
            covered.append(sets[np.arange(200), truth[200:]].mean())
        else:
            ends = known.intervals(judged[200:], 0.8)
            assert np.array_equal(ends, again.intervals(judged[200:], 0.8))
            covered.append(((ends[:, 0] <= truth[200:]) & (truth[200:] <= ends[:, 1])).mean())
    error = np.std(covered, ddof=1) / np.sqrt(len(covered))
    assert 0.8 - 3 * error <= np.mean(covered) <= 0.8 + 1 / 201 + 3 * error


CALIBRATOR_CHECKS = (
    check_it_is_for_something,
    check_state_survives_json,
    check_it_is_not_worse_than_nothing,
    check_a_row_does_not_depend_on_its_batch,
    check_moves_grow_by_no_more_than_stated,
    check_extreme_rows_stay_finite,
    check_rows_all_right_do_not_say_infinitely_sure,
)
SCORE_CHECKS = (
    check_scores_declare_themselves,
    check_the_true_answer_is_inside_exactly_where_its_score_is_small,
    check_scores_survive_json_and_cover,
)
