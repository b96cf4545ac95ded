"""Judging on rows that were learnt from, on few and odd rows, in groups, over seeds, and of predictions made elsewhere."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import mails, write_csv

import regraft as rg
from regraft import lifecycle
from regraft.artifact.learnt_rows import LEARNT_ROWS, learnt_rows
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.errors import DataError, OptionsError, RegraftError, UsageError

JUDGE = {"resamples": 200}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def given(artifact: Artifact, fresh_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the artifact says of the fresh rows, as `regraft predict` writes it."""
    out = tmp_path_factory.mktemp("given") / "answers.jsonl"
    lifecycle.predict_file(artifact, fresh_file, out=out)
    return [json.loads(line) for line in out.read_text().splitlines()]


def table(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


PROBABLE = ("id", "probability.ham", "probability.spam")


def test_rows_that_were_learnt_from_are_refused_left_out_or_kept(artifact: Artifact, mail_file: Path, fresh_file: Path):
    seen, new = read_rows(mail_file), read_rows(fresh_file)
    known = learnt_rows(artifact)
    counts = artifact.report.about["rows"]
    assert len(known) == len({row["body"] for row in seen}) - counts["test"]
    assert (artifact.path / LEARNT_ROWS).stat().st_size == 8 * len(known)
    with pytest.raises(DataError) as caught:
        rg.evaluate(artifact, str(mail_file))
    text = str(caught.value)
    assert "the data hold rows that the artifact learnt from" in text
    assert f"got: {counts['train'] + counts['valid']} of 240 rows" in text
    assert "mails.csv, row " in text
    assert "--set judge.overlap=leave-out" in text
    with pytest.raises(DataError, match="rows that the artifact learnt from"):
        rg.compare(artifact, artifact, str(mail_file))

    rest = rg.evaluate(artifact, str(mail_file), judge={**JUDGE, "overlap": "leave-out"})
    assert rest.judgement.n == counts["test"]
    assert rest.judgement.metrics["accuracy"].value == artifact.report.judgement.metrics["accuracy"].value
    assert rest.ledger.counts == {"rows that were learnt from, left out": counts["train"] + counts["valid"]}
    every = rg.evaluate(artifact, str(mail_file), judge={**JUDGE, "overlap": "keep"})
    assert every.judgement.n == 240
    mixed = rg.evaluate(artifact, [*new, *seen[:3]], judge={**JUDGE, "overlap": "leave-out"})
    assert 100 <= mixed.judgement.n <= 103


def test_an_artifact_that_does_not_keep_its_rows_says_so(artifact: Artifact, mail_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regraft.serving.labelled_rows.learnt_rows", lambda artifact: None)
    report = rg.evaluate(artifact, str(mail_file), judge=JUDGE)
    assert report.judgement.n == 240
    assert any("does not keep which rows it learnt from" in note for note in report.notes)


def test_three_rows_are_judged_and_what_they_cannot_show_is_said(artifact: Artifact, fresh_file: Path):
    rows = read_rows(fresh_file)
    few = [next(row for row in rows if row["label"] == label) for label in ("ham", "spam")]
    few.append(next(row for row in rows if row["label"] == "ham" and row not in few))
    report = rg.evaluate(artifact, few, judge=JUDGE)
    assert (report.judgement.n, report.verdict) == (3, "no evidence")
    assert (
        "3 rows cannot show that one model is better than another: no paired test finds anything on fewer than 6"
        in report.judgement.notes
    )
    accuracy = report.judgement.metrics["accuracy"]
    assert accuracy.high - accuracy.low > 0.6
    json.dumps(report.to_json(), allow_nan=False)
    assert rg.evaluate(artifact, few[:1], judge=JUDGE).judgement.n == 1


def test_rows_of_one_class_and_unknown_labels(artifact: Artifact, fresh_file: Path):
    rows = read_rows(fresh_file)
    ham = [row for row in rows if row["label"] == "ham"]
    report = rg.evaluate(artifact, ham, judge=JUDGE)
    assert "roc_auc is undefined: the rows are all of one class" in report.judgement.notes
    assert report.to_json()["metrics"]["roc_auc"]["value"] is None
    with pytest.raises(DataError) as caught:
        rg.evaluate(artifact, [*rows[:3], {**rows[3], "label": "phishing"}, {**rows[4], "label": "phishing"}])
    assert "the training rows have no label 'phishing'" in str(caught.value)
    assert "got: 2 such rows" in str(caught.value)
    assert "fit again with training rows that have it" in str(caught.value)
    with pytest.raises(DataError, match="there is no column 'body' to read"):
        rg.evaluate(artifact, [{"text": row["body"], "label": row["label"]} for row in rows])
    other = [{**row, "truth": row["label"], "label": "x"} for row in rows]
    assert rg.evaluate(artifact, other, target="truth", judge=JUDGE).judgement.n == 100


def test_rows_that_belong_together_are_drawn_together(artifact: Artifact, fresh_file: Path):
    rows = [{**row, "sender": f"s{number // 4}"} for number, row in enumerate(read_rows(fresh_file))]
    plain, grouped = (rg.evaluate(artifact, rows, judge={**JUDGE, **more}) for more in ({}, {"group": "sender"}))
    assert "rows of one 'sender' are drawn together: 25 groups of 100 rows" in grouped.judgement.notes
    assert plain.judgement.metrics["accuracy"].value == grouped.judgement.metrics["accuracy"].value
    detail = grouped.to_json()["verdict_detail"]
    assert (detail["groups"], detail["test"]) == (25, "paired randomisation of whole groups, two-sided")
    with pytest.raises(DataError, match=r"there is no column 'sendr' \(judge.group\)(.|\n)*did you mean 'sender'"):
        rg.evaluate(artifact, rows, judge={"group": "sendr"})


def test_a_fit_is_judged_in_groups_and_says_which_it_learnt_from(fit_small: Callable[..., Artifact], tmp_path: Path):
    rows = [{**row, "sender": f"s{number % 30}"} for number, row in enumerate(mails(120, seed=8))]
    train = {"epochs": 0}
    made = fit_small(tmp_path / "grouped", data=rows, text="body", judge={**JUDGE, "group": "sender"}, train=train)
    notes = made.report.notes
    assert any(note.startswith("rows of one 'sender' are drawn together: ") for note in notes)
    assert any("groups ('sender') of the test rows also have rows that were learnt from" in note for note in notes)
    with pytest.raises(DataError, match=r"there is no column 'sendr' \(judge.group\)"):
        fit_small(tmp_path / "wrong", data=rows, text="body", judge={"group": "sendr"}, train=train)
    assert not (tmp_path / "wrong").exists()


def test_models_are_compared_by_any_metric(
    artifact: Artifact, fit_small: Callable[..., Artifact], fresh_file: Path, tmp_path: Path
):
    untrained = fit_small(tmp_path / "untrained", train={"epochs": 0})
    report = rg.compare(untrained, artifact, str(fresh_file), judge={**JUDGE, "metric": "roc-auc"})
    detail = report.to_json()["verdict_detail"]
    assert (detail["quantity"], detail["verdict"]) == ("roc-auc", "better")
    steps = report.to_json()["ladder"]
    difference = steps[1]["metrics"]["roc_auc"]["value"] - steps[0]["metrics"]["roc_auc"]["value"]
    assert detail["difference"]["value"] == pytest.approx(difference)


def test_a_metric_that_cannot_compare_is_refused_before_any_work(
    artifact: Artifact, fit_small: Callable[..., Artifact], fresh_file: Path, tmp_path: Path
):
    with pytest.raises(OptionsError, match="'mae' \\(metrics\\) is for numbers or quantiles, not for classes"):
        rg.evaluate(artifact, str(fresh_file), judge={"metric": "mae"})
    with pytest.raises(RegraftError, match="did you mean 'roc-auc'"):
        fit_small(tmp_path / "never", judge={"metric": "roc-acu"})
    assert not (tmp_path / "never").exists()
    with pytest.raises(DataError, match="there is no file, folder or sample"):
        rg.compare(artifact, tmp_path / "answers.csv", str(fresh_file))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predictions_of_the_artifact_itself_are_judged_as_the_artifact(
    artifact: Artifact, fresh_file: Path, suffix: str, tmp_path: Path
):
    out = tmp_path / f"answers{suffix}"
    lifecycle.predict_file(artifact, fresh_file, out=out)
    report = rg.compare(artifact, out, str(fresh_file), judge=JUDGE)
    first, second = report.to_json()["ladder"]
    assert (second["name"], report.verdict) == (out.name, "no evidence")
    for name, metric in first["metrics"].items():
        assert second["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-6), name
    alone = rg.evaluate(out, str(fresh_file), target="label", judge=JUDGE).to_json()
    assert alone["metrics"]["accuracy"] == second["metrics"]["accuracy"]
    assert alone["about"]["artifact"] is None


def test_two_files_and_a_table_in_another_order_are_compared(fresh_file: Path, given: list[dict[str, Any]], tmp_path: Path):
    good, bad = table(given, *PROBABLE)[::-1], table(given, *PROBABLE)
    for row in bad:
        row["probability.ham"], row["probability.spam"] = row["probability.spam"], row["probability.ham"]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    files = [tmp_path / "bad.jsonl", tmp_path / "good.jsonl"]
    report = rg.compare(*files, str(fresh_file), target="label", judge=JUDGE)
    assert (report.verdict, report.to_json()["verdict_detail"]["a"]) == ("better", "bad.jsonl")
    assert report.cost == {}
    in_memory = rg.compare(bad, good, str(fresh_file), target="label", judge=JUDGE)
    assert in_memory.to_json()["metrics"] == report.to_json()["metrics"]
    assert [step.name for step in in_memory.ladder.steps] == ["predictions 1", "predictions 2"]
    with pytest.raises(DataError, match=r"which column holds the truth is not known(.|\n)*--target COLUMN"):
        rg.compare(*files, str(fresh_file))


def test_answers_alone_are_judged_by_decisions(artifact: Artifact, fresh_file: Path, given: list[dict[str, Any]]):
    answers = table(given, "id", "prediction")
    report = rg.compare(artifact, answers, str(fresh_file), judge=JUDGE)
    assert list(report.judgement.metrics) == ["accuracy", "balanced-accuracy", "macro-f1", "micro-f1"]
    assert "predictions 2 holds answers without probabilities: nothing is told of log-loss, roc-auc" in report.notes
    assert report.ladder.verdict.only_a_right == report.ladder.verdict.only_b_right == 0
    answers[4]["prediction"] = "phishing"
    with pytest.raises(DataError, match="predictions are no answers of this task") as caught:
        rg.compare(artifact, answers, str(fresh_file))
    assert "row 5, column 'prediction'" in str(caught.value)
    assert "no label 'phishing'" in str(caught.value)


def test_numbers_made_elsewhere_are_judged_with_a_constant_target(tmp_path: Path):
    rng = np.random.default_rng(0)
    truth = rng.normal(100.0, 20.0, 60)
    rows = [{"id": number, "price": float(value)} for number, value in enumerate(truth)]
    near, far = ([{"id": k, "prediction": float(v + s * rng.normal())} for k, v in enumerate(truth)] for s in (2.0, 15.0))
    report = rg.compare(far, near, rows, target="price", judge=JUDGE)
    assert (report.verdict, report.ladder.verdict.quantity) == ("better", "mae")
    assert report.judgement.metrics["mae"].value == pytest.approx(
        np.mean([abs(a["prediction"] - b) for a, b in zip(near, truth, strict=True)])
    )
    constant = [{"id": k, "price": 7} for k in range(60)]
    flat = rg.evaluate(near, constant, target="price", judge=JUDGE)
    assert "r2 is undefined on these rows" in flat.judgement.notes
    assert flat.to_json()["metrics"]["r2"] == {"value": None, "low": None, "high": None, "n": 60}
    assert flat.judgement.metrics["mae"].value == pytest.approx(np.mean([abs(a["prediction"] - 7) for a in near]))
    spread = [{"id": k, "quantile.0.1": v - 20, "quantile.0.5": v, "quantile.0.9": v + 20} for k, v in enumerate(truth)]
    assert rg.evaluate(spread, rows, target="price", judge=JUDGE).judgement.metrics["coverage"].value == 1.0


def test_everything_wrong_with_predictions_is_told_at_once(artifact: Artifact, fresh_file: Path, given: list[dict[str, Any]]):
    wrong = table(given, *PROBABLE)
    wrong[2]["probability.ham"] = 0.9
    wrong[2]["probability.spam"] = 0.9
    wrong[3]["id"] = wrong[4]["id"]
    wrong.append({"id": "mail-x", "probability.ham": 0.5, "probability.spam": 0.5})
    with pytest.raises(DataError) as caught:
        rg.compare(artifact, wrong, str(fresh_file))
    text = str(caught.value)
    assert "ids stand twice in predictions 2" in text
    assert "'mail-4' (first in " in text
    assert "ids are not in the data" in text
    assert "1 row: mail-x" in text
    assert "rows of the data have no prediction in predictions 2" in text
    assert "1 row: mail-3" in text
    assert "probabilities do not add up to 1" in text
    assert "sums of 1.8" in text
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: {**row, "probability.spam": "much"}, "predictions are no finite numbers(.|\n)*'probability.spam'"),
        (lambda row: {**row, "probability.spam": 4.2}, "probabilities are not from 0 to 1(.|\n)*not logits"),
        (lambda row: {**row, "probability.eggs": 0.0}, "columns of labels that are not predicted(.|\n)*probability.eggs"),
        (lambda row: {key: row[key] for key in ("id", "probability.ham")}, "labels have no column of their own(.|\n)*spam"),
        (lambda row: {"id": row["id"], "score": 1.0}, "the table holds no predictions(.|\n)*probability.LABEL"),
        (lambda row: {"mail": row["id"], **{k: row[k] for k in PROBABLE[1:]}}, "there is no column 'id', by which rows"),
    ],
)
def test_tables_that_are_no_predictions_are_refused(change, told, artifact, fresh_file, given):
    with pytest.raises(DataError, match=told):
        rg.compare(artifact, [change(row) for row in table(given, *PROBABLE)], str(fresh_file))


def test_without_ids_the_order_counts(artifact: Artifact, fresh_file: Path, given: list[dict[str, Any]]):
    data = [{"body": row["body"], "label": row["label"]} for row in read_rows(fresh_file)]
    bare = table(given, *PROBABLE[1:])
    report = rg.compare(artifact, bare, data, judge=JUDGE)
    assert report.ladder.verdict.difference.value == 0.0
    for rows, told in ((bare[:-1], "fewer predictions than rows"), ([*bare, bare[0]], "more predictions than rows")):
        with pytest.raises(DataError, match=told):
            rg.compare(artifact, rows, data)
    with pytest.raises(DataError, match="the predictions have ids, and the data have no column 'id'"):
        rg.compare(artifact, table(given, *PROBABLE), data)
    named = [{"mail": row["id"], **bare[k]} for k, row in enumerate(given)]
    again = [{"mail": row["id"], **data[k]} for k, row in enumerate(given)]
    assert rg.compare(artifact, named[::-1], again, judge={**JUDGE, "id": "mail"}).judgement.n == 100


def test_fits_that_differ_in_their_seed_are_one_contender(
    artifact: Artifact, fit_small: Callable[..., Artifact], fresh_file: Path, mail_file: Path, tmp_path: Path
):
    again = [fit_small(tmp_path / f"seed{seed}", seed=seed) for seed in (1, 2)]
    untrained = fit_small(tmp_path / "untrained", train={"epochs": 0})
    report = rg.compare(untrained, artifact, *again, str(fresh_file), judge=JUDGE)
    shown = report.to_json()
    assert [step["name"] for step in shown["ladder"]] == ["untrained", "spam-model (3 seeds)"]
    study = shown["seeds"]["spam-model (3 seeds)"]
    alone = [rg.evaluate(one, str(fresh_file), judge=JUDGE).judgement.metrics["accuracy"].value for one in (artifact, *again)]
    assert study["seeds"] == [0, 1, 2]
    assert study["values"] == pytest.approx(alone)
    assert shown["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(alone))
    assert (shown["verdict"], shown["verdict_detail"]["seeds"]) == ("better", [1, 3])
    assert rg.Report.from_json(shown).to_json() == shown
    cost = shown["ladder"][1]["cost"]
    assert (cost["size_bytes"], cost["latency_ms"] > 0) == (artifact.size_bytes, True)
    assert not {"slices", "weak_slices"} & set(shown)
    assert any(note.startswith("slices are those of one fit") for note in shown["notes"])
    only = rg.compare(artifact, *again, str(fresh_file), judge=JUDGE).to_json()
    assert [step["name"] for step in only["ladder"]] == ["majority", "spam-model (3 seeds)"]
    pair = rg.compare(artifact, again[0], str(fresh_file), judge=JUDGE)
    assert pair.seeds == {}, "whoever names two wants to know which is better"


def test_slices_stand_beside_groups_a_metric_and_predictions_made_elsewhere(
    artifact: Artifact, fresh_file: Path, given: list[dict[str, Any]]
):
    rows = [{**row, "sender": f"s{number // 4}", "land": "ab"[number % 2]} for number, row in enumerate(read_rows(fresh_file))]
    judge = {**JUDGE, "group": "sender", "metric": "log-loss", "fairness": "land"}
    ours = rg.evaluate(artifact, rows, judge=judge).to_json()
    found = {(one["column"], one["value"]): one["metrics"]["log_loss"] for one in ours["slices"]}
    losses = [-np.log(row[f"probability.{one['label']}"]) for row, one in zip(given, rows, strict=True)]
    assert found["land", "a"]["value"] == pytest.approx(np.mean(losses[::2]), abs=1e-5)
    assert "slices, weak slices and fairness take each row by itself, also where rows belong together" in ours["notes"]
    assert {"calibration", "fairness"} <= set(ours)

    judge = {**JUDGE, "fairness": "land", "previous": str(artifact.path)}
    theirs = rg.evaluate(table(given, *PROBABLE), rows, target="label", judge=judge).to_json()
    assert [step["name"] for step in theirs["ladder"]] == ["majority", "previous", "predictions 1"]
    assert (theirs["verdict"], theirs["ladder"][2]["cost"]["size_bytes"]) == ("no evidence", None)
    assert theirs["ladder"][1]["cost"]["size_bytes"] == artifact.size_bytes
    assert {"land", "sender"} & {one["column"] for one in theirs["slices"]} == {"land"}
    assert {group["group"]: group["n"] for group in theirs["fairness"]["groups"]} == {"a": 50, "b": 50}
    with pytest.raises(DataError, match=r"there is no column 'lnd' to group rows by(.|\n)*did you mean 'land'"):
        rg.evaluate(table(given, *PROBABLE), rows, target="label", judge={"slices": ["lnd"]})


def test_what_stood_before_is_no_excuse_for_rows_that_it_learnt_from(
    artifact: Artifact, fit_small: Callable[..., Artifact], mail_file: Path, fresh_file: Path, tmp_path: Path
):
    judge = {**JUDGE, "previous": str(artifact.path)}
    later = fit_small(tmp_path / "later", data=[*read_rows(fresh_file), *read_rows(mail_file)], text="body", judge=judge)
    steps = {step["name"]: step for step in later.report.to_json()["ladder"]}
    tested = later.report.judgement.n
    assert f"of these {tested} rows, so that it looks better than it is" in steps["previous"]["note"]
    alone = fit_small(tmp_path / "alone", data=read_rows(fresh_file), text="body", judge=JUDGE)
    with pytest.raises(DataError, match="rows that the artifact learnt from"):
        rg.evaluate(alone, str(mail_file), judge=judge)
    rest = rg.evaluate(alone, str(mail_file), judge={**judge, "overlap": "leave-out"})
    assert rest.judgement.n == artifact.report.about["rows"]["test"]
    assert {"calibration", "abstain"} <= set(rest.to_json()), "how far the judged one can be trusted is told all the same"


def test_the_command_takes_several_artifacts_and_tables(
    artifact: Artifact, fresh_file: Path, given: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    theirs = write_csv(tmp_path / "theirs.csv", table(given, *PROBABLE))
    copy = shutil.copytree(artifact.path, tmp_path / "copy")
    asked = ["compare", str(artifact.path), str(copy), str(theirs), str(fresh_file), "--set", "judge.resamples=200"]
    assert _run(asked) == 0
    shown = capsys.readouterr().out
    assert "theirs.csv" in shown
    assert "such comparisons, p is Holm's" not in shown
    assert _run(["compare", str(artifact.path), str(fresh_file)]) == 2
    assert "compare takes two artifacts or more" in capsys.readouterr().err


def test_compare_without_rows_says_what_to_write(artifact: Artifact):
    with pytest.raises(UsageError, match=r"there are no rows to compare on(.|\n)*compare FIRST SECOND DATA"):
        rg.compare(artifact, artifact)
