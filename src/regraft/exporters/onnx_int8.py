"""8-bit integers in the products with weights of an ONNX file: smaller, faster, and each row's answer its own.

A product `x W + b` becomes `s_x s_W (q_x - z) q_W + b` with whole numbers q (Jacob et al. 2017, arXiv:1712.05877, equation 7).
Each column of a weight has its own scale s_W; its numbers have 7 bits, so that processors whose 8-bit products keep only 16
bits of a pair's sum cannot overflow, and all processors compute the same. An input has one range for all rows, taken from
calibration rows. Ranges made up for each batch, as is usual, let the answer of a row depend on its company.

How both sides of a product are rounded so that it loses least stands in `regraft.exporters.rounding`.

Where the outputs move too far, or rows are answered otherwise, the products that move them most stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import Problem, UsageError
from regraft.exporters.rounding import Range, Seen, range_of, steps_apart, weight_in_8_bits
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx

CONTRIB, PRODUCT = "com.microsoft", "MatMulIntegerToFloat"
LIMIT = 0.05
"""Mean distance of outputs from those in float32, as a share of their standard deviation, up to which nothing is put back."""
LEAST_SAME = 0.99
"""Share of the calibration rows that must be answered as in float32 for nothing to be put back."""
_KEPT_BYTES, _ROWS_KEPT = 512_000_000, 4096
_SMALLEST = 64
_OF = "_int8_of_"  # NAME_int8_of_INPUT: the weight NAME, which INPUT is multiplied by
_SCALES_OF, _EVEN_BY = "_int8_scale_of_", "_even_by"

Run = Callable[[bytes, Sequence[Mapping[str, Array]], Sequence[str]], list[list[Array]]]
Same = Callable[[FloatArray, FloatArray], float]


@dataclass(frozen=True)
class Product:
    """A product with a constant matrix, and the addition of a constant behind it.

    Args:
        node: Position of the product among the nodes.
        addition: Position of the addition, if there is one.
        taken: Name of the input.
        weight: Name of the matrix (K, N).
        bias: Name of what is added (N,), or empty.
        given: Name of the output, that of the addition if there is one.
    """

    node: int
    addition: int | None
    taken: str
    weight: str
    bias: str
    given: str


@dataclass(frozen=True)
class Rounded:
    """A product in whole numbers.

    Args:
        product: What is computed so.
        range: How its input becomes whole numbers.
        numbers_KN: Those of the weight, times the factors of the range, int8.
        scales_N: Size of one step in each column.
    """

    product: Product
    range: Range
    numbers_KN: Array
    scales_N: FloatArray


def reduced(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], run: Run, output: str, same: Same = lambda _was, _now: 1.0
) -> tuple[onnx.ModelProto, int]:
    """Return a model whose products with weights are computed in 8 bits, and how many had to stay in float32.

    Args:
        model: In float32; not changed.
        feeds: Batches of calibration rows: input name -> array.
        run: Computes a model for batches and returns the outputs of these names, for each batch.
        output: Name of the output that counts.
        same: Share of rows that are answered alike with outputs in float32 and with others.

    Raises:
        UsageError: There is no product with a weight, or no choice of them leaves the outputs near enough.
    """
    products = products_of(model)
    if not products:
        what, fix = "the network has no product with a weight that 8 bits could hold", "export it with format.precision=fp32"
        raise UsageError(Problem(what=what, fix=fix))
    made = _rounded(model, products, feeds, run)
    true = _outputs(run, model, feeds, output)

    def moved(chosen: Sequence[Rounded]) -> tuple[float, float]:
        found = _outputs(run, _with(model, chosen), feeds, output)
        return float(np.abs(found - true).mean() / max(float(true.std()), 1e-12)), same(true, found)

    def far(chosen: Sequence[Rounded]) -> bool:
        distance, share = moved(chosen)
        return distance > LIMIT or share < LEAST_SAME

    kept = made
    if far(kept):
        # Alone each moves the outputs by about its share of what all move them by.
        order = sorted(made, key=lambda one: moved([one])[0])
        while kept and far(kept):
            kept = order[: len(kept) - max(1, len(kept) // 8)]
    if not kept:
        what = "in 8 bits the outputs move too far, whichever products are computed so"
        expected = f"at most {LIMIT:.0%} of their standard deviation, and {LEAST_SAME:.0%} of the rows answered alike"
        raise UsageError(Problem(what=what, expected=expected, fix="export it with format.precision=fp32"))
    return _with(model, kept), len(made) - len(kept)


def products_of(model: onnx.ModelProto) -> list[Product]:
    """Return the products of a graph with constant matrices, largest parts of its work."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    users: dict[str, list[int]] = {}
    for place, node in enumerate(model.graph.node):
        for name in node.input:
            users.setdefault(name, []).append(place)
    ends = {value.name for value in model.graph.output}
    found = []
    for place, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[1], ()) if node.op_type == "MatMul" and not node.domain else ()
        if len(shape) != 2 or np.prod(shape) < _SMALLEST or node.input[0] in shapes:
            continue
        after = users.get(node.output[0], [])
        bias, addition = "", None
        if len(after) == 1 and node.output[0] not in ends:
            bias = _added(model.graph.node[after[0]], node.output[0], shapes, shape[1])
            addition = after[0] if bias else None
        given = model.graph.node[addition].output[0] if addition is not None else node.output[0]
        found.append(Product(place, addition, node.input[0], node.input[1], bias, given))
    return found


def _added(node: onnx.NodeProto, product: str, shapes: Mapping[str, tuple[int, ...]], width: int) -> str:
    """Return the name of the constant vector that a node adds to a product, or an empty string."""
    if node.op_type != "Add" or node.domain:
        return ""
    other = next((name for name in node.input if name != product), "")
    return other if shapes.get(other) == (width,) else ""


def _rounded(
    model: onnx.ModelProto, products: Sequence[Product], feeds: Sequence[Mapping[str, Array]], run: Run
) -> list[Rounded]:
    """Return each product in whole numbers, by what calibration rows make of its input."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[Product]] = {}
    for product in products:
        readers.setdefault(product.taken, []).append(product)
    found: dict[int, Rounded] = {}
    for names in _groups(readers, {product.taken: tensors[product.weight].dims[0] for product in products}):
        for name, seen in _looked_at(model, names, feeds, run).items():
            weights = [numpy_helper.to_array(tensors[product.weight]) for product in readers[name]]
            chosen = range_of(seen, weights)
            rows_NK = chosen.rounded(chosen.divided(seen.rows_NK))
            for product, weight_KN in zip(readers[name], weights, strict=True):
                found[product.node] = Rounded(product, chosen, *weight_in_8_bits(chosen.times(weight_KN), rows_NK))
    return [found[product.node] for product in products]


def _groups(names: Iterable[str], channels: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield names of inputs, as many at a time as there is room for their rows."""
    group: list[str] = []
    used = 0
    for name in names:
        needed = 4 * _ROWS_KEPT * channels[name]
        if group and used + needed > _KEPT_BYTES:
            yield group
            group, used = [], 0
        group.append(name)
        used += needed
    yield group


def _looked_at(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Array]], run: Run) -> dict[str, Seen]:
    """Return what calibration rows make of some inputs of products."""
    from onnx import TensorProto, helper

    looked_at = type(model)()
    looked_at.CopyFrom(model)
    given = {value.name for value in model.graph.input}
    known = {value.name for value in model.graph.output}
    asked = [name for name in names if name not in given]
    extra = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in asked if name not in known]
    looked_at.graph.output.extend(extra)
    parts: dict[str, list[Array]] = {name: [feed[name] for feed in feeds] for name in names if name in given}
    for arrays in run(looked_at.SerializeToString(), feeds, asked) if asked else []:
        for name, values in zip(asked, arrays, strict=True):
            parts.setdefault(name, []).append(values)
    return {name: Seen.of(parts.pop(name), _ROWS_KEPT) for name in names}


def _with(model: onnx.ModelProto, chosen: Sequence[Rounded]) -> onnx.ModelProto:
    """Return the model with these products in 8 bits."""
    from onnx import helper, numpy_helper

    made = type(model)()
    made.CopyFrom(model)
    instead: dict[int, list[onnx.NodeProto]] = {}
    constants: dict[str, Array] = {}
    rounded: set[str] = set()
    for one in chosen:
        product, found = one.product, one.range
        taken, weight = product.taken, product.weight
        constants |= {weight + _OF + taken: one.numbers_KN, weight + _SCALES_OF + taken: one.scales_N}
        constants |= {weight + "_int8_zero": np.zeros(len(one.scales_N), np.int8)}
        constants |= {taken + "_scale": np.array(found.scale, np.float32), taken + "_zero": np.array(found.zero, np.uint8)}
        nodes = []
        if taken not in rounded:
            even = taken
            if found.factors_K is not None:
                even = taken + "_even"
                constants[taken + _EVEN_BY] = 1.0 / found.factors_K
                nodes.append(helper.make_node("Mul", [taken, taken + _EVEN_BY], [even]))
            nodes.append(helper.make_node("QuantizeLinear", [even, taken + "_scale", taken + "_zero"], [taken + "_uint8"]))
            rounded.add(taken)
        ends = [taken + "_uint8", weight + _OF + taken, taken + "_scale", weight + _SCALES_OF + taken]
        ends += [taken + "_zero", weight + "_int8_zero", *([product.bias] if product.bias else [])]
        instead[product.node] = [*nodes, helper.make_node(PRODUCT, ends, [product.given], domain=CONTRIB)]
        if product.addition is not None:
            instead[product.addition] = []
    nodes_now = [new for place, node in enumerate(model.graph.node) for new in instead.get(place, [node])]
    used = {name for node in nodes_now for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    tensors += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    for owned, values in ((made.graph.node, nodes_now), (made.graph.initializer, tensors), (made.graph.value_info, [])):
        del owned[:]
        owned.extend(values)
    made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return made


def _outputs(run: Run, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], output: str) -> FloatArray:
    return np.concatenate([arrays[0] for arrays in run(model.SerializeToString(), feeds, [output])]).astype(np.float64)


def reduced_faults(found: Sequence[tuple[str, Array]], expected: Mapping[str, Array]) -> list[tuple[str, Any]]:
    """Return the weights in 8 bits that are no weight of the source, rounded, each with its distance (see `steps_apart`).

    Args:
        found: Name and values of every tensor in the file.
        expected: Name -> values of every tensor of the source that the graph uses.
    """
    tensors = dict(found)
    wanted = [layout for array in expected.values() if array.ndim == 2 for layout in (array, array.T)]
    faults = []
    for full, numbers in tensors.items():
        name, of, taken = full.partition(_OF)
        if not of or numbers.ndim != 2:
            continue
        scales_N, divided = tensors[name + _SCALES_OF + taken], tensors.get(taken + _EVEN_BY)
        steps_KN = scales_N * (np.ones((len(numbers), 1), np.float32) if divided is None else divided[:, None])
        near = [steps_apart(numbers, layout / steps_KN) for layout in wanted if layout.shape == numbers.shape]
        distance = min(near, default=float("inf"))
        if not distance <= 1.0 + 1e-3:
            faults.append((name, distance))
    return faults


def is_reduced(operators: Sequence[tuple[str, str]] | frozenset[tuple[str, str]]) -> bool:
    """Return whether a model with these (domain, name) computes products in 8 bits."""
    return (CONTRIB, PRODUCT) in operators


__all__ = [
    "CONTRIB",
    "LEAST_SAME",
    "LIMIT",
    "PRODUCT",
    "Product",
    "Rounded",
    "is_reduced",
    "products_of",
    "reduced",
    "reduced_faults",
]
