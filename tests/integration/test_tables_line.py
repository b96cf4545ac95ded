"""The whole line over a spreadsheet: a CSV of numbers, categories, dates, yes and no, and gaps in, answers without torch out."""

from __future__ import annotations

import csv
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import regraft
from regraft.artifact.store import read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError, OptionsError
from regraft.models.scratch_table_networks import STYLES

OPTIONS = {
    "target": "income",
    "train": {"epochs": 20, "batch_size": 16, "learning_rate": 0.003},
    "judge": {"resamples": 200},
    "machine": {"threads": 1, "cache": {"disk_mb": 0}},
}
READ = ("age", "member", "joined", "zip", "work")
ANSWER = """
import json, sys
from regraft.serving.predictor import Predictor
rows = json.load(sys.stdin)
found = Predictor.load(sys.argv[1], runtime=sys.argv[2]).predict(rows)
assert not {"torch", "transformers", "pandas", "sklearn"} & set(sys.modules)
print(json.dumps([[p.value, p.error] for p in found]))
"""


def people(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows whose income follows from age, work and membership; some ages are missing, one number is written with a comma."""
    rng = random.Random(seed)
    made = []
    for number in range(rows):
        age, work, member = rng.randint(18, 80), rng.choice(["Private", "Public", "Self"]), rng.choice(["yes", "no"])
        joined = datetime.date(2015, 1, 1) + datetime.timedelta(days=rng.randint(0, 3000))
        high = (age > 45) + (work == "Self") + (member == "yes") + rng.random() > 1.8
        shown = "1,5" if number == 17 else "" if rng.random() < 0.1 else str(age)
        row = {"id": str(1000 + number), "age": shown, "zip": f"0{rng.randint(1000, 1009)}", "work": work}
        row |= {
            "member": member,
            "joined": joined.isoformat(),
            "constant": "x",
            "empty": "",
            "income": [">50K", "<=50K"][not high],
        }
        made.append(row)
    return made


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One artifact, made with the command that a user with texts gives, and its data."""
    folder = tmp_path_factory.mktemp("tables")
    data = write(folder / "people.csv", people(300, 0))
    asked = ["base.width=16", "base.layers=1", "base.embedding=4", "train.learning_rate=0.003", "judge.resamples=200"]
    asked += ["machine.threads=1", "machine.cache.disk_mb=0"]
    command = f"fit {data} --target income --base table --out {folder / 'm'} --epochs 20".split()
    assert _run([*command, *(part for one in asked for part in ("--set", one))]) == 0
    return read_artifact(folder / "m"), data


def test_what_was_read_left_out_and_lost_is_said(fitted):
    artifact, _ = fitted
    notes = " | ".join(artifact.report.notes)
    assert "numbers: 'age'; categories: 'zip', 'work', 'constant', 'empty'; true or false: 'member'; dates: 'joined'" in notes
    assert "left out: 'id' numbers the rows" in notes
    assert "the column 'constant' is dropped: it is the same in every training row" in notes
    assert "the column 'empty' is dropped: it is missing in every training row" in notes
    lost = artifact.report.ledger.to_json()["unreadable rows"]
    said = "people.csv, row 18: the column 'age' holds '1,5', where a number such as 1.5 is expected"
    assert lost == {"count": 1, "examples": [said]}
    assert artifact.manifest.inputs[0].columns == READ
    assert "FILE has the columns age, member, joined, zip, work" in (artifact.path / "card.md").read_text()


def test_the_same_rows_in_every_form_have_the_same_answers(fitted, tmp_path):
    import pandas
    import pyarrow as pa

    artifact, _ = fitted
    rows = [{name: row[name] for name in (*READ, "id")} for row in people(12, 3)]
    expected = [p.probabilities for p in regraft.predict(artifact, rows, strict=True)]
    typed = pa.Table.from_pylist(
        [{**row, "age": int(row["age"] or 0), "joined": datetime.date.fromisoformat(row["joined"])} for row in rows]
    )
    full = [place for place, row in enumerate(rows) if row["age"]]
    for data in (typed, typed.to_pandas(), typed.to_pylist()):
        found = [p.probabilities for p in regraft.predict(artifact, data)]
        assert [found[place] for place in full] == [expected[place] for place in full]
    assert isinstance(typed.to_pandas(), pandas.DataFrame)
    summary = regraft.lifecycle.predict_file(artifact, write(tmp_path / "new.csv", rows), out=tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert summary.answered == 12
    assert summary.columns[:7] == ("row", *rows[0])
    assert [answer["probability.>50K"] for answer in answers] == [p[">50K"] for p in expected]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]


def test_what_cannot_be_answered_says_in_which_column(fitted, tmp_path):
    artifact, _ = fitted
    sound = {name: people(1, 5)[0][name] for name in READ}
    wrong = [
        {**sound, "age": "12,5"},
        {**sound, "work": [1, 2]},
        {key: value for key, value in sound.items() if key != "age"},
        dict.fromkeys(READ),
        {**sound, "work": "never seen", "zip": None},
    ]
    errors = [p.error for p in regraft.predict(artifact, wrong)]
    assert errors == [
        "the column 'age' holds '12,5', where a number such as 1.5 is expected",
        "the column 'work' holds a list ([1, 2]), where a text, a number, true or false is expected",
        "the column 'age' is missing (got 'member', 'joined', 'zip', 'work', expected 'age')",
        "every value of the row is missing",
        "",
    ]
    with pytest.raises(DataError) as caught:
        regraft.predict(artifact, [{**sound, "aeg": 1} | {"age": "x"}, {"aeg": 3, "work": "a"}], strict=True)
    text = str(caught.value)
    assert "where: row 1" in text
    assert "did you mean 'aeg'?" in text
    short = write(tmp_path / "short.csv", [{"aeg": "3", **{name: sound[name] for name in READ[1:]}}])
    with pytest.raises(DataError) as caught:
        regraft.lifecycle.predict_file(artifact, short, out=tmp_path / "a.csv")
    assert "the column 'age', which the artifact reads, is missing" in str(caught.value)
    assert "did you mean 'aeg'?" in str(caught.value)
    bad = write(tmp_path / "bad.csv", [sound, {**sound, "age": "abc"}])
    with pytest.raises(DataError, match=r"holds 'abc'(.|\n)*where: bad\.csv, row 2\n"):
        regraft.lifecycle.predict_file(artifact, bad, out=tmp_path / "a.csv", strict=True)


@pytest.mark.slow
def test_judging_and_comparing_tables_of_different_columns(fitted, tmp_path):
    artifact, data = fitted
    other = regraft.fit(
        data, out=tmp_path / "o", base={"name": "table", "width": 8, "layers": 1}, table=["zip", "work"], **OPTIONS
    )
    assert other.manifest.inputs[0].columns == ("zip", "work")
    test = write(tmp_path / "test.csv", people(120, 9))
    report = regraft.compare(other, artifact, test)
    assert report.ledger.to_json()["rows without an input"] == {"count": 1, "examples": ["test.csv, row 18"]}
    alone = regraft.evaluate(artifact, test)
    assert alone.judgement.metrics["accuracy"].value == report.judgement.metrics["accuracy"].value > 0.75
    assert report.verdict == "better"


def test_over_http(fitted):
    testclient = pytest.importorskip("starlette.testclient")
    from regraft.artifact.describe import describe
    from regraft.serving.app import create_app, info_of
    from regraft.serving.options import ServeOptions

    predictor = regraft.load(fitted[0])
    options = ServeOptions(max_text_chars=100)
    info = info_of(predictor, describe(fitted[0]), options)
    assert info["columns"] == list(READ)
    row = {name: people(1, 5)[0][name] for name in READ}
    expected = predictor.predict([row])[0].to_json()
    with testclient.TestClient(create_app(predictor, info, options)) as client:
        while client.get("/health").status_code != 200:
            pass
        assert client.post("/predict", json={"rows": [row]}).json()["predictions"] == [expected]
        rows = [row, {**row, "age": 31.5, "extra": 1}, {"age": 3}]
        found = client.post("/predict", json={"rows": rows}).json()["predictions"]
        assert found[1]["prediction"] in {"<=50K", ">50K"}
        assert found[2]["error"].startswith("the columns 'member', 'joined', 'zip', 'work' are missing")
        long = client.post("/predict", json={"rows": [{**row, "work": "x" * 101}]})
        assert (long.status_code, long.json()["problems"][0]["what"]) == (422, "a text is too long")


def test_a_base_for_texts_says_which_base_reads_tables(tmp_path):
    data = write(tmp_path / "people.csv", people(40, 0))
    with pytest.raises(OptionsError) as caught:
        regraft.fit(data, out=tmp_path / "m", table="age", base="mlp", **OPTIONS)
    assert "the base 'mlp' reads text, not table" in str(caught.value)
    assert "choose a base that reads it: --base table" in str(caught.value)


def test_the_command_line_shows_the_columns(fitted, tmp_path, capsys):
    artifact, data = fitted
    assert _run(["predict", str(artifact.path), str(data), "--out", str(tmp_path / "a.csv")]) == 0
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    ours = "prediction,probability.<=50K,probability.>50K,error"
    assert header == f"row,id,age,zip,work,member,joined,constant,empty,income,{ours}"
    capsys.readouterr()
    assert _run(["inspect", str(artifact.path)]) == 0
    assert f"reads  {', '.join(READ)} (table)" in capsys.readouterr().out


def exported(artifact, data, folder):
    """Hold answers of an export that come without torch against those of its source."""
    regraft.export(artifact, format="onnx", out=folder / "onnx", rows=data)
    rows = [{name: row[name] for name in READ} for row in people(30, 2)]
    here = [p.value for p in regraft.predict(artifact, rows)]
    sent = json.dumps([*rows, {**rows[0], "age": "x"}, {"age": 1}])
    command = [sys.executable, "-c", ANSWER, str(folder / "onnx"), "onnxruntime"]
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *there, wrong, short = json.loads(done.stdout)
    assert [value for value, _ in there] == here
    assert wrong[1] == "the column 'age' holds 'x', where a number is expected"
    assert short[1].startswith("the columns 'member', 'joined', 'zip', 'work' are missing")


@pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
def test_from_a_spreadsheet_to_answers_without_torch(fitted, tmp_path):
    exported(*fitted, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
@pytest.mark.parametrize("numbers", ["linear", "periodic"])
@pytest.mark.parametrize("style", list(STYLES))
def test_every_style_goes_the_whole_line(style, numbers, tmp_path):
    data, test = write(tmp_path / "people.csv", people(300, 0)), write(tmp_path / "test.csv", people(150, 1))
    base = {"name": "table", "style": style, "numbers": numbers, "width": 16, "heads": 2, "layers": 1, "frequencies": 4}
    artifact = regraft.fit(data, out=tmp_path / "m", test=test, base=base, **OPTIONS)
    assert regraft.evaluate(artifact, test).judgement.metrics["accuracy"].value > 0.75
    exported(artifact, test, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("format", ["openvino", "torch", "mlflow"])
def test_other_exports(style, format, tmp_path):
    data = write(tmp_path / "people.csv", people(200, 0))
    base = {"name": "table", "style": style, "width": 16, "heads": 2, "layers": 1}
    artifact = regraft.fit(data, out=tmp_path / "m", base=base, **{**OPTIONS, "train": {"epochs": 2}})
    made = regraft.export(artifact, format=format, out=tmp_path / "out", rows=data)
    rows = [{name: row[name] for name in READ} for row in people(30, 2)]
    here, there = (regraft.predict(each, rows, strict=False) for each in (artifact, made))
    assert [p.value for p in here] == [p.value for p in there]
