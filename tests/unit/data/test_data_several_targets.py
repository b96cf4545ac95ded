"""Several target columns of one row: read as one, counted where they are missing, drawn into splits with every class."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from regraft.data.checks import CONFLICTS
from regraft.data.clean import NO_TARGET, lacking_reason
from regraft.data.dataset import load_dataset
from regraft.data.options import DataOptions
from regraft.data.targets import Cells, as_kind, is_missing, kind_of_answer
from regraft.errors import DataError

TARGETS = ("kind", "price", "flag")
LENIENT = DataOptions(lost_share=0.5)


def write(path, rows):
    lines = ["text,kind,price,flag", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def partial(n=200, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        cells = [rng.choice(["a", "b"]), 1 + 0.5 * int(rng.integers(0, 90)), rng.choice(["true", "false"])]
        gone = rng.random(3) < (0.2, 0.4, 0.1)
        rows.append([f"text number {i}", *("" if away else cell for cell, away in zip(cells, gone, strict=True))])
    return rows


def test_rows_that_carry_some_targets_stay_and_are_counted(tmp_path):
    rows = partial()
    with load_dataset(write(tmp_path / "a.csv", rows), target=TARGETS, inputs={"text": "text"}, options=LENIENT) as dataset:
        kept = [row for row in rows if any(cell != "" for cell in row[1:])]
        assert sum(map(len, dataset.splits.values())) == len(kept)
        assert dataset.ledger.counts.get(NO_TARGET, 0) == len(rows) - len(kept)
        for place, name in enumerate(TARGETS, start=1):
            assert dataset.ledger.counts[lacking_reason(name)] == sum(row[place] == "" for row in kept)
        assert dataset.ledger.examples[lacking_reason("kind")][0].startswith("a.csv, row ")
        assert dataset.target_kind == {"kind": "str", "price": "str", "flag": "bool"}
        assert "flag: all targets are true or false: read as such" in dataset.notes
        for name in dataset.names:
            for value in dataset.targets(name):
                assert isinstance(value, Cells)
                assert set(value) == set(TARGETS)
                assert value["flag"] in {True, False, None}


def test_every_class_of_every_target_stands_in_training_however_rare(tmp_path):
    rows = [[f"text number {i}", "ab"[i % 2], 7, f"rare {i // 2}" if i < 24 else "often"] for i in range(120)]
    data = write(tmp_path / "a.csv", rows)
    for seed in range(12):
        with load_dataset(data, target=TARGETS, inputs={"text": "text"}, seed=seed) as dataset:
            assert {value["flag"] for value in dataset.targets("train")} == {"often", *(f"rare {i}" for i in range(12))}
            counts = {name: len(dataset.split(name)) for name in dataset.names}
            assert sum(counts.values()) == 120
            assert abs(counts["test"] - 24) <= 4
            kinds = [value["kind"] for value in dataset.targets("test")]
            assert abs(kinds.count("a") - kinds.count("b")) <= 4, "the first target is drawn in proportion"


def test_the_same_input_with_another_part_of_the_targets_is_no_conflict():
    rows = [{"text": f"text {i}", "kind": "ab"[i % 2], "price": float(i)} for i in range(60)]
    rows += [{"text": "twice", "kind": "a", "price": None}, {"text": "twice", "kind": None, "price": 3.0}]
    targets = ("kind", "price")
    with load_dataset(rows, target=targets, inputs={"text": "text"}) as dataset:
        assert CONFLICTS not in dataset.ledger.counts
    rows += [{"text": "twice", "kind": "b", "price": None}]
    with load_dataset(rows, target=targets, inputs={"text": "text"}) as dataset:
        assert dataset.ledger.counts[CONFLICTS] == 2


def test_fingerprints_know_the_targets():
    rows = [{"text": f"text {i}", "kind": "ab"[i % 2], "price": float(i)} for i in range(60)]
    other = [{**row, "price": row["price"] + (i == 7)} for i, row in enumerate(rows)]
    prints = []
    for given in (rows, list(rows), other):
        with load_dataset(given, target=("kind", "price"), inputs={"text": "text"}) as dataset:
            prints.append(dataset.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_columns_that_are_not_there_or_are_read_as_well_are_refused_together(tmp_path):
    data = write(tmp_path / "a.csv", partial())
    with pytest.raises(DataError) as caught:
        load_dataset(data, target=("kinds", "price", "text"), inputs={"text": "text"})
    text = str(caught.value)
    assert "there is no column 'kinds'" in text
    assert "did you mean 'kind'?" in text
    assert "the column that --target kinds names" in text
    assert "the column 'text' cannot be both target and input" in text
    assert "--target text --text text" in text


def test_a_target_that_holds_objects_is_refused_by_its_name():
    rows = pa.Table.from_pylist([{"text": f"text {i}", "kind": "ab"[i % 2], "price": {"euro": 1}} for i in range(20)])
    with pytest.raises(DataError, match="the target is not a single value") as caught:
        load_dataset(rows, target=("kind", "price"), inputs={"text": "text"})
    assert "column 'price'" in str(caught.value)


def test_cells_are_values_of_a_row():
    cells = Cells.of({"kind": " ", "tags": ["a", "b"], "price": float("nan")})
    assert cells == {"kind": None, "tags": ("a", "b"), "price": None}
    assert hash(cells) == hash(Cells.of({"kind": None, "tags": ["a", "b"], "price": None}))
    assert not is_missing(cells)
    assert is_missing(Cells.of({"kind": "", "price": None}))
    assert as_kind(Cells({"n": "7", "s": None}), {"n": "int", "s": "bool"}) == {"n": 7, "s": None}
    assert kind_of_answer({"n": 7, "s": True}) == {"n": "int", "s": "bool"}
