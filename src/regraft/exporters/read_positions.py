"""Leave out of a captured network what is computed for positions that nobody reads.

A pooling that takes one position (the first, the last real one) reads one vector of the last layer: its queries, its output
projection and its feed-forward part are needed there alone, its keys and values everywhere. The arithmetic of what is left is
the same, step by step. With 6 layers this is about a seventh of the whole network.

What each step needs of the one before is found from the end: a whole tensor, or one position of one of its axes. A step that is
not known here needs the whole of what it reads, and nothing is left out before it.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from regraft.models.pooling import AttentionPooling, MeanPooling
from regraft.models.pooling_layers import LayerWeightedPooling

if TYPE_CHECKING:
    from regraft.exporters.graph import Graph

Whole = None
"""A demand for a whole tensor; a demand for one position is the number of the axis."""
Demand = int | None

_READS_ALL = (MeanPooling, AttentionPooling, LayerWeightedPooling)
"""Poolings that need no look: every position counts."""
_VIEWS = ("view", "reshape", "_unsafe_view")
_POINTWISE = frozenset(
    {"add", "sub", "mul", "div", "neg", "pow", "rsqrt", "sqrt", "erf", "exp", "minimum", "maximum", "clamp"}
    | {"tanh", "relu", "gelu", "silu", "sigmoid", "dropout", "masked_fill", "where"}
    | {"to", "_to_copy", "type_as", "float", "contiguous", "clone", "alias", "detach"}
)
_JOIN = "cat"
_SPREAD = _POINTWISE | {_JOIN}


@dataclass(frozen=True)
class _Reader:
    """Where one position of a tensor (B, T, ...) is taken.

    Args:
        node: The step that takes it, gather(source, 1, index).
        source: What it is taken from.
        position: The number of the position in each row (B,).
    """

    node: fx.Node
    source: fx.Node
    position: fx.Node


def smallest(graph: Graph, arguments: tuple[torch.Tensor, ...]) -> nn.Module:
    """Return a network that gives the same output and computes only what is read; the graph itself where that is everything.

    Args:
        graph: A headed network with named arguments.
        arguments: Its arguments for a few rows.
    """
    if isinstance(graph.net.backbone.pooling, _READS_ALL) or not graph.masked:
        return graph
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(graph, arguments, dynamic_shapes=dict.fromkeys(graph.names, free))
    captured = program.module()
    made = without_unread_positions(captured) if isinstance(captured, fx.GraphModule) else captured
    return graph if made is captured else made.train(False)


def without_unread_positions(captured: fx.GraphModule) -> fx.GraphModule:
    """Return a network that computes the same output from what is read; the same object where nothing can be left out.

    Args:
        captured: What `torch.export.export(...).module()` gives.
    """
    reader = next((found for node in captured.graph.nodes if (found := _reader(node))), None)
    if reader is None:
        return captured
    sizes = _Sizes(captured.graph)
    demands = _demands(captured.graph, reader, sizes)
    if _one_position(reader.source, demands[reader.source], sizes) is None:
        return captured
    return fx.GraphModule(captured, _Rebuilding(captured.graph, reader, demands, sizes).run())


def _name(node: fx.Node) -> str:
    """Return the name of a step's operator ("linear"), or nothing where it is not one of torch's."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.removeprefix("aten::") if schema is not None and schema.name.startswith("aten::") else ""


def _reader(node: fx.Node) -> _Reader | None:
    """Return what a pooling takes, where a step is gather(x, 1, position.view(-1, 1, 1).expand(...)) as it writes it."""
    if _name(node) != "gather" or node.args[1] != 1:
        return None
    source, _, index = node.args
    if not isinstance(index, fx.Node) or _name(index) != "expand":
        return None
    viewed = index.args[0]
    if not isinstance(viewed, fx.Node) or _name(viewed) != "view" or list(viewed.args[1]) != [-1, 1, 1]:  # type: ignore[arg-type]
        return None
    position = viewed.args[0]
    return _Reader(node, source, position) if isinstance(source, fx.Node) and isinstance(position, fx.Node) else None


class _Sizes:
    """Sizes of the tensors of a captured network, B and T told apart from numbers.

    Args:
        graph: Whose inputs all have the sizes (B, T, ...).
    """

    def __init__(self, graph: fx.Graph) -> None:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.input = inputs[-1]
        # Each input may call its own sizes by names of their own: they are fed with the same rows.
        self.rows, self.positions = ({self._named(node)[axis] for node in inputs} for axis in (0, 1))

    def _named(self, node: fx.Node) -> tuple[Any, ...]:
        value = node.meta.get("val")
        return tuple(str(size) if not isinstance(size, int) else size for size in getattr(value, "shape", ()))

    def of(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the sizes of a tensor: numbers, "B", "T", and names for others that vary."""
        return tuple("B" if size in self.rows else "T" if size in self.positions else size for size in self._named(node))

    def free_axis(self, node: fx.Node) -> int | None:
        """Return 0 or 1 where a step does nothing but ask for B or T, else nothing."""
        if _name(node) != "sym_size":
            return None
        size = str(node.meta.get("val"))
        return 0 if size in self.rows else 1 if size in self.positions else None

    def holds(self, node: fx.Node, axis: int, rank: int) -> bool:
        """Return whether a tensor of this rank has the rows first and the positions at an axis."""
        sizes = self.of(node)
        return len(sizes) == rank and 0 < axis < rank and sizes[0] == "B" and sizes[axis] == "T"


def _demands(graph: fx.Graph, reader: _Reader, sizes: _Sizes) -> dict[fx.Node, set[Demand]]:
    """Return for every step what is needed of it."""
    demands: dict[fx.Node, set[Demand]] = defaultdict(set)
    for node in reversed(graph.nodes):
        if node.op == "output":
            demands[node] = {Whole}
        wanted = demands[node]
        if not wanted or sizes.free_axis(node) is not None:
            continue
        if node is reader.node:
            demands[reader.source].add(1)
            demands[reader.position].add(Whole)
            continue
        needs = _one_position(node, wanted, sizes)
        for input_ in node.all_input_nodes:
            demands[input_].add(Whole if needs is None else needs.get(input_))
    return demands


def _one_position(node: fx.Node, wanted: set[Demand], sizes: _Sizes) -> dict[fx.Node, int] | None:
    """Return what a step needs of its inputs where one position of it is enough and can be computed alone, else nothing."""
    if len(wanted) != 1:
        return None
    (axis,) = wanted
    return None if axis is Whole else _rule(node, axis, sizes)


def _rule(node: fx.Node, axis: int, sizes: _Sizes) -> dict[fx.Node, int] | None:
    """Return what one position of a step's output needs: input -> axis of the position, or the whole of it."""
    rank = len(sizes.of(node))
    name = _name(node)
    if not sizes.holds(node, axis, rank) or not node.args:
        return None
    if name in _POINTWISE or (name == _JOIN and _along(node, axis, rank, sizes) is not None):
        return {other: axis for other in node.all_input_nodes if sizes.holds(other, axis, rank)}
    rule = _RULES.get(name)
    source = node.args[0]
    if rule is None or not isinstance(source, fx.Node):
        return None
    inner = rule(node, axis, rank, sizes)
    return None if inner is None or not sizes.holds(source, inner, len(sizes.of(source))) else {source: inner}


def _axis(number: Any, rank: int) -> int:
    return int(number) % rank


def _along(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    """A step along other axes (softmax, slice): their number is its second argument."""
    along = node.args[1] if len(node.args) > 1 else 0
    axes = along if isinstance(along, list | tuple) else [along]
    return axis if all(_axis(one, rank) != axis for one in axes) else None


def _averaged(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    """A mean along other axes, which must still be there after it."""
    keeps = (len(node.args) > 2 and bool(node.args[2])) or bool(node.kwargs.get("keepdim"))
    return _along(node, axis, rank, sizes) if keeps else None


def _linear(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    return axis if axis < rank - 1 else None


def _normalised(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    shape: Any = node.args[1]
    return axis if axis < rank - len(shape) else None


def _matrix_product(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    """A row of a product needs that row of its first factor, and all of the second."""
    return axis if axis == rank - 2 and node.args[0] is not node.args[1] else None


def _transposed(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    first, second = (_axis(number, rank) for number in node.args[1:3])
    return {first: second, second: first}.get(axis, axis)


def _permuted(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    order: Any = node.args[1]
    return _axis(order[axis], rank)


def _viewed(node: fx.Node, axis: int, rank: int, sizes: _Sizes) -> int | None:
    """Another shape behind the axis of positions; what stands before it stays."""
    source: Any = node.args[0]
    return axis if sizes.of(source)[: axis + 1] == sizes.of(node)[: axis + 1] else None


_RULES: dict[str, Callable[[fx.Node, int, int, _Sizes], int | None]] = {
    "linear": _linear,
    "layer_norm": _normalised,
    "rms_norm": _normalised,
    "matmul": _matrix_product,
    "softmax": _along,
    "_softmax": _along,
    "mean": _averaged,
    "slice": _along,
    "transpose": _transposed,
    "permute": _permuted,
    **dict.fromkeys(_VIEWS, _viewed),
}


def at_position(values: torch.Tensor, position_B: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """Return one position of an axis, for each row its own, the axis kept.

    Args:
        values: Of at most `rank` axes, rows first; axes that are missing in front, and a single row, stand for all rows.
        position_B: The number of the position in each row (B,).
        axis: Of the positions, counted with all `rank` axes.
        rank: Axes of the result.
    """
    full = values[(None,) * (rank - values.dim())]
    full = full.expand(position_B.shape[0], *full.shape[1:])
    shape = [size if place != axis else 1 for place, size in enumerate(full.shape)]
    return full.gather(axis, position_B.view(-1, *[1] * (rank - 1)).expand(shape))


class _Rebuilding:
    """Write a graph again with every step computed as far as it is needed.

    Args:
        graph: As it was captured.
        reader: Where one position is taken.
        demands: What is needed of every step.
        sizes: Of its tensors.
    """

    def __init__(self, graph: fx.Graph, reader: _Reader, demands: dict[fx.Node, set[Demand]], sizes: _Sizes) -> None:
        self.graph, self.reader, self.demands, self.sizes = graph, reader, demands, sizes
        self.made = fx.Graph()
        self.made.set_codegen(graph._codegen)  # arguments and results go in and out by the same names
        self.whole: dict[fx.Node, fx.Node] = {}
        self.parts: dict[fx.Node, fx.Node] = {}

    def run(self) -> fx.Graph:
        """Return the new graph."""
        first = _ancestors(self.reader.position)  # which position is read must be known before anything is taken there
        nodes = [node for node in self.graph.nodes if node.op == "placeholder"]
        nodes += [node for node in self.graph.nodes if node in first and node.op != "placeholder"]
        nodes += [node for node in self.graph.nodes if node not in first and node.op != "placeholder"]
        for node in nodes:
            if self.demands[node] or node.op == "placeholder":
                self._write(node)
        return self.made

    def _write(self, node: fx.Node) -> None:
        source, axis = self.reader.source, self.sizes.free_axis(node)
        if node is self.reader.node:
            rank = len(self.sizes.of(source))
            self.whole[node] = self.parts[source] if source in self.parts else self._taken(source, 1, rank)
        elif axis is not None:
            self.whole[node] = self.made.call_function(torch.ops.aten.sym_size.int, (self.whole[self.sizes.input], axis))
        elif (needs := _one_position(node, self.demands[node], self.sizes)) is None:
            self.whole[node] = _any_strides(self.made.node_copy(node, self.whole.__getitem__))
        else:
            self.parts[node] = self._at_one_position(node, needs)

    def _at_one_position(self, node: fx.Node, needs: dict[fx.Node, int]) -> fx.Node:
        (axis,) = self.demands[node]
        rank = len(self.sizes.of(node))
        spread = _name(node) in _SPREAD

        def input_of(other: fx.Node) -> fx.Node:
            if other in needs:
                known = self.parts.get(other)
                return known if known is not None else self._taken(other, needs[other], len(self.sizes.of(other)))
            sizes = self.sizes.of(other)
            place = int(axis or 0) - (rank - len(sizes))
            if spread and place >= 0 and sizes[place] == "T":
                return self._taken(other, int(axis or 0), rank)
            return self.whole[other]

        made = self.made.node_copy(node, input_of)
        if _name(node) in _VIEWS:
            shape: Any = made.args[1]
            made.args = (made.args[0], [1 if place == axis else size for place, size in enumerate(shape)])
        return _any_strides(made)

    def _taken(self, node: fx.Node, axis: int, rank: int) -> fx.Node:
        return self.made.call_function(at_position, (self.whole[node], self.whole[self.reader.position], axis, rank))


def _any_strides(node: fx.Node) -> fx.Node:
    """Return a step whose result has another shape, however its input lies in memory: that may be otherwise now."""
    if node.target is torch.ops.aten.view.default:
        node.target = torch.ops.aten.reshape.default
    return node


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.all_input_nodes
    return found
