from __future__ import annotations

import numpy as np
import onnx_making as made
import pytest

from regraft.artifact.onnx_file import onnx_problems, read_onnx
from regraft.errors import ArtifactError

FILE = "network/model.onnx"


def written(root, content: bytes):
    path = root / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def problems(root, content: bytes, *listed: str) -> list[str]:
    return [str(problem) for problem in onnx_problems(read_onnx(written(root, content)), root, {FILE, *listed})]


def test_what_a_file_says(tmp_path):
    content = made.adding(made.tensor("w", (1.0, 2.0, 3.0, 4.0), dims=(2, 2)), opset=21)
    model = read_onnx(written(tmp_path, content))
    assert model.opsets == {"": 21}
    assert model.operators == {("", "Add")}
    assert (model.inputs, model.outputs) == (("x",), ("y",))
    ((name, array),) = model.arrays()
    assert name == "w"
    assert array.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert onnx_problems(model, tmp_path, {FILE}) == []


def test_weights_in_another_file_are_found_there(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    (tmp_path / "network").mkdir()
    (tmp_path / "network/model.onnx.data").write_bytes(b"\0" * 8 + numbers.tobytes())
    external = {"location": "model.onnx.data", "offset": "8", "length": "24"}
    content = made.adding(made.tensor("w", dims=(2, 3), external=external))
    assert problems(tmp_path, content, "network/model.onnx.data") == []
    assert dict(read_onnx(tmp_path / FILE).arrays())["w"].tolist() == numbers.reshape(2, 3).tolist()


def test_it_is_read_as_the_library_of_onnx_reads_it(tmp_path):
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.integers(0, 9, 5),
        "c": rng.normal(size=2),
        "d": np.zeros((0, 3), np.float32),
        "e": np.array(2.5, np.float32),
        "f": np.array([True, False]),
    }
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors.append(onnx.helper.make_tensor("g", onnx.TensorProto.FLOAT, [2], [0.5, -0.5]))  # as numbers, not as bytes
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    inner = onnx.helper.make_graph([onnx.helper.make_node("Exp", ["x"], ["z"])], "inner", [], [ends[1]])
    nodes = [
        onnx.helper.make_node("If", ["f"], ["y"], then_branch=inner, else_branch=inner),
        onnx.helper.make_node("Constant", [], ["k"], value=tensors[0]),
    ]
    graph = onnx.helper.make_graph(nodes, "main", [ends[0]], [ends[1]], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    read = read_onnx(written(tmp_path, model.SerializeToString()))
    assert read.operators == {("", "If"), ("", "Exp"), ("", "Constant")}
    assert read.opsets == {"": 20}
    found = dict(read.arrays())
    for name, array in {**arrays, "g": np.array([0.5, -0.5], np.float32)}.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert len(read.tensors) == len(tensors) + 1


OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "a/../../b",
    "..",
    "",
    "C:\\x",
    "*/_ORT_MEM_ADDR_/*",
    "unlisted.bin",
    "./model.onnx.data",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_tensors_outside_the_artifact_are_refused(tmp_path, location):
    (tmp_path / "network").mkdir()
    (tmp_path / "network/unlisted.bin").write_bytes(bytes(64))
    (tmp_path / "network/model.onnx.data").write_bytes(bytes(64))
    content = made.adding(made.tensor("w", external={"location": location}))
    (problem,) = problems(tmp_path, content, "network/model.onnx.data", "../secret", "etc/passwd")
    assert "a tensor lies outside the files of the artifact" in problem
    assert f"'w' at {location!r}" in problem
    assert "a file that the manifest lists, beside the model" in problem
    assert "export the artifact again" in problem


OUT = {"location": "../secret"}
PLACES = {
    "initializer": lambda t: made.graph(made.node("Add", ("x", "w"), ("y",)), initializers=(t,)),
    "attribute": lambda t: made.graph(made.node("Constant", (), ("y",), made.held(5, t))),
    "list of an attribute": lambda t: made.graph(made.node("Odd", (), ("y",), made.held(10, t))),
    "graph of an attribute": lambda t: made.graph(made.node("If", ("x",), ("y",), made.held(6, made.graph(initializers=(t,))))),
    "graphs of an attribute": lambda t: made.graph(
        made.node("If", ("x",), ("y",), made.held(11, made.graph(initializers=(t,))))
    ),
    "sparse initializer": lambda t: made.graph(more=made.held(15, made.held(1, t))),
    "indices of a sparse one": lambda t: made.graph(more=made.held(15, made.held(2, t))),
    "sparse attribute": lambda t: made.graph(made.node("Constant", (), ("y",), made.held(22, made.held(1, t)))),
    "sparse attributes": lambda t: made.graph(made.node("Constant", (), ("y",), made.held(23, made.held(2, t)))),
}


@pytest.mark.parametrize("place", PLACES)
def test_tensors_are_looked_at_wherever_they_stand(tmp_path, place):
    content = made.model(PLACES[place](made.tensor("w", external=OUT)))
    assert "'w' at '../secret'" in problems(tmp_path, content)[0]


def test_functions_training_graphs_and_a_second_graph_are_looked_at(tmp_path):
    out = made.tensor("w", external=OUT)
    function = made.held(25, made.held(1, "f") + made.held(7, made.node("Constant", (), ("y",), made.held(5, out))))
    training = made.held(20, made.held(1, made.graph(initializers=(out,))))
    again = made.held(7, made.held(5, out))  # protocol buffers merge a message that comes twice
    for more in (function, training, again):
        content = made.model(made.graph(made.node("Add", ("x", "x"), ("y",))), more=more)
        assert "'w' at '../secret'" in problems(tmp_path, content)[0]


def test_a_place_is_refused_however_it_is_told(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network/data").write_bytes(bytes(64))
    twice = made.number(1, 2) + made.number(2, 1) + made.held(8, "w")
    twice += made.held(13, made.entry("location", "data")) + made.held(13, made.entry("location", "../secret"))
    without_flag = made.tensor("w") + made.held(13, made.entry("location", "../secret"))
    no_place = made.number(1, 2) + made.number(2, 1) + made.held(8, "w") + made.number(14, 1)
    for tensor in (twice, without_flag, no_place):
        assert "a tensor lies outside" in problems(tmp_path, made.adding(tensor), "network/data")[0]


def test_links_and_places_behind_the_end_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "network").mkdir()
    (tmp_path / "network/link").symlink_to(tmp_path / "secret")
    (tmp_path / "network/data").write_bytes(bytes(64))
    assert problems(tmp_path, made.adding(made.tensor("w", external={"location": "link"})), "network/link")
    for odd in ({"offset": "60"}, {"length": "65"}, {"offset": "-8"}, {"offset": "9" * 30}, {"offset": "x"}):
        content = made.adding(made.tensor("w", external={"location": "data", **odd}))
        assert problems(tmp_path, content, "network/data"), odd
    huge = made.adding(made.tensor("w", dims=(1 << 62, 4), external={"location": "data"}))
    assert "behind the end of 'data'" in problems(tmp_path, huge, "network/data")[0]
    assert (
        problems(tmp_path, made.adding(made.tensor("w", external={"location": "data", "offset": "56"})), "network/data") == []
    )


def test_operators_of_others_are_refused_by_name(tmp_path):
    node = made.node("EPContext", ("x",), ("y",), domain="com.microsoft")
    inner = made.node("If", ("x",), ("y",), made.held(6, made.graph(made.node("Mine", ("x",), ("y",), domain="my.domain"))))
    (problem,) = problems(tmp_path, made.model(made.graph(node, inner)))
    assert "operators that are not ONNX's own are refused" in problem
    assert "com.microsoft.EPContext, my.domain.Mine" in problem
    assert problems(tmp_path, made.adding(domain="ai.onnx")) == []
    (problem,) = problems(tmp_path, made.adding(domain="my.domain"))
    assert "does not say which operators it means" in problem


def nested(depth: int) -> bytes:
    content = made.graph()
    for _ in range(depth):
        content = made.graph(made.node("If", ("x",), ("y",), made.held(6, content)))
    return made.model(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x08", "it ends in the middle of a number"),
        (made.varint(7 << 3 | 2) + made.varint(1000) + b"x", "a field is longer than what holds it"),
        (made.varint(7 << 3 | 3), "there is a field of the wire type 3"),
        (b"\xff" * 11, "a number has more than ten bytes"),
        (made.number(7, 1), "the field 'graph' of a model has another type"),
        (made.varint(1 << 3 | 5) + bytes(4), "a whole number has another type"),
        (made.model(made.graph(made.node("A" * 70_000, (), ()))), "a name is longer than 65536 bytes"),
        (made.model(made.graph(made.node("Add", (), ()) + made.held(4, b"\xff\xfe"))), "utf-8"),
        (nested(40), "messages are nested more than 64 deep"),
    ],
    ids=["empty", "cut", "too long", "group", "varint", "message", "number", "name", "text", "nested"],
)
def test_what_is_no_model_is_refused(tmp_path, content, reason):
    with pytest.raises(ArtifactError, match=reason) as caught:
        read_onnx(written(tmp_path, content))
    assert "the ONNX file cannot be read" in str(caught.value)
    assert "export the artifact again" in str(caught.value)


def test_every_cut_of_a_file_is_refused_or_read_without_harm(tmp_path):
    content = made.adding(made.tensor("w", external={"location": "../secret"}))
    for length in range(len(content)):
        try:
            read_onnx(written(tmp_path, content[:length]))
        except ArtifactError:
            continue


def test_too_many_fields_are_refused(tmp_path, monkeypatch):
    from regraft.artifact import protobuf

    monkeypatch.setattr(protobuf, "_MOST_FIELDS", 1000)
    packed = made.varint(1 << 3 | 2) + made.varint(2000) + bytes(2000)  # two thousand sizes of one tensor
    for content in (made.model(made.graph(*[b""] * 1001)), made.adding(packed)):
        with pytest.raises(ArtifactError, match="more than 1000 fields"):
            read_onnx(written(tmp_path, content))


def test_negative_sizes_are_read_as_such_and_give_no_array(tmp_path):
    model = read_onnx(written(tmp_path, made.adding(made.tensor("w", dims=(-2, -1)))))
    assert model.tensors[0].dims == (-2, -1)
    assert list(model.arrays()) == []
    assert list(read_onnx(written(tmp_path, made.adding(made.tensor("w", dims=(7,))))).arrays()) == []


@pytest.mark.parametrize(
    ("kernel", "matrix", "mostly"), [((2, 2, 3, 3), (2, 2), True), ((1, 1, 2, 2), (4, 4), False), ((2, 8, 3), (2, 2), False)]
)
def test_a_network_is_convolutional_where_most_weights_are_kernels_over_two_axes(tmp_path, kernel, matrix, mostly):
    tensors = [
        made.tensor(name, (0.5,) * int(np.prod(dims)), dims=dims) for name, dims in (("w", (2,)), ("k", kernel), ("m", matrix))
    ]
    assert read_onnx(written(tmp_path, made.adding(*tensors))).convolutional is mostly
