from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from serving_making import make_rows, make_task, make_text

from regraft.artifact.manifest import HeadEntry, InputEntry, Manifest, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
from regraft.artifact.verify import file_entries
from regraft.errors import ArtifactError, MachineError, MissingExtraError
from regraft.serving.predictor import Predictor
from regraft.serving.runtime_onnxruntime import OnnxruntimeRuntime
from regraft.training.options import MachineOptions
from regraft.types import Batch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ONE = MachineOptions(threads=1)
FACTS = {"file": "network/model.onnx", "inputs": ["input_ids"], "mask": "attention_mask", "output": "logits"}
TABLE = np.random.default_rng(5).normal(size=(64, 3)).astype(np.float32)


def mean_of_vectors(width: int = 3) -> object:
    """The mean of the vectors of a row's tokens, written with ONNX's own library."""
    helper, whole, real = onnx.helper, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=real),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask1"]),
        helper.make_node("Mul", ["vectors", "mask1"], ["real"]),
        helper.make_node("ReduceSum", ["real", "first"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask1", "first"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["logits"]),
    ]
    numbers = {"table": TABLE[:, :width], "last": np.array([-1]), "first": np.array([1])}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in numbers.items()]
    inputs = [helper.make_tensor_value_info(name, whole, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", real, ["batch", width])]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "network").mkdir()
    (tmp_path / "network/model.onnx").write_bytes(mean_of_vectors().SerializeToString())
    return tmp_path


def manifest_of(folder: Path, **facts: object) -> Manifest:
    text, task = make_text(), make_task()
    network = NetworkEntry(
        backbone={}, head=HeadEntry(width=3), form="onnx", runtimes=("onnxruntime",), facts={**FACTS, **facts}
    )
    body = ManifestBody(
        task=TaskEntry(name=task.name, state=task.state()),
        inputs=(InputEntry(column="text", modality=text.name, spec=text.spec()),),
        target=TargetEntry(column="label"),
        base={},
        network=network,
        weights_digest="",
    )
    return Manifest.of(body, file_entries(folder))


def load(folder: Path, **facts: object) -> OnnxruntimeRuntime:
    return OnnxruntimeRuntime.load(folder, manifest_of(folder, **facts), make_task(), ONE)


def predictor(folder: Path) -> Predictor:
    return Predictor(make_text(), make_task(), load(folder), column="text")


def by_hand(row: str) -> np.ndarray:
    ids = [2, *(int(word[1:]) + 4 for word in row.split()), 3]
    return TABLE[ids].mean(axis=0, dtype=np.float64)


def test_rows_are_answered_as_by_hand(folder):
    rows = make_rows(200)
    np.testing.assert_allclose(predictor(folder).outputs(rows), [by_hand(row) for row in rows], atol=1e-6)


def test_the_same_rows_have_the_same_bits_from_any_thread(folder):
    asked, rows = predictor(folder), make_rows(300, seed=2)
    expected = asked.outputs(rows)
    found: list[np.ndarray] = []
    workers = [threading.Thread(target=lambda: found.append(asked.outputs(rows))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert all(np.array_equal(one, expected) for one in found)


def test_batches_hold_at_most_so_many_positions(folder, monkeypatch):
    asked = predictor(folder)
    shapes = []
    outputs = asked.runtime.outputs
    monkeypatch.setattr(asked.runtime, "outputs", lambda batch: shapes.append(batch.mask_BT.shape) or outputs(batch))
    asked.outputs(make_rows(300, seed=2), batch_size=512)
    assert max(rows * positions for rows, positions in shapes) <= OnnxruntimeRuntime.positions
    assert sum(rows for rows, _ in shapes) == 300


def test_what_an_answer_depends_on_is_told(folder):
    import onnxruntime

    told = predictor(folder).environment()
    assert told["library"] == f"onnxruntime {onnxruntime.__version__}"
    assert told["threads"] == 1
    assert told["instructions"]
    assert told["processor"]


@pytest.mark.parametrize("facts", [{"file": None}, {"inputs": "input_ids"}, {"inputs": [1]}, {"mask": 3}, {"output": None}])
def test_a_manifest_that_does_not_say_how_the_graph_is_fed_is_refused(folder, facts):
    with pytest.raises(ArtifactError, match="the manifest does not say how the exported graph is fed"):
        load(folder, **facts)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "network/other.onnx", "", "network\\model.onnx"])
def test_a_file_that_is_not_the_artifact_s_is_refused(folder, file):
    with pytest.raises(ArtifactError, match="the exported graph is not one of the artifact's files"):
        load(folder, file=file)


@pytest.mark.parametrize("facts", [{"inputs": []}, {"inputs": ["input_ids", "more"]}, {"mask": "mask"}, {"output": "shares"}])
def test_other_ends_than_the_manifest_says_are_refused(folder, facts):
    with pytest.raises(ArtifactError, match="the ends of the exported graph have other names than the manifest says"):
        load(folder, **facts)


def test_a_file_is_looked_at_before_it_is_opened(folder):
    model = mean_of_vectors()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.ClearField("raw_data")
    table.data_location = onnx.TensorProto.EXTERNAL
    entry = table.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    (folder / "network/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"a tensor lies outside the files of the artifact(.|\n)*'table' at '../../secret'"):
        load(folder)


def test_operators_of_others_are_refused(folder):
    model = mean_of_vectors()
    model.graph.node[0].domain = "com.microsoft"
    (folder / "network/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"operators that are not ONNX's own are refused(.|\n)*com.microsoft.Gather"):
        load(folder)


def test_a_batch_that_cannot_be_computed_says_so(folder):
    asked = load(folder)
    batch = Batch(inputs={"input_ids": np.full((2, 3), 99)}, mask_BT=np.ones((2, 3), dtype=bool))
    with pytest.raises(MachineError, match=r"ONNX Runtime could not compute a batch of 2 x 3 positions(.|\n)*batch_size"):
        asked.outputs(batch)


def test_a_missing_package_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'onnxruntime'(.|\n)*regraft\[runtime\]"):
        load(folder)


def test_no_training_stack_is_imported(folder):
    (folder / "manifest.json").write_bytes(manifest_of(folder).to_bytes())
    code = (
        "import sys, numpy as np; from pathlib import Path; from regraft.artifact.verify import read_manifest;"
        "from regraft.serving import RUNTIMES; from regraft.training.options import MachineOptions; from regraft.types import Batch;"
        f"folder = Path({str(folder)!r});"
        "runtime = RUNTIMES.get('onnxruntime').load(folder, read_manifest(folder), None, MachineOptions(threads=1));"
        "runtime.outputs(Batch(inputs={'input_ids': np.ones((1, 2), int)}, mask_BT=np.ones((1, 2), bool)));"
        "print(sorted({'torch', 'transformers', 'datasets', 'sklearn', 'huggingface_hub', 'onnx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_memory_does_not_grow_with_the_number_of_shapes(folder):
    """Every shape once, then all again: what is held after the second time is what was held after the first."""
    psutil = pytest.importorskip("psutil")
    asked, process = load(folder), psutil.Process()

    def run() -> int:
        for rows in range(1, 25):
            for length in range(1, 41):
                batch = Batch(
                    inputs={"input_ids": np.ones((rows, length), dtype=np.int64)}, mask_BT=np.ones((rows, length), dtype=bool)
                )
                asked.outputs(batch)
        return int(process.memory_info().rss)

    run()
    first = run()
    assert run() - first < 4 * 2**20
