"""The dataset: roles, splits, losses, fingerprints, places, and what it costs in memory."""

from __future__ import annotations

import csv
import gc
import json
import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.data.atomic import machine_errors
from regraft.data.dataset import Dataset, load_dataset
from regraft.data.fingerprint import order_digest, rows_digest
from regraft.data.options import DataOptions
from regraft.errors import DataError, MachineError

ROWS = [{"id": f"m{i}", "text": f"this is mail number {i}", "label": ["ham", "spam", "ham"][i % 3]} for i in range(90)]


def wordy(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values) and np.mean([len(str(value).split()) for value in values]) > 2


def load(data: object, target: str = "label", text: str | None = None, seed: int = 0, **more: object) -> Dataset:
    given = {name: more.pop(name) for name in ("valid", "test") if name in more}
    return load_dataset(data, target=target, inputs={"text": text or wordy}, seed=seed, options=DataOptions(**more), **given)


def refused(data: object, target: str = "label", **more: object) -> str:
    with pytest.raises(DataError) as caught:
        load(data, target, **more)
    return str(caught.value)


def write_csv(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_file_becomes_splits_with_roles_and_notes(tmp_path):
    with load(write_csv(tmp_path / "mails.csv", ROWS)) as dataset:
        assert dataset.names == ["train", "valid", "test"]
        assert [len(dataset.split(name)) for name in dataset.names] == [63, 9, 18]
        assert dataset.roles == {"id": "other", "text": "text", "label": "target"}
        assert (dataset.input_column, dataset.input_modality, dataset.target_column) == ("text", "text", "label")
        assert dataset.target_kind == "str"
        assert dataset.ledger.to_json() == {}
        notes = "\n".join(dataset.notes)
        assert "mails.csv: delimiter comma" in notes
        assert "'text' is the text column: strings, 22 characters on average, the only such column" in notes
        assert "split with seed 0, the same share of every target in each, identical inputs together" in notes
        assert "train 63, valid 9, test 18 rows" in notes
        for name in dataset.names:
            assert Counter(dataset.targets(name)) == {
                "ham": len(dataset.split(name)) * 2 // 3,
                "spam": len(dataset.split(name)) // 3,
            }


def test_rows_are_the_source_rows(tmp_path):
    dataset = load(write_csv(tmp_path / "mails.csv", ROWS))
    seen = []
    for name in dataset.names:
        split = dataset.split(name)
        texts, ids = split.values("text"), split.column("id")
        for i in range(split.rows):
            number = split.row_number(i)
            assert split.place(i) == f"mails.csv, row {number}"
            assert {"id": ids[i], "text": texts[i], "label": split.targets()[i]} == ROWS[number - 1]
            seen.append(number)
        assert [value for chunk in split.chunks("text", 4) for value in chunk] == texts == list(split.column("text"))
        assert split.column("text")[2:5] == texts[2:5]
        assert split.column("text")[-1] == texts[-1]
        assert split.column("label")[1] == split.targets()[1]
        with pytest.raises(IndexError):
            split.column("text")[split.rows]
        assert split.hub()["text"][:] == texts
    assert sorted(seen) == list(range(1, 91))


def test_chunks_read_across_many_batches():
    rows = [{"text": f"row with number {i}", "label": i % 2} for i in range(5000)]
    dataset = load(rows)
    for name in dataset.names:
        split = dataset.split(name)
        expected = [rows[split.row_number(i) - 1]["text"] for i in range(len(split))]
        assert split.values("text") == expected
        assert [len(chunk) for chunk in split.chunks("text", 999)][:-1] == [999] * (len(split) // 999)
        mixed = np.random.default_rng(0).permutation(len(split))[:50]
        assert split.take("text", mixed) == [expected[i] for i in mixed]


def test_split_is_seeded_and_leaks_no_duplicates():
    rows = ROWS + ROWS[:30] + ROWS[:10]
    splits = [[load(rows, seed=seed).split(name).values("text") for name in ("train", "valid", "test")] for seed in (4, 4, 5)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]
    train, valid, test = map(set, splits[0])
    assert not train & valid
    assert not train & test
    assert not valid & test


def test_given_splits_are_respected(tmp_path):
    for name, rows in (("train", ROWS[:40]), ("valid", ROWS[40:60]), ("test", ROWS[60:])):
        write_csv(tmp_path / "d" / f"{name}.csv", rows)
    dataset = load(tmp_path / "d")
    assert [len(dataset.split(name)) for name in dataset.names] == [40, 20, 30]
    assert dataset.split("test").values("id") == [row["id"] for row in ROWS[60:]]
    assert dataset.split("test").place(0) == "test.csv, row 1"
    apart = load(tmp_path / "d" / "train.csv", valid=tmp_path / "d" / "valid.csv", test=pd.DataFrame(ROWS[60:]))
    assert apart.fingerprint == dataset.fingerprint
    only_test = load(tmp_path / "d" / "train.csv", test=tmp_path / "d" / "test.csv", valid_share=0.25)
    assert [len(only_test.split(name)) for name in only_test.names] == [30, 10, 30]
    assert "the test rows are given twice" in refused(tmp_path / "d", test=ROWS)
    (tmp_path / "d" / "train.csv").unlink()
    assert "there are no training rows" in refused(tmp_path / "d")


def test_shares_can_be_zero_but_not_everything():
    assert load(ROWS, valid_share=0.0, test_share=0.0).names == ["train"]
    assert load(ROWS, valid_share=0.0).names == ["train", "test"]
    with pytest.raises(DataError, match="there are no valid rows"):
        load(ROWS, valid_share=0.0).split("valid")
    assert "no share is left for training" in refused(ROWS, valid_share=0.5, test_share=0.5)
    assert "too few rows to draw a split: no valid and no test rows" in refused([ROWS[0]] * 20)
    assert "1 different inputs" in refused([ROWS[0]] * 20)


def test_equal_inputs_with_other_targets_and_shared_rows_are_counted():
    rows = [*ROWS, {**ROWS[0], "label": "spam"}]
    ledger = load(rows, test=[ROWS[5], {"id": "new", "text": "never seen before this", "label": "ham"}]).ledger.to_json()
    assert ledger["rows whose input also stands with another target"] == {
        "count": 2,
        "examples": ["list of dicts, row 1", "list of dicts, row 91"],
    }
    assert ledger["test rows whose input is also a training row"] == {"count": 1, "examples": ["list of dicts, row 1"]}


def test_lost_rows_are_counted_with_places(tmp_path):
    path = write_csv(
        tmp_path / "a.csv", [*ROWS, {"id": "x", "text": "no label here", "label": ""}, {"id": "y", "text": " ", "label": "ham"}]
    )
    path.write_text(path.read_text() + "broken\n")
    dataset = load(path)
    assert dataset.ledger.to_json() == {
        "rows without a target": {"count": 1, "examples": ["a.csv, row 91"]},
        "rows without an input": {"count": 1, "examples": ["a.csv, row 92"]},
        "unreadable rows": {"count": 1, "examples": ["a.csv, row 93: the row has a wrong number of fields"]},
    }
    assert sum(len(split) for split in dataset.splits.values()) == 90


def test_too_many_lost_rows_are_an_error(tmp_path):
    rows = [*ROWS[:20], *[{**row, "label": ""} for row in ROWS[20:24]]]
    path = write_csv(tmp_path / "a.csv", rows)
    path.write_text(path.read_text() + "broken\n")
    text = refused(path)
    assert "more rows would be lost than allowed" in text
    assert "5 of 25 rows (20.0%): 4 rows without a target, 1 unreadable rows" in text
    assert "rows without a target: a.csv, row 21, a.csv, row 22, a.csv, row 23" in text
    assert "expected: at most 5.0% lost" in text
    assert "fill in the column 'label' and correct the rows that cannot be read, or raise data.lost_share to 0.2" in text
    assert "the row has a wrong number of fields" in text
    assert len(load(path, lost_share=0.2).targets("train")) == 14
    assert "no row is left after cleaning" in refused([{"text": "some words in it", "label": None}] * 9, lost_share=1.0)


def test_a_budget_exactly_met_is_met():
    rows = [*ROWS[:95], *[{"id": "x", "text": "without a label", "label": None}] * 5]
    assert load([*rows, *ROWS[:5]], lost_share=0.05).ledger.counts["rows without a target"] == 5


def test_missing_columns_offer_the_nearest(tmp_path):
    text = refused(write_csv(tmp_path / "mails.csv", ROWS), target="lable")
    assert text == (
        "there is no column 'lable'\n  where: mails.csv\n  got: the columns 'id', 'text', 'label'\n"
        "  expected: the column that --target names\n  to do: did you mean 'label'?"
    )
    text = refused(ROWS, target="lable", text="txt")
    assert "2 problems" in text
    assert "did you mean 'text'?" in text
    assert "cannot be both target and input" in refused(ROWS, text="label")


def test_a_header_that_was_not_seen_is_hinted_at(tmp_path):
    (tmp_path / "a.csv").write_text("text,2019\nsome words are here,1\n" * 5)
    assert "if the first line names the columns, --set data.header=true" in refused(tmp_path / "a.csv", target="2019")


def test_problems_of_all_sources_come_together(tmp_path):
    text = refused(ROWS, valid=tmp_path / "none.csv", test=[])
    assert "2 problems" in text
    text = refused(ROWS, valid=[{"text": "a", "lable": "b"}], test=[{"txt": "a", "label": "b"}])
    assert "2 problems" in text
    assert "there is no column 'label'" in text
    assert "there is no column 'text'" in text
    assert "another type than in the training rows" in refused(ROWS, test=[{"text": 1, "label": "ham"}])


def test_the_input_column_is_inferred_or_asked_for():
    rows = [{**row, "more": f"other words than before {i}"} for i, row in enumerate(ROWS)]
    text = refused(rows)
    assert "several columns could be the text column" in text
    assert "'text' (strings, 22 characters on average), such as 'this is mail number 0'" in text
    assert "'more' (strings" in text
    assert "name it with --text COLUMN" in text
    dataset = load(rows, text="more")
    assert dataset.input_column == "more"
    assert "'more' is the text column, as given" in dataset.notes
    text = refused([{"id": str(i), "n": i, "label": i % 2} for i in range(30)])
    assert "no column looks like a text column" in text
    assert "'id' (strings, 2 characters on average), such as '0'" in text
    assert "'n' (int values), such as 0" in text


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        (("1", "0"), {1, 0}, "int"),
        (("true", "False"), {True, False}, "bool"),
        (("a", "1"), {"a", "1"}, "str"),
        (("1.5", "x"), {"1.5", "x"}, "str"),
    ],
)
def test_targets_of_text_files_get_the_type_they_mean(tmp_path, labels, expected, kind):
    rows = [{"text": f"mail with number {i}", "label": labels[i % 2]} for i in range(40)]
    dataset = load(write_csv(tmp_path / "a.csv", rows))
    targets = dataset.targets("train")
    assert set(targets) == expected
    assert {type(value) for value in targets} == {type(value) for value in expected}
    assert dataset.target_kind == kind
    assert any("read as" in note for note in dataset.notes) is (kind in {"int", "bool"})


def test_targets_of_typed_files_keep_their_type(tmp_path):
    for values, expected in (((1, 0), int), (("1", "0"), str), ((True, False), bool), ((1.0, 0.0), int), ((0.25, 0.5), float)):
        table = pa.table({"text": [f"mail with number {i}" for i in range(40)], "label": [values[i % 2] for i in range(40)]})
        pq.write_table(table, tmp_path / "a.parquet")
        assert {type(value) for value in load(tmp_path / "a.parquet").targets("train")} == {expected}


def test_a_test_file_is_read_as_the_training_file_is(tmp_path):
    train = [{"text": f"mail with number {i}", "label": i % 2} for i in range(40)]
    test = write_csv(
        tmp_path / "t.csv", [{"text": "one more mail", "label": "1"}, {"text": "another odd mail", "label": "odd"}]
    )
    assert load(train, test=test).targets("test") == [1, "odd"]


def test_fingerprints_are_those_of_the_values(tmp_path):
    dataset = load(write_csv(tmp_path / "a.csv", ROWS))
    for name in dataset.names:
        split = dataset.split(name)
        rows = list(zip(split.values("text"), split.targets(), strict=True))
        assert dataset.fingerprint[name] == {
            "rows": len(rows),
            "rows_digest": rows_digest(rows),
            "order_digest": order_digest(rows),
        }
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").fingerprint == dataset.fingerprint
    changed = [*ROWS[:40], {**ROWS[40], "id": "other"}, *ROWS[41:]]
    assert load(changed).fingerprint == dataset.fingerprint  # a column that is neither read nor predicted
    changed[40]["text"] += "."
    assert load(changed).fingerprint != dataset.fingerprint


def test_order_is_a_digest_of_its_own():
    one = load(ROWS, valid_share=0.0, test_share=0.0).fingerprint["train"]
    other = load(ROWS[::-1], valid_share=0.0, test_share=0.0).fingerprint["train"]
    assert one["rows_digest"] == other["rows_digest"]
    assert one["order_digest"] != other["order_digest"]


def test_numbers_as_targets_are_split_over_their_range():
    rows = [{"text": f"mail with number {i}", "label": i + 0.5} for i in range(200)]
    dataset = load(rows)
    assert any("the same range of the target in each" in note for note in dataset.notes)
    assert min(dataset.targets("test")) < 20
    assert max(dataset.targets("test")) > 180


def test_nested_targets_are_refused():
    table = pa.table({"text": ["some words are here"] * 5, "label": [[1]] * 5})
    assert "the target is not a single value" in refused(table)


def test_unknown_splits_and_columns():
    dataset = load(ROWS)
    with pytest.raises(DataError, match=r"there are no tset rows(.|\n)*did you mean 'test'"):
        dataset.split("tset")
    with pytest.raises(DataError, match=r"there is no column 'txt'(.|\n)*did you mean 'text'"):
        dataset.split("test").column("txt")


def test_the_folder_is_private_and_goes_away():
    dataset = load(ROWS)
    folder = dataset.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    dataset.close()
    assert not folder.exists()
    dataset.close()
    other = load(ROWS)
    folder = other.folder
    del other
    gc.collect()
    assert not folder.exists()


def test_an_error_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refused([{**row, "label": None} for row in ROWS])
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_disk_says_what_to_do(tmp_path):
    code = f"""
import resource, signal, tempfile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tempfile.tempdir = {str(tmp_path)!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from regraft.data.dataset import load_dataset
from regraft.errors import MachineError
try:
    load_dataset([{{"text": "x" * 1000, "label": i % 2}} for i in range(5000)], target="label", inputs={{"text": "text"}})
except MachineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert "TMPDIR" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_other_disk_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), machine_errors(tmp_path / "a"):
        (tmp_path / "none" / "a").open("wb")
    with pytest.raises(MachineError, match="the disk refuses to write"), machine_errors(tmp_path / "a"):
        raise OSError(5, "Input/output error")


def test_the_sample_is_split_evenly():
    dataset = load("spam")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1400, "valid": 200, "test": 400}
    for name in dataset.names:
        share = Counter(dataset.targets(name))["spam"] / len(dataset.split(name))
        assert abs(share - 0.3135) < 0.005
    assert dataset.ledger.counts == {}
    assert dataset.input_column == "text"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    code = """
import json, resource, sys
from regraft.data.dataset import load_dataset
dataset = load_dataset(sys.argv[1], target="label", inputs={"text": "text"})
rows = sum(len(chunk) for name in dataset.names for chunk in dataset.split(name).chunks("text"))
dataset.fingerprint
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
kib = {key: int(status[key].split()[0]) for key in ("RssAnon", "VmHWM")}
print(json.dumps({"rows": rows, "anonymous_mib": kib["RssAnon"] / 1024, "peak_mib": kib["VmHWM"] / 1024}))
"""
    found = {}
    for rows in (20_000, 400_000):
        path = tmp_path / f"{rows}.csv"
        with path.open("w") as file:
            file.write("text,label\n")
            file.writelines(f"mail number {i} says hello to everybody in the hall and goes home,{i % 2}\n" for i in range(rows))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=env)
        found[rows] = json.loads(done.stdout)
        assert found[rows]["rows"] == rows
    # 400,000 rows of 70 bytes are 28 MB as text and about 60 MB as Python strings; held are some 40 bytes of numbers a row.
    assert found[400_000]["anonymous_mib"] - found[20_000]["anonymous_mib"] < 60
    assert found[400_000]["peak_mib"] - found[20_000]["peak_mib"] < 150


def test_rows_of_one_target_are_never_split_where_the_target_says_which_rows_belong_together():
    rows = [{"text": f"{word} {number}", "thing": f"t{number}"} for number in range(100) for word in ("one", "two", "three")]
    with load_dataset(rows, target="thing", inputs={"text": "text"}, options=DataOptions(grouped=True)) as dataset:
        things = {name: dataset.targets(name) for name in dataset.names}
        notes = dataset.notes
    assert {name: len(values) for name, values in things.items()} == {"train": 210, "valid": 30, "test": 60}
    assert sum(len(set(values)) for values in things.values()) == 100
    assert "split with seed 0, rows of one target together: train 210, valid 30, test 60 rows" in notes


def test_the_only_other_column_is_read_however_short_its_texts_are(tmp_path):
    rows = [{"word": f"w{number}", "label": "ab"[number % 2]} for number in range(60)]
    dataset = load(write_csv(tmp_path / "short.csv", rows))
    assert dataset.input_column == "word"
    assert any("'word' is the text column" in note and "the only other column" in note for note in dataset.notes)
