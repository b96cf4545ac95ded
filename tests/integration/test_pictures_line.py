"""The straight line on pictures: the verbs that text has, an export that answers without torch, and what is wrong with a file."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_core_without_torch import _BLOCKER, ABSENT

import regraft as rg
from regraft.errors import DataError, OptionsError
from regraft.serving.serve import BackgroundServer

SMALL = {"base": {"name": "conv", "widths": [8, 8], "style": "plain"}, "judge": {"resamples": 100}}
THREADS = {"threads": 1, "device": "cpu", "cache": {"enabled": False}}


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    values = rng.integers(0, 60, (14, 14)).astype(np.uint8)
    values[(slice(4, 10), slice(4, 10)) if kind == "square" else (slice(None), slice(0, 3))] += 150
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures, and a CSV file that names the same ones."""
    root = tmp_path_factory.mktemp("pictures")
    rng, lines = np.random.default_rng(0), ["file,label"]
    for kind in ("bar", "square"):
        (root / kind).mkdir()
        for number in range(40):
            draw(kind, rng).save(root / kind / f"{number}.png")
            lines.append(f"{kind}/{number}.png,{kind}")
    (root / "bar" / "notes.md").write_text("left out")
    (root.parent / "all.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def artifact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> rg.Artifact:
    out = tmp_path_factory.mktemp("fitted") / "model"
    train = {"epochs": 12, "learning_rate": 1e-2}
    return rg.fit(folder, target="label", out=out, train=train, machine=THREADS, **SMALL)


def test_fit_evaluate_predict(artifact: rg.Artifact, folder: Path, tmp_path: Path):
    assert artifact.report.to_json()["metrics"]["accuracy"]["value"] == 1.0
    assert artifact.manifest.inputs[0].modality == "image"
    assert artifact.manifest.options["modality"]["name"] == "image"
    report = rg.evaluate(artifact, folder, judge={"resamples": 100, "overlap": "keep"})
    assert (report.judgement.n, report.judgement.metrics["accuracy"].value) == (80, 1.0)
    lines = (folder.parent / "all.csv").read_text().replace("file,", "image,")
    (folder / "some.csv").write_text(lines + "bar/gone.png,bar\n../outside.png,bar\n")
    summary = rg.lifecycle.predict_file(artifact, folder / "some.csv", out=tmp_path / "answers.jsonl")
    (folder / "some.csv").unlink()
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert (summary.answered, summary.bad) == (80, 2)
    assert [row["prediction"] for row in answers[:80]] == [row["label"] for row in answers[:80]]
    assert "there is no file 'bar/gone.png'" in answers[80]["error"]
    assert "leads out of the folder" in answers[81]["error"]
    raws = [folder / "bar" / "0.png", np.asarray(Image.open(folder / "square" / "0.png")), "bar/0.png"]
    bar, square, path = rg.load(artifact).predict(raws)
    assert (bar.value, square.value) == ("bar", "square")
    assert "is not opened here" in path.error


def test_over_http_a_picture_is_base64(artifact: rg.Artifact, folder: Path):
    content = (folder / "square" / "1.png").read_bytes()
    text = base64.b64encode(content).decode()
    rows = [text, {"image": f"data:image/png;base64,{text}"}, str(folder / "square" / "1.png")]
    with BackgroundServer(artifact.path) as server:
        body = json.dumps({"rows": rows}).encode()
        request = urllib.request.Request(f"{server.url}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            one, two, path = json.load(answer)["predictions"]
    assert one == two
    served, (alone,) = one["probabilities"], rg.load(artifact).predict([content])
    assert served == pytest.approx(dict(alone.probabilities), abs=1e-6), "two rows may round other than one alone"
    assert "a path or an address is not opened here" in path["error"], "a caller's path is never opened"


def test_an_export_answers_where_torch_is_not(artifact: rg.Artifact, folder: Path, tmp_path: Path):
    export = rg.export(artifact, format="onnx", out=tmp_path / "onnx", rows=folder, machine={"threads": 1})
    assert export.manifest.network.facts["mask"] == ""
    (tmp_path / "sitecustomize.py").write_text(_BLOCKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    environment |= {"ABSENT_PACKAGES": ",".join(ABSENT), "REGRAFT_CACHE": str(tmp_path / "cache")}
    code = "import json, sys, pathlib, regraft; p = regraft.load(sys.argv[1], threads=1); "
    code += "print(json.dumps([dict(a.probabilities) for a in p.predict([pathlib.Path(sys.argv[2])])]));"
    code += "assert 'pyarrow' not in sys.modules, 'the first answer waits for it'"
    picture = folder / "bar" / "2.png"
    command = [sys.executable, "-c", code, str(export.path), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = rg.load(artifact, threads=1).predict([picture])[0].probabilities
    assert json.loads(done.stdout)[0] == pytest.approx(dict(expected), abs=1e-5)


def test_a_broken_picture_is_found_before_training_and_named(folder: Path, tmp_path: Path):
    rows = [
        {"picture": (folder / kind / f"{n}.png").read_bytes(), "label": kind} for n in range(40) for kind in ("bar", "square")
    ]
    rows[46]["picture"] = rows[46]["picture"][:60]
    options = {"target": "label", "out": tmp_path / "model", "machine": THREADS, "train": {"epochs": 0}, **SMALL}
    fitted = rg.fit(rows, image="picture", **options)
    lost = fitted.report.to_json()["ledger"]["unreadable rows"]
    told = "list of dicts, row 47: the picture is damaged or cut off (image file is truncated)"
    assert lost == {"count": 1, "examples": [told]}
    with pytest.raises(DataError) as caught:
        rg.fit(rows, image="picture", data={"lost_share": 0.0}, **options)
    assert "damaged or cut off" in str(caught.value)
    assert "list of dicts, row 47, column 'picture'" in str(caught.value)


def test_a_base_that_does_not_read_the_column_names_those_that_do(tmp_path: Path):
    rows = [{"picture": b"", "label": "a"}]
    with pytest.raises(OptionsError) as caught:
        rg.fit(rows, target="label", image="picture", base="mlp", out=tmp_path / "model")
    assert "the base 'mlp' reads text, not image" in str(caught.value)
    assert "--base efficientnet-lite0 or conv" in str(caught.value)


@pytest.mark.parametrize("tuning", [pytest.param("head", marks=pytest.mark.slow), {"name": "top-k", "layers": 1}])
def test_what_is_frozen_is_computed_once(tuning, folder: Path, tmp_path: Path):
    cache = {"threads": 1, "device": "cpu", "cache": {"folder": str(tmp_path / "cache")}}
    found = {}
    for name, machine in (("cached", cache), ("again", THREADS)):
        notes: list[str] = []
        options = {"target": "label", "tuning": tuning, "train": {"epochs": 2}, **SMALL, "machine": machine}
        fitted = rg.fit(folder, out=tmp_path / name, listen=lambda e, n=notes: n.append(str(e.to_json())), **options)
        found[name] = fitted.weights_digest
        assert any("rows are there" in note for note in notes) == (name == "cached")
    assert found["cached"] == found["again"], "the same weights, whether the frozen part is kept or not"


def test_what_varies_is_not_kept(folder: Path, tmp_path: Path):
    notes: list[str] = []
    machine = {"threads": 1, "device": "cpu", "cache": {"folder": str(tmp_path / "cache")}}
    options = {
        "target": "label",
        "tuning": "head",
        "train": {"epochs": 1},
        **SMALL,
        "machine": machine,
        "modality": {"shift": 2},
    }
    rg.fit(folder, out=tmp_path / "model", listen=lambda e: notes.append(str(e.to_json())), **options)
    assert any("training rows are varied each time" in note for note in notes)
