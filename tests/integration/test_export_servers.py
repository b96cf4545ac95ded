"""Folders for other people's servers: MLflow's model folder, and what `docker build` takes."""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import yaml
from export_faults import FAULTS, contents, refused
from line_rows import mails

from regraft import lifecycle
from regraft.artifact.store import Artifact, read_artifact
from regraft.errors import ArtifactError, GateError, UsageError
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Needs
from regraft.options import Pick
from regraft.version import __version__

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
ROOT = Path(__file__).parents[2]
ONE_THREAD = {"machine": {"threads": 1}}
TEXTS = [row["body"] for row in mails(40, seed=9)]
TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def model(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return lifecycle.export(bert, format="mlflow", out=str(tmp_path_factory.mktemp("mlflow") / "model"), **ONE_THREAD)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def context(bert: Artifact, port: int, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = str(tmp_path_factory.mktemp("docker") / "context")
    return lifecycle.export(bert, format={"name": "docker", "port": port}, out=out, **ONE_THREAD)


def pinned(lines: list[str]) -> dict[str, str]:
    """Requirement -> version; every line pins exactly one."""
    pairs = [line.split("==") for line in lines if line]
    assert all(len(pair) == 2 and re.fullmatch(r"[0-9][0-9a-z.]*", pair[1]) for pair in pairs), lines
    return dict(pairs)


# ---- MLflow ---------------------------------------------------------------------------------------------------------


def test_the_loader_that_mlmodel_names_answers_as_the_artifact(bert, model):
    said = yaml.safe_load((model.path / "MLmodel").read_text())
    flavor = said["flavors"]["python_function"]
    loaded = importlib.import_module(flavor["loader_module"])._load_pyfunc(str(model.path))
    table = pandas.DataFrame({"other": range(len(TEXTS)), "body": TEXTS}, index=range(100, 100 + len(TEXTS)))
    found = loaded.predict(table)
    assert list(found.index) == list(table.index)
    for answer, (_, row) in zip(lifecycle.predict(bert, TEXTS, **ONE_THREAD), found.iterrows(), strict=True):
        assert row["prediction"] == answer.value
        assert {label: row[f"probability.{label}"] for label in ("ham", "spam")} == dict(answer.probabilities)
    outputs = json.loads(said["signature"]["outputs"])
    assert [column["name"] for column in outputs] == list(found.columns)
    assert {column["name"]: column["type"] for column in outputs}["prediction"] == "string"
    assert json.loads(said["signature"]["inputs"]) == [{"type": "string", "name": "body", "required": True}]


def test_a_row_without_an_answer_says_why(model):
    from regraft.serving.mlflow_model import _load_pyfunc

    loaded = _load_pyfunc(str(model.path))
    found = loaded.predict(pandas.DataFrame({"body": ["win a prize", None, "  "]}))
    assert found["prediction"].tolist()[0] in {"ham", "spam"}
    assert found["prediction"].tolist()[1:] == [None, None]
    assert found["error"].tolist() == [None, "there is no text", "the text is empty"]
    with pytest.raises(UsageError, match="the model takes no parameters"):
        loaded.predict(pandas.DataFrame({"body": ["x"]}), params={"temperature": 1})


def test_the_loader_refuses_an_edited_folder_and_bears_what_a_registry_adds(model, tmp_path):
    from regraft.serving.mlflow_model import _load_pyfunc

    folder = tmp_path / "model"
    shutil.copytree(model.path, folder)
    (folder / "registered_model_meta").write_text("model_name: spam\nmodel_version: '1'\n")
    assert _load_pyfunc(str(folder)).predict(pandas.DataFrame({"body": TEXTS[:2]})).shape == (2, 4)
    (folder / "requirements.txt").write_text("evil\n")
    with pytest.raises(ArtifactError, match="not the one that was written"):
        _load_pyfunc(str(folder))


def test_its_environments_agree_and_pin_what_the_gate_ran_with(model):
    lines = (model.path / "requirements.txt").read_text().splitlines()
    pins = pinned(lines)
    assert pins["regraft[train]"] == __version__
    assert pins["mlflow"] == "3.17.2"
    versions = model.manifest.versions
    assert {name: pins[name] for name in ("torch", "tokenizers")} == {
        name: versions[name].partition("+")[0] for name in ("torch", "tokenizers")
    }
    conda = yaml.safe_load((model.path / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": lines}
    tools = yaml.safe_load((model.path / "python_env.yaml").read_text())
    assert tools["dependencies"] == ["-r requirements.txt"]
    assert conda["dependencies"][0] == f"python={tools['python']}"


def test_the_network_is_as_it_was(bert, model):
    assert model.manifest.network.form == bert.manifest.network.form
    for name in ("weights.safetensors", "backbone/model.safetensors"):
        assert (model.path / name).read_bytes() == (bert.path / name).read_bytes()


@pytest.mark.slow
def test_a_wrapped_artifact_can_be_exported_on(model, tmp_path):
    again = lifecycle.export(model, format="sentence-transformers", out=str(tmp_path / "again"), **ONE_THREAD)
    assert [entry.verb for entry in again.manifest.lineage] == ["fit", "export"]


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block."""
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env={**os.environ, **environment}, start_new_session=True)
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def asked(url: str, body: Any = None, token: str = "", *, process: Any, log: Path, timeout_s: float = 120.0) -> Any:
    """Ask until somebody answers."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(f"{error.code}: {error.read()!r}\n{log.read_text()}") from error
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_mlflow_itself_serves_the_folder(bert, model, port, tmp_path):
    sys.path.insert(0, str(ROOT / "bench"))
    from environments import environment

    python = environment("mlflow")
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", str(model.path), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    own |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = tmp_path / "log.txt"
    with running(command, own, log) as process:
        url = f"http://127.0.0.1:{port}"
        body = {"dataframe_split": {"columns": ["body"], "data": [[text] for text in TEXTS]}}
        found = asked(f"{url}/invocations", body, process=process, log=log)["predictions"]
    for answer, row in zip(lifecycle.predict(bert, TEXTS, **ONE_THREAD), found, strict=True):
        assert row["prediction"] == answer.value
        assert max(abs(row[f"probability.{label}"] - share) for label, share in answer.probabilities.items()) < 1e-5


# ---- Docker ---------------------------------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.partition(" ")[0].upper(), line.partition(" ")[2].strip()) for line in lines]


def test_the_dockerfile_is_slim_pinned_unprivileged_and_holds_no_secret(context, port):
    steps = instructions(context.path / "Dockerfile")
    names = [name for name, _ in steps]
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert set(names) == known
    assert names[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", steps[0][1])
    users = [argument.split(":")[0] for name, argument in steps if name == "USER"]
    assert users == ["10001"]
    assert names.index("USER") < names.index("CMD")
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in {"RUN", "COPY"})
    assert ("EXPOSE", str(port)) in steps
    assert "TOKEN" not in (context.path / "Dockerfile").read_text()
    for name, argument in steps:
        if name == "COPY":
            *sources, _ = argument.split()
            assert all((context.path / source).exists() for source in sources)


def test_everything_the_manifest_lists_gets_into_the_image(context):
    patterns = (context.path / ".dockerignore").read_text().split()
    names = [*context.manifest.files, "manifest.json"]
    assert not [n for n in names for p in patterns if fnmatch.fnmatch(n, p.removeprefix("**/")) or fnmatch.fnmatch(n, p)]
    assert fnmatch.fnmatch("key.pem", next(p for p in patterns if "pem" in p).removeprefix("**/"))
    assert ("COPY", ". /opt/artifact/") in instructions(context.path / "Dockerfile")


def test_requirements_pin_what_the_gate_ran_with(context):
    pins = pinned((context.path / "requirements.txt").read_text().splitlines())
    assert pins["regraft[train,serve]"] == __version__
    assert {"numpy", "safetensors", "tokenizers", "torch", "transformers"} < set(pins)


def test_what_the_container_runs_answers_alike_and_only_with_a_token(bert, context, port, tmp_path):
    steps = dict(instructions(context.path / "Dockerfile"))
    inside = [str(context.path) if part == "/opt/artifact" else part for part in json.loads(steps["CMD"])]
    assert inside[0] == "regraft"
    command = [sys.executable, "-m", *inside]
    environment = {"PYTHONPATH": str(ROOT / "src"), "REGRAFT_TOKEN": ""}
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "serving other machines needs a token" in done.stderr
    log, url = tmp_path / "log.txt", f"http://127.0.0.1:{port}"
    with running(command, {**environment, "REGRAFT_TOKEN": TOKEN}, log) as process:
        found = asked(f"{url}/predict", {"rows": TEXTS}, TOKEN, process=process, log=log)["predictions"]
        check = json.loads(steps["HEALTHCHECK"].partition("CMD ")[2])
        assert subprocess.run([sys.executable, *check[1:]], check=False).returncode == 0
        with pytest.raises(AssertionError, match="401"):
            asked(f"{url}/predict", {"rows": TEXTS}, process=process, log=log)
    for answer, row in zip(lifecycle.predict(bert, TEXTS, **ONE_THREAD), found, strict=True):
        assert row["prediction"] == answer.value
        assert max(abs(row["probabilities"][label] - share) for label, share in answer.probabilities.items()) < 1e-5
    assert subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "python"}, "not pinned"),
        ({"image": "python:latest"}, "not pinned"),
        ({"image": "python:3.11 AS x\nRUN evil"}, "not pinned"),
        ({"index": "http://wheels.example"}, "cannot stand in a Dockerfile"),
        ({"index": "https://user:secret@wheels.example/cpu"}, "cannot stand in a Dockerfile"),
        ({"index": "https://wheels.example/cpu\nRUN evil"}, "cannot stand in a Dockerfile"),
    ],
)
def test_options_that_would_make_a_bad_image_are_refused(options, said, artifact, tmp_path):
    with pytest.raises(UsageError, match=said) as caught:
        lifecycle.export(artifact, format={"name": "docker", **options}, out=str(tmp_path / "out"), **ONE_THREAD)
    assert "secret" not in caught.value.problems[0].got
    assert not contents(tmp_path)


def test_another_image_and_index_are_taken(artifact, tmp_path):
    image, index = "registry.example:5000/python@sha256:" + "0" * 64, "https://wheels.example/cpu"
    cls, options = Pick("docker", {"image": image, "index": index}).resolve(EXPORTERS)
    source = SimpleNamespace(artifact=artifact, manifest=artifact.manifest, name="made", needs=Needs())
    assert cls(options).problems(source) == []
    cls(options).write(source, tmp_path)
    steps = instructions(tmp_path / "Dockerfile")
    assert steps[0] == ("FROM", image)
    assert any(name == "RUN" and f"--extra-index-url {index} -r" in argument for name, argument in steps)


# ---- both -----------------------------------------------------------------------------------------------------------


# Where only answers tell, a fresh process is started: seconds each.
COPIED = [
    pytest.param(name, fault, marks=[pytest.mark.slow] if fault in {"preprocessing", "label-names", "pooling"} else [])
    for name in ("mlflow", "docker")
    for fault in (*FAULTS, "label-names")
]


@pytest.mark.parametrize(("name", "fault"), COPIED)
def test_faults_in_what_is_copied_are_refused(name, fault, bert, tmp_path):
    refused(bert, name, fault, tmp_path / "place" / "out")


@pytest.mark.parametrize("name", ["mlflow", "docker"])
def test_a_file_that_was_not_copied_whole_is_refused(name, artifact, tmp_path, monkeypatch):
    exporter = EXPORTERS.get(name)
    write = exporter.write

    def wrong(self, source, folder):
        written = write(self, source, folder)
        (folder / "backbone" / "config.json").unlink()
        return written

    monkeypatch.setattr(exporter, "write", wrong)
    with pytest.raises(GateError, match="a file of the export is not the source's"):
        lifecycle.export(artifact, format=name, out=str(tmp_path / "out"), **ONE_THREAD)
    assert not contents(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "code/model.py", "MLproject"])
@pytest.mark.parametrize("form", ["model", "context"])
def test_a_file_that_the_manifest_does_not_list_is_refused(form, name, tmp_path, request):
    folder = tmp_path / form
    shutil.copytree(request.getfixturevalue(form).path, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("hello")
    with pytest.raises(ArtifactError, match="there is a file that the manifest does not list"):
        read_artifact(folder)


@pytest.mark.slow
def test_an_onnx_export_is_wrapped_without_torch(fit_small, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    fitted = fit_small(tmp_path / "fitted", train={"epochs": 1})
    graph = lifecycle.export(fitted, format="onnx", out=str(tmp_path / "onnx"), **ONE_THREAD)
    for name, extras in (("mlflow", "runtime"), ("docker", "runtime,serve")):
        made = lifecycle.export(graph, format=name, out=str(tmp_path / name), **ONE_THREAD)
        assert made.manifest.network.form == graph.manifest.network.form
        pins = pinned((made.path / "requirements.txt").read_text().splitlines())
        assert f"regraft[{extras}]" in pins
        assert "onnxruntime" in pins
        assert not {"torch", "transformers"} & set(pins)


def test_the_answers_stay_the_same_through_both_folders(bert, model, context, fresh_file):
    texts = [row["body"] for row in mails(20, seed=3)]
    expected: Callable[[Artifact], Any] = lambda made: lifecycle.predict(made, texts, **ONE_THREAD)  # noqa: E731
    assert expected(bert) == expected(model) == expected(context)
