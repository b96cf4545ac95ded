"""The straight line for several targets at once: the same doors, the same gates, one answer a target."""

from __future__ import annotations

import csv
import json
import random
import shlex
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from line_rows import SMALL, write_csv
from safetensors.torch import load_file
from sklearn import metrics as reference

import regraft as rg
from regraft import lifecycle
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.data.clean import lacking_reason
from regraft.errors import DataError, OptionsError, UsageError
from regraft.evaluation.report import Report
from regraft.serving.serve import BackgroundServer

TARGETS = {"kind": "classification", "price": "regression", "tags": {"name": "multi-label", "separator": ";"}}
NAMED = {name: task if isinstance(task, str) else task["name"] for name, task in TARGETS.items()}
OPTIONS: dict[str, Any] = {**SMALL, "train": {**SMALL["train"], "epochs": 8}}
TASK = {"targets": {"tags": TARGETS["tags"]}}
_WORDS = {"low": ["quiet", "small"], "high": ["loud", "large"]}


def rows(count: int, seed: int, lacking: float = 0.25) -> list[dict[str, str]]:
    """Rows whose words say what kind they are, what they cost and which tags they have; some cells are empty."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        kind, coins = rng.choice(list(_WORDS)), rng.randint(0, 8)
        tags = [tag for tag in ("red", "wet") if rng.random() < 0.4] + ["any"]
        words = [*rng.choices(_WORDS[kind], k=3), *["coin"] * coins, *tags, *rng.choices(["the", "of", "and"], k=4)]
        rng.shuffle(words)
        cells = {"kind": kind, "price": f"{100 + 25 * coins + rng.gauss(0, 2):.2f}", "tags": ";".join(tags)}
        kept = {name: cell if rng.random() > lacking else "" for name, cell in cells.items()}
        made.append({"body": " ".join(words), **(kept if any(kept.values()) else {**kept, "kind": kind})})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return write_csv(folder / "things.csv", rows(240, seed=1))


@pytest.fixture(scope="module")
def fresh(folder: Path) -> Path:
    return write_csv(folder / "fresh.csv", rows(60, seed=2))


@pytest.fixture(scope="module")
def several(folder: Path, data: Path) -> Artifact:
    return rg.fit(str(data), target=NAMED, task=TASK, out=folder / "several", **OPTIONS)


def test_each_target_is_judged_against_its_own_baselines_on_the_rows_that_have_it(several: Artifact, data: Path):
    report = several.report
    told = report.to_json()
    ladders = {name: [rung["name"] for rung in one["ladder"]] for name, one in told["targets"].items()}
    assert ladders == {
        "kind": ["majority", "nearest-centroid", "linear-probe", "fitted"],
        "price": ["mean", "median", "ridge-probe", "fitted"],
        "tags": ["label-shares", "one-vs-rest-probe", "fitted"],
    }
    mean, fitted = told["targets"]["price"]["ladder"][0]["metrics"]["mae"], told["metrics"]["price.mae"]
    assert fitted["high"] < mean["low"]
    assert told["metrics"]["kind.accuracy"]["value"] > 0.9
    assert told["metrics"]["relative_loss"]["high"] < 1.0
    assert told["n"] > told["targets"]["kind"]["n"]
    assert told["verdict"] in {one["verdict"] for one in told["targets"].values()}
    assert Report.from_json(told).to_json()["targets"] == told["targets"]
    with data.open() as file:
        given = list(csv.DictReader(file))
    for name in TARGETS:
        assert told["ledger"][lacking_reason(name)]["count"] == sum(not row[name] for row in given)
    card = (several.path / "card.md").read_text()
    assert "predicts `kind, price, tags`. `kind`: classification (`high`, `low`). `price`: regression." in card
    assert "### price" in card


def test_answers_are_one_object_a_row_in_python_and_over_http(several: Artifact):
    asked = ["loud large coin coin red any", "quiet small any"]
    predictor = rg.load(several)
    calls: list[int] = []
    predictor.runtime.net.backbone.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    answers = predictor.predict(asked)
    assert len(calls) == 1, "one pass of the backbone for all heads"
    assert [answer.value["kind"] for answer in answers] == ["high", "low"]
    assert [set(answer.value) for answer in answers] == [set(TARGETS)] * 2
    with BackgroundServer(several.path) as server:
        body = json.dumps({"rows": asked}).encode()
        request = urllib.request.Request(f"{server.url}/predict", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            served = json.load(answer)["predictions"]
    for here, there in zip([answer.to_json() for answer in answers], served, strict=True):
        assert set(there) == {"prediction", "probabilities"}
        assert there["prediction"]["kind"] == here["prediction"]["kind"]
        assert there["prediction"]["tags"] == here["prediction"]["tags"]
        assert there["prediction"]["price"] == pytest.approx(here["prediction"]["price"], rel=1e-5)
        assert there["probabilities"]["kind"] == pytest.approx(here["probabilities"]["kind"], abs=1e-5)
        assert set(there["probabilities"]["tags"]) == {"any", "red", "wet"}


def test_a_file_of_answers_has_columns_for_each_target(several: Artifact, fresh: Path, tmp_path: Path):
    lifecycle.predict_file(several, str(fresh), out=tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open() as file:
        answers = list(csv.DictReader(file))
    with fresh.open() as file:
        given = list(csv.DictReader(file))
    assert list(answers[0]) == [
        "row",
        "body",
        "kind",
        "price",
        "tags",
        "prediction.kind",
        "prediction.price",
        "prediction.tags",
        "probability.kind.high",
        "probability.kind.low",
        "probability.tags.any",
        "probability.tags.red",
        "probability.tags.wet",
        "error",
    ]
    report = rg.evaluate(several, str(fresh), judge={"resamples": 200})
    known = [(row["kind"], answer["prediction.kind"]) for row, answer in zip(given, answers, strict=True) if row["kind"]]
    accuracy = reference.accuracy_score(*zip(*known, strict=True))
    assert report.judgement.metrics["kind.accuracy"].value == pytest.approx(accuracy)
    priced = [
        (float(row["price"]), float(answer["prediction.price"]))
        for row, answer in zip(given, answers, strict=True)
        if row["price"]
    ]
    error = reference.mean_absolute_error(*zip(*priced, strict=True))
    assert report.targets["price"].judgement.metrics["mae"].value == pytest.approx(error, rel=1e-6)
    assert report.targets["price"].judgement.n == len(priced)
    lifecycle.predict_file(several, str(fresh), out=tmp_path / "answers.jsonl")
    first = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert isinstance(first["prediction.tags"], list)


def test_rows_with_only_some_target_columns_are_judged_on_those(several: Artifact, tmp_path: Path):
    some = [{"body": row["body"], "price": row["price"]} for row in rows(40, seed=3, lacking=0.0)]
    report = rg.evaluate(several, some, judge={"resamples": 200})
    assert set(report.targets) == {"price"}
    assert "kind: no row has this target, it is not judged" in report.judgement.notes
    with pytest.raises(DataError, match="there is no column 'kind' or 'price' or 'tags' to judge against"):
        rg.evaluate(several, [{"body": "quiet"}])


def test_what_a_command_shows_names_the_heads(several: Artifact, capsys: pytest.CaptureFixture[str]):
    assert _run(["inspect", str(several.path)]) == 0
    shown = capsys.readouterr().out
    assert "multi-target" in shown
    assert "kind: classification: high, low" in shown
    assert "kind, price, tags" in shown
    assert "price.mae" in shown


@pytest.mark.slow
def test_the_command_on_the_card_makes_the_same_weights_again(several: Artifact, data: Path, folder: Path):
    lines = (several.path / "card.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("regraft fit"))
    assert "--target kind=classification --target price=regression --target tags=multi-label" in command
    assert "--set 'task.targets.tags.separator=;'" in command
    words = shlex.split(command.replace("ARTIFACT", str(folder / "again")))
    assert _run(words[1:]) == 0
    again = rg.inspect(folder / "again")
    assert again["weights_digest"] == several.manifest.weights_digest


@pytest.mark.slow
def test_a_second_artifact_with_targets_in_another_order_is_compared_target_by_target(
    several: Artifact, data: Path, fresh: Path, folder: Path
):
    turned = dict(reversed(NAMED.items()))
    frozen = {**OPTIONS, "tuning": "head", "train": {**OPTIONS["train"], "epochs": 3}}
    other = rg.fit(str(data), target=turned, task={**TASK, "weighting": "uncertainty"}, out=folder / "other", **frozen)
    learnt = load_file(other.path / "weights.safetensors")["head.log_variances_K"]
    assert learnt.shape == (3,)
    assert (learnt != 0).all()
    report = rg.compare(several, other, str(fresh), judge={"resamples": 200})
    alone = rg.evaluate(other, str(fresh), judge={"resamples": 200})
    for name, metric in alone.judgement.metrics.items():
        if name != "relative-loss":
            assert report.judgement.metrics[name].value == pytest.approx(metric.value, rel=1e-9)
    assert report.verdict is not None


@pytest.mark.slow
def test_gradnorm_weighs_the_losses_and_the_report_says_how(data: Path, folder: Path):
    options = {**OPTIONS, "train": {**OPTIONS["train"], "epochs": 1}, "judge": {"resamples": 100}}
    made = rg.fit(str(data), target=NAMED, task={**TASK, "weighting": "gradnorm"}, out=folder / "weighed", **options)
    (note,) = (note for note in made.report.to_json()["notes"] if "GradNorm" in note)
    assert note.startswith("weights of the losses by GradNorm, at the start, after each quarter of ")
    assert [part.split()[0] for part in note.partition("updates: ")[2].split("; ")] == list(NAMED)
    with pytest.raises(OptionsError, match="of which nothing learns here"):
        rg.fit(
            str(data), target=NAMED, task={**TASK, "weighting": "gradnorm"}, out=folder / "no", **{**options, "tuning": "head"}
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": ["kind", "prise=regression"]}, "there is no column 'prise'"),
        ({"target": ["kind", "body=regression"], "text": "body"}, "the column 'body' cannot be both target and input"),
        ({"target": ["kind", "kind=regression"]}, "the target 'kind' is named twice"),
        ({"target": ["price", "kind=regression"]}, "the target has values that are no finite numbers"),
        ({"target": ["kind", "empty=regression"]}, "no training row has the target 'empty'"),
        (
            {"target": ["kind", "price=regression"], "train": {"validation": {"metric": "kind.rmse"}}},
            "'rmse' \\(metrics\\) is for",
        ),
    ],
)
def test_what_cannot_be_fitted_is_said_before_anything_is_trained(options: dict[str, Any], said: str, tmp_path: Path):
    given = [{**row, "empty": ""} for row in rows(60, seed=4, lacking=0.0)]
    with pytest.raises(UsageError, match=said) as caught:
        rg.fit(given, out=tmp_path / "never", **{**OPTIONS, **options})
    assert all(problem.fix for problem in caught.value.problems)
    assert not (tmp_path / "never").exists()


def test_test_rows_that_lack_a_target_altogether_are_refused(tmp_path: Path):
    given = {"train": rows(60, seed=4), "test": [{**row, "price": ""} for row in rows(20, seed=5, lacking=0.0)]}
    with pytest.raises(DataError, match="no test row has the target 'price', so that it could not be judged"):
        rg.fit(given, out=tmp_path / "never", target=["kind", "price=regression"], **OPTIONS)


def test_exports_that_have_no_form_for_it_say_which_has(several: Artifact, tmp_path: Path):
    with pytest.raises((UsageError, OptionsError), match="the hub has no class for the task 'multi-target'") as caught:
        rg.export(several, format="transformers", out=tmp_path / "never")
    assert "--format onnx" in str(caught.value)


@pytest.mark.slow
def test_an_export_answers_every_target_as_its_source(several: Artifact, fresh: Path, tmp_path: Path):
    made = rg.export(several, format="onnx", out=tmp_path / "onnx", rows=str(fresh))
    asked = [row["body"] for row in rows(20, seed=6)]
    ours, theirs = (rg.load(one).predict(asked) for one in (several, made))
    for here, there in zip(ours, theirs, strict=True):
        assert here.value["kind"] == there.value["kind"]
        assert here.value["price"] == pytest.approx(there.value["price"], rel=1e-5)
        np.testing.assert_allclose(list(here.probabilities.values()), list(there.probabilities.values()), atol=1e-5)
    session = onnxruntime.InferenceSession(made.path / "network" / "model.onnx")
    assert [end.name for end in session.get_outputs()] == ["logits", "logits.kind", "logits.price", "logits.tags"]
    predictor = rg.load(made)
    encoded = predictor.modality.encode(asked[:3])
    inputs, mask = predictor.modality.collate(encoded)
    feeds = {**inputs, "attention_mask": mask.astype(np.int64)}
    whole, *parts = session.run(None, {end.name: feeds[end.name] for end in session.get_inputs()})
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    for part, own in zip(predictor.task.parts, parts, strict=True):
        assert [answer.value for answer in part.task.decode(own)] == [
            pytest.approx(answer.value[part.name]) if part.name == "price" else answer.value[part.name] for answer in theirs[:3]
        ]
