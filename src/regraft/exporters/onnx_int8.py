"""8-bit integers in the products with weights of an ONNX file: smaller, faster, and each row's answer its own.

A product `x W + b` becomes `s_x s_W (q_x - z) q_W + b` with whole numbers q (Jacob et al. 2017, arXiv:1712.05877, equation 7).
Each column of a weight has its own scale s_W; its numbers have 7 bits, so that processors whose 8-bit products keep only 16
bits of a pair's sum cannot overflow, and all processors compute the same. An input has one range for all rows, taken from
calibration rows: the part of what was seen for which rounding and clipping together lose least (mean square; Sung et al. 2015,
arXiv:1511.06488, section 3). Ranges made up for each batch, as is usual, let the answer of a row depend on its company.

Where the outputs move too far, or rows are answered otherwise, the products that move them most stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import Problem, UsageError
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx

CONTRIB, PRODUCT = "com.microsoft", "MatMulIntegerToFloat"
LIMIT = 0.05
"""Mean distance of outputs from those in float32, as a share of their standard deviation, up to which nothing is put back."""
LEAST_SAME = 0.99
"""Share of the calibration rows that must be answered as in float32 for nothing to be put back."""
_MOST_WEIGHT = 63  # 7 bits with a sign
_STEPS = 255
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_VALUES_KEPT = 100_000
_SMALLEST = 64
_SUFFIXES = {"weight": "_int8", "scales": "_int8_scale"}

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
class Range:
    """How an input becomes whole numbers.

    Args:
        scale: Size of one step.
        zero: The number that stands for 0.
    """

    scale: float
    zero: int


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
    names = sorted({product.taken for product in products})
    ranges = _ranges(model, names, feeds, run)
    true = _outputs(run, model, feeds, output)

    def moved(chosen: Sequence[Product]) -> tuple[float, float]:
        found = _outputs(run, _with(model, chosen, ranges), feeds, output)
        return float(np.abs(found - true).mean() / max(float(true.std()), 1e-12)), same(true, found)

    def far(chosen: Sequence[Product]) -> bool:
        distance, share = moved(chosen)
        return distance > LIMIT or share < LEAST_SAME

    kept = list(products)
    if far(kept):
        # Alone each moves the outputs by about its share of what all move them by.
        order = sorted(products, key=lambda product: moved([product])[0])
        while kept and far(kept):
            kept = order[: len(kept) - max(1, len(kept) // 8)]
    if not kept:
        what = "in 8 bits the outputs move too far, whichever products are computed so"
        expected = f"at most {LIMIT:.0%} of their standard deviation, and {LEAST_SAME:.0%} of the rows answered alike"
        raise UsageError(Problem(what=what, expected=expected, fix="export it with format.precision=fp32"))
    return _with(model, kept, ranges), len(products) - len(kept)


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


def _ranges(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Array]], run: Run) -> dict[str, Range]:
    """Return how each input becomes whole numbers, from what calibration rows make of it."""
    from onnx import TensorProto, helper

    looked_at = type(model)()
    looked_at.CopyFrom(model)
    given = {value.name for value in model.graph.input}
    known = {value.name for value in model.graph.output}
    asked = [name for name in names if name not in given]
    extra = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in asked if name not in known]
    looked_at.graph.output.extend(extra)
    seen: dict[str, list[FloatArray]] = {name: [_some(feed[name]) for feed in feeds] for name in names if name in given}
    for arrays in run(looked_at.SerializeToString(), feeds, asked) if asked else []:
        for name, values in zip(asked, arrays, strict=True):
            seen.setdefault(name, []).append(_some(values))
    return {name: _range(np.concatenate(parts)) for name, parts in seen.items()}


def _some(values: Array) -> FloatArray:
    """Return some of many values, evenly spread, the smallest and the largest among them."""
    flat = values.reshape(-1)
    spread = flat[:: max(1, flat.size // _VALUES_KEPT)]
    return np.concatenate([spread, [flat.min(), flat.max()]]).astype(np.float32)


def _range(values: FloatArray) -> Range:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high <= low:
        return Range(1.0, 0)
    tried = [_between(share * low, share * high) for share in _SHARES]
    return min(tried, key=lambda found: _lost(values, found))


def _between(low: float, high: float) -> Range:
    scale = max((high - low) / _STEPS, 1e-12)
    return Range(float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, _STEPS)))


def _lost(values: FloatArray, found: Range) -> float:
    """Return the mean square of what rounding and clipping change."""
    numbers = np.clip(np.rint(values / found.scale) + found.zero, 0, _STEPS)
    return float(np.square((numbers - found.zero) * found.scale - values).mean())


def weight_in_8_bits(weight_KN: FloatArray) -> tuple[Array, FloatArray]:
    """Return a weight as whole numbers of 7 bits, int8 (K, N), and the scale of each column (N,).

    Example:
        >>> numbers, scales = weight_in_8_bits(np.array([[0.5, 2.0], [-1.0, 0.0]], np.float32))
        >>> numbers.tolist()
        [[32, 63], [-63, 0]]
    """
    scales_N = (np.maximum(np.abs(weight_KN).max(axis=0), 1e-12) / _MOST_WEIGHT).astype(np.float32)
    numbers_KN = np.clip(np.rint(weight_KN / scales_N), -_MOST_WEIGHT, _MOST_WEIGHT).astype(np.int8)
    return numbers_KN, scales_N


def _with(model: onnx.ModelProto, products: Sequence[Product], ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the model with these products in 8 bits."""
    from onnx import helper, numpy_helper

    made = type(model)()
    made.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    instead: dict[int, list[onnx.NodeProto]] = {}
    constants: dict[str, Array] = {}
    rounded: set[str] = set()
    for product in products:
        taken, weight = product.taken, product.weight
        numbers, scales = weight_in_8_bits(numpy_helper.to_array(weights[weight]))
        constants |= {weight + _SUFFIXES["weight"]: numbers, weight + _SUFFIXES["scales"]: scales}
        constants |= {weight + "_int8_zero": np.zeros(len(scales), np.int8)}
        found = ranges[taken]
        constants |= {taken + "_scale": np.array(found.scale, np.float32), taken + "_zero": np.array(found.zero, np.uint8)}
        nodes = []
        if taken not in rounded:
            nodes.append(helper.make_node("QuantizeLinear", [taken, taken + "_scale", taken + "_zero"], [taken + "_uint8"]))
            rounded.add(taken)
        ends = [taken + "_uint8", weight + _SUFFIXES["weight"], taken + "_scale", weight + _SUFFIXES["scales"]]
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
    """Return the weights in 8 bits that are no weight of the source, rounded, each with its distance from the nearest.

    Args:
        found: Name and values of every tensor in the file.
        expected: Name -> values of every tensor of the source that the graph uses.
    """
    tensors = dict(found)
    wanted = [layout for array in expected.values() if array.ndim == 2 for layout in (array, array.T)]
    faults = []
    for name, numbers in tensors.items():
        if not name.endswith(_SUFFIXES["weight"]) or numbers.ndim != 2:
            continue
        scales_N = tensors[name.removesuffix(_SUFFIXES["weight"]) + _SUFFIXES["scales"]]
        values_KN = numbers.astype(np.float32) * scales_N
        near = [_steps_apart(values_KN, layout, scales_N) for layout in wanted if layout.shape == values_KN.shape]
        distance = min(near, default=float("inf"))
        if distance > 0.5 + 1e-3:
            faults.append((name.removesuffix(_SUFFIXES["weight"]), distance))
    return faults


def _steps_apart(values_KN: FloatArray, other_KN: Array, scales_N: FloatArray) -> float:
    return float((np.abs(values_KN - other_KN) / scales_N).max(initial=0.0))


def is_reduced(operators: Sequence[tuple[str, str]] | frozenset[tuple[str, str]]) -> bool:
    """Return whether a model with these (domain, name) computes products in 8 bits."""
    return (CONTRIB, PRODUCT) in operators


__all__ = [
    "CONTRIB",
    "LEAST_SAME",
    "LIMIT",
    "PRODUCT",
    "Product",
    "Range",
    "is_reduced",
    "products_of",
    "reduced",
    "reduced_faults",
]
