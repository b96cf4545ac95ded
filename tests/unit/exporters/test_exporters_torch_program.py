"""The exporter to torch.export and its runtime, without the gate around them."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_making import ONE, ROWS, batch_of, make_source, manifest_of, opened_export

from regraft.artifact.manifest import Manifest
from regraft.artifact.pt2_file import read_pt2
from regraft.errors import ArtifactError, UsageError
from regraft.exporters import torch_program
from regraft.exporters.graph import answers_of, arrays_of
from regraft.exporters.torch_program import TorchExporter, TorchOptions
from regraft.serving.runtime_torch_program import TorchProgramRuntime


def export(source, folder: Path, **options) -> TorchProgramRuntime:
    return opened_export(TorchExporter(TorchOptions(**options)), TorchProgramRuntime, source, folder)


@pytest.fixture(scope="module")
def source():
    return make_source("mlp", "mean")


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    return folder, TorchExporter(TorchOptions()).write(source, folder)


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_the_file_holds_no_pickle_no_rows_and_no_place_on_this_machine(written):
    folder, made = written
    found = entries(folder / made.facts["file"])
    assert found["data/sample_inputs/model.pt"] == b""
    config = json.loads(found["data/weights/model_weights_config.json"])["config"]
    assert not any(entry["use_pickle"] for entry in config.values())
    text = found["models/model.json"].decode()
    for place in ("stack_trace", ".py", "site-packages", str(Path.home()), str(Path(torch.__file__).parent.parent)):
        assert place not in text, place


def test_torch_itself_reads_the_file(written, source):
    folder, made = written
    net = torch.export.load(folder / made.facts["file"]).module()
    batch = batch_of(source, ROWS)
    with torch.no_grad():
        got = net(**{name: torch.from_numpy(array) for name, array in arrays_of(batch).items()})
    np.testing.assert_allclose(got.numpy(), answers_of(source.network(), batch), atol=1e-5)


def test_the_same_network_gives_the_same_bytes(written, source, tmp_path):
    folder, made = written
    again = TorchExporter(TorchOptions()).write(source, tmp_path)
    assert entries(tmp_path / again.facts["file"]) == entries(folder / made.facts["file"])
    assert (tmp_path / again.facts["file"]).read_bytes() == (folder / made.facts["file"]).read_bytes()


@pytest.mark.parametrize("name", ["net.head.linear.weight", "net.head.linear.bias", "net.backbone.body.embeddings.weight"])
def test_one_changed_number_in_any_weight_is_found(written, source, tmp_path, name):
    folder, made = written
    shutil.copytree(folder, tmp_path / "out")
    weight = next(weight for weight in read_pt2(folder / made.facts["file"]).weights.values() if weight.name == name)
    content = (tmp_path / "out" / made.facts["file"]).read_bytes()
    assert content.count(weight.value.tobytes()) == 1
    other = weight.value.copy()
    other.reshape(-1)[-1] += 1e-6
    program = read_pt2(folder / made.facts["file"])
    changed = {
        key: dataclasses.replace(entry, value=other) if entry.name == name else entry for key, entry in program.weights.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_program, "read_pt2", lambda path: dataclasses.replace(program, weights=changed))
        (problem,) = TorchExporter(TorchOptions()).faults(source, tmp_path / "out")
    assert problem.what == f"the weight '{name}' in the exported file is not the source's"
    assert problem.got == f"1 of {other.size} numbers are others"


def test_a_shape_that_is_answered_otherwise_is_found(written, source, monkeypatch):
    folder, _ = written
    true_run = torch_program.Machine.run
    monkeypatch.setattr(
        torch_program.Machine, "run", lambda self, feeds: true_run(self, feeds) + (feeds["input_ids"].shape[1] == 1)
    )
    problems = TorchExporter(TorchOptions()).faults(source, folder)
    assert [problem.what for problem in problems] == [
        "the exported file does not answer a batch of 1 x 1 positions as its source does"
    ]


def test_a_network_that_cannot_be_captured_is_refused_before_the_gate(source, tmp_path):
    net = copy.deepcopy(source.network())

    class Deciding(torch.nn.Module):
        def forward(self, features):
            return features.pooled_BD[:, :3] if features.pooled_BD.sum() > 0 else features.pooled_BD[:, 3:6]

    net.head = Deciding()
    with pytest.raises(UsageError) as caught:
        TorchExporter(TorchOptions()).write(dataclasses.replace(source, net=net), tmp_path)
    assert caught.value.problems[0].what == "the network cannot be exported as 'torch': torch.export does not capture it"
    assert "--format onnx" in caught.value.problems[0].fix


def test_an_operator_that_the_runtime_does_not_know_is_named(source, tmp_path):
    net = copy.deepcopy(source.network())

    class Strange(torch.nn.Module):
        def forward(self, features):
            return torch.special.bessel_j0(features.pooled_BD[:, :3])

    net.head = Strange()
    with pytest.raises(UsageError) as caught:
        TorchExporter(TorchOptions()).write(dataclasses.replace(source, net=net), tmp_path)
    assert "'torch.ops.aten.special_bessel_j0.default'" in caught.value.problems[0].what
    assert "--format onnx" in caught.value.problems[0].fix


def test_a_program_with_other_inputs_than_the_manifest_says_is_refused(written, source):
    folder, made = written
    facts = {**made.facts, "inputs": ["pixel_values"]}
    manifest = manifest_of(source, dataclasses.replace(made, facts=facts), folder)
    with pytest.raises(ArtifactError, match="the program has other inputs than the manifest says"):
        TorchProgramRuntime.load(folder, manifest, source.task, ONE)


def test_a_version_of_torch_without_an_operator_is_named(written, source, monkeypatch):
    folder, made = written
    manifest: Manifest = manifest_of(source, made, folder)
    monkeypatch.setattr(torch.ops, "aten", SimpleNamespace())
    with pytest.raises(ArtifactError, match=r"the operator '[a-z_A-Z.]+' is not in this version of torch"):
        TorchProgramRuntime.load(folder, manifest, source.task, ONE)


def test_what_answers_is_told(written, source):
    folder, made = written
    runtime = TorchProgramRuntime.load(folder, manifest_of(source, made, folder), source.task, ONE)
    found = runtime.environment()
    assert str(found["library"]).startswith(f"torch {torch.__version__}")
    assert found["threads"] == 1
    assert "torch" not in runtime.does_without
    assert "transformers" in runtime.does_without
