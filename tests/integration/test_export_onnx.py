"""The ONNX export from the artifact to the answers: through the gate, in a fresh process, without the training stack."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_faults import FAULTS, refused
from line_rows import mails, write_csv

from regraft import lifecycle
from regraft.artifact.files import sha256_of
from regraft.artifact.manifest import canonical, digest_of
from regraft.errors import ArtifactError, DataError, MachineError, UsageError
from regraft.exporters import onnx as onnx_exporter
from regraft.serving.predictor import Predictor
from regraft.serving.replay import replay_artifact

pytest.importorskip("onnxscript")
ROWS = [row["body"] for row in mails(60, seed=9)]
SMALL_TRANSFORMER = {"name": "transformer", "width": 16, "layers": 2, "heads": 2, "pooling": "cls"}


def export(artifact, out: Path, **options):
    return lifecycle.export(artifact, format=options.pop("format", "onnx"), out=str(out), machine={"threads": 1}, **options)


@pytest.fixture(scope="module")
def bert(fit_small, tmp_path_factory):
    return fit_small(tmp_path_factory.mktemp("onnx") / "bert", base=SMALL_TRANSFORMER)


@pytest.fixture(scope="module")
def exported(bert, mail_file, tmp_path_factory):
    return export(bert, tmp_path_factory.mktemp("onnx") / "out", rows=str(mail_file))


def test_an_export_is_an_artifact_that_answers_as_its_source(bert, exported, fresh_file, tmp_path):
    theirs, ours = (Predictor.load(one.path, runtime="auto", threads=1) for one in (bert, exported))
    assert type(Predictor.load(exported.path, runtime="onnxruntime", threads=1).runtime).__name__ == "OnnxruntimeRuntime"
    np.testing.assert_allclose(ours.outputs(ROWS), theirs.outputs(ROWS), atol=1e-4)
    assert [p.value for p in ours.predict(ROWS)] == [p.value for p in theirs.predict(ROWS)]
    verdict = lifecycle.compare(bert, exported, fresh_file, machine={"threads": 1}, judge={"resamples": 200})
    assert verdict.verdict != "worse"
    facts = lifecycle.inspect(exported)
    assert facts["network"]["form"] == "onnx"
    gate = facts["export"]["gate"]["runtimes"]["onnxruntime"]
    assert gate["agreement"] == 1.0
    assert gate["worst_logit"] < 1e-4
    assert gate["environment"]["library"].startswith("onnxruntime")


# An export takes seconds: of each kind (preprocessing, shape of the network, numbers) one always, the others in the long run.
ALWAYS = {"preprocessing", "pooling", "head-bias"}
PLANTED = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in (*FAULTS, "label-names")]


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_refused(artifact, fault, tmp_path):
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    assert str(refused(artifact, "onnx", fault, out))


def test_an_edited_file_is_refused(exported, tmp_path):
    for name in ("network/model.onnx", "manifest.json", "preprocessing/tokenizer.json"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(exported.path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=r"is not the one that was written|has been edited or damaged"):
            Predictor.load(copy)


def test_a_smuggled_file_and_a_link_are_refused(exported, tmp_path):
    shutil.copytree(exported.path, tmp_path / "more")
    (tmp_path / "more/network/model.onnx.data").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="the manifest does not list"):
        Predictor.load(tmp_path / "more")
    shutil.copytree(exported.path, tmp_path / "linked")
    (tmp_path / "linked/network/model.onnx").unlink()
    (tmp_path / "linked/network/model.onnx").symlink_to(exported.path / "network/model.onnx")
    with pytest.raises(ArtifactError, match="links are refused"):
        Predictor.load(tmp_path / "linked")


def test_an_edit_with_every_digest_made_to_fit_still_cannot_leave_the_folder(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    copy = tmp_path / "copy"
    shutil.copytree(exported.path, copy)
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    model = onnx.load(copy / "network/model.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    (copy / "network/model.onnx").write_bytes(model.SerializeToString())
    values = json.loads((copy / "manifest.json").read_bytes())
    values["files"]["network/model.onnx"] = {
        "sha256": sha256_of(copy / "network/model.onnx"),
        "size_bytes": (copy / "network/model.onnx").stat().st_size,
    }
    values["digest"] = digest_of(values)
    (copy / "manifest.json").write_bytes(canonical(values))
    for runtime in ("onnxruntime", "auto"):
        with pytest.raises(ArtifactError, match="a tensor lies outside the files of the artifact"):
            Predictor.load(copy, runtime=runtime)


@pytest.mark.parametrize(
    ("what", "seen"),
    [(OSError(errno.ENOSPC, "No space left on device"), MachineError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["full disk", "interrupted"],
)
def test_a_write_that_ends_in_the_middle_of_the_weights_leaves_nothing(artifact, tmp_path, monkeypatch, what, seen):
    out = tmp_path / "place" / "out"
    out.parent.mkdir()

    def half(graph, source, path, options):
        path.write_bytes(bytes(1000))
        raise what

    monkeypatch.setattr(onnx_exporter, "write_onnx", half)
    with pytest.raises(seen) as caught:
        export(artifact, out)
    assert isinstance(caught.value, KeyboardInterrupt) or "free some space" in str(caught.value)
    assert list(out.parent.iterdir()) == []


def test_a_wrong_opset_is_refused_before_anything_is_written(bert, tmp_path):
    with pytest.raises(UsageError, match=r"this set of ONNX operators cannot be written(.|\n)*18 to 23"):
        export(bert, tmp_path / "out", format={"name": "onnx", "opset": 17})
    assert list(tmp_path.iterdir()) == []


INT8 = {"name": "onnx", "precision": "int8"}


def test_in_8_bits_it_answers_alike_and_keeps_golden_rows_of_its_own(bert, mail_file, fresh_file, tmp_path):
    made = export(bert, tmp_path / "out", format=INT8, rows=str(mail_file), sample=100)
    assert made.manifest.network.facts["precision"] == "int8"
    gate = made.manifest.export.gate
    assert gate["rows"] == "16 golden rows and 100 rows of mails.csv, calibrated with 114 others"
    seen = gate["runtimes"]["onnxruntime"]
    assert seen["agreement"] >= 0.99
    assert seen["right"]["export"] >= seen["right"]["interval"][0] * seen["right"]["rows"]
    assert 1e-5 < seen["worst_logit"] < 0.5
    assert "goldens" not in seen
    was, now = (json.loads((each.path / "golden.json").read_text()) for each in (bert, made))
    assert [row["input"] for row in now["rows"]] == [row["input"] for row in was["rows"]]
    assert now["rows"] != was["rows"]
    assert now.get("tolerance", 1e-5) == max(1e-5, seen["worst_probability"])
    predictor = Predictor.load(made.path, threads=1)
    assert replay_artifact(predictor).rows == 16
    np.testing.assert_allclose(predictor.outputs(ROWS, batch_size=1), predictor.outputs(ROWS), atol=1e-5)
    verdict = lifecycle.compare(bert, made, fresh_file, machine={"threads": 1}, judge={"resamples": 200})
    assert verdict.verdict != "worse"


def test_in_8_bits_rows_are_needed_and_enough_of_them(bert, tmp_path):
    with pytest.raises(UsageError, match=r"measured with rows of yours, and none are named(.|\n)*--rows DATA"):
        export(bert, tmp_path / "out", format=INT8)
    few = write_csv(tmp_path / "few.csv", mails(30, seed=3))
    with pytest.raises(DataError, match=r"too few rows to calibrate with and to judge by(.|\n)*at least 32"):
        export(bert, tmp_path / "out", format=INT8, rows=str(few))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fault", [*(pytest.param(name, marks=pytest.mark.slow) for name in FAULTS if name != "one-weight"), "one-weight"]
)
def test_planted_faults_are_refused_in_8_bits_too(bert, mail_file, fault, tmp_path):
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    assert str(refused(bert, "onnx", fault, out, format=INT8, rows=str(mail_file)))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "attention", "layer-weighted"])
@pytest.mark.parametrize("name", ["transformer", "lstm", "gru", "cnn", "mlp"])
def test_every_base_passes_the_gate_with_every_pooling(fit_small, name, pooling, tmp_path):
    artifact = fit_small(tmp_path / "fit", base={"name": name, "width": 16, "pooling": pooling})
    assert export(artifact, tmp_path / "out").manifest.network.runtimes[0] == "onnxruntime"


@pytest.mark.slow
@pytest.mark.base
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_minilm_passes_the_gate_on_real_rows(fit_small, minilm, mail_file, pooling, tmp_path):
    artifact = fit_small(tmp_path / "fit", base={"name": "minilm", "pooling": pooling}, train={"epochs": 1, "batch_size": 16})
    made = export(artifact, tmp_path / "out", rows=str(mail_file))
    gate = made.manifest.export.gate["runtimes"]["onnxruntime"]
    assert gate["worst_logit"] < 1e-4
    assert gate["agreement"] == 1.0
