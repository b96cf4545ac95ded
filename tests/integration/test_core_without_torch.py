"""An export answers in a process that has nothing of the training stack: in Python, on the command line and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import mails, write_csv

from regraft import lifecycle
from regraft.artifact.store import Artifact

ABSENT = ("torch", "transformers", "datasets", "pandas", "sklearn", "huggingface_hub", "scipy", "onnx", "onnxscript", "psutil")
_BLOCKER = """
import os
import sys


class Absent:
    names = frozenset(os.environ["ABSENT_PACKAGES"].split(","))

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self.names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)


sys.meta_path.insert(0, Absent())
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run Python where packages cannot be imported."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text(_BLOCKER)

    def start(*arguments: str, absent: tuple[str, ...] = ABSENT, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        given = {
            **os.environ,
            "PYTHONPATH": path,
            "ABSENT_PACKAGES": ",".join(absent),
            "PYTHONWARNINGS": "error",
            **environment,
        }
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=given, timeout=120, check=False)

    return start


@pytest.fixture(scope="module")
def onnx_export(artifact: Artifact, mail_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("exports") / "spam-onnx"
    return lifecycle.export(artifact, format="onnx", out=str(out), rows=str(mail_file), machine={"threads": 1})


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """Nothing is left in the user's profile of the machine."""
    return {"REGRAFT_CACHE": str(tmp_path / "cache")}


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_packages_are_really_gone(run):
    for name in ABSENT:
        assert f"No module named '{name}'" in run("-c", f"import {name}").stderr


def test_every_verb_answers_in_python_as_torch_does(run, artifact, onnx_export, fresh_file, tmp_path, cache):
    code = textwrap.dedent("""
        import json, sys
        import regraft
        from regraft.lifecycle import predict_file
        export, data, out = sys.argv[1:]
        options = {"machine": {"threads": 1}, "judge": {"resamples": 200}}
        predictor = regraft.load(export, threads=1)
        texts = json.load(open(data + ".json"))
        answers = [list(one.probabilities.values()) for one in predictor.predict(texts)]
        verb = [list(one.probabilities.values()) for one in regraft.predict(export, texts, machine={"threads": 1})]
        summary = predict_file(predictor, data, out=out)
        report = regraft.evaluate(predictor, data, **options)
        verdict = regraft.compare(export, export, data, **options)
        facts = regraft.inspect(export)
        print(json.dumps({
            "answers": answers, "verb": verb == answers, "rows": summary.rows, "report": report.to_json(),
            "verdict": verdict.to_json()["verdict"], "form": facts["network"]["form"],
            "environment": predictor.environment(), "replayed": regraft.Predictor.load(export, threads=1).goldens().rows[0],
            "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        }))
    """)
    rows = [row["body"] for row in mails(100, seed=2)]
    (tmp_path / "fresh.csv").write_bytes(fresh_file.read_bytes())
    (tmp_path / "fresh.csv.json").write_text(json.dumps(rows))
    out = tmp_path / "answers.parquet"
    found = said(run("-c", code, str(onnx_export.path), str(tmp_path / "fresh.csv"), str(out), **cache))
    predictor = lifecycle.load(artifact, threads=1)
    expected = np.array([list(one.probabilities.values()) for one in predictor.predict(rows)])
    np.testing.assert_allclose(np.array(found["answers"]), expected, atol=1e-5)
    assert found["verb"]
    assert found["rows"] == 100
    here = lifecycle.evaluate(predictor, fresh_file, machine={"threads": 1}, judge={"resamples": 200})
    assert found["report"]["metrics"]["accuracy"] == here.to_json()["metrics"]["accuracy"]
    assert found["verdict"] == "no evidence"
    assert found["form"] == onnx_export.manifest.network.form
    assert found["environment"]["threads"] == 1
    assert not {"torch", "transformers", "datasets", "pandas", "sklearn", "huggingface_hub"} & set(found["modules"])


def test_the_first_answer_imports_nothing_that_it_does_not_need(run, onnx_export, cache):
    code = "import json, sys, regraft; regraft.load(sys.argv[1], threads=1).predict(['free prize']); print(json.dumps([*sys.modules]))"
    found = said(run("-c", code, str(onnx_export.path), absent=(*ABSENT, "openvino"), **cache))
    heavy = {
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "yaml",
        "rich",
        "click",
        "filelock",
        "fastapi",
        "importlib.metadata",
        "email",
    }
    assert not heavy & set(found)


def test_every_command_answers(run, onnx_export, fresh_file, tmp_path, cache):
    export, out = str(onnx_export.path), tmp_path / "answers.csv"
    regraft = ("-m", "regraft")
    threads = ("--set", "machine.threads=1")
    done = run(*regraft, "predict", export, str(fresh_file), "--out", str(out), "--json", *threads, **cache)
    assert said(done)["answered"] == 100
    assert len(out.read_text().splitlines()) == 101
    report = said(run(*regraft, "evaluate", export, str(fresh_file), "--json", "--set", "judge.resamples=200", **cache))
    assert report["n"] == 100
    verdict = said(run(*regraft, "compare", export, export, str(fresh_file), "--json", "--set", "judge.resamples=200", **cache))
    assert verdict["verdict"] == "no evidence"
    assert said(run(*regraft, "inspect", export, "--json", **cache))["network"]["form"] == onnx_export.manifest.network.form
    assert "onnxruntime" in said(run(*regraft, "list", "runtimes", "--json", **cache))["names"]


def test_the_server_answers(run, onnx_export, artifact, cache):
    code = textwrap.dedent("""
        import json, sys, urllib.request
        from regraft.serving.predictor import Predictor
        from regraft.serving.serve import BackgroundServer
        with BackgroundServer(Predictor.load(sys.argv[1], threads=1)) as server:
            body = json.dumps({"rows": ["free prize", "the kernel patch"]}).encode()
            request = urllib.request.Request(server.url + "/predict", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                found = json.loads(answer.read())
            with urllib.request.urlopen(server.url + "/info") as answer:
                info = json.loads(answer.read())
        print(json.dumps({**found, "digest": info["digest"], "torch": "torch" in sys.modules}))
    """)
    found = said(run("-c", code, str(onnx_export.path), **cache))
    expected = lifecycle.predict(artifact, ["free prize", "the kernel patch"], machine={"threads": 1})
    for got, want in zip(found["predictions"], expected, strict=True):
        assert got["prediction"] == want.value
        assert got["probabilities"] == pytest.approx(dict(want.probabilities), abs=1e-5)
    assert found["digest"] == onnx_export.digest
    assert not found["torch"]


@pytest.mark.parametrize(
    ("arguments", "what", "extra"),
    [
        (["fit", "DATA", "--target", "label", "--out", "OUT"], "fitting needs the package 'torch'", "train"),
        (["fit", "DATA", "--target", "label", "--out", "OUT", "--base", "mlp"], "fitting needs the package 'torch'", "train"),
        (["demo"], "fitting needs the package 'torch'", "train"),
        (["predict", "ARTIFACT", "DATA"], "the artifact needs one of the packages torch", "train"),
        (["evaluate", "ARTIFACT", "DATA"], "the artifact needs one of the packages torch", "train"),
        (["serve", "ARTIFACT"], "the artifact needs one of the packages torch", "train"),
        (["export", "ARTIFACT", "--format", "onnx", "--out", "OUT"], "", "train"),
        (["predict", "ARTIFACT", "DATA", "--runtime", "torch"], "the runtime 'torch' needs the package 'torch'", "train"),
    ],
)
def test_a_verb_that_needs_torch_names_the_extra(run, artifact, fresh_file, tmp_path, cache, arguments, what, extra):
    places = {"ARTIFACT": str(artifact.path), "DATA": str(fresh_file), "OUT": str(tmp_path / "out")}
    done = run("-m", "regraft", *[places.get(part, part) for part in arguments], **cache)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert what in done.stderr
    assert f"pip install 'regraft[{extra}]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_without_its_runtime_names_the_extra(run, onnx_export, cache):
    done = run("-m", "regraft", "predict", str(onnx_export.path), "x", absent=(*ABSENT, "onnxruntime", "openvino"), **cache)
    assert done.returncode == 2
    done = run(
        "-c",
        "import sys, regraft; regraft.load(sys.argv[1])",
        str(onnx_export.path),
        absent=(*ABSENT, "onnxruntime", "openvino"),
        **cache,
    )
    assert "MissingExtraError: the artifact needs one of the packages onnxruntime" in done.stderr
    assert "pip install 'regraft[runtime]'" in done.stderr


def test_serving_without_its_extra_names_it(run, onnx_export, cache):
    done = run("-m", "regraft", "serve", str(onnx_export.path), "--port", "0", absent=(*ABSENT, "fastapi", "uvicorn"), **cache)
    assert done.returncode == 2
    assert "serving over HTTP needs the package" in done.stderr
    assert "pip install 'regraft[serve]'" in done.stderr


def test_bases_and_families_can_be_listed(run, cache):
    code = textwrap.dedent("""
        import json
        import regraft
        from regraft.lifecycle import list_family
        print(json.dumps({**{f: list_family(f) for f in regraft.FAMILIES}, "cards": [card.name for card in regraft.bases()]}))
    """)
    found = said(run("-c", code, **cache))
    assert "minilm" in found["cards"]
    assert set(found) > {"runtimes", "exporters", "tunings", "tasks", "metrics"}
    assert "mlp" in run("-m", "regraft", "list", "bases", **cache).stdout


def test_data_in_memory_is_answered(run, onnx_export, tmp_path, cache):
    path = write_csv(tmp_path / "few.csv", mails(5, seed=4))
    code = textwrap.dedent("""
        import json, sys
        import pyarrow.csv
        import regraft
        table = pyarrow.csv.read_csv(sys.argv[2])
        answers = regraft.load(sys.argv[1], threads=1).predict(table)
        print(json.dumps([one.value for one in answers]))
    """)
    assert len(said(run("-c", code, str(onnx_export.path), str(path), **cache))) == 5
