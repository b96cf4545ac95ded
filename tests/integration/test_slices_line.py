"""Slices, weak slices, fairness and what stood before, from a user's own columns to the report: only these columns are read."""

from __future__ import annotations

import datetime
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import SMALL, mails, write_csv
from PIL import Image

import regraft as rg
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.errors import DataError, OptionsError
from regraft.evaluation.report import Report
from regraft.modalities.image import Image as Pictures

QUICK = {**SMALL, "columns": {"text": "body"}, "data": {"test_share": 0.5}}


def letters(rows: int, seed: int) -> list[dict[str, str]]:
    """E-mails from four countries; those from Italy have the wrong label in two of five."""
    rng = random.Random(seed)
    made = []
    for number, mail in enumerate(mails(rows, seed)):
        country, label = rng.choice(["IT", "DE", "FR", ""]), mail["label"]
        if country == "IT" and rng.random() < 0.4:
            label = {"ham": "spam", "spam": "ham"}[label]
        sent = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randint(0, 180))
        told = {"country": country, "age": str(rng.randint(18, 80)), "sex": rng.choice("fm"), "sent": sent.isoformat()}
        made.append({**mail, **told, "label": label, "note": "n" * (number % 300 + 1)})
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("letters") / "letters.csv", letters(1200, 1))


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    judge = {"resamples": 300, "fairness": "sex", "positive": "spam"}
    return rg.fit(data, target="label", out=tmp_path_factory.mktemp("fitted") / "v1", **{**QUICK, "judge": judge})


def slices(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["column"], one["value"]): one for one in report["slices"]}


def test_the_report_of_a_fit_says_where_the_model_is_weak(fitted: Artifact, data: Path):
    report = json.loads((fitted.path / "report.json").read_text())
    found = slices(report)
    assert list(dict.fromkeys(column for column, _ in found)) == [
        "country",
        "sex",
        "sent",
        "length",
        "class",
        "confidence",
    ], "an id, a note and a number of many values are no slices unless they are asked for"
    assert sum(one["n"] for (column, _), one in found.items() if column == "country") == report["n"]
    assert found["country", "(missing)"]["n"] > 100
    assert found["country", "IT"]["p_holm"] < 0.001
    assert found["country", "IT"]["difference"]["high"] < 0
    assert {value for column, value in found if column == "sent"} == {f"2024-0{month}" for month in range(1, 7)}
    (weak, *_) = report["weak_slices"]
    assert "country = IT" in weak["rule"]
    by_number = dict(enumerate(letters(1200, 1), start=1))
    assert {by_number[number]["country"] for number in weak["examples"]} == {"IT"}
    fairness = report["fairness"]
    assert (fairness["column"], fairness["positive"], fairness["declared"]) == ("sex", "spam", True)
    assert sum(group["n"] for group in fairness["groups"]) == report["n"]
    assert Report.from_json(report).to_json() == report


def test_every_rung_of_a_fit_says_what_it_costs(fitted: Artifact):
    steps = {step["name"]: step["cost"] for step in fitted.report.to_json()["ladder"]}
    weights = fitted.path / "backbone" / "model.safetensors"
    assert steps["fitted"]["size_bytes"] == pytest.approx(weights.stat().st_size, rel=0.1)
    assert 0 < steps["majority"]["latency_ms"] < steps["fitted"]["latency_ms"] < steps["linear-probe"]["latency_ms"]
    assert all(cost["seconds"] > 0 for cost in steps.values())


def test_evaluate_judges_the_columns_that_it_is_asked_for(fitted: Artifact, data: Path):
    judge = {"resamples": 200, "slices": ["age", "note"], "fairness": "country", "overlap": "keep"}
    report = rg.evaluate(fitted, data, judge=judge).to_json()
    found = slices(report)
    ages = [one for (column, _), one in found.items() if column == "age"]
    assert len(ages) == 4
    assert sum(one["n"] for one in ages) == report["n"] == 1200
    assert found["note", "(other values)"]["n"] > 1000
    right = [
        answer.label == row["label"]
        for answer, row in zip(
            rg.load(fitted).predict([row["body"] for row in letters(1200, 1)]), letters(1200, 1), strict=True
        )
    ]
    low, high = map(int, next(value for column, value in found if column == "age").split(" to "))
    inside = [low <= int(row["age"]) <= high for row in letters(1200, 1)]
    assert ages[0]["metrics"]["accuracy"]["value"] == pytest.approx(
        np.mean([ok for ok, its in zip(right, inside, strict=True) if its])
    )
    groups = {group["group"]: group["n"] for group in report["fairness"]["groups"]}
    assert set(groups) == {"IT", "DE", "FR", "(missing)"}
    assert not report["fairness"]["declared"]


def test_lengths_are_those_of_the_rows_whatever_their_order(fitted: Artifact):
    """Rows are answered sorted by length; the slices must know them as they stood."""
    rows = letters(300, 5)
    report = rg.evaluate(fitted, rows, judge={"resamples": 100, "slices": []}).to_json()
    modality = rg.load(fitted).modality
    lengths = np.array([row.length for row in modality.encode([row["body"] for row in rows])])
    right = np.array(
        [a.label == row["label"] for a, row in zip(rg.load(fitted).predict([r["body"] for r in rows]), rows, strict=True)]
    )
    told = [one for one in report["slices"] if one["column"] == "length"]
    assert len(told) == 4
    for one in told:
        low, high = map(int, one["value"].split(" to "))
        inside = (lengths >= low) & (lengths <= high)
        assert one["n"] == inside.sum()
        assert one["metrics"]["accuracy"]["value"] == pytest.approx(right[inside].mean())


def test_nothing_is_searched_where_it_is_not_wanted(fitted: Artifact):
    report = rg.evaluate(fitted, letters(250, 3), judge={"resamples": 100, "slices": [], "weak_slices": False}).to_json()
    assert "weak_slices" not in report
    assert "fairness" not in report
    assert {one["column"] for one in report["slices"]} == {"length", "class", "confidence"}


def test_columns_and_labels_that_are_not_there_are_refused_before_anything_is_done(
    data: Path, fitted: Artifact, tmp_path: Path
):
    judge = {"slices": ["contry"], "fairness": "sexx", "positive": "spom"}
    for run in (
        lambda: rg.fit(data, target="label", out=tmp_path / "m", **{**QUICK, "judge": judge}),
        lambda: rg.evaluate(fitted, data, judge=judge),
    ):
        with pytest.raises(DataError) as caught:
            run()
        text = str(caught.value)
        assert "3 problems" in text
        assert "there is no column 'contry' to group rows by" in text
        assert "did you mean 'country'?" in text
        assert "there is no column 'sexx' to group rows by" in text
        assert "there is no label 'spom' that could be the positive answer" in text
    assert not (tmp_path / "m").exists()


def test_columns_of_a_table_are_slices_too(tmp_path: Path):
    """They stand together in one column while a fit reads them."""
    rng = random.Random(0)
    rows = [
        {
            "age": rng.randint(18, 80),
            "work": rng.choice(["a", "b"]),
            "town": rng.choice(["X", "Y"]),
            "member": rng.random() < 0.5,
        }
        for _ in range(240)
    ]
    data = [{**row, "high": "yes" if row["age"] > 45 else "no"} for row in rows]
    base = {"name": "table", "width": 8, "layers": 1, "embedding": 4}
    judge = {"resamples": 100, "fairness": "work"}
    options = {**SMALL, "base": base, "columns": {"table": "age,work"}, "judge": judge, "train": {"epochs": 2}}
    artifact = rg.fit(data, target="high", out=tmp_path / "m", **options)
    report = artifact.report.to_json()
    assert {one["column"] for one in report["slices"]} >= {"work", "town", "member", "class"}
    assert {one["value"] for one in report["slices"] if one["column"] == "member"} == {"true", "false"}
    assert {group["group"] for group in report["fairness"]["groups"]} == {"a", "b"}
    again = rg.evaluate(artifact, data, judge={**judge, "overlap": "keep"}).to_json()
    assert {one["column"] for one in again["slices"]} >= {"work", "town", "member", "class"}


def test_no_picture_is_opened_for_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng, lines = np.random.default_rng(0), []
    for number in range(60):
        kind = ("bar", "square")[number % 2]
        values = rng.integers(0, 60, (10, 10)).astype(np.uint8)
        values[(slice(3, 7), slice(3, 7)) if kind == "square" else (slice(None), slice(0, 3))] += 150
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        lines.append({"image": f"{number}.png", "label": kind, "site": "north" if number % 3 else "south"})
    data, opened = write_csv(tmp_path / "pictures.csv", lines), []
    real = Pictures.opened.__func__
    monkeypatch.setattr(Pictures, "opened", classmethod(lambda cls, raw: (opened.append(raw), real(cls, raw))[1]))
    counts = []
    base = {"name": "conv", "widths": [4], "style": "plain"}
    for number, wanted in enumerate(([], ["site"])):
        judge = {"resamples": 100, "slices": wanted}
        options = {**SMALL, "base": base, "judge": judge, "train": {"epochs": 1}}
        report = rg.fit(data, target="label", out=tmp_path / f"m{number}", **options).report.to_json()
        counts.append(len(opened))
        opened.clear()
    assert counts[0] == counts[1] > 0
    assert {one["value"] for one in report["slices"] if one["column"] == "site"} == {"north", "south"}


def test_each_of_several_targets_has_its_slices(tmp_path: Path):
    data = [{**row, "age": float(row["age"])} for row in letters(300, 2)]
    target = {"label": "classification", "age": "regression"}
    report = rg.fit(data, target=target, out=tmp_path / "m", **{**QUICK, "train": {"epochs": 1}}).report.to_json()
    assert "slices" not in report
    metrics = {
        name: {metric for one in told["slices"] for metric in one["metrics"]} for name, told in report["targets"].items()
    }
    assert metrics == {"label": {"accuracy"}, "age": {"mae"}}
    assert "target" in {one["column"] for one in report["targets"]["age"]["slices"]}
    assert {"weak slices are not looked for in fewer than 200 rows"} <= {
        note for t in report["targets"].values() for note in t["notes"]
    }


def test_what_stood_before_is_held_against(fitted: Artifact, data: Path, tmp_path: Path):
    previous = {"resamples": 200, "previous": str(fitted.path)}
    untrained = rg.fit(data, target="label", out=tmp_path / "v2", **{**QUICK, "judge": previous, "train": {"epochs": 0}})
    steps = {step["name"]: step for step in untrained.report.to_json()["ladder"]}
    assert list(steps)[-2:] == ["previous", "fitted"]
    assert steps["previous"]["note"] == f"the artifact 'v1', digest {fitted.digest[:12]}"
    assert steps["previous"]["metrics"]["accuracy"] == fitted.report.to_json()["metrics"]["accuracy"], "the same test rows"
    assert steps["previous"]["cost"]["size_bytes"] == fitted.size_bytes
    assert steps["previous"]["cost"]["seconds"] == pytest.approx(fitted.report.seconds_by_stage["train"])
    assert steps["fitted"]["against_previous"]["a"] == "previous"
    assert untrained.report.verdict == "worse"
    report = rg.evaluate(untrained, letters(200, 9), judge=previous)
    assert [step["name"] for step in report.to_json()["ladder"]] == ["majority", "previous", "v2"]
    assert report.verdict == "worse"


def test_what_stood_before_must_read_and_answer_the_same(fitted: Artifact, tmp_path: Path):
    other = [{"body": row["body"], "text": row["body"], "label": row["label"] + "s"} for row in letters(200, 1)]
    judge = {"previous": str(fitted.path)}
    with pytest.raises(DataError) as caught:
        rg.fit(other, target="label", out=tmp_path / "m", **{**QUICK, "columns": {"text": "text"}, "judge": judge})
    text = str(caught.value)
    assert "2 problems" in text
    assert "the previous artifact reads a column 'body', which is not read now" in text
    assert "the artifacts do not know the same labels" in text
    assert "ham, spam against hams, spams" in text
    assert f"judge.previous={fitted.path}" in text
    with pytest.raises(rg.RegraftError, match="nowhere"):
        rg.fit(other, target="label", out=tmp_path / "m", **{**QUICK, "judge": {"previous": str(tmp_path / "nowhere")}})


def test_zero_shot_by_name_needs_words_and_a_pretrained_base(data: Path, tmp_path: Path):
    with pytest.raises(OptionsError) as caught:
        rg.fit(data, target="label", out=tmp_path / "m", **{**QUICK, "judge": {"rungs": ["zero-shot"]}})
    assert "the baseline 'zero-shot' reads the names of labels as texts, which cannot be done here" in str(caught.value)
    assert "got: a base that has learnt nothing" in str(caught.value)


def test_the_console_tells_weak_slices_and_fairness(fitted: Artifact, data: Path, capsys: pytest.CaptureFixture[str]):
    told = ["judge.resamples=200", "judge.fairness=sex", "judge.positive=spam", "judge.overlap=keep"]
    assert _run(["evaluate", str(fitted.path), str(data), *(part for one in told for part in ("--set", one))]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "weak slices" in text
    assert "country = IT" in text
    assert "fairness over sex: how often 'spam' is given" in text
    assert "demographic parity difference" in text
