"""The whole line over pairs of texts: from the command line to answers without torch, alone and beside a table."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys

import pytest

import regraft
from regraft.artifact.store import read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError, UsageError

pytestmark = pytest.mark.slow
COLOURS = ("red", "green", "blue")
ANSWER = """
import json, sys
from regraft.serving.predictor import Predictor
found = Predictor.load(sys.argv[1], runtime="onnxruntime").predict(json.load(sys.stdin))
assert not {"torch", "transformers", "pandas", "sklearn"} & set(sys.modules)
print(json.dumps([[p.value, p.error, p.probabilities, p.dropped] for p in found]))
"""


def questions(count, seed):
    rng = random.Random(seed)
    made = []
    for number in range(count):
        one, two = rng.choice(COLOURS), rng.choice(COLOURS)
        passage = f"we saw that it was {two} on that day" + " and then some" * (20 if number == 7 else rng.randint(0, 3))
        made.append({"id": number, "question": f"was it {one}", "passage": passage, "answer": "yes" if one == "red" else "no"})
    return made


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    path = folder / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = questions(160, 0)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    asked = ["base.width=16", "base.layers=1", "base.heads=2", "base.positions=64", "modality.max_length=40"]
    asked += [
        "train.learning_rate=0.01",
        "train.head_learning_rate=0.01",
        "train.validation.patience=100",
        "judge.resamples=200",
        "machine.threads=1",
        "machine.cache.disk_mb=0",
    ]
    command = f"fit {path} --target answer --base transformer --text-pair question,passage --epochs 14 --out {folder / 'm'}"
    assert _run([*command.split(), *(part for one in asked for part in ("--set", one))]) == 0
    return read_artifact(folder / "m"), path


def test_both_columns_are_read_in_order_and_what_was_cut_is_counted(fitted):
    artifact, _ = fitted
    (entry,) = artifact.manifest.inputs
    assert (entry.modality, entry.columns) == ("text-pair", ("question", "passage"))
    report = artifact.report.to_json()
    assert any("read together as a pair of texts, as given" in note for note in report["notes"])
    cut = report["ledger"]["truncated tokens"]
    assert cut["count"] > 0
    assert report["metrics"]["accuracy"]["value"] > 0.8


def test_rows_are_answered_and_halves_say_what_is_missing(fitted):
    artifact, path = fitted
    found = regraft.load(artifact).predict(
        [{"question": "was it red", "passage": "it was blue"}, {"question": "was it red", "passage": None}, {"question": "x"}]
    )
    assert found[0].error == ""
    assert found[1].error == "column 'passage': there is no text"
    assert found[2].error.startswith("the column 'passage' is missing")
    assert regraft.evaluate(artifact, str(path), judge={"overlap": "keep"}).judgement.n == 160
    rest = regraft.evaluate(artifact, str(path), judge={"overlap": "leave-out"})
    assert rest.judgement.n == artifact.report.judgement.n, "what is left are the rows of the test split"


def test_an_export_answers_pairs_without_torch(fitted, tmp_path):
    artifact, path = fitted
    exported = regraft.export(artifact, format="onnx", out=str(tmp_path / "o"), rows=str(path), machine={"threads": 1})
    assert exported.manifest.export.gate["runtimes"]["onnxruntime"]["worst_probability"] <= 1e-5
    rows = [{"question": "was it green", "passage": "it was blue " * number} for number in (1, 30)]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(exported.path)], input=json.dumps(rows), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = regraft.load(artifact, threads=1).predict(rows)
    for (value, error, shares, dropped), prediction in zip(json.loads(done.stdout), expected, strict=True):
        assert (value, error, dropped) == (prediction.value, "", prediction.dropped)
        assert all(abs(shares[name] - share) < 1e-5 for name, share in prediction.probabilities.items())
    assert expected[1].dropped > 0


def test_tools_for_one_text_refuse_a_pair_and_three_columns_are_no_pair(fitted, tmp_path):
    artifact, path = fitted
    with pytest.raises(UsageError) as caught:
        regraft.export(artifact, format="transformers", out=str(tmp_path / "t"))
    assert caught.value.problems[0].what == "the hub's tools for sentences read one text"
    with pytest.raises(DataError, match="a pair of texts stands in two columns"):
        regraft.fit(str(path), target="answer", base="mlp", text_pair=["question", "passage", "id"], out=str(tmp_path / "m"))
