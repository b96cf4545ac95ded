from __future__ import annotations

import subprocess
import sys
from collections import UserDict

import numpy as np
import pytest
from serving_making import NumpyRuntime, make_predictor, make_rows

from regraft.errors import ArtifactError, DataError, UsageError
from regraft.serving.predictor import WINDOW_ROWS, Predictor
from regraft.training.arithmetic import Flops
from regraft.training.cost import Answered


def by_hand(predictor: Predictor, row: str) -> np.ndarray:
    """One row alone, without batches: softmax of the mean of its words' vectors."""
    ids = [2, *(int(word[1:]) + 4 for word in row.split()), 3]
    mean = predictor.runtime.table[ids].mean(axis=0, dtype=np.float64)
    return np.exp(mean) / np.exp(mean).sum()


def test_every_row_is_answered_in_its_place(predictor):
    rows = make_rows(200)
    predictions = predictor.predict(rows)
    expected = np.array([by_hand(predictor, row) for row in rows])
    got = np.array([list(p.probabilities.values()) for p in predictions])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [p.value for p in predictions] == [("eggs", "ham", "spam")[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(predictor.probabilities(rows), expected, atol=1e-6)


def test_mappings_and_raw_values_answer_alike_and_other_columns_are_ignored(predictor):
    rows = make_rows(20)
    mappings = [UserDict(text=row, label="x", n=3) for row in rows]
    assert predictor.predict(mappings) == predictor.predict(rows)
    assert predictor.columns == ("text",)


def test_a_window_is_sorted_by_length_and_cut_into_batches(predictor):
    rows = make_rows(WINDOW_ROWS + 10)
    predictor.predict(rows, batch_size=100)
    sizes = [batch.size for batch in predictor.runtime.batches]
    assert sizes == [100] * 10 + [24] + [10]
    lengths = [batch.mask_BT.sum(axis=1).tolist() for batch in predictor.runtime.batches]
    first = [length for batch in lengths[:11] for length in batch]
    assert first == sorted(len(row.split()) + 2 for row in rows[:WINDOW_ROWS])
    assert all(batch.mask_BT.shape[1] == max(sums) for batch, sums in zip(predictor.runtime.batches, lengths, strict=True))


def test_the_same_rows_answer_with_the_same_bits_and_within_1e5_across_batch_sizes(predictor):
    rows = make_rows(300)
    first = predictor.outputs(rows)
    assert np.array_equal(first, predictor.outputs(list(rows)))
    for size in (1, 7, 300, 5000):
        np.testing.assert_allclose(predictor.outputs(rows, batch_size=size), first, atol=1e-5)


def test_what_answering_took_is_added_up(predictor):
    rows = make_rows(WINDOW_ROWS + 10)
    lengths = [len(row.split()) + 2 for row in rows]
    windows = [sorted(lengths[:WINDOW_ROWS]), sorted(lengths[WINDOW_ROWS:])]
    padded = [len(window[i : i + 100]) * max(window[i : i + 100]) for window in windows for i in range(0, len(window), 100)]
    answered = Answered()
    counted = predictor.outputs(rows, batch_size=100, answered=answered)
    assert np.array_equal(counted, predictor.outputs(rows, batch_size=100))
    assert (answered.rows, answered.tokens, answered.padded_tokens) == (len(rows), sum(lengths), sum(padded))
    assert np.concatenate(answered.lengths).tolist() == lengths, "in the order of the rows, whatever the batches were"
    assert 0 < answered.encode_seconds < answered.seconds
    before = answered.seconds
    predictor.probabilities(rows[:3], answered=answered)
    assert answered.rows == len(rows) + 3
    assert answered.seconds > before


def test_what_a_runtime_does_not_count_it_says(predictor, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use, passes = predictor.runtime.use(), predictor.runtime.passes(Answered(rows=2, seconds=1.0))
    assert (use.threads, use.device, passes.precision) == (3, None, None)
    assert use.cores >= 1
    assert passes.flops == Flops(reason="the operations of numpy are not counted")
    predictor.runtime.environment = lambda: {"threads": 5}
    assert predictor.runtime.use().threads == 5


def test_outputs_decode_to_the_predictions(predictor):
    rows = make_rows(50)
    outputs, predictions = predictor.answers(rows)
    assert predictions == predictor.predict(rows)
    assert outputs.dtype == np.float32
    assert [tuple(row.tolist()) for row in outputs] == [p.logits for p in predictions]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"txet": "w1"}, "the column 'text' is missing (got 'txet', expected 'text')"),
        ({}, "the column 'text' is missing (got no columns, expected 'text')"),
        (None, "there is no text"),
        ({"text": None}, "there is no text"),
        (3.5, "text is expected, got float (3.5)"),
        (float("nan"), "text is expected, got float (nan)"),
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        (b"w1", "text is expected, got bytes (b'w1')"),
    ],
)
def test_a_row_that_cannot_be_answered_says_why_in_its_place(predictor, row, reason):
    predictions = predictor.predict(["w1", row, "w2"])
    assert predictions[1].error == reason
    assert predictions[1].value is None
    assert predictions[1].to_json() == {"prediction": None, "error": reason}
    assert [p.value for p in predictions[::2]] == [p.value for p in predictor.predict(["w1", "w2"])]


def test_strict_raises_with_every_problem_and_where(predictor):
    with pytest.raises(DataError) as caught:
        predictor.predict([{"text": "w1"}, {"txet": "w1"}, {"text": 3}], strict=True)
    text = str(caught.value)
    assert "2 problems:" in text
    assert "row 2" in text
    assert "did you mean 'txet'?" in text
    assert "row 3, column 'text'" in text
    assert predictor.runtime.batches == []  # nothing was computed


def test_of_many_problems_the_first_hundred_are_shown_and_the_rest_counted(predictor):
    with pytest.raises(DataError, match="150 more rows cannot be answered"):
        predictor.outputs([""] * 250)


def test_nothing_but_bad_rows_and_no_rows(predictor):
    assert [p.error for p in predictor.predict(["", None])] == ["the text is empty", "there is no text"]
    assert predictor.predict([]) == []
    assert len(predictor.outputs([])) == 0
    assert predictor.runtime.batches == []


def test_what_was_cut_off_is_told(predictor):
    (short, long) = predictor.predict(["w1 w2", " ".join(["w3"] * 100)])
    assert short.dropped == 0
    assert long.dropped == 100 - (48 - 2)


@pytest.mark.parametrize("rows", ["w1 w2", {"text": "w1"}, b"w1"])
def test_a_single_row_is_refused_with_what_to_do(predictor, rows):
    with pytest.raises(UsageError, match=r"a list of rows is expected, not a single row(.|\n)*predict\(\[row\]\)"):
        predictor.predict(rows)


def test_a_batch_size_of_zero_is_refused(predictor):
    with pytest.raises(UsageError, match="the batch size is too small"):
        predictor.predict(["w1"], batch_size=0)


@pytest.mark.parametrize("labels", [(1, 2, 3), (False, True), ("a", "b")])
def test_answers_have_the_type_of_the_labels(labels):
    predictor = make_predictor(labels)
    values = {p.value for p in predictor.predict(make_rows(200))}
    assert values <= set(labels)
    assert {type(value) for value in values} == {type(labels[0])}
    assert type(predictor.example().value) is type(labels[0])


def test_a_predictor_from_memory_has_no_goldens(predictor):
    assert isinstance(predictor.runtime, NumpyRuntime)
    with pytest.raises(ArtifactError, match="not from an artifact has no golden rows"):
        predictor.goldens()


def test_the_predictor_imports_no_torch():
    heavy = "{'torch', 'transformers', 'fastapi'}"
    code = f"import sys, regraft.serving.predictor, regraft.serving.stream; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
