from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from export_making import LABELS, check, make_source, opened_export

from regraft.artifact.onnx_file import read_onnx
from regraft.errors import ArtifactError, UsageError
from regraft.exporters import onnx as onnx_exporter
from regraft.exporters.onnx import OnnxExporter, OnnxOptions
from regraft.exporters.onnx_session import known_opset, open_session
from regraft.serving.runtime_onnxruntime import OnnxruntimeRuntime

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")


def export(source, folder: Path, **options) -> OnnxruntimeRuntime:
    return opened_export(OnnxExporter(OnnxOptions(**options)), OnnxruntimeRuntime, source, folder)


@pytest.fixture(scope="module")
def source():
    return make_source("cnn", "mean")


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "out"
    folder.mkdir()
    return folder, OnnxExporter(OnnxOptions()).write(source, folder)


def test_a_file_has_named_ends_of_any_size_and_says_what_it_answers(written):
    onnx = pytest.importorskip("onnx")
    folder, facts = written
    model = onnx.load(folder / "network/model.onnx")
    onnx.checker.check_model(model)
    ends = {
        end.name: [size.dim_param or size.dim_value for size in end.type.tensor_type.shape.dim]
        for end in (*model.graph.input, *model.graph.output)
    }
    assert ends == {"input_ids": ["batch", "length"], "attention_mask": ["batch", "length"], "logits": ["batch", len(LABELS)]}
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "task": "classification",
        "labels": json.dumps(list(LABELS)),
    }
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert facts.facts == {
        "opset": 20,
        "file": "network/model.onnx",
        "inputs": ["input_ids"],
        "mask": "attention_mask",
        "output": "logits",
    }
    assert facts.runtimes[0] == "onnxruntime"


def test_a_file_says_nothing_about_the_machine_and_has_the_same_bytes_again(written, source, tmp_path):
    content = (written[0] / "network/model.onnx").read_bytes()
    for told in (str(Path.cwd()), "site-packages", "torch/nn", ".py", "stack_trace", "namespace"):
        assert told.encode() not in content
    OnnxExporter(OnnxOptions()).write(source, tmp_path)
    assert hashlib.sha256((tmp_path / "network/model.onnx").read_bytes()).digest() == hashlib.sha256(content).digest()


def test_weights_may_stand_in_a_file_of_their_own(source, tmp_path):
    runtime = export(source, tmp_path / "out", external_data=True)
    assert {path.name for path in (tmp_path / "out/network").iterdir()} == {"model.onnx", "model.onnx.data"}
    assert any(tensor.external for tensor in read_onnx(tmp_path / "out/network/model.onnx").tensors)
    check(source, runtime)


@pytest.mark.parametrize("opset", [pytest.param(18, marks=pytest.mark.slow), 23])
def test_the_oldest_and_newest_set_of_operators_answer_alike(source, tmp_path, opset):
    runtime = export(source, tmp_path / "out", opset=opset)
    assert read_onnx(tmp_path / "out/network/model.onnx").opsets == {"": opset}
    check(source, runtime)


@pytest.mark.parametrize("opset", [17, 24, 999])
def test_a_set_of_operators_that_cannot_be_written_is_refused(source, opset):
    (problem,) = OnnxExporter(OnnxOptions(opset=opset)).problems(source)
    assert problem.what == "this set of ONNX operators cannot be written"
    assert problem.where == "format.opset"
    assert problem.got == str(opset)
    assert "18 to 23" in problem.expected
    assert ("which onnxruntime" in problem.expected) == (opset == 999)


def test_a_set_of_operators_that_the_runtime_does_not_know_is_refused_with_what_it_knows(source, monkeypatch):
    assert known_opset(20) is None
    unknown = known_opset(999)
    assert unknown.got == "opset 999"
    assert "at most opset" in unknown.expected
    monkeypatch.setattr(onnx_exporter, "known_opset", lambda opset: unknown)
    (problem,) = OnnxExporter(OnnxOptions(opset=23)).problems(source)
    assert "the installed ONNX Runtime does not know this set of operators" in problem.what
    assert "which onnxruntime" in problem.expected


@pytest.mark.parametrize(("package", "extra"), [("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "runtime")])
def test_a_missing_package_names_the_extra(source, monkeypatch, package, extra):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    problems = OnnxExporter(OnnxOptions()).problems(source)
    assert [problem.fix for problem in problems] == [f"pip install 'regraft[{extra}]'"]
    assert f"needs the package '{package}'" in problems[0].what


@torch.library.custom_op("regraft_tests::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path, monkeypatch):
    source = make_source("mlp")
    kind = type(source.network().head)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, features: odd(forward(self, features)))
    with pytest.raises(UsageError) as caught:
        OnnxExporter(OnnxOptions()).write(source, tmp_path)
    (problem,) = caught.value.problems
    assert problem.what == "ONNX has no operator for 'regraft_tests.odd', which the network uses"
    assert "--format torch" in problem.fix


def test_a_network_that_looks_at_values_cannot_be_captured_and_says_so(tmp_path, monkeypatch):
    source = make_source("mlp")
    kind = type(source.network().head)
    forward = kind.forward

    def looking(self, features):
        return forward(self, features) if features.pooled_BD.sum() > 0 else forward(self, features) + 1

    monkeypatch.setattr(kind, "forward", looking)
    with pytest.raises(UsageError, match="the network cannot be captured as a graph") as caught:
        OnnxExporter(OnnxOptions()).write(source, tmp_path)
    assert caught.value.problems[0].got


def _edited(written, source, folder: Path, edit) -> list[str]:
    onnx = pytest.importorskip("onnx")
    exporter = OnnxExporter(OnnxOptions())
    path = folder / "network/model.onnx"
    path.parent.mkdir()
    shutil.copyfile(written[0] / "network/model.onnx", path)
    model = onnx.load(path)
    edit(onnx, model.graph)
    path.write_bytes(model.SerializeToString())
    return [str(problem) for problem in exporter.faults(source, folder)]


def _changed(name: str, place: tuple[int, ...], by: float):
    def edit(onnx, graph) -> None:
        (tensor,) = [tensor for tensor in graph.initializer if name in tensor.name]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[place] += by
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return edit


def test_one_number_of_a_token_that_no_row_holds_is_found(written, source, tmp_path):
    (problem,) = _edited(written, source, tmp_path, _changed("embeddings.weight", (-1, 0), 1e-6))
    assert "embeddings.weight' in the exported file is not the source's" in problem
    assert "1 of 1024 numbers are others" in problem


@pytest.mark.parametrize("name", ["head.linear.bias", "norm.weight"])
def test_one_number_of_other_tensors_is_found(written, source, tmp_path, name):
    def edit(onnx, graph) -> None:
        named = [tensor.name for tensor in graph.initializer if tensor.name.endswith(name)]
        _changed(named[-1], (0,), 1e-3)(onnx, graph)

    assert _edited(written, source, tmp_path, edit)


def test_a_fixed_length_is_found(written, source, tmp_path):
    def edit(onnx, graph) -> None:
        for end in graph.input:
            end.type.tensor_type.shape.dim[1].dim_value = 7

    assert any("does not answer a batch of" in problem for problem in _edited(written, source, tmp_path, edit))


def test_a_graph_that_answers_otherwise_is_found(written, source, tmp_path):
    def edit(onnx, graph) -> None:
        last = graph.node[-1]
        was, last.output[0] = last.output[0], "before"
        graph.node.append(onnx.helper.make_node("Neg", ["before"], [was]))

    found = _edited(written, source, tmp_path, edit)
    assert len(found) == 5
    assert "outputs that moved by" in found[0]


def test_a_file_of_too_new_operators_or_version_says_what_is_known(tmp_path):
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [ends[0]], [ends[1]])
    path = tmp_path / "model.onnx"
    for opset, ir_version, got in ((999, 10, "opset 999"), (20, 999, "IR version 999")):
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError) as caught:
            open_session(path, 1)
        (problem,) = caught.value.problems
        assert problem.got == got
        assert f"which onnxruntime {onnxruntime.__version__} knows" in problem.expected
        assert "pip install --upgrade onnxruntime" in problem.fix
        assert problem.where == str(path)


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"onnxruntime .* cannot open the network(.|\n)*export the artifact again"):
        open_session(path, 1)
