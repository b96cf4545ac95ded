"""A headed network as one graph with named inputs: what formats that hold a graph are made from.

    input_ids (B, T), ..., attention_mask (B, T)  ->  logits (B, ...)
    pixel_values (B, C, H, W)                     ->  logits (B, ...)

Rows come padded on the right, with any number of rows and positions. Everything between the arrays of the preprocessing and the
raw output of the head is inside (pooling, and whatever else belongs to the network); what is left outside, the names of the
labels and the share of each, stays with the task. The network that is exported shares every weight with its source and changes
nothing of it.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from regraft.exporters.fold import folded
from regraft.modalities.fusion import Fusion, Joined
from regraft.models.backbones import BATCH, LENGTH, Shapes
from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed
from regraft.models.view import view
from regraft.types import Array, Batch, Encoded, FloatArray

if TYPE_CHECKING:
    from regraft.exporters.exporter import Source
    from regraft.modalities import Modality

MASK = "attention_mask"
OUTPUT = "logits"
_PLAIN_ATTENTION = "eager"
_TOKENS = "input_ids"
_LONGEST_TRIED = 512
_SIGNAL = np.linspace(0.05, 0.95, 12).reshape(3, 4)

Replacement = Callable[[nn.Module], nn.Module | None]
"""Gives what stands in the place of a module in the graph, or nothing where it stays."""


class Graph(nn.Module):
    """A headed network whose inputs are arguments, by name and in order, the mask last.

    Args:
        net: The network, in padded form.
        inputs: Names of the arrays of a batch that it reads.
    """

    def __init__(self, net: Headed, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.net = net
        self.inputs = inputs
        self.masked = net.backbone.architecture.masked

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arguments, in order."""
        return (*self.inputs, MASK) if self.masked else self.inputs

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """For each argument its axes of any length, and what they are called."""
        found: dict[str, dict[int, str]] = {name: self.net.backbone.axes(name) for name in self.inputs}
        return {**found, MASK: {0: BATCH, 1: LENGTH}} if self.masked else found

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the raw output of the head (B, ...).

        Args:
            *values: The arrays of a batch, and the mask (B, T), 1 where a position is real, 0 elsewhere, if it takes one.
        """
        *arrays, mask_BT = values if self.masked else (*values, values[0].new_ones((values[0].shape[0], 1)))
        output: torch.Tensor = self.net(dict(zip(self.inputs, arrays, strict=True)), mask_BT.bool())
        return output

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """Return a batch as arrays by the names of the arguments."""
        arrays = arrays_of(batch)
        return {name: arrays[name] for name in self.names}

    def arguments(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return a batch as arguments."""
        return tuple(map(torch.from_numpy, self.feeds(batch).values()))

    def dynamic_shapes(self) -> dict[str, dict[int, str]]:
        """Return for each argument its axes of any length, by name."""
        return self.axes


def arrays_of(batch: Batch) -> dict[str, Array]:
    """Return the arrays of a batch by the names of a graph's arguments; the mask as int64, as tools of the hub give it."""
    return {**batch.inputs, MASK: batch.mask_BT.astype(np.int64)}


def token_tables(graph: Graph) -> set[str]:
    """Return the names of the tables that a row of data touches only a part of."""
    bodies = [part.body for part in _parts(graph.net) if _TOKENS in part.architecture.inputs]
    tables = {id(body.get_input_embeddings().weight) for body in bodies}
    return {name for name, tensor in graph.named_parameters(remove_duplicate=False) if id(tensor) in tables}


def _parts(net: Headed) -> list[Any]:
    """Return the backbones of a network: one, or one a part."""
    backbone: Any = net.backbone
    return getattr(backbone, "backbones", [backbone])


def graph_of(source: Source, replacement: Replacement = lambda module: None) -> Graph:
    """Return the network of an artifact as one graph, in evaluation mode.

    Args:
        source: The artifact, opened.
        replacement: Called with every module.
    """
    net = _padded(source.network())
    found = {path: made for path, module in net.named_modules() if (made := replacement(module)) is not None}
    found |= folded(net, example_batch(source.modality))
    wanted = set(net.backbone.architecture.inputs)
    inputs = tuple(name for name in source.modality.padding if name in wanted)
    return _named(Graph(view(net, found) if found else net, inputs)).eval()


def _padded(net: Headed) -> Headed:
    """Return a network that computes padded rows in plain steps and shares its weights with the one given.

    Those that lie in memory in another order than their axes (channels last) it has of its own: torch's writer of programs
    takes them for slices of something larger.
    """
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers()) if tensor.is_contiguous()}
    twin: Headed = copy.deepcopy(net, shared)  # a memo holds the objects that are not copied
    for parameter in twin.parameters():
        parameter.data = parameter.data.contiguous()
    twin.backbone.shapes = Shapes("padded")
    for body in (part.body for part in _parts(twin)):
        if body.config._attn_implementation != _PLAIN_ATTENTION:
            # Fused attention lays its result out otherwise than the plain steps that a graph is made of.
            body.set_attn_implementation(_PLAIN_ATTENTION)
    return twin


def _named(graph: Graph) -> Graph:
    """Give the graph's `forward` arguments with names; tools that capture it take them as the names of its inputs."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *graph.names)])

    def forward(self: Graph, *values: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return Graph.forward(self, *values, *(named[name] for name in self.names[len(values) :]))

    forward.__signature__ = signature  # type: ignore[attr-defined]
    graph.__class__ = type("Graph", (Graph,), {"forward": forward})
    return graph


def example_batch(modality: Modality) -> Batch:
    """Return a few rows of a modality's own example: what a graph is captured with."""
    if isinstance(modality, Fusion):
        return Batch(*modality.collate(_rows(modality)))
    inputs, mask_BT = _example(modality)
    return Batch(inputs=modality.ready(inputs), mask_BT=mask_BT)


def _rows(modality: Modality) -> list[Encoded]:
    raws = [raw for raw in modality.made_up(_SIGNAL, 0) if not modality.problem(raw)]
    return modality.encode(raws, spans=False)


def _example(modality: Modality) -> tuple[dict[str, Array], Array]:
    return modality.pad(_rows(modality))


def trial_batches(modality: Modality) -> Iterator[tuple[str, Batch]]:
    """Yield batches of extreme shapes, each with what it is: one position, one row, very uneven rows, the longest row."""
    if isinstance(modality, Fusion):
        yield from _trials_of_parts(modality)
        return
    longest = min(modality.longest or _LONGEST_TRIED, _LONGEST_TRIED)
    for rows, lengths in ((1, (1,)), (1, (2,)), (5, (1, 2, 3, 3, 7)), (2, (longest, 1)), (1, (longest,))):
        yield f"{rows} x {max(lengths)}", _of_lengths(modality, [min(length, longest) for length in lengths])


def _trials_of_parts(modality: Fusion) -> Iterator[tuple[str, Batch]]:
    """Yield batches in which the parts have extreme shapes at once, and batches in which rows lack a part, or all rows do."""
    trials = [list(trial_batches(part.modality)) for part in modality.parts]
    for one in zip(*trials, strict=True):
        made = [(dict(batch.inputs), batch.mask_BT) for _, batch in one]
        yield " and ".join(told for told, _ in one), Batch(*modality.together(made))
    for place, part in enumerate(modality.parts):
        for told, lacking in (("some", (True, False, True)), ("all", (True, True, True))):
            encoded = _rows(modality)
            rows = [row if not out else _without(row, place) for row, out in zip(encoded, lacking, strict=True)]
            yield f"3 rows, {told} without '{part.name}',", Batch(*modality.collate(rows))


def _without(row: Encoded, place: int) -> Encoded:
    """Return a row that lacks one of its parts."""
    if not isinstance(row, Joined):
        raise TypeError("only a row of several parts can lack one")
    parts = tuple(None if number == place else part for number, part in enumerate(row.parts))
    return dataclasses.replace(row, parts=parts)


def _of_lengths(modality: Modality, lengths: list[int]) -> Batch:
    """Return rows of these lengths, made of the positions of an example, repeated."""
    example, example_mask_BT = _example(modality)
    width, padding = max(lengths), modality.padding
    mask_BT = np.arange(width) < np.array(lengths)[:, None]
    real = {name: array[example_mask_BT] for name, array in example.items()}
    inputs = {}
    for name, values in real.items():
        places = np.arange(len(lengths))[:, None] * 5 + np.arange(width)
        array = values[places % len(values)].copy()
        array[~mask_BT] = padding[name]
        inputs[name] = array
    return Batch(inputs=modality.ready(inputs), mask_BT=mask_BT)


def answers_of(net: Headed, batch: Batch) -> FloatArray:
    """Return what the source's own network makes of a batch, as it computes it everywhere else."""
    with without_gradients(net):
        values: FloatArray = net(*net.tensors(batch)).float().cpu().numpy()
    return values
