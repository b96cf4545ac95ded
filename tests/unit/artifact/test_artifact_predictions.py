"""The kept answers: every figure can be computed from them again, they come back as they were, and large sets are thinned aloud."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from regraft.artifact import predictions
from regraft.errors import ArtifactError
from regraft.evaluation.answers import Answers
from regraft.options import build
from regraft.tasks import TASKS
from regraft.types import Ledger


def answers_of(name: str, n: int = 40, seed: int = 0) -> Answers:
    """Answers that a network without training might give, to the task's own example."""
    cls = TASKS.get(name)
    _, values = cls.example(n, seed)
    task = cls(build(cls.Options, cls.example_options))
    task.learn(values, Ledger())
    task.joins(["picture", "name"])
    rng = np.random.default_rng(seed)
    width = 6 if task.paired else task.widths[0]
    outputs = rng.normal(size=(n, width)).astype(np.float32)
    return Answers(task, task.targets(values), task.probabilities(outputs))


def table_of(answers: Answers) -> pa.Table:
    return parquet.read_table(io.BytesIO(predictions.to_bytes(answers)))


@pytest.mark.parametrize("name", TASKS.names())
def test_answers_of_every_task_come_back_bit_for_bit(name: str, tmp_path: Path):
    answers = answers_of(name)
    (tmp_path / "p.parquet").write_bytes(predictions.to_bytes(answers))
    rows, back = predictions.read(tmp_path / "p.parquet", answers.task)
    assert rows.tolist() == list(range(40))
    np.testing.assert_array_equal(back.targets_N, answers.targets_N)
    np.testing.assert_array_equal(back.outputs_NC, answers.outputs_NC)


def test_columns_are_those_of_a_file_of_answers():
    answers = answers_of("classification")
    table, labels = table_of(answers), answers.task.names
    assert table.column_names == ["row", "truth", "prediction", *(f"probability.{label}" for label in labels)]
    best = answers.outputs_NC.argmax(axis=1)
    assert table.column("prediction").to_pylist() == [labels[place] for place in best]
    np.testing.assert_array_equal(table.column(f"probability.{labels[0]}").to_numpy(), answers.outputs_NC[:, 0])
    assert table_of(answers_of("regression")).column_names == ["row", "truth", "prediction"]


def test_a_row_without_a_target_has_an_answer_and_no_truth(tmp_path: Path):
    whole = answers_of("multi-target")
    targets = whole.targets_N.copy()
    targets[3, 0] = np.nan
    table = table_of(Answers(whole.task, targets, whole.outputs_NC))
    first = whole.task.parts[0]
    assert [name for name in table.column_names if table.column(name)[3].as_py() is None] == [f"{first.name}.truth"]
    assert [name for name in table.column_names if name.startswith(f"probability.{first.name}.")]
    (tmp_path / "p.parquet").write_bytes(predictions.to_bytes(Answers(whole.task, targets, whole.outputs_NC)))
    np.testing.assert_array_equal(predictions.read(tmp_path / "p.parquet", whole.task)[1].targets_N, targets)


def test_same_answers_same_bytes():
    assert predictions.to_bytes(answers_of("classification")) == predictions.to_bytes(answers_of("classification"))


def test_large_test_sets_are_thinned_evenly_and_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predictions, "MOST_ROWS", 10)
    table = table_of(answers_of("regression"))
    assert table.column("row").to_pylist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    about = json.loads(table.schema.metadata[b"regraft"])
    assert about == {"judged": 40, "kept": 10, "note": "10 of 40 judged rows, evenly spaced, are in predictions.parquet"}
    monkeypatch.setattr(predictions, "MOST_ROWS", 1000)
    monkeypatch.setattr(predictions, "MOST_NUMBERS", 30)
    assert len(predictions.kept_rows(40, 3)) == 10


def test_many_classes_stand_in_one_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(predictions, "NAMED_COLUMNS", 2)
    answers = answers_of("classification")
    assert table_of(answers).column_names == ["row", "truth", "prediction", "outputs"]
    (tmp_path / "p.parquet").write_bytes(predictions.to_bytes(answers))
    np.testing.assert_array_equal(predictions.read(tmp_path / "p.parquet", answers.task)[1].outputs_NC, answers.outputs_NC)


def test_a_file_of_another_task_is_refused(tmp_path: Path):
    (tmp_path / "p.parquet").write_bytes(predictions.to_bytes(answers_of("regression")))
    with pytest.raises(ArtifactError, match="the kept answers cannot be read"):
        predictions.read(tmp_path / "p.parquet", answers_of("classification").task)


def test_the_worst_are_the_wrong_ones_by_cost():
    answers = answers_of("classification")
    worst = answers.worst(7)
    wrong = answers.outputs_NC.argmax(axis=1) != answers.targets_N
    given = answers.outputs_NC[np.arange(40), answers.targets_N]
    expected = sorted(np.flatnonzero(wrong), key=lambda row: given[row])[:7]
    assert worst.tolist() == expected
