"""The verb `export` and the gate around every exporter, with exporters that only write the network again.

What a format does is tested beside it (`test_export_*.py`); here it is about what no format may do.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import export_twin
import numpy as np
import pytest
from export_faults import FAULTS, QUIET_FAULTS, contents, planted, refused
from line_rows import mails, write_csv

import regraft as rg
from regraft import exporting, lifecycle
from regraft.artifact.manifest import FORMAT
from regraft.artifact.store import Artifact, check_out, read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError, GateError, UsageError
from regraft.sampling import drawn_rows
from regraft.serving.parity import Answers, Tolerance, compare_export
from regraft.serving.predictor import Predictor

QUIET = {"threads": 1}


@pytest.fixture(autouse=True)
def _twin() -> Iterator[None]:
    with export_twin.registered():
        yield


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparison without a new Python, which costs seconds; one of each kind of test takes the real way."""

    def compare(export: Path, expected: Path, *, runtime: str, threads: int, precision: str, without: frozenset[str]) -> Any:
        predictor = Predictor.load(export, runtime=runtime, threads=threads, device="cpu")
        return compare_export(predictor, Answers.load(expected), Tolerance.of(precision))

    monkeypatch.setattr(exporting, "compare_in_fresh_process", compare)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder in which nothing but an export may appear."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# ---- a clean one ----------------------------------------------------------------------------------------------------


def test_an_export_is_an_artifact_that_answers_as_its_source(bert: Artifact, fresh_file: Path, home: Path):
    """Through a really fresh process."""
    made = rg.export(bert, format="twin", out=home / "twin", rows=str(fresh_file), sample=50, machine=QUIET)
    assert [path.name for path in home.iterdir()] == ["twin"]
    manifest = read_artifact(made.path).manifest
    assert (manifest.verb, manifest.parent, manifest.weights_digest) == ("export", bert.digest, bert.weights_digest)
    assert manifest.inputs[0].folder == "preprocessing"
    assert (manifest.network.form, manifest.network.runtimes) == ("twin", ("torch",))
    assert manifest.export is not None
    assert manifest.export.format == "twin"
    gate = manifest.export.gate
    assert gate["rows"] == "16 golden rows and 50 rows of fresh.csv"
    seen = gate["runtimes"]["torch"]
    assert (seen["rows"], seen["bitwise"], seen["agreement"]) == (66, True, 1.0)
    assert seen["worst_logit"] < 1e-6, "rows that are answered one at a time, in other shapes than the source's batches"
    assert seen["tolerance"] == {"logits": 1e-4, "probabilities": 1e-5, "agreement": 1.0}
    assert seen["environment"]["library"].startswith("torch")

    rows = [row["body"] for row in mails(60, seed=9)]
    assert rg.load(made, threads=1).predict(rows) == rg.load(bert, threads=1).predict(rows)
    assert rg.load(made).predict(rows[:1])[0].value in {"ham", "spam"}
    judged = [rg.evaluate(each, fresh_file, judge={"resamples": 200}, machine=QUIET) for each in (bert, made)]
    assert judged[0].judgement.metrics == judged[1].judgement.metrics
    assert rg.compare(bert, made, fresh_file, judge={"resamples": 200}, machine=QUIET).verdict == "no evidence"


def test_what_travels_with_an_artifact_travels_with_its_export(bert: Artifact, home: Path, in_this_process: None):
    made = rg.export(bert, format="twin", out=home / "twin", machine=QUIET)
    for name in ("report.json", "golden.json", "card.md"):
        assert (made.path / name).read_bytes() == (bert.path / name).read_bytes()
    assert made.report.verdict == bert.report.verdict
    assert (made.path / "preprocessing" / "tokenizer.json").is_file()
    was, now = bert.manifest, made.manifest
    for name in ("task", "target", "base", "options", "seed", "fingerprints", "transforms"):
        assert getattr(was, name) == getattr(now, name)


def test_what_was_done_is_told(bert: Artifact, fresh_file: Path, home: Path, call: Call, in_this_process: None):
    threads = ("--set", "machine.threads=1")
    code, stdout, stderr = call("export", bert.path, "--format", "twin", "--out", home / "twin", *threads)
    assert code == 0, stderr
    assert f"twin in {home / 'twin'}" in stdout
    assert re.search(r"torch: 64 rows answered as by the source; logits within \S+, probabilities within \S+, 100.0%", stdout)
    assert "held against 16 golden rows and 48 made-up ones; --rows DATA takes real rows" in stdout
    assert "a twin was written" in stderr + stdout
    code, stdout, stderr = call(
        "export", bert.path, "--format", "twin", "--out", home / "more", "--rows", fresh_file, "--sample", 7, *threads, "--json"
    )
    assert code == 0, stderr
    said = [json.loads(line) for line in stdout.splitlines()]
    assert said[-1]["form"] == said[-1]["format"] == "twin"
    assert said[-1]["gate"]["rows"] == "16 golden rows and 7 rows of fresh.csv"
    assert said[-1]["digest"] == read_artifact(home / "more").digest
    assert said[-1]["artifact"] == str(home / "more")


def test_the_same_export_again_has_the_same_files(bert: Artifact, home: Path, in_this_process: None):
    made = [rg.export(bert, format="twin", out=home / name, machine=QUIET).manifest for name in ("one", "two")]
    assert made[0].files == made[1].files
    assert made[0].export == made[1].export


def test_an_older_artifact_is_replaced_by_an_export(bert: Artifact, artifact: Artifact, home: Path, in_this_process: None):
    shutil.copytree(artifact.path, home / "model")
    made = rg.export(bert, format="twin", out=home / "model", machine=QUIET)
    assert read_artifact(home / "model").digest == made.digest
    assert [path.name for path in home.iterdir()] == ["model"]


# ---- planted faults -------------------------------------------------------------------------------------------------

WORDS = {"preprocessing": "the preprocessing makes other arrays", "label-names": "the labels stand in another order"}


@pytest.mark.parametrize("fault", [*FAULTS, "label-names"])
def test_answers_alone_show_every_fault(bert: Artifact, home: Path, fault: str, in_this_process: None):
    error = refused(bert, "twin", fault, home / "twin", faults=False)
    assert WORDS.get(fault, "moved by") in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize("fault", ["label-order", "head-bias", "one-weight", "one-scale", "unused-weight"])
def test_files_alone_show_every_fault_in_a_weight(bert: Artifact, home: Path, fault: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "compare_in_fresh_process", lambda *_, **__: pytest.fail("it was answered before"))
    error = refused(bert, "twin", fault, home / "twin")
    assert "is not the source's" in error.problems[0].what


def test_a_weight_that_no_row_uses_cannot_be_seen_in_answers(bert: Artifact, home: Path, in_this_process: None, tmp_path: Path):
    """Why files are compared too: with their comparison switched off, this fault passes."""
    with planted("unused-weight", export_twin.TwinExporter, tmp_path / "wrong", faults=False):
        rows = [row["input"] for row in bert.json("golden.json")["rows"]]
        data = write_csv(tmp_path / "rows.csv", [{"body": row, "label": "ham"} for row in rows])
        rg.export(bert, format="twin", out=home / "twin", rows=data, machine=QUIET)
    was, now = (_embeddings(path) for path in (bert.path, home / "twin"))
    assert (was != now).sum() == 1


def _embeddings(folder: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "backbone" / "model.safetensors")
    return next(array for name, array in tensors.items() if name.endswith("word_embeddings.weight"))


@pytest.mark.parametrize("fault", ["pooling"])
def test_a_fault_is_refused_through_a_fresh_process(bert: Artifact, home: Path, fault: str):
    assert "moved by" in str(refused(bert, "twin", fault, home / "twin"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS, *QUIET_FAULTS])
@pytest.mark.parametrize("name", ["twin", "shelf"])
def test_every_fault_is_refused_through_a_fresh_process(bert: Artifact, home: Path, name: str, fault: str):
    if name == "shelf" and fault == "unused-weight":
        pytest.skip("this exporter compares no files")
    refused(bert, name, fault, home / name, faults=name == "twin" and fault == "unused-weight")


def test_a_fault_on_the_command_line(
    bert: Artifact, artifact: Artifact, home: Path, tmp_path: Path, call: Call, in_this_process: None
):
    """Exit code 1, the worst row, what to do; what stood there still stands there."""
    shutil.copytree(artifact.path, home / "model")
    before = contents(home)
    arguments = ["export", bert.path, "--format", "twin", "--out", home / "model", "--set", "machine.threads=1"]
    with planted("head-bias", export_twin.TwinExporter, tmp_path / "wrong", faults=False):
        code, stdout, stderr = call(*arguments)
    assert code == 1
    assert "the export does not answer as its source: a raw output moved by 0.0" in stderr
    assert "where: row " in stderr
    assert "got: 'ham' {" in stderr or "got: 'spam' {" in stderr
    assert "to do: nothing was written; export in another format" in stderr
    assert not stdout
    assert contents(home) == before
    assert sorted(path.name for path in home.iterdir()) == ["model"]
    with planted("one-weight", export_twin.TwinExporter, tmp_path / "wronger"):
        code, stdout, _ = call(*arguments, "--json")
    assert code == 1
    problem = json.loads(stdout.splitlines()[-1])["problems"][0]
    assert "is not the source's" in problem["what"]
    assert contents(home) == before


# ---- several runtimes -----------------------------------------------------------------------------------------------


def exported(bert: Artifact, out: Path, *runtimes: str) -> Artifact:
    return rg.export(bert, format={"name": "twin", "runtimes": list(runtimes)}, out=out, machine=QUIET)


def test_of_several_runtimes_those_that_agree_are_kept(bert: Artifact, home: Path, in_this_process: None):
    made = exported(bert, home / "twin", "torch", "crooked", "absent")
    assert made.manifest.network.runtimes == ("torch",)
    assert list(made.manifest.export.gate["runtimes"]) == ["torch"]
    with pytest.raises(UsageError, match="the runtime 'crooked' cannot compute this artifact"):
        Predictor.load(made.path, runtime="crooked")


def test_the_first_runtime_must_agree(bert: Artifact, home: Path, in_this_process: None):
    with pytest.raises(GateError, match="a raw output moved by"):
        exported(bert, home / "twin", "crooked", "torch")
    assert not list(home.iterdir())


# ---- what is refused before anything is written ---------------------------------------------------------------------


def test_an_export_is_never_written_over_or_into_its_source(bert: Artifact, home: Path, call: Call):
    shutil.copytree(bert.path, home / "model")
    before = contents(home)
    for out, text in (("model", "over its source"), ("model/twin", "into its source"), ("x/../model", "over its source")):
        code, _, stderr = call("export", home / "model", "--format", "twin", "--out", home / out)
        assert code == 2
        assert f"the result would be written {text}" in stderr
        assert "choose another --out" in stderr
    (home / "link").symlink_to(home / "model")
    code, _, stderr = call("export", home / "link", "--format", "twin", "--out", home / "model")
    assert (code, "over its source" in stderr) == (2, True)
    (home / "link").unlink()
    assert contents(home) == before
    assert read_artifact(home / "model").digest == bert.digest


def test_what_is_no_artifact_stays(bert: Artifact, home: Path):
    (home / "thesis").mkdir()
    (home / "thesis" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="something that is not a Regraft artifact stands"):
        rg.export(bert, format="twin", out=home / "thesis")
    assert (home / "thesis" / "thesis.tex").read_text() == "precious"


def test_an_unknown_format_offers_the_nearest(bert: Artifact, home: Path, call: Call):
    code, _, stderr = call("export", bert.path, "--format", "onx", "--out", home / "x")
    assert code == 2
    assert "there is no 'onx' among the exporters" in stderr
    assert "did you mean 'onnx'" in stderr
    with pytest.raises(UsageError, match="there is no 'tensorrt-nine'"):
        rg.export(bert, format="tensorrt-nine", out=home / "x")
    assert not list(home.iterdir())


def test_a_format_whose_package_is_missing_names_the_extra(bert: Artifact, home: Path):
    with pytest.raises(UsageError) as caught:
        rg.export(bert, format="needy", out=home / "x")
    assert "needs the package 'a_package_that_nobody_has'" in str(caught.value)
    assert "pip install 'regraft[export]'" in str(caught.value)
    assert not list(home.iterdir())


def test_an_option_that_a_format_does_not_have_is_named(bert: Artifact, home: Path, call: Call):
    code, _, stderr = call("export", bert.path, "--format", "twin", "--set", "format.runtime=torch", "--out", home / "x")
    assert code == 2
    assert "runtimes" in stderr


def test_a_damaged_source_is_refused(bert: Artifact, home: Path, tmp_path: Path, call: Call):
    shutil.copytree(bert.path, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    code, _, stderr = call("export", tmp_path / "damaged", "--format", "twin", "--out", home / "x")
    assert code == 2
    assert "a file is not the one that was written" in stderr
    assert not list(home.iterdir())


def test_rows_that_cannot_be_used_are_refused(bert: Artifact, home: Path, tmp_path: Path):
    wrong = write_csv(tmp_path / "wrong.csv", [{"boddy": "a b c", "label": "ham"}])
    with pytest.raises(DataError, match=r"there is no column 'body' to read(.|\n)*did you mean 'boddy'"):
        rg.export(bert, format="twin", out=home / "x", rows=wrong, machine=QUIET)
    empty = write_csv(tmp_path / "empty.csv", [{"body": " ", "label": "ham"}, {"body": "", "label": "ham"}])
    with pytest.raises(DataError, match=r"none of the rows can be answered(.|\n)*name other data with --rows"):
        rg.export(bert, format="twin", out=home / "x", rows=empty, machine=QUIET)
    with pytest.raises(DataError, match="nowhere"):
        rg.export(bert, format="twin", out=home / "x", rows=tmp_path / "nowhere.csv", machine=QUIET)
    assert not list(home.iterdir())


def test_rows_are_drawn_from_all_of_the_data():
    drawn = drawn_rows(range(10_000), 1000, seed=0)
    assert len(set(drawn)) == 1000
    assert drawn_rows(range(10_000), 1000, seed=0) == drawn
    assert drawn_rows(range(10_000), 1000, seed=1) != drawn
    # Uniform: each tenth of the file gives 100 +- 5 standard deviations of a hypergeometric draw (9).
    assert np.histogram(drawn, bins=10, range=(0, 10_000))[0] == pytest.approx(100, abs=45)
    hits = np.zeros(20)
    for seed in range(2000):
        hits[drawn_rows(range(20), 5, seed)] += 1
    assert hits == pytest.approx(500, abs=5 * np.sqrt(2000 * 0.25 * 0.75)), "each value as likely as any other"


# ---- an export of an export -----------------------------------------------------------------------------------------


def test_an_export_that_must_be_read_as_fitted_names_its_parent(bert: Artifact, home: Path, call: Call, in_this_process: None):
    rg.export(bert, format="twin", out=home / "twin", machine=QUIET)
    code, _, stderr = call("export", home / "twin", "--format", "twin", "--out", home / "again")
    assert code == 2
    assert "the exporter 'twin' cannot read this artifact" in stderr
    assert "an export of the form 'twin'" in stderr
    assert f"export the artifact it was made from ({bert.path.name})" in stderr
    assert sorted(path.name for path in home.iterdir()) == ["twin"]


def test_lineage_holds_every_ancestor(bert: Artifact, home: Path, call: Call, in_this_process: None):
    twin = rg.export(bert, format="twin", out=home / "twin", machine=QUIET)
    shelf = rg.export(twin, format="shelf", out=home / "shelf", machine=QUIET)
    found = read_artifact(home / "shelf").manifest
    assert [(entry.verb, entry.digest, entry.name) for entry in found.lineage] == [
        ("fit", bert.digest, "bert"),
        ("export", twin.digest, "twin"),
    ]
    assert found.parent == twin.digest
    assert {entry.weights_digest for entry in found.lineage} == {bert.weights_digest} == {found.weights_digest}
    assert [entry.created for entry in found.lineage] == [bert.manifest.created, twin.manifest.created]
    assert found.lineage[0].regraft == rg.__version__
    assert rg.load(shelf, threads=1).predict(["free prize"]) == rg.load(bert, threads=1).predict(["free prize"])

    code, stdout, _ = call("inspect", home / "shelf")
    assert code == 0
    chain = f"transformer -> fit bert ({bert.digest[:12]}) -> export twin ({twin.digest[:12]}) -> export shelf ({shelf.digest[:12]}, this one)"
    assert chain in stdout
    code, stdout, _ = call("inspect", home / "shelf", "--json")
    said = json.loads(stdout.splitlines()[-1])
    assert [entry["digest"] for entry in said["lineage"]] == [bert.digest, twin.digest]
    assert (said["verb"], said["parent"], said["export"]["format"]) == ("export", twin.digest, "shelf")


def test_inspect_shows_the_lineage_of_a_fit(bert: Artifact, call: Call):
    _, stdout, _ = call("inspect", bert.path)
    assert f"lineage  transformer -> fit ({bert.digest[:12]}, this one)" in stdout
    assert "made  " in stdout
    assert f"format {FORMAT}" in stdout


# ---- an artifact of an older format ---------------------------------------------------------------------------------

STORED = Path(__file__).parents[1] / "golden" / "artifacts"


def test_an_artifact_of_an_older_format_is_asked_judged_and_exported(fresh_file: Path, home: Path, in_this_process: None):
    old = STORED / "format-1"
    made = rg.export(old, format="twin", out=home / "twin", rows=fresh_file, machine=QUIET)
    assert made.manifest.lineage[0].digest == read_artifact(old).digest
    assert made.manifest.lineage[0].regraft == "0.1.0"
    assert read_artifact(home / "twin").manifest.format == FORMAT
    report = rg.evaluate(old, fresh_file, judge={"resamples": 200}, machine=QUIET)
    assert report.judgement.n == 100
    assert rg.compare(old, made, fresh_file, judge={"resamples": 200}, machine=QUIET).verdict == "no evidence"
    assert rg.inspect(old)["format"] == 1
    assert len(rg.predict(old, ["free prize", "kernel patch"])) == 2


# ---- the machine gives up -------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
sys.path[:0] = [sys.argv.pop(1)]
import export_twin
with export_twin.registered():
    from regraft.cli.app import _run
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    sys.exit(_run(sys.argv[1:]))
"""


def test_a_full_disk_leaves_nothing(bert: Artifact, artifact: Artifact, home: Path, tmp_path: Path):
    """A real limit of the system under the writer of the weights; an older artifact at the place still stands."""
    shutil.copytree(artifact.path, home / "model")
    before = contents(home)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), here, "export", str(bert.path), "--format", "twin"]
    arguments = [*command, "--out", str(home / "model"), "--set", "machine.threads=1"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the machine gave up while writing the artifact" in done.stderr
    assert "File too large" in done.stderr
    assert contents(home) == before
    assert sorted(path.name for path in home.iterdir()) == ["model"]


KILLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background has it ignored
sys.path[:0] = [sys.argv.pop(1)]
import export_twin
with export_twin.registered():
    from regraft.cli.app import run
    run(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment_there_is_what_was_or_a_whole_export(
    how: signal.Signals, bert: Artifact, artifact: Artifact, home: Path
):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), "export", str(bert.path), "--format", "twin"]
    command += ["--set", "machine.threads=1"]

    def begun(out: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        while line := process.stderr.readline():
            if b"open the source" in line:
                break
        return process

    whole = begun(home / "whole")
    began = time.monotonic()
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    whole_s = time.monotonic() - began
    codes = set()
    for moment in range(10):
        out = home / f"out-{moment}"
        if moment % 2:
            shutil.copytree(artifact.path, out)
        process = begun(out)
        time.sleep(whole_s * (moment + 0.5) / 10)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=300)
        codes.add(process.returncode)
        if out.exists():
            found = read_artifact(out)
            assert found.digest == artifact.digest or found.manifest.parent == bert.digest
        else:
            assert moment % 2 == 0, "an older artifact never goes away"
        hidden = [path for path in home.iterdir() if path.name.startswith(".")]
        if how is signal.SIGKILL:
            assert all(path.stat().st_mode & 0o777 == 0o700 for path in hidden), "what is left is private"
            check_out(out)
            assert not [path for path in home.iterdir() if path.name.startswith(f".{out.name}.")], "and swept by the next run"
        else:
            # Python gives signals their old meaning back while it shuts down: then the export is there.
            done = out.exists() and read_artifact(out).manifest.parent == bert.digest
            assert process.returncode in ({0, -how} if done else {3}), stderr.decode()[-2000:]
            assert not hidden
    assert codes - {0}, "some of them were stopped in the middle"


def test_the_public_verb_is_the_one_of_the_lifecycle():
    assert rg.export is lifecycle.export
