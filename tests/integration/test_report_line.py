"""The report page at the end of the line: written by every fit, covered by the manifest, made again by a verb, honest in its numbers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import regraft as rg
from regraft.artifact import predictions
from regraft.artifact.store import EVIDENCE, Artifact, read_artifact, write_artifact
from regraft.errors import ArtifactError, OptionsError, UsageError
from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.options import JudgeOptions
from regraft.serving.predictor import restore

NUMBER = re.compile(r'<data value="([^"]+)" data-path="([^"]+)" data-form="[a-z]+"( data-of="(\d+)")?>')


def numbers(page: Path) -> list[tuple[float, str, int]]:
    found = NUMBER.findall(page.read_text(encoding="utf-8"))
    return [(float(value), path, int(of or 0)) for value, path, _, of in found]


def check(page: Path, *artifacts: Artifact) -> int:
    """Every number of a page stands in a file of its artifact."""
    found = numbers(page)
    for value, path, of in found:
        name, _, rest = path.partition("/")
        artifact = artifacts[of]
        if name == "events":
            lines = (artifact.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
            source: Any = [json.loads(line) for line in lines]
        elif name == "manifest":
            source = {"seed": artifact.manifest.seed, "size_bytes": artifact.size_bytes}
        else:
            source = json.loads((artifact.path / f"{name}.json").read_text(encoding="utf-8"))
        for word in rest.split("/"):
            word = word.replace("~1", "/").replace("~0", "~")
            source = source[int(word)] if isinstance(source, list) else source[word]
        assert value == source, path
    return len(found)


def test_every_fit_leaves_a_page_and_what_it_is_drawn_from(artifact: Artifact):
    assert artifact.manifest.files.keys() >= EVIDENCE
    assert check(artifact.path / "report.html", artifact) > 60
    assert "[report.html](report.html)" in (artifact.path / "card.md").read_text(encoding="utf-8")
    kinds = [json.loads(line)["event"] for line in (artifact.path / "events.jsonl").read_text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    command = artifact.report.to_json()["about"]["command"]
    assert (command.startswith("regraft fit "), "--set out=" in command) == (True, False)


def test_the_answers_that_are_kept_are_those_of_the_artifact_and_give_the_figures_again(artifact: Artifact):
    rows, answers = predictions.read(artifact.path / "predictions.parquet", restore(artifact)[1])
    report = artifact.report.to_json()
    assert len(rows) == report["n"]
    judged = kind_for(answers.task).judge(
        answers.task.metrics, answers.targets_N, answers.outputs_NC, options=JudgeOptions(resamples=100)
    )
    for name, metric in judged.to_json()["metrics"].items():
        assert metric["value"] == report["metrics"][name]["value"]
    table = pq.read_table(artifact.path / "predictions.parquet")
    right = np.mean(
        [truth == given for truth, given in zip(*(table.column(c).to_pylist() for c in ("truth", "prediction")), strict=True)]
    )
    assert right == report["metrics"]["accuracy"]["value"]
    wrong = [
        row for row in range(table.num_rows) if table.column("truth")[row].as_py() != table.column("prediction")[row].as_py()
    ]
    worst = artifact.json("worst.json")
    assert worst["wrong"] == len(wrong)
    assert {row["row"] for row in worst["rows"]} <= set(wrong)


def test_an_edited_page_or_answer_is_found(artifact: Artifact, tmp_path: Path):
    for name in sorted(EVIDENCE):
        copy = tmp_path / "copy"
        shutil.copytree(artifact.path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="a file is not the one that was written"):
            read_artifact(copy)
        shutil.rmtree(copy)


def test_same_command_same_answers_byte_for_byte(artifact: Artifact, fit_small: Callable[..., Artifact], tmp_path: Path):
    again = fit_small(tmp_path / "again")
    assert again.manifest.files["predictions.parquet"] == artifact.manifest.files["predictions.parquet"]
    assert again.manifest.files["worst.json"] == artifact.manifest.files["worst.json"]


def test_the_verb_draws_the_page_again_and_up_to_ten_beside_each_other(
    artifact: Artifact, fit_small: Callable[..., Artifact], tmp_path: Path
):
    page = rg.report(artifact, out=tmp_path / "one.html")
    assert page == tmp_path / "one.html"
    assert check(page, artifact) >= check(artifact.path / "report.html", artifact)
    other = fit_small(tmp_path / "other", train={"epochs": 1}, tuning="head")
    both = rg.report(artifact, other, out=tmp_path / "both.html", language="zh")
    assert check(both, artifact, other) > 120
    text = both.read_text(encoding="utf-8")
    # The same split by the same seed: the difference on the page is that of the two accuracies.
    gap = other.report.judgement.metrics["accuracy"].value - artifact.report.judgement.metrics["accuracy"].value
    assert f'<span class="ends">{100 * gap:+.1f} [' in text
    readers = {"json-lines": None, "curves": tmp_path / "drawn"}
    third = fit_small(tmp_path / "third", seed=1, train={"epochs": 1}, tuning="head", log_to=readers)
    assert {"third.events.jsonl", "drawn.svg", "drawn.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "other rows" in rg.report(artifact, third, out=tmp_path / "rows.html").read_text(encoding="utf-8")


def test_an_artifact_without_these_files_opens_and_its_page_says_what_it_lacks(artifact: Artifact, tmp_path: Path):
    def fill(folder: Path) -> Any:
        shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
        for name in (*EVIDENCE, "manifest.json"):
            (folder / name).unlink()
        fields = (
            "task",
            "inputs",
            "target",
            "base",
            "network",
            "weights_digest",
            "transforms",
            "options",
            "seed",
            "fingerprints",
        )
        from regraft.artifact.manifest import ManifestBody

        return ManifestBody(**{name: getattr(artifact.manifest, name) for name in fields})

    older = write_artifact(tmp_path / "older", fill)
    assert rg.load(older).predict(["hello"])[0].value in {"ham", "spam"}
    text = rg.report(older, out=tmp_path / "older.html").read_text(encoding="utf-8")
    assert "This artifact has no " in text
    assert all(f"<code>{name}</code>" in text for name in ("events.jsonl", "predictions.parquet", "worst.json"))
    assert "answers not kept" in rg.report(artifact, older, out=tmp_path / "both.html").read_text(encoding="utf-8")


def test_evaluate_and_compare_write_a_page_too(artifact: Artifact, fresh_file: Path, tmp_path: Path):
    report = rg.evaluate(artifact, fresh_file, page=tmp_path / "evaluated.html", judge={"resamples": 100})
    values = {path: value for value, path, _ in numbers(tmp_path / "evaluated.html")}
    assert values["report/metrics/accuracy/value"] == report.judgement.metrics["accuracy"].value
    assert values.get("worst/wrong", 0) == round((1 - report.judgement.metrics["accuracy"].value) * report.judgement.n)
    rg.compare(artifact, artifact, fresh_file, page=tmp_path / "compared.html", language="zh", judge={"resamples": 100})
    assert "证据不足" in (tmp_path / "compared.html").read_text(encoding="utf-8")


def test_what_cannot_be_a_page_is_refused_before_any_work(artifact: Artifact, tmp_path: Path):
    with pytest.raises(OptionsError, match="the page is one HTML file") as refused:
        rg.report(artifact, out=tmp_path / "page.pdf")
    assert "page.pdf" in str(refused.value)
    with pytest.raises(OptionsError, match="the page is one HTML file"):
        rg.evaluate(artifact, "no-such-file.csv", page=tmp_path / "page")
    with pytest.raises(OptionsError, match="does not speak 'fr'"):
        rg.report(artifact, out=tmp_path / "page.html", language="fr")
    with pytest.raises(UsageError, match="so many do not fit"):
        rg.report(out=tmp_path / "page.html")


def test_a_page_that_cannot_be_drawn_loses_no_fit(
    fit_small: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any, **__: Any) -> bytes:
        raise ValueError("a section of an outside package fails")

    monkeypatch.setattr("regraft.reporting.writing.page", broken)
    told: list[Any] = []
    made = fit_small(tmp_path / "model", listen=told.append)
    assert "report.html" not in made.manifest.files
    warned = [event.text for event in told if getattr(event, "level", "") == "warning"]
    assert any("the report page cannot be drawn" in text and "outside package" in text for text in warned)


def test_an_export_leaves_the_evidence_behind(artifact: Artifact, tmp_path: Path):
    exported = rg.export(artifact, format="onnx", out=tmp_path / "onnx")
    assert not EVIDENCE & exported.manifest.files.keys()
    assert "This artifact has no " in rg.report(exported, out=tmp_path / "onnx.html").read_text(encoding="utf-8")


def test_the_command_line(artifact: Artifact, tmp_path: Path):
    from click.testing import CliRunner

    from regraft.cli.app import app

    done = CliRunner().invoke(
        app, ["report", str(artifact.path), "--out", str(tmp_path / "p.html"), "--language", "zh", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "p.html").stat().st_size
