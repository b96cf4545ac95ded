"""The command line: forms that scripts depend on, exit codes, what goes to which stream, and every bad input by its text."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line_rows import mails, write_csv

from regraft.artifact.store import Artifact
from regraft.cli.app import COMMANDS, _run

SMALL = [
    "--base",
    "mlp",
    "--set",
    "base.width=16",
    "--epochs",
    "1",
    "--set",
    "judge.resamples=200",
    "--set",
    "machine.threads=1",
    "--set",
    "machine.cache.disk_mb=0",
]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def last_json(out: str) -> dict[str, Any]:
    return json.loads(out.strip().splitlines()[-1])


def test_fit_with_json_ends_with_the_report(call: Call, mail_file: Path, tmp_path: Path):
    out = tmp_path / "model"
    code, stdout, stderr = call("fit", mail_file, "--target", "label", "--out", out, *SMALL, "--json", "--seed", "3")
    assert code == 0, stderr
    report = last_json(stdout)
    assert {"metrics", "ladder", "verdict", "ledger", "seconds", "artifact", "digest"} <= report.keys()
    for name in ["accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "roc_auc"]:
        assert report["metrics"][name].keys() == {"value", "low", "high", "n"}
    assert all(json.loads(line) for line in stdout.splitlines()), "with --json every line of standard output is JSON"
    assert "fitted" in stderr, "what people read goes to standard error"
    assert out.is_dir()


def test_config_set_and_flags_are_the_same_options(call: Call, mail_file: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "target: label\nseed: 3\nbase: {name: mlp, width: 16}\ntrain: {epochs: 5}\n"
        "judge: {resamples: 200}\nmachine: {threads: 1, cache: {disk_mb: 0}}\n"
    )
    code, stdout, stderr = call(
        "fit", mail_file, "--config", config, "--set", "train.epochs=2", "--epochs", "1", "--out", tmp_path / "a", "--json"
    )
    assert code == 0, stderr
    flags = call("fit", mail_file, "--target", "label", "--out", tmp_path / "b", *SMALL, "--json", "--seed", "3")
    assert flags[0] == 0
    digests = [json.loads((tmp_path / name / "manifest.json").read_text())["weights_digest"] for name in "ab"]
    assert digests[0] == digests[1]


def test_a_recipe_alone_is_enough_and_travels_by_its_content(call: Call, mail_file: Path, tmp_path: Path):
    (tmp_path / "mails.csv").write_bytes(mail_file.read_bytes())
    config = tmp_path / "run.yaml"
    config.write_text(
        "data: {name: mails.csv, valid_share: 0.2}\ntarget: label\nbase: {name: mlp, width: 16}\n"
        "train: {epochs: 1}\njudge: {resamples: 200}\nmachine: {threads: 1, cache: {disk_mb: 0}}\n"
    )
    code, _, stderr = call("fit", "--config", config, "--out", tmp_path / "a")
    assert code == 0, stderr
    code, stdout, stderr = call("inspect", tmp_path / "a", "--json")
    facts = last_json(stdout)
    assert facts["recipe"]["data"] == {"name": "mails.csv", "valid_share": 0.2}
    assert facts["options"]["data"]["valid_share"] == 0.2
    assert "data.valid_share=0.2, judge.resamples=200" in stderr
    assert str(config) not in (tmp_path / "a" / "report.json").read_text()
    code, _, stderr = call("fit", "--target", "label", "--out", tmp_path / "b")
    assert code == 2
    assert "there are no data to fit to" in stderr
    config.write_text("target: label\ntrain:\n  epocs: 3\n")
    code, _, stderr = call("fit", mail_file, "--config", config, "--out", tmp_path / "b")
    assert code == 2
    assert f"{config}, line 3" in stderr
    assert "did you mean 'epochs'?" in stderr


def test_rows_are_drawn_beside_answers_and_golden_ones_on_inspection(
    call: Call, artifact: Artifact, fresh_file: Path, tmp_path: Path
):
    page = tmp_path / "page.html"
    code, _, stderr = call(
        "predict", artifact.path, fresh_file, "--out", tmp_path / "a.csv", "--render", page, "--render-rows", "5"
    )
    assert code == 0, stderr
    assert f"drawn: {page}" in stderr
    assert page.read_text().count("<article>") == 5
    assert 'class="right"' in page.read_text()
    assert call("inspect", artifact.path, "--render", tmp_path / "golden.png")[0] == 0
    assert (tmp_path / "golden.png").read_bytes().startswith(b"\x89PNG")
    code, _, stderr = call("inspect", artifact.path, "--render", "-")
    assert code == 0
    assert " %" in stderr
    before = sorted(tmp_path.iterdir())
    code, _, stderr = call("predict", artifact.path, fresh_file, "--out", tmp_path / "b.csv", "--render", tmp_path / "x.pdf")
    assert code == 2
    assert "rows cannot be drawn into this kind of file" in stderr
    assert (
        call("predict", artifact.path, fresh_file, "--out", tmp_path / "b.csv", "--render", page, "--render-rows", "0")[0] == 2
    )
    assert sorted(tmp_path.iterdir()) == before


def test_evaluate_compare_inspect_list_and_bases(call: Call, artifact: Artifact, fresh_file: Path):
    code, stdout, _ = call("evaluate", artifact.path, fresh_file, "--json")
    assert code == 0
    assert last_json(stdout)["metrics"]["accuracy"]["n"] == 100
    code, stdout, stderr = call("compare", artifact.path, artifact.path, fresh_file, "--json")
    assert code == 0
    assert last_json(stdout)["verdict"] == "no evidence"
    assert "(second)" in stderr
    code, stdout, _ = call("inspect", artifact.path, "--json")
    assert last_json(stdout)["digest"] == artifact.digest
    code, stdout, _ = call("inspect", artifact.path)
    assert artifact.digest in stdout
    code, stdout, _ = call("bases", "--json")
    assert {"minilm", "lstm"} <= {card["name"] for card in last_json(stdout)["bases"]}
    code, stdout, _ = call("list", "tunings")
    assert "full" in stdout
    assert "head" in stdout
    code, stdout, _ = call("list", "tasks", "--compatible", artifact.path, "--json")
    assert "classification" in last_json(stdout)["names"]
    for name in COMMANDS:
        code, stdout, _ = call(name, "--help")
        assert (code, "Usage: regraft " + name in stdout) == (0, True)


def test_help_of_fit_names_every_option(call: Call):
    _, stdout, _ = call("fit", "--help")
    for text in ["--target", "--valid", "--tuning", "--epochs", "train.learning_rate", "How often every training row is seen"]:
        assert text in stdout


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".tsv", ".csv.gz"])
def test_predict_to_every_format_with_a_bad_row_in_its_place(call: Call, artifact: Artifact, tmp_path: Path, suffix: str):
    rows = mails(6, seed=9)
    rows[2]["body"] = ""
    data, out = write_csv(tmp_path / "in.csv", rows), tmp_path / f"out{suffix}"
    code, stdout, stderr = call("predict", artifact.path, data, "--out", out)
    assert code == 0, stderr
    assert "5 of 6 rows answered" in stderr
    from regraft.data.options import DataOptions
    from regraft.data.rows import open_rows

    read = [row for chunk in open_rows(str(out), DataOptions()).chunks() for row in chunk.rows.to_pylist()]
    assert [row["id"] for row in read] == [row["id"] for row in rows]
    assert [not row["prediction"] for row in read] == [False, False, True, False, False, False]
    assert "empty" in read[2]["error"]
    code, _, stderr = call("predict", artifact.path, data, "--out", tmp_path / f"strict{suffix}", "--strict")
    assert code == 2
    assert "row 3" in stderr
    assert not (tmp_path / f"strict{suffix}").exists()


def test_how_data_are_read_is_an_option_of_every_verb(call: Call, artifact: Artifact, tmp_path: Path):
    rows = [{**row, "body": row["body"] + " grüße"} for row in mails(60, seed=5)]
    data = tmp_path / "latin.csv"
    data.write_bytes(write_csv(tmp_path / "utf8.csv", rows).read_bytes().decode().replace(",", ";").encode("cp1252"))
    how = ["--set", "data.encoding=cp1252", "--set", "data.delimiter=;"]
    code, _, stderr = call("fit", data, "--target", "label", "--out", tmp_path / "model", *SMALL, *how)
    assert code == 0, stderr
    for verb in (["evaluate", artifact.path, data], ["compare", artifact.path, artifact.path, data]):
        code, _, stderr = call(*verb, *how, "--json")
        assert code == 0, stderr
    code, _, stderr = call("predict", artifact.path, data, "--out", tmp_path / "answers.jsonl", *how)
    assert code == 0, stderr
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["body"].endswith("grüße")


BAD: list[tuple[str, list[str], list[str]]] = [
    ("no such command", ["fti"], ["did you mean 'fit'?"]),
    ("no such flag", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--epoch", "3"], ["--epoch"]),
    ("no such option", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--set", "train.epohcs=3"], ["did you mean 'epochs'?"]),
    ("no such group", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--set", "epochs=3"], ["did you mean 'train.epochs'?"]),
    ("out of range", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--epochs", "-1"], ["train.epochs", "greater than or equal to 0"]),
    ("not a number", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--epochs", "x"], ["valid integer"]),
    ("no target given", ["fit", "{mails}", "--out", "{out}"], ["the option 'target' is required"]),
    ("no out given", ["fit", "{mails}", "--target", "label"], ["the option 'out' is required"]),
    ("a base that is a file", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--base", "{mails}"], ["a folder, not a file"]),
    ("a value over options", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--set", "train=3", "--epochs", "1"], ["drop one"]),
    ("no such base", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--base", "minillm"], ["did you mean 'minilm'?"]),
    ("no such tuning", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--tuning", "heat"], ["did you mean 'head'?"]),
    ("no such task", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--task", "clasification"], ["did you mean 'classification'"]),
    ("no such file", ["fit", "{folder}/mials.csv", "--target", "label", "--out", "{out}"], ["mials.csv", "mails.csv"]),
    ("no name at all", ["fit", "", "--target", "label", "--out", "{out}"], ["the name of the data is empty"]),
    ("no name for the artifact", ["fit", "{mails}", "--target", "label", "--out", ""], ["the name of the artifact is empty"]),
    ("a name no file can have", ["predict", "{artifact}", "{mails}", "--out", "{folder}/" + 300 * "n" + ".csv"], ["the file cannot be written", "too long"]),
    ("data no file can hold", ["predict", "{artifact}", 300 * "n", "--out", "{out}.csv"], ["there is no file, folder or sample"]),
    ("no such column", ["fit", "{mails}", "--target", "lable", "--out", "{out}"], ["did you mean 'label'?"]),
    ("no such text", ["fit", "{mails}", "--target", "label", "--text", "boddy", "--out", "{out}"], ["did you mean 'body'?"]),
    ("one class", ["fit", "{one}", "--target", "label", "--out", "{out}"], ["fewer than two classes", "one.csv, column 'label'", "'ham'"]),
    ("no test rows", ["fit", "{mails}", "--target", "label", "--out", "{out}", "--set", "data.test_share=0"], ["there are no test rows", "--test", "data.test_share"]),
    ("one row of a class", ["fit", "{rare}", "--target", "label", "--out", "{out}"], ["rare.csv, row 8, column 'label'", "'rare' in 1 row", "task.min_rows"]),
    ("every row nested", ["fit", "{nested}", "--target", "label", "--out", "{out}"], ["not one row of the file can be read", "nested.jsonl, row 1, column 'meta'", "'meta_a'"]),
    ("nested target", ["fit", "{nested_label}", "--target", "label", "--out", "{out}"], ["nested_label.jsonl, row 1, column 'label'"]),
    ("too few to split", ["fit", "{few}", "--target", "label", "--text", "body", "--out", "{out}"], ["too few rows to draw a split", "few.csv, column 'label'"]),
    ("no rows", ["fit", "{header}", "--target", "label", "--out", "{out}"], ["there are no rows", "header.csv"]),
    ("empty file", ["fit", "{empty}", "--target", "label", "--out", "{out}"], ["empty.csv", "empty"]),
    ("binary file", ["fit", "{binary}", "--target", "label", "--out", "{out}"], ["binary.csv"]),
    ("latin", ["fit", "{latin}", "--target", "label", "--out", "{out}"], ["latin.csv", "data.encoding"]),
    ("two columns of a name", ["fit", "{double}", "--target", "label", "--out", "{out}"], ["'body'"]),
    ("too many without a label", ["fit", "{unlabelled}", "--target", "label", "--out", "{out}"], ["lost_share"]),
    ("ambiguous text", ["fit", "{two}", "--target", "label", "--out", "{out}"], ["'body'", "'more'", "--text"]),
    ("unknown test label", ["fit", "{mails}", "--target", "label", "--test", "{odd}", "--out", "{out}"], ["'spma'", "odd.csv, row", "'spam'"]),
    ("out is not ours", ["fit", "{mails}", "--target", "label", "--out", "{folder}"], ["not a Regraft artifact"]),
    ("no artifact", ["evaluate", "{folder}/none", "{mails}"], ["none"]),
    ("not an artifact", ["inspect", "{folder}"], ["manifest.json"]),
    ("no column to read", ["predict", "{artifact}", "{renamed}", "--out", "{out}.csv"], ["'body'"]),
    ("no such family", ["list", "taks"], ["did you mean 'tasks'?"]),
    ("bad set", ["fit", "{mails}", "--set", "epochs"], ["--set takes KEY=VALUE"]),
    ("bad config", ["fit", "{mails}", "--config", "{broken}"], ["not YAML"]),
    ("no config", ["fit", "{mails}", "--config", "{folder}/no.yaml"], ["cannot be read"]),
    ("config is a list", ["fit", "{mails}", "--config", "{listed}"], ["not a mapping"]),
    ("unknown output", ["predict", "{artifact}", "{mails}", "--out", "{folder}/x.xlsx"], [".csv"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, artifact: Artifact) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    rows = mails(40, seed=3)
    write_csv(folder / "mails.csv", rows)
    write_csv(folder / "one.csv", [{**row, "label": "ham"} for row in rows])
    write_csv(folder / "odd.csv", [*rows[:10], {**rows[10], "label": "spma"}])
    write_csv(folder / "unlabelled.csv", [{**row, "label": "" if i % 3 else row["label"]} for i, row in enumerate(rows)])
    write_csv(folder / "two.csv", [{**row, "more": row["body"][::-1]} for row in rows])
    write_csv(folder / "renamed.csv", [{"text": row["body"]} for row in rows])
    write_csv(folder / "rare.csv", [*rows[:7], {**rows[7], "label": "rare"}, *rows[8:]])
    write_csv(folder / "few.csv", [{**row, "label": str(i)} for i, row in enumerate(rows[:3])])
    lines = [json.dumps({"meta": {"a": 1}, "body": row["body"], "label": row["label"]}) for row in rows]
    (folder / "nested.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"body": row["body"], "label": {"name": row["label"]}}) for row in rows]
    (folder / "nested_label.jsonl").write_text("\n".join(lines))
    (folder / "header.csv").write_text("id,body,label\n")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 20)
    (folder / "latin.csv").write_bytes(b"body,label\n" + "grüße aus köln und viel mehr text,ham\n".encode("latin-1") * 20)
    (folder / "double.csv").write_text("body,body,label\na b c,d,ham\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    (folder / "listed.yaml").write_text("- 1\n")
    named = {path.stem: str(path) for path in folder.iterdir()}
    return {**named, "folder": str(folder), "out": str(folder / "out"), "artifact": str(artifact.path)}


@pytest.mark.parametrize(("arguments", "texts"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_a_clear_error_and_writes_nothing(
    call: Call, bad_files: dict[str, str], arguments: list[str], texts: list[str]
):
    before = sorted(Path(bad_files["folder"]).iterdir())
    base = ["--base", "mlp"] if arguments[0] == "fit" and "--base" not in arguments else []
    code, stdout, stderr = call(*[argument.format(**bad_files) for argument in arguments], *base)
    assert code == 2, stderr
    assert not stdout
    assert "to do:" in stderr
    for text in texts:
        assert text in stderr, stderr
    assert sorted(Path(bad_files["folder"]).iterdir()) == before


def test_what_nobody_foresaw_of_the_disk_is_an_error_without_a_traceback(
    call: Call, artifact: Artifact, mail_file: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "mails.csv")

    monkeypatch.setattr("regraft.lifecycle.evaluate", fails)
    code, stdout, stderr = call("evaluate", artifact.path, mail_file, "--json")
    assert code == 1
    assert "Stale file handle" in stderr
    assert last_json(stdout)["problems"][0]["where"] == "mails.csv"


def test_errors_are_json_too(call: Call, mail_file: Path, tmp_path: Path):
    code, stdout, _ = call("fit", mail_file, "--target", "lable", "--base", "mlp", "--out", tmp_path / "x", "--json")
    assert code == 2
    problem = last_json(stdout)["problems"][0]
    assert problem["fix"].startswith("did you mean 'label'")


def test_an_artifact_edited_by_one_byte_is_refused(call: Call, artifact: Artifact, fresh_file: Path, tmp_path: Path):
    for name in [
        "weights.safetensors",
        "backbone/model.safetensors",
        "manifest.json",
        "report.json",
        "backbone/tokenizer.json",
    ]:
        copy = tmp_path / "copy"
        shutil.copytree(artifact.path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        code, _, stderr = call("predict", copy, fresh_file, "--out", tmp_path / "x.csv")
        assert code == 2, name
        assert name in stderr
        shutil.rmtree(copy)


def test_base_that_is_not_there_without_a_network(call: Call, mail_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("REGRAFT_WHEELS", raising=False)
    for base in ["minilm", "some-owner/some-model"]:
        code, _, stderr = call("fit", mail_file, "--target", "label", "--base", base, "--out", tmp_path / "x")
        assert code == 2
        assert "HF_HUB_OFFLINE" in stderr, stderr
        assert not (tmp_path / "x").exists()


def test_base_folders_that_are_refused(call: Call, mail_file: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    arguments = ("fit", mail_file, "--target", "label", "--base", folder, "--out", tmp_path / "x")
    code, _, stderr = call(*arguments)
    assert (code, "safetensors" in stderr) == (2, True), stderr
    (folder / "pytorch_model.bin").write_bytes(b"x")
    code, _, stderr = call(*arguments)
    assert (code, "pickle" in stderr) == (2, True), stderr
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}))
    code, _, stderr = call(*arguments)
    assert (code, "auto_map" in stderr) == (2, True), stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment_there_is_no_artifact_or_a_whole_one(how: signal.Signals, mail_file: Path, tmp_path: Path):
    command = [sys.executable, "-m", "regraft", "fit", str(mail_file), "--target", "label", *SMALL, "--json"]
    began = time.monotonic()
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    whole_s = time.monotonic() - began
    for moment in range(8):
        out = tmp_path / f"{how.name}-{moment}"
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(whole_s * (moment + 0.5) / 8)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
        if out.exists():
            checked = subprocess.run([sys.executable, "-m", "regraft", "inspect", str(out)], capture_output=True, check=False)
            assert checked.returncode == 0, checked.stderr
        elif how != signal.SIGKILL:
            assert process.returncode == 3, stderr.decode()[-2000:]
            kept = tmp_path / f".{out.name}.run"
            assert (b"nothing was left half-written" in stderr) or (b"regraft fit --resume" in stderr)
            assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path != kept], "stages are swept"
            assert kept.exists() == (b"regraft fit --resume" in stderr)
            shutil.rmtree(kept, ignore_errors=True)


def test_an_artifact_that_will_be_replaced_is_told_before_anything_is_done(call: Call, mail_file: Path, tmp_path: Path):
    arguments = ["fit", mail_file, "--target", "label", "--out", tmp_path / "model", *SMALL]
    code, _, stderr = call(*arguments)
    assert code == 0, stderr
    assert "replaced" not in stderr
    code, _, stderr = call(*arguments)
    assert code == 0, stderr
    told = f"{tmp_path / 'model'} is an artifact: it stays until the new one is whole, and is then replaced"
    assert stderr.splitlines()[0] == told


def test_drawing_alone_writes_no_answers(call: Call, mail_file: Path, tmp_path: Path):
    code, _, stderr = call("fit", mail_file, "--target", "label", "--out", tmp_path / "model", *SMALL)
    assert code == 0, stderr
    page, answers = tmp_path / "page.html", tmp_path / "answers.csv"
    code, stdout, stderr = call("predict", tmp_path / "model", mail_file, "--render", page, "--render-rows", "5")
    assert (code, stdout) == (0, ""), stderr
    assert page.read_text().count("<article>") == 5
    assert f"drawn: {page}, at most 5 rows, drawn from all of them" in stderr
    code, stdout, stderr = call("predict", tmp_path / "model", mail_file, "--render", page, "--out", answers)
    assert (code, stdout) == (0, ""), stderr
    assert answers.is_file()


def test_list_alone_lists_the_families(call: Call, tmp_path: Path):
    code, stdout, stderr = call("list")
    assert code == 0, stderr
    assert "regraft list tunings  " in stdout
    assert "top-k" in stdout
    assert last_json(call("list", "--json")[1])["families"]["tunings"]
    code, _, stderr = call("list", "--compatible", tmp_path)
    assert code == 2
    assert "regraft list bases --compatible ARTIFACT" in stderr
