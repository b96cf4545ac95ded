"""Several labels a row: how they are written, loss, metrics, baselines and comparison, against torch and scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn import metrics as reference

from regraft.data.dataset import load_dataset
from regraft.errors import DataError, OptionsError
from regraft.evaluation import METRICS, RUNGS
from regraft.evaluation.answer_kind import fitting_names, kind_of
from regraft.evaluation.judge import judge
from regraft.evaluation.ladder import Contender, LadderRows, build_ladder
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.render import draw, plain
from regraft.evaluation.report import Report
from regraft.evaluation.rung import Rows, RungRows
from regraft.options import build
from regraft.tasks.multi_label import MultiLabel, MultiLabelOptions
from regraft.types import Ledger

LABELS = ("art", "news", "sport")
VALUES = [["news", "sport"], ["news"], [], ("art", "news")]
QUICK = JudgeOptions(resamples=300)


def learnt(values=VALUES, ledger=None, **options):
    task = MultiLabel(MultiLabelOptions(**options))
    task.learn(values, ledger or Ledger())
    return task


def refused(values, **options):
    with pytest.raises(DataError) as caught:
        learnt(values, **options)
    return str(caught.value)


def test_lists_and_texts_with_a_separator_are_the_same_labels():
    ledger = Ledger()
    task = learnt(ledger=ledger)
    assert (task.names, task.counts) == (LABELS, (1, 3, 1))
    expected = [[0, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert task.targets(VALUES).tolist() == expected
    assert ledger.counts == {"training rows without a label": 1, "labels with a single training row": 2}
    texts = ["news; sport", "news", "-", " art;news ;news"]
    ledger = Ledger()
    written = learnt(texts, ledger, separator=";", no_label="-")
    assert written.targets(texts).tolist() == expected
    assert ledger.counts["labels that stand twice in a row"] == 1
    again = MultiLabel.restore(task.options, json.loads(json.dumps(task.state())))
    assert (again.labels, again.counts) == (task.labels, task.counts)


def test_the_loss_is_the_binary_cross_entropy_of_torch():
    task = learnt()
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.from_numpy(task.targets(VALUES))
    found = task.loss(output, targets)
    assert float(found.total / found.weight) == pytest.approx(float(torch.nn.BCEWithLogitsLoss()(output, targets.double())))
    np.testing.assert_allclose(task.probabilities(output.numpy()), torch.sigmoid(output).numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("chosen", "weights"), [("balanced", [3.0, 1 / 3, 3.0]), ({"art": 5.0, "sport": 0.25}, [5.0, 1.0, 0.25])]
)
def test_rows_that_have_a_label_weigh_as_in_torch(chosen, weights):
    task = learnt(class_weights=chosen)
    assert task.weights == pytest.approx(weights)
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    targets = torch.from_numpy(task.targets(VALUES))
    found = task.loss(output, targets)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights, dtype=torch.float64))(output, targets.double())
    assert float((found.total / found.weight).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    p, y = torch.sigmoid(output).detach().numpy(), targets.numpy()
    (slope,) = torch.autograd.grad(found.total / found.weight, output)
    np.testing.assert_allclose(slope, ((1 - y) * p - np.array(weights) * y * (1 - p)) / y.size, rtol=1e-5)
    again = MultiLabel.restore(task.options, json.loads(json.dumps(task.state())))
    assert again.loss(output, targets).total == found.total
    assert task.weight(task.targets(VALUES)) == float(found.weight) == 4


def test_weights_of_labels_that_are_nowhere_or_everywhere():
    with pytest.raises(OptionsError, match=r"there is a weight for the label 'nws'(.|\n)*did you mean 'news'"):
        learnt(class_weights={"nws": 2.0})
    every = learnt([["a", "b"], ["b"]], class_weights="balanced")
    assert every.weights == (1.0, 1.0), "no row lacks b: there is nothing to balance"
    assert learnt().state() == {"labels": list(LABELS), "counts": [1, 3, 1]}, "artifacts of before hold nothing else"
    assert learnt().weights is None
    with pytest.raises(OptionsError, match="class_weights"):
        build(MultiLabelOptions, {"class_weights": {"news": 0.0}})


def test_answers_are_the_labels_from_one_half_on():
    task = learnt()
    answers = task.decode(np.array([[0.0, -0.1, 3.0], [-9.0, -9.0, -9.0], [np.nan, 0.0, 0.0]]))
    assert [answer.value for answer in answers] == [["art", "sport"], [], None]
    assert answers[0].to_json()["probabilities"]["art"] == 0.5
    assert answers[2].error == "the network's output for this row is not a finite number"


def test_what_is_no_set_of_labels_says_what_to_do():
    text = refused(["news|sport", "news"])
    assert "'news|sport' is one text, and no separator is given" in text
    assert "--set 'task.separator=|'; one label a row is for --task classification" in text
    assert "3 in ('a', 3) is not the text of a label" in refused([("a", 3), ["b"]])
    assert "7 is neither a list of texts nor a text with a separator" in refused([7, 8])
    assert "no training row has a label" in refused([[], []])
    assert "all training rows have the same labels" in refused([["a", "b"], ["b", "a"]])
    task = learnt()
    assert task.target_problem(["nws"]) == "the training rows have no label 'nws'; did you mean 'news'?"
    assert task.target_problem([]) == ""
    with pytest.raises(DataError, match=r"no label 'nws'(.|\n)*value 1"):
        task.targets([["art"], ["nws"]])


def test_answers_agree_unless_a_label_was_on_the_edge():
    task = learnt()
    was, edge, other = task.decode(np.array([[0.00002, 2.0, -2.0], [-0.00001, 2.0, -2.0], [0.5, 2.0, 2.0]]))
    assert was.value != edge.value
    assert task.same_answer(was, edge, 1e-5)
    assert not task.same_answer(was, edge, 1e-6)
    assert not task.same_answer(was, other, 1e-5)
    assert task.cost(["art"], ["news"]) == pytest.approx(2 / 3)
    assert task.cost(["art", "news"], ["news", "art"]) == 0.0
    assert math.isnan(task.cost(["none"], []))


def drawn(rows=150, labels=4, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < np.linspace(0.15, 0.6, labels)).astype(np.int64)
    logits = 1.5 * (2 * targets - 1) + rng.normal(scale=1.5, size=targets.shape)
    return targets, np.round(1 / (1 + np.exp(-logits)), 2)  # rounded, so that there are ties


def by_hand(name, targets, shares):
    given = (shares >= 0.5).astype(int)
    return {
        "micro-f1": lambda: reference.f1_score(targets, given, average="micro"),
        "macro-f1": lambda: reference.f1_score(targets, given, average="macro"),
        "subset-accuracy": lambda: reference.accuracy_score(targets, given),
        "mean-average-precision": lambda: reference.average_precision_score(targets, shares, average="macro"),
        "binary-log-loss": lambda: np.mean(
            [reference.log_loss(targets[:, i], shares[:, i], labels=[0, 1]) for i in range(targets.shape[1])]
        ),
    }[name]()


@pytest.mark.parametrize("name", fitting_names(METRICS, "label-sets"))
def test_metrics_equal_those_of_scikit_learn_under_every_weighting(name):
    targets, shares = drawn()
    measure = kind_of("label-sets", "abcd").measures([name])[name]
    assert measure.value(targets, shares) == pytest.approx(by_hand(name, targets, shares), rel=1e-9)
    weights = np.random.default_rng(1).integers(0, 4, size=(150, 3))
    for found, column in zip(measure.values(targets, shares, weights), weights.T, strict=True):
        rows = np.repeat(np.arange(150), column)
        assert found == pytest.approx(by_hand(name, targets[rows], shares[rows]), rel=1e-9)


def test_a_label_without_rows_is_left_out_and_named():
    targets, shares = drawn()
    targets[:, 2] = 0
    found = judge(["mean-average-precision"], targets, shares, "abcd", answers="label-sets", options=QUICK)
    expected = np.mean([reference.average_precision_score(targets[:, i], shares[:, i]) for i in (0, 1, 3)])
    assert found.metrics["mean-average-precision"].value == pytest.approx(expected)
    assert found.notes == ("mean_average_precision leaves out the labels without rows: 'c'",)


def test_each_label_is_judged_and_the_report_goes_through_json_and_onto_the_screen():
    targets, shares = drawn()
    judgement = judge(fitting_names(METRICS, "label-sets"), targets, shares, "abcd", answers="label-sets", options=QUICK)
    parts = reference.precision_recall_fscore_support(targets, (shares >= 0.5).astype(int))
    for row, precision, recall, f1, support in zip(judgement.per_class, *parts, strict=True):
        assert (row.precision.value, row.recall.value, row.f1.value) == pytest.approx((precision, recall, f1))
        assert row.support == support
    for metric in judgement.metrics.values():
        assert metric.low < metric.value < metric.high
    report = Report(kind="evaluate", judgement=judgement)
    written = report.to_json()
    assert written["confusion"] is None
    assert Report.from_json(written).to_json() == written
    assert "precision" in plain(draw(report))


def test_the_one_vs_rest_probe_is_scikit_learns_regression_a_label():
    rng = np.random.default_rng(0)

    def made(rows):
        targets, _ = drawn(rows, seed=rows)
        features = targets @ rng.normal(size=(4, 6)) * 2 + rng.normal(size=(rows, 6)) * 3 + 5
        return Rows(features.astype(np.float32), targets)

    train, valid, test = made(200), made(80), made(90)
    train.targets_N[:, 1] = 1  # a label that every row has
    rung_class = RUNGS.get("one-vs-rest-probe")
    wide = train.features_ND.astype(np.float64)
    scale = lambda features: (features.astype(np.float64) - wide.mean(0)) / wide.std(0)  # noqa: E731
    losses = {}
    for strength in rung_class.STRENGTHS:
        columns = []
        for label in range(4):
            if label == 1:
                columns.append(None)
                continue
            model = linear_model.LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
            model.fit(scale(wide), train.targets_N[:, label])
            columns.append([model.predict_proba(scale(part.features_ND))[:, 1] for part in (valid, test)])
        losses[strength] = columns
    rows = LadderRows(train=train, valid=valid, test=test, labels="abcd", answers="label-sets")
    fitted = Contender(name="fitted", probabilities_NC=drawn(90, seed=90)[1])
    rung = rung_class(0)
    rung.fit(RungRows(train=train, valid=valid, class_counts_C=train.targets_N.sum(axis=0), kind=rows.kind))
    found = rung.probabilities(test.features_ND)
    chosen = losses[float(rung.note.removeprefix("C = "))]
    for label in (0, 2, 3):
        np.testing.assert_allclose(found[:, label], chosen[label][1], atol=5e-3)
    assert (found[:, 1] > 0.99).all()
    ladder = build_ladder(rows, fitted, ["micro-f1", "mean-average-precision"], options=QUICK)
    assert [step.name for step in ladder.steps] == ["label-shares", "one-vs-rest-probe", "fitted"]
    against = ladder.steps[-1].against_previous
    assert against.quantity == "micro-f1"
    gained = ladder.steps[-1].metrics["micro-f1"].value - ladder.steps[-2].metrics["micro-f1"].value
    assert against.difference.value == pytest.approx(gained)


def test_two_models_of_labels_are_compared_by_their_pooled_f1():
    targets, good = drawn(200)
    poor = np.clip(good + np.random.default_rng(3).normal(scale=0.6, size=good.shape), 0, 1)
    kind = kind_of("label-sets", "abcd")
    found = kind.compare(targets, (poor, good), ("old", "new"), options=QUICK)
    expected = by_hand("micro-f1", targets, good) - by_hand("micro-f1", targets, poor)
    assert found.difference.value == pytest.approx(expected)
    assert (found.verdict, kind.compare(targets, (good, poor), ("a", "b"), options=QUICK).verdict) == ("better", "worse")
    nothing = np.zeros((5, 4), dtype=np.int64)
    assert kind.compare(nothing, (np.zeros((5, 4)), np.zeros((5, 4))), ("a", "b"), options=QUICK).difference.value == 0.0


@pytest.mark.parametrize(
    ("targets", "outputs", "text"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), "targets of shape (3, 2), answers of shape (3, 3)"),
        (np.full((3, 2), 2), np.zeros((3, 2)), "0 or 1 for every label"),
        (np.zeros((3, 2)), np.full((3, 2), 1.5), "the outputs of the model are not probabilities"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "the probabilities of the model are not finite numbers"),
    ],
)
def test_what_cannot_be_judged_is_named(targets, outputs, text):
    with pytest.raises(DataError) as caught:
        judge(["micro-f1"], targets, outputs, "ab", answers="label-sets")
    assert text in str(caught.value)


def test_rare_labels_are_drawn_too():
    targets = np.zeros((100, 3), dtype=np.int64)
    targets[:60, 0] = targets[50:90, 1] = targets[95:98, 2] = 1
    groups = kind_of("label-sets", "abc").groups(targets)
    assert set(groups[95:98]) == {2}, "of several labels the rarest one counts"
    assert set(groups[98:]) == {3}, "rows without a label are a group of their own"
    assert set(groups[50:60]) == {1}


def test_lists_of_texts_are_read_split_and_kept(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"text": f"mail {i}", "tags": [name for name in LABELS if rng.random() < 0.5]} for i in range(200)]
    path = tmp_path / "mails.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for data in (path, rows):
        with load_dataset(data, target="tags", inputs={"text": "text"}) as dataset:
            assert [len(dataset.split(name)) for name in dataset.names] == [140, 20, 40]
            train = dataset.split("train")
            by_text = {row["text"]: tuple(row["tags"]) for row in rows}
            assert [by_text[text] for text in train.values("text")] == dataset.targets("train")
            assert () in dataset.targets("train")
            assert any("the same share of every frequent set of labels" in note for note in dataset.notes)


def test_lists_of_anything_else_are_refused_as_before(tmp_path):
    path = tmp_path / "mails.jsonl"
    path.write_text('{"text": "a", "tags": ["x"]}\n{"text": "b", "tags": ["x", 3]}\n')
    with pytest.raises(DataError) as caught:
        load_dataset(path, target="tags", inputs={"text": "text"})
    text = str(caught.value)
    assert "the value of 'tags' is not a single value" in text
    assert "mails.jsonl, row 2, column 'tags'" in text
    assert "a list of texts" in text
    path.write_text('{"text": "a", "tags": ["x"]}\n{"text": "b", "tags": "x"}\n')
    for data in (path, [json.loads(line) for line in path.read_text().splitlines()]):
        with pytest.raises(DataError) as caught:
            load_dataset(data, target="tags", inputs={"text": "text"})
        assert "1 unreadable rows" in str(caught.value)
        assert "the value of 'tags' is not a single value" in str(caught.value)


def test_rare_sets_of_labels_are_shared_out_and_not_all_kept_for_training():
    rng = np.random.default_rng(1)
    names = [f"label {i}" for i in range(12)]
    rows = [{"text": f"mail {i}", "tags": [name for name in names if rng.random() < 0.5]} for i in range(120)]
    with load_dataset(rows, target="tags", inputs={"text": "text"}) as dataset:
        assert [len(dataset.split(name)) for name in dataset.names] == [84, 12, 24]
