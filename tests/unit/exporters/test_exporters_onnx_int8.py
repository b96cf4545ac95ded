"""Products with weights in 8 bits, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_making import make_source
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.artifact.onnx_file import onnx_problems, read_onnx
from regraft.errors import UsageError
from regraft.exporters.onnx import OnnxExporter, OnnxOptions
from regraft.exporters.onnx_int8 import LEAST_SAME, LIMIT, products_of, reduced, reduced_faults
from regraft.exporters.onnx_session import open_session
from regraft.exporters.rounding import Range, Seen, range_of, steps_apart, weight_in_8_bits

onnx = pytest.importorskip("onnx")
RNG = np.random.default_rng(0)


def made(nodes, constants, taken, given, width):
    """An ONNX model of some nodes with one input (rows, K) and one output."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(taken, TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, feeds, names):
    session = open_session(model, 1)
    return [session.run(list(names), dict(feed)) for feed in feeds]


def linear(weight, bias):
    from onnx import helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    return made(nodes, {"w": weight, "b": bias}, "x", "y", len(weight))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(1e-3, 1e3))
def test_a_weight_is_at_most_half_a_step_away(rows, columns, size):
    weight = (size * np.random.default_rng(rows * 21 + columns).normal(size=(rows, columns))).astype(np.float32)
    numbers, scales = weight_in_8_bits(weight)
    assert numbers.dtype == np.int8
    assert np.abs(numbers.astype(int)).max() == 63
    assert (np.abs(numbers * scales - weight) <= 0.5001 * scales).all()


def test_a_column_of_zeros_stays_one():
    numbers, scales = weight_in_8_bits(np.zeros((4, 2), np.float32))
    assert not (numbers * scales).any()
    assert np.isfinite(scales).all()


def test_rounding_makes_up_for_what_it_changes():
    """Channels that go together: what one loses another can give back, which rounding number by number cannot see."""
    rng = np.random.default_rng(1)
    hidden, mixing = rng.normal(size=(2000, 12)), rng.normal(size=(12, 96))
    rows = (hidden @ mixing + 0.1 * rng.normal(size=(2000, 96))).astype(np.float32)
    weight = rng.normal(size=(96, 24)).astype(np.float32)
    true = rows @ weight
    (near, scales), (nearest, same_scales) = weight_in_8_bits(weight, rows[:1000]), weight_in_8_bits(weight)
    np.testing.assert_array_equal(scales, same_scales)

    def lost(numbers):
        return float(np.square(rows[1000:] @ (numbers * scales) - true[1000:]).mean())

    assert lost(near) < 0.25 * lost(nearest)
    assert np.abs(near - weight / scales).max() <= 2
    assert np.abs(near.astype(int)).max() <= 63
    assert np.abs(near - weight / scales).max() > 0.5, "otherwise nothing was made up for"


def test_rows_without_ties_leave_each_number_the_nearest():
    """The inverse of a diagonal says that nothing can make up for anything."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(64, 8)).astype(np.float32)
    rows = np.diag(rng.uniform(1, 5, size=64)).astype(np.float32)
    np.testing.assert_array_equal(weight_in_8_bits(weight, rows)[0], weight_in_8_bits(weight)[0])


def test_a_channel_that_is_much_larger_leaves_the_others_their_steps():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(500, 32)).astype(np.float32) * np.where(np.arange(32) == 5, 300, 1).astype(np.float32)
    weight = rng.normal(size=(32, 8)).astype(np.float32)
    weight[5] /= 300
    found = range_of(Seen.of([rows], 500), [weight])
    near = found.rounded(found.divided(rows)) @ found.times(weight)
    plain = Range((rows.max() - rows.min()) / 255, int(np.rint(-rows.min() / (rows.max() - rows.min()) * 255)))
    true = rows @ weight
    assert np.abs(near - true).mean() < 0.1 * np.abs(plain.rounded(rows) @ weight - true).mean()
    np.testing.assert_allclose(found.divided(rows) @ found.times(weight), true, atol=1e-4)


@pytest.mark.parametrize("rows", [np.zeros((4, 8)), np.eye(8)[:3] * [0, 1, 1, 1, 1, 1, 1, 1]])
def test_channels_of_zeros_are_no_trouble(rows):
    weight = np.eye(8, dtype=np.float32)
    weight[1] = 0.0
    found = range_of(Seen.of([rows.astype(np.float32)], 10), [weight])
    assert found.factors_K is None or (np.isfinite(found.factors_K) & (found.factors_K > 0)).all()
    np.testing.assert_allclose(found.rounded(found.divided(rows)) @ found.times(weight), rows @ weight, atol=0.01)


def test_what_is_seen_holds_the_extremes_of_all_rows():
    parts = [np.full((1, 50, 3), 1.0), np.full((1, 50, 3), 2.0)]
    parts[0][0, 17, 1], parts[1][0, 3, 2] = -9.0, 40.0
    seen = Seen.of(parts, 10)
    assert seen.rows_NK.shape == (10, 3)
    assert seen.low_K.tolist() == [0, -9, 0]
    assert seen.high_K.tolist() == [2, 2, 40]


def test_a_wrong_scale_of_many_numbers_is_far_though_each_moves_little():
    rng = np.random.default_rng(4)
    weight, rows = rng.normal(size=(256, 16)).astype(np.float32), rng.normal(size=(600, 256)).astype(np.float32)
    numbers, scales = weight_in_8_bits(weight, rows)
    assert steps_apart(numbers, weight / scales) <= 1
    assert steps_apart(numbers, weight / (1.03 * scales)) > 1
    other = weight.copy()
    other[7, 3] += 4 * scales[3]
    assert steps_apart(numbers, other / scales) > 1


def test_a_product_is_what_the_whole_numbers_say():
    weight, bias = RNG.normal(size=(16, 8)).astype(np.float32), RNG.normal(size=8).astype(np.float32)
    rows = RNG.normal(size=(200, 16)).astype(np.float32)
    model, left = reduced(linear(weight, bias), [{"x": rows}], run, "y")
    assert left == 0
    assert [node.op_type for node in model.graph.node] == ["Mul", "QuantizeLinear", "MatMulIntegerToFloat"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert "w" not in constants, "the weight in float32 is not carried along"
    scale, zero = float(constants["x_scale"]), int(constants["x_zero"])
    numbers = np.clip(np.rint(rows * constants["x_even_by"] / np.float32(scale)) + zero, 0, 255) - zero
    expected = (numbers @ constants["w_int8_of_x"].astype(np.float64)) * scale * constants["w_int8_scale_of_x"] + bias
    found = run(model.SerializeToString(), [{"x": rows}], ["y"])[0][0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - (rows @ weight + bias)).mean() < 0.02 * (rows @ weight).std()


def test_a_row_is_answered_alike_in_any_company():
    model, _ = reduced(linear(RNG.normal(size=(16, 8)).astype(np.float32), np.zeros(8, np.float32)), ROWS, run, "y")
    rows = ROWS[0]["x"]
    together = run(model.SerializeToString(), [{"x": rows}], ["y"])[0][0]
    beside = run(model.SerializeToString(), [{"x": np.concatenate([rows[:1], 1e6 * rows[1:2]])}], ["y"])[0][0]
    np.testing.assert_array_equal(beside[0], together[0])


ROWS = [{"x": RNG.normal(size=(50, 16)).astype(np.float32)}]


def test_what_moves_the_outputs_most_stays_in_float32():
    """The first product reads rows of which some are a thousand times larger than those that matter."""
    from onnx import helper

    rows = RNG.normal(size=(200, 16)).astype(np.float32)
    rows[::2] *= 1000
    first, second = (RNG.normal(size=(16, 16)).astype(np.float32) for _ in range(2))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["t"])]
    nodes.append(helper.make_node("MatMul", ["t", "v"], ["y"]))
    model, left = reduced(made(nodes, {"w": first, "v": second}, "x", "y", 16), [{"x": rows}], run, "y")
    assert left == 1
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Tanh", "Mul", "QuantizeLinear", "MatMulIntegerToFloat"]
    found = run(model.SerializeToString(), [{"x": rows}], ["y"])[0][0]
    true = np.tanh(rows @ first) @ second
    assert np.abs(found - true).mean() <= LIMIT * true.std()


def test_rows_that_would_be_answered_otherwise_put_a_product_back():
    """Both products move the outputs little, but many of them lie near the border between two answers."""
    from onnx import helper

    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 16)).astype(np.float32)
    rows[::2] *= 5
    first, second = (rng.normal(size=(16, 16)).astype(np.float32) for _ in range(2))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["t"])]
    nodes.append(helper.make_node("MatMul", ["t", "v"], ["y"]))
    model = made(nodes, {"w": first, "v": second}, "x", "y", 16)
    true = np.tanh(rows @ first) @ second

    def same(was, now):
        return float(np.mean((was[:, 0] > 0) == (now[:, 0] > 0)))

    near, none = reduced(model, [{"x": rows}], run, "y")
    assert none == 0
    assert same(true, run(near.SerializeToString(), [{"x": rows}], ["y"])[0][0]) < LEAST_SAME
    kept, left = reduced(model, [{"x": rows}], run, "y", same)
    assert left == 1
    assert same(true, run(kept.SerializeToString(), [{"x": rows}], ["y"])[0][0]) >= LEAST_SAME


def test_where_nothing_can_be_reduced_that_is_said():
    from onnx import helper

    with pytest.raises(UsageError, match=r"no product with a weight that 8 bits could hold(.|\n)*format.precision=fp32"):
        reduced(made([helper.make_node("Tanh", ["x"], ["y"])], {}, "x", "y", 4), [{"x": ROWS[0]["x"][:, :4]}], run, "y")
    rows = RNG.normal(size=(200, 16)).astype(np.float32)
    rows[0] *= 1e5
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])]
    model = made(nodes, {"w": RNG.normal(size=(16, 16)).astype(np.float32)}, "x", "y", 16)
    with pytest.raises(UsageError, match="in 8 bits the outputs move too far"):
        reduced(model, [{"x": rows}], run, "y")


def test_only_products_with_constant_matrices_are_taken():
    from onnx import helper

    weight = RNG.normal(size=(16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["c", "t"], ["d"]),
        helper.make_node("MatMul", ["x", "w"], ["e"]),
        helper.make_node("Add", ["e", "x"], ["f"]),
    ]
    model = made(nodes, {"w": weight, "b": weight[0]}, "x", "f", 16)
    first, second = products_of(model)
    assert (first.node, first.addition, first.bias, first.given) == (0, 1, "b", "c")
    assert (second.node, second.addition, second.bias, second.given) == (4, None, "", "e")


def test_a_weight_that_is_not_the_sources_is_found():
    weight = RNG.normal(size=(16, 8)).astype(np.float32)
    numbers, scales = weight_in_8_bits(weight)
    tensors = [("w_int8_of_x", numbers), ("w_int8_scale_of_x", scales)]
    assert reduced_faults(tensors, {"linear.weight": weight.T}) == []
    changed = weight.copy()
    changed[3, 4] += 2 * scales[4]
    ((name, steps),) = reduced_faults(tensors, {"linear.weight": changed.T})
    assert name == "w"
    assert 3 < steps < 5, "two steps, of which half a one is allowed"
    even = ("x_even_by", np.linspace(0.5, 2, 16, dtype=np.float32))
    divided = weight_in_8_bits(weight / even[1][:, None])
    assert reduced_faults([("w_int8_of_x", divided[0]), ("w_int8_scale_of_x", divided[1]), even], {"l": weight}) == []
    assert reduced_faults([("w_int8_of_x", divided[0]), ("w_int8_scale_of_x", divided[1])], {"l": weight})
    assert reduced_faults([("w_int8_of_x", numbers), ("w_int8_scale_of_x", 1.02 * scales)], {"linear.weight": weight.T})


def test_a_whole_network_in_8_bits(tmp_path):
    from export_making import batch_of, make_rows

    from regraft.exporters.graph import answers_of

    rows = make_rows(200, seed=5)
    source = make_source("transformer", "mean")
    source = type(source)(**{**vars(source), "calibration": rows[:128]})
    exporter = OnnxExporter(OnnxOptions(precision="int8"))
    assert exporter.calibration_rows == 128
    written = exporter.write(source, tmp_path)
    assert (written.precision, written.runtimes, written.facts["precision"]) == ("reduced", ("onnxruntime",), "int8")
    assert exporter.faults(source, tmp_path) == []
    path = tmp_path / "network" / "model.onnx"
    model = read_onnx(path)
    assert ("com.microsoft", "MatMulIntegerToFloat") in model.operators
    assert onnx_problems(model, tmp_path, {"network/model.onnx"}) == []
    batch = batch_of(source, rows[128:])
    session = open_session(path, 1)
    feeds = {name: batch.inputs[name] for name in written.facts["inputs"]} | {"attention_mask": batch.mask_BT.astype(np.int64)}
    found, true = session.run(["logits"], feeds)[0], answers_of(source.network(), batch)
    assert (found.argmax(1) == true.argmax(1)).mean() > 0.9
    assert 0 < np.abs(found - true).mean() < 2 * LIMIT * true.std()


def test_rows_that_are_nobodys_may_move_by_a_share_of_what_the_users_rows_have(monkeypatch, tmp_path):
    """A network that is sure of the user's rows and of nothing else: its errors are those of large numbers."""
    from export_making import batch_of, make_rows

    from regraft.exporters import onnx as exporter_file
    from regraft.exporters.graph import answers_of

    rows = make_rows(20, seed=5)
    source = make_source("mlp", "mean")
    source = type(source)(**{**vars(source), "calibration": rows})
    with torch.no_grad():
        source.network().head.linear.weight *= 50
    alone = max(float(np.abs(answers_of(source.network(), batch_of(source, [row]))).max()) for row in rows)
    assert alone > 2
    given = []
    monkeypatch.setattr(exporter_file, "shape_faults", lambda source, path, answer, tolerance: given.append(tolerance) or [])
    exporter = OnnxExporter(OnnxOptions(precision="int8"))
    exporter.write(source, tmp_path)
    assert exporter.faults(source, tmp_path) == []
    assert given == [pytest.approx(0.25 * alone, rel=1e-4)]


def test_other_operators_of_the_same_domain_are_refused(tmp_path):
    from onnx import helper

    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
    model = made([node], {"w": np.eye(4, dtype=np.float32)}, "x", "y", 4)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    (problem,) = onnx_problems(read_onnx(tmp_path / "model.onnx"), tmp_path, {"model.onnx"})
    assert problem.what == "operators that are not ONNX's own are refused"
    assert problem.got == "com.microsoft.FusedMatMul"
