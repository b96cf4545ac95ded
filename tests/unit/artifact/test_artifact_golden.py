from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from regraft.artifact.card import card
from regraft.artifact.golden import Goldens, choose, record, replay
from regraft.artifact.manifest import canonical
from regraft.errors import ArtifactError, GateError
from regraft.types import FloatArray, Prediction

LABELS = ("2", "10", "a")  # an order that sorting by name would change


class Oracle:
    """Stands in for a predictor: one output a row, from the row's text."""

    def __init__(self, shift: float = 0.0, environment: str = "here", probabilities: bool = True) -> None:
        self.shift, self.where, self.with_probabilities = shift, environment, probabilities

    def answers(self, rows: Sequence[Any], *, batch_size: int = 32) -> tuple[FloatArray, list[Prediction]]:
        outputs = np.array([[len(row) % 5, len(row) % 3, 0.1] for row in rows], dtype=np.float32) + np.float32(
            [self.shift, 0, 0]
        )
        shares = np.exp(outputs.astype(np.float64))
        shares /= shares.sum(axis=1, keepdims=True)
        named = [dict(zip(LABELS, row.tolist(), strict=True)) if self.with_probabilities else {} for row in shares]
        return outputs, [
            Prediction(value=LABELS[int(row.argmax())], probabilities=p) for row, p in zip(outputs, named, strict=True)
        ]

    def environment(self) -> dict[str, Any]:
        return {"where": self.where}


ROWS = ["x" * n for n in range(1, 17)]


def test_golden_rows_survive_the_file_bit_for_bit_whatever_the_order_of_the_labels():
    goldens = record(Oracle(), ROWS)
    again = Goldens.from_json(json.loads(canonical(goldens.to_json())))
    assert again == goldens
    result = replay(Oracle(), again)
    assert result.to_json() == {"rows": 16, "worst": 0.0, "bitwise": True, "same_environment": True}


def test_in_the_same_environment_one_bit_is_too_much():
    goldens = record(Oracle(), ROWS)
    bits = np.float32(goldens.outputs[4][0])
    moved = float(np.nextafter(bits, np.float32(9)))
    changed = (*goldens.outputs[:4], (moved, *goldens.outputs[4][1:]), *goldens.outputs[5:])
    with pytest.raises(GateError) as caught:
        replay(Oracle(), replace(goldens, outputs=changed))
    text = str(caught.value)
    assert "a golden row is not answered as it was" in text
    assert 'golden row 5 of 16: "xxxxx"' in text
    assert "the same bits in the same environment" in text
    assert "install the versions in its manifest, or fit it again" in text


def test_elsewhere_the_last_bits_may_move_but_no_more():
    goldens = record(Oracle(), ROWS)
    result = replay(Oracle(shift=1e-6, environment="elsewhere"), goldens)
    assert 0 < result.worst < 1e-5
    assert not result.bitwise
    with pytest.raises(GateError, match="at most 1e-05 in another environment"):
        replay(Oracle(shift=1e-4, environment="elsewhere"), goldens)


def test_where_precision_was_reduced_they_may_move_as_far_as_that_moved_them():
    goldens = replace(record(Oracle(), ROWS), tolerance=0.01)
    again = Goldens.from_json(json.loads(json.dumps(goldens.to_json())))
    assert again.tolerance == 0.01
    assert "tolerance" not in record(Oracle(), ROWS).to_json()
    assert 1e-5 < replay(Oracle(shift=1e-3, environment="elsewhere"), again).worst < 0.01
    with pytest.raises(GateError, match=r"at most 0\.01 in another environment"):
        replay(Oracle(shift=0.5, environment="elsewhere"), again)


def test_the_worst_row_is_the_one_shown():
    class Worse(Oracle):
        def answers(self, rows, *, batch_size=32):
            outputs, predictions = super().answers(rows)
            p = predictions[9]
            predictions[9] = replace(p, probabilities={**p.probabilities, "a": p.probabilities["a"] + 0.25})
            predictions[3] = replace(predictions[3], probabilities={**predictions[3].probabilities, "a": 0.0})
            return outputs, predictions

    with pytest.raises(GateError, match=r"worst difference 0.25\)\n  where: golden row 10 of 16"):
        replay(Worse(environment="elsewhere"), record(Oracle(), ROWS))


def test_another_answer_is_found_even_if_no_probability_moved():
    class Swapped(Oracle):
        def answers(self, rows, *, batch_size=32):
            outputs, predictions = super().answers(rows)
            predictions[6] = replace(predictions[6], value="a")
            return outputs, predictions

    with pytest.raises(GateError, match=r"golden row 7 of 16(.|\n)*the same answer"):
        replay(Swapped(environment="elsewhere"), record(Oracle(), ROWS))


def test_where_two_classes_are_equally_probable_either_is_the_answer():
    class Tie(Oracle):
        value = "2"

        def answers(self, rows, *, batch_size=32):
            shares = {"2": 0.5, "10": 0.5, "a": 0.0}
            return np.zeros((len(rows), 3), np.float32), [Prediction(value=self.value, probabilities=shares) for _ in rows]

    goldens = record(Tie(), ROWS)
    other = Tie(environment="elsewhere")
    other.value = "10"
    assert replay(other, goldens).worst == 0.0


@pytest.mark.parametrize("change", [{"b": 0.1}, {}])
def test_other_labels_or_none_never_pass(change):
    class Other(Oracle):
        def answers(self, rows, *, batch_size=32):
            outputs, predictions = super().answers(rows)
            return outputs, [replace(p, probabilities=change) for p in predictions]

    with pytest.raises(GateError, match="worst difference inf"):
        replay(Other(environment="elsewhere"), record(Oracle(), ROWS))


def test_a_task_without_probabilities_is_held_to_its_outputs():
    goldens = record(Oracle(probabilities=False), ROWS)
    assert replay(Oracle(shift=1e-6, environment="x", probabilities=False), goldens).worst < 1e-5
    with pytest.raises(GateError):
        replay(Oracle(shift=1e-3, environment="x", probabilities=False), goldens)


def test_not_a_number_never_passes():
    with pytest.raises(GateError, match="worst difference inf"):
        replay(Oracle(shift=float("nan"), environment="x"), record(Oracle(), ROWS))
    with pytest.raises(GateError, match="not a finite number"):
        record(Oracle(shift=float("nan")), ROWS)


@pytest.mark.parametrize("content", [[], {}, {"rows": [{}]}, {"rows": 3, "environment": {}, "batch_size": 1}])
def test_a_damaged_file_of_goldens_is_said(content):
    with pytest.raises(ArtifactError, match=r"the golden rows cannot be read(.|\n)*fit it again"):
        Goldens.from_json(content)


def test_chosen_rows_are_spread_over_labels_and_lengths_and_are_the_same_every_time():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 120, size=400)
    labels = ["rare" if i % 100 == 7 else ("ham", "spam")[i % 2] for i in range(400)]
    raws = ["x" * n for n in lengths]
    chosen = choose(raws, labels, lengths.tolist(), seed=1)
    assert chosen == choose(raws, labels, lengths.tolist(), seed=1)
    assert len(chosen) == len(set(chosen)) == 16
    assert chosen == sorted(chosen)
    counts = Counter(labels[i] for i in chosen)
    assert counts["rare"] == 4
    assert min(counts["ham"], counts["spam"]) >= 4
    taken = sorted(int(lengths[i]) for i in chosen)
    assert taken[0] == lengths.min()
    assert taken[-1] == lengths.max()
    assert max(np.diff(taken)) < 45  # no large stretch of lengths is left out


def test_fewer_rows_than_wanted_are_all_taken():
    assert choose(["a", "bb", "c"], ["x", "y", "x"], [1, 2, 1], seed=0) == [0, 1, 2]
    assert choose([], [], [], seed=0) == []


def test_many_labels_do_not_make_more_rows():
    n = 500
    assert len(choose(["t"] * n, [f"l{i}" for i in range(n)], [3] * n, seed=0)) == 16


def test_huge_rows_are_left_out_while_there_are_others_and_cut_when_there_are_not():
    huge = "y" * 20_000
    raws = ["x" * 10 for _ in range(20)] + [huge]
    assert 20 not in choose(raws, ["a"] * 21, [len(r) for r in raws], seed=0)
    assert choose([huge], ["a"], [9], seed=0) == [0]
    goldens = record(Oracle(), [huge])
    assert len(goldens.rows[0]) <= 10_000
    assert replay(Oracle(), goldens).bitwise


def test_the_card_says_what_on_what_evidence_and_how():
    from artifact_making import body

    interval = {"value": 0.97, "low": 0.95, "high": 0.985, "n": 400}
    report = {
        "verdict": "better",
        "n": 400,
        "ladder": [
            {"name": "majority", "metrics": {"accuracy": {**interval, "value": 0.7}}},
            {"name": "fitted", "metrics": {"accuracy": interval}},
        ],
        "ledger": {"truncated tokens": {"count": 1234, "examples": []}},
        "notes": ["'text' is the text column"],
        "cost": {"rows_per_s": 25.0, "tokens_per_s": 500.0, "threads": 2, "cores": 2},
    }
    text = card(body(), report, name="spam", command="regraft fit mails.csv --target label --out spam")
    for expected in (
        "# spam",
        "reads `text` (text), predicts `label`. Answers: `ham`, `spam`.",
        "**better**",
        "| fitted | 0.970 [0.950, 0.985] |",
        "same 400 held-out rows",
        "| train | 8 | `abababababababab` |",
        "- truncated tokens: 1,234",
        "- licence: Apache-2.0",
        "regraft predict spam FILE",
        "at most 64 positions",
        "## What it cost\n\n- training: 25 rows/s, 500 real tokens/s\n- machine: 2 threads on 2 cores",
        "'text' is the text column",
        "regraft fit mails.csv --target label --out spam",
        "0" * 64,
    ):
        assert expected in text, expected


def test_the_card_of_a_run_without_a_report_invents_nothing():
    from artifact_making import body

    text = card(body(base={}, fingerprints={}), {}, name="spam", command="x")
    assert "Nothing was measured." in text
    assert "cost" not in text
    assert "licence: not recorded" in text
    assert "No fingerprint was recorded." in text
