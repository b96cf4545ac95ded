"""The whole line over columns of several kinds: what neither says alone is learnt, gaps are answered, exports need no torch."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.artifact.store import read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError

SMALL = {"judge": {"resamples": 200, "probe_rows": 200}, "machine": {"threads": 1, "cache": {"disk_mb": 0}}}
ANSWER = """
import json, sys
from regraft.serving.predictor import Predictor
rows = json.load(sys.stdin)
found = Predictor.load(sys.argv[1], runtime="onnxruntime").predict(rows)
assert not {"torch", "transformers", "pandas", "sklearn"} & set(sys.modules)
print(json.dumps([[p.value, p.error, p.probabilities] for p in found]))
"""


def things(folder: Path, rows: int, seed: int) -> list[dict[str, str]]:
    """Rows that are wanted if exactly one of these holds: the text says "shiny", the weight is above zero. A dark picture is
    never wanted; every 16th row has none, every 18th no text."""
    rng = random.Random(seed)
    (folder / "pictures").mkdir(exist_ok=True)
    made = []
    for number in range(rows):
        shiny, weight, dark = rng.random() < 0.5, rng.choice([-1, 1]) * rng.uniform(0.3, 1), rng.random() < 0.15
        path = folder / "pictures" / f"{seed}_{number}.png"
        shade = 10 if dark else 230
        Image.fromarray(np.full((8, 8, 3), shade + rng.randint(-9, 9), np.uint8)).save(path)
        text = f"a {'shiny' if shiny else 'matt'} thing from shelf {rng.randint(0, 40)}"
        made.append(
            {
                "text": "" if number % 18 == 4 else text,
                "photo": "" if number % 16 == 3 else f"pictures/{path.name}",
                "weight": f"{weight:.3f}",
                "town": rng.choice(["Rome", "Oslo"]),
                "wanted": "no" if dark else "yes" if shiny != (weight > 0) else "no",
            }
        )
    return made


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One artifact of three parts, made on the command line."""
    folder = tmp_path_factory.mktemp("things")
    data = write(folder / "things.csv", things(folder, 320, 0))
    asked = ["base.width=32", "base.dropout=0", "base.parts.text.width=32", "base.parts.table.width=32"]
    asked += ["base.parts.photo.widths=[8]", "modality.size=8", "train.learning_rate=0.01", "train.head_learning_rate=0.01"]
    asked += ["base.part_dropout=0.05", "train.batch_size=32"]
    asked += ["judge.resamples=200", "machine.threads=1", "machine.cache.disk_mb=0", "train.validation.patience=100"]
    command = f"fit {data} --target wanted --text text=mlp --image photo=conv --table weight,town --base fusion".split()
    command += ["--epochs", "25", "--out", str(folder / "m")]
    assert _run([*command, *(part for one in asked for part in ("--set", one))]) == 0
    return read_artifact(folder / "m"), data


def test_what_no_part_says_alone_is_learnt_and_the_report_says_what_each_is_worth(fitted):
    artifact, _ = fitted
    report = artifact.report.to_json()
    ladder = {step["name"]: step["metrics"]["accuracy"]["value"] for step in report["ladder"]}
    assert ladder["fitted"] > ladder["linear-probe"] + 0.08
    lacking = {step["name"]: step for step in report["ablation"]}
    assert set(lacking) == {"without text", "without photo", "without table"}
    for step in lacking.values():
        accuracy, against = step["metrics"]["accuracy"], step["against_previous"]
        assert accuracy["n"] == report["n"] == against["difference"]["n"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert against["a"] == "fitted"
    for name in ("without text", "without table"):
        assert lacking[name]["against_previous"]["verdict"] == "worse"
    assert "of 64 rows have it" in lacking["without photo"]["note"]
    assert any(note.startswith("'text' is read as text, missing in ") for note in report["notes"])


def test_rows_that_lack_parts_are_answered_and_rows_without_any_say_why(fitted):
    artifact, data = fitted
    with data.open(encoding="utf-8") as file:
        row = {name: value for name, value in next(csv.DictReader(file)).items() if name != "wanted"}
    row["photo"] = (data.parent / row["photo"]).read_bytes()
    gaps = [row, {**row, "photo": None}, {**row, "text": None, "photo": ""}, {**row, "weight": None, "town": None}]
    found = regraft.load(artifact).predict([*gaps, dict.fromkeys(row), {**row, "photo": b"x"}, {"text": "a"}])
    assert [prediction.error for prediction in found[:4]] == [""] * 4
    assert found[4].error == "there is nothing in the columns 'text', 'photo', 'weight', 'town'"
    assert found[5].error.startswith("column 'photo': ")
    assert found[6].error.startswith("the columns 'photo', 'weight', 'town' are missing")


def test_a_file_without_the_label_is_answered_with_its_pictures(fitted, tmp_path):
    artifact, data = fitted
    with data.open(encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if name != "wanted"} for row in csv.DictReader(file)][:40]
    rows[5]["photo"] = "pictures/none.png"
    told = write(data.parent / "fresh.csv", rows)
    assert _run(["predict", str(artifact.path), str(told), "--out", str(tmp_path / "answers.csv")]) == 0
    with (tmp_path / "answers.csv").open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 40
    assert answers[5]["prediction"] == ""
    assert answers[5]["error"].startswith("column 'photo': ")
    assert {answer["prediction"] for place, answer in enumerate(answers) if place != 5} == {"yes", "no"}


def test_the_artifact_says_how_to_make_it_again(fitted):
    artifact, _ = fitted
    options = artifact.manifest.options
    assert options["base"]["parts"]["photo"] == {"name": "conv", "widths": [8]}
    assert options["modality"]["parts"]["table"]["columns"] == ["weight", "town"]
    assert options["modality"]["parts"]["photo"]["size"] == 8
    assert artifact.manifest.inputs[0].columns == ("text", "photo", "weight", "town")
    assert set(artifact.manifest.base["parts"]) == {"text", "photo", "table"}


@pytest.mark.slow
def test_an_export_answers_rows_and_gaps_without_torch(fitted, tmp_path):
    artifact, data = fitted
    exported = regraft.export(artifact, format="onnx", out=str(tmp_path / "o"), rows=str(data), machine={"threads": 1})
    assert exported.manifest.network.facts["inputs"] == [
        "text__input_ids",
        "text__attention_mask",
        "photo__pixel_values",
        "photo__attention_mask",
        "table__values",
        "table__ids",
        "table__attention_mask",
    ]
    seen = exported.manifest.export.gate["runtimes"]["onnxruntime"]
    assert seen["rows"] >= 300
    assert seen["worst_probability"] <= 1e-5
    row = {"text": "a shiny thing", "photo": None, "weight": -0.5, "town": "Rome"}
    rows = [row, {**row, "text": None}, {**row, "weight": None, "town": None}, dict.fromkeys(row)]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(exported.path)], input=json.dumps(rows), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = regraft.load(artifact, threads=1).predict(rows)
    for (value, error, shares), prediction in zip(found, expected, strict=True):
        assert (value, error) == (prediction.value, prediction.error)
        assert all(abs(shares[name] - share) < 1e-5 for name, share in prediction.probabilities.items())
    assert found[3][1].startswith("there is nothing in the columns")


def test_wrong_columns_are_refused_before_anything_is_made(fitted, tmp_path):
    _, data = fitted
    base = {"name": "fusion", "parts": {"text": "mlp", "table": "table"}}
    asked = {"target": "wanted", "out": str(tmp_path / "m"), **SMALL}
    with pytest.raises(DataError) as caught:
        regraft.fit(str(data), text="txt", table="weight,twon", **asked, base="mlp")
    assert [(p.what, p.expected, p.fix) for p in caught.value.problems] == [
        ("there is no column 'txt'", "a column that --text names", "did you mean 'text'?"),
        ("there is no column 'twon'", "a column that --table names", "did you mean 'town'?"),
    ]
    with pytest.raises(DataError) as caught:
        regraft.fit(str(data), text="text", table="weight,wanted", **asked, base=base)
    assert caught.value.problems[0].what == "the target 'wanted' cannot be read as well"
    assert caught.value.problems[0].fix == "leave it out of --table"
    rows = [{"text": None, "weight": i, "wanted": "yn"[i % 2]} for i in range(40)]
    with pytest.raises(DataError, match="the part 'text' is missing in every row"):
        regraft.fit(rows, text="text", table="weight", **asked, base=base)
    with pytest.raises(DataError) as caught:
        regraft.fit(str(data), image="text=conv", table="weight", **asked)
    assert "column 'text': " in str(caught.value), "a text in a column of pictures is named"
    assert not (tmp_path / "m").exists()
