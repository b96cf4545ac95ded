"""The exporter to ExecuTorch and its runtime, without the gate around them."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from export_making import ONE, batch_of, make_rows, make_source, manifest_of, opened_export

from regraft.errors import ArtifactError, MissingExtraError, UsageError
from regraft.exporters import executorch as executorch_exporter
from regraft.exporters.executorch import ExecutorchExporter, ExecutorchOptions
from regraft.exporters.graph import answers_of
from regraft.serving.runtime_executorch import ExecutorchRuntime


def test_a_missing_package_is_named_before_anything_is_written(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.delitem(sys.modules, "executorch.exir", raising=False)
    (problem,) = ExecutorchExporter(ExecutorchOptions()).problems(make_source("mlp"))
    assert problem.what.startswith("'executorch' (exporters) needs the package 'executorch")
    assert problem.fix == "pip install 'regraft[executorch]'"


def test_the_runtime_names_its_extra_too(tmp_path, monkeypatch):
    import sys

    source = make_source("mlp")
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "model.pte").write_bytes(b"x")
    facts = {"file": "network/model.pte", "inputs": ["input_ids"], "mask": "attention_mask", "output": "logits", "rows": 8}
    made = SimpleNamespace(form="executorch", runtimes=("executorch",), facts=facts)
    for name in ("executorch", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'regraft[executorch]'")):
        ExecutorchRuntime.load(tmp_path, manifest_of(source, made, tmp_path), source.task, ONE)
    made.facts["rows"] = "many"
    with pytest.raises(ArtifactError, match="the manifest does not say how many rows the program takes"):
        ExecutorchRuntime.load(tmp_path, manifest_of(source, made, tmp_path), source.task, ONE)


@pytest.mark.slow
def test_recurrences_and_rows_without_a_limit_are_refused_together(monkeypatch):
    pytest.importorskip("executorch")
    source = make_source("gru")
    monkeypatch.setattr(type(source.modality), "longest", None)
    problems = ExecutorchExporter(ExecutorchOptions()).problems(source)
    assert [problem.what for problem in problems] == [
        "a program of ExecuTorch needs a greatest length of rows, and this artifact has none",
        "ExecuTorch computes the operator 'aten.gru' only for rows of one length",
    ]
    assert all("--format onnx" in problem.fix for problem in problems)


def export(source, folder: Path, **options) -> ExecutorchRuntime:
    pytest.importorskip("executorch")
    return opened_export(ExecutorchExporter(ExecutorchOptions(**options)), ExecutorchRuntime, source, folder)


@pytest.fixture(scope="module")
def source():
    return make_source("mlp", "mean")


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    pytest.importorskip("executorch")
    folder = tmp_path_factory.mktemp("executorch")
    return folder, ExecutorchExporter(ExecutorchOptions(rows=4)).write(source, folder)


@pytest.mark.slow
def test_longer_batches_are_answered_in_parts_from_any_thread(written, source):
    folder, made = written
    assert made.facts["rows"] == 4
    runtime = ExecutorchRuntime.load(folder, manifest_of(source, made, folder), source.task, ONE)
    batches = [batch_of(source, make_rows(n, seed=n)) for n in (1, 4, 5, 19)]
    expected = [answers_of(source.network(), batch) for batch in batches]
    wrong = []

    def ask() -> None:
        for batch, answers in zip(batches, expected, strict=True):
            if not np.allclose(runtime.outputs(batch), answers, atol=1e-5):
                wrong.append(batch.size)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.head.linear.weight", "net.head.linear.bias", "net.backbone.body.embeddings.weight"])
def test_one_changed_number_in_a_weight_is_found(written, source, tmp_path, name):
    folder, _ = written
    weight = dict(source.network().named_parameters())[name.removeprefix("net.")].detach().numpy()
    content = bytearray((folder / "network" / "model.pte").read_bytes())
    last = content.index(weight.tobytes()) + weight.nbytes - 4
    content[last] ^= 1
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "model.pte").write_bytes(content)
    (problem,) = ExecutorchExporter(ExecutorchOptions(rows=4)).faults(source, tmp_path)
    assert problem.what == f"the weight '{name}' in the exported file is not the source's"


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes_and_no_place_on_this_machine(written, source, tmp_path):
    folder, _ = written
    ExecutorchExporter(ExecutorchOptions(rows=4)).write(source, tmp_path)
    content = (tmp_path / "network" / "model.pte").read_bytes()
    assert content == (folder / "network" / "model.pte").read_bytes()
    for place in ("site-packages", ".py", str(Path.home()), str(tmp_path)):
        assert place.encode() not in content


def test_a_network_that_cannot_be_lowered_is_refused_before_the_gate(source, tmp_path, monkeypatch):
    pytest.importorskip("executorch")

    def fails(program):
        raise RuntimeError("Missing out variants: {'aten::strange'}")

    monkeypatch.setattr(executorch_exporter, "_lowered", fails)
    with pytest.raises(UsageError) as caught:
        ExecutorchExporter(ExecutorchOptions()).write(source, tmp_path)
    assert "aten::strange" in caught.value.problems[0].got
    assert "--format onnx" in caught.value.problems[0].fix


@pytest.mark.slow
def test_a_damaged_program_is_refused(written, source, tmp_path):
    folder, made = written
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "model.pte").write_bytes((folder / "network" / "model.pte").read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"executorch [\d.]+ cannot open the network"):
        ExecutorchRuntime.load(tmp_path, manifest_of(source, made, tmp_path), source.task, ONE)


@pytest.mark.slow
def test_what_answers_is_told(written, source):
    folder, made = written
    manifest = manifest_of(source, dataclasses.replace(made), folder)
    runtime = ExecutorchRuntime.load(folder, manifest, source.task, ONE)
    found = runtime.environment()
    assert str(found["library"]).startswith("executorch ")
    assert found["threads"] == 1
    assert "transformers" in runtime.does_without
