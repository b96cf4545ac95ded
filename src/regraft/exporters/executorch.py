"""ExecuTorch (`network/model.pte`): a program for phones and small devices, matrix products in float32 by XNNPACK.

Memory is planned when it is written, so that the largest number of rows and positions is part of it.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from regraft.errors import Problem, UsageError
from regraft.exporters.executorch_session import ExecutorchSession, version
from regraft.exporters.exporter import NETWORK_FOLDER, Exporter, Source, Written
from regraft.exporters.onnx import graph_facts
from regraft.exporters.torch_program import bare, captured
from regraft.exporters.trials import shape_faults
from regraft.models.unasked import let_in
from regraft.options import options
from regraft.registry import missing_extra
from regraft.types import Array

if TYPE_CHECKING:
    import torch

    from regraft.exporters.graph import Graph

FORM = "executorch"
MODEL_FILE = "model.pte"
_OTHER_FORMATS = "export it in another format, for example --format onnx, openvino or torch"


@options
class ExecutorchOptions:
    """How much a program takes at once."""

    rows: Annotated[int, Field(ge=2, le=1024)] = 8
    """Most rows of a batch; longer ones are computed in parts. Memory for so many rows of the greatest length is planned."""


class ExecutorchExporter(Exporter):
    """One program of ExecuTorch, for phones and small devices."""

    Options = ExecutorchOptions
    name = "executorch"

    def problems(self, source: Source) -> list[Problem]:
        """Return what is missing, and what of the network ExecuTorch cannot compute for rows of any length."""
        from torch import nn

        try:
            with _quiet():
                import executorch.exir  # noqa: F401 - says early which package is missing
        except ModuleNotFoundError as error:
            return list(missing_extra(error, f"'{self.name}' (exporters)", "executorch").problems)
        where, problems = str(source.artifact.path), []
        if source.modality.part_names:
            what = "a program of ExecuTorch takes rows of one length, and the parts of these rows have lengths of their own"
            got = f"the parts {', '.join(source.modality.part_names)}"
            problems.append(Problem(what=what, where=where, got=got, expected="rows of one part", fix=_OTHER_FORMATS))
        elif source.modality.longest is None:
            what = "a program of ExecuTorch needs a greatest length of rows, and this artifact has none"
            fix = "fit it with --set modality.max_length=512, or " + _OTHER_FORMATS
            problems.append(Problem(what=what, where=where, got="no limit", expected="a limit", fix=fix))
        kinds = {type(module).__name__.lower() for module in source.network().modules() if isinstance(module, nn.RNNBase)}
        for kind in sorted(kinds):
            what = f"ExecuTorch computes the operator 'aten.{kind}' only for rows of one length"
            problems.append(Problem(what=what, where=where, got=f"a network with {kind.upper()} layers", fix=_OTHER_FORMATS))
        return problems

    def write(self, source: Source, folder: Path) -> Written:
        """Write `network/model.pte`.

        Raises:
            UsageError: The network has an operator that ExecuTorch does not know, or cannot be captured as a graph.
        """
        from regraft.exporters.graph import graph_of
        from regraft.exporters.openvino_modules import with_one_column

        graph = graph_of(source, with_one_column)
        inside = folder / NETWORK_FOLDER
        inside.mkdir()
        (inside / MODEL_FILE).write_bytes(_program(graph, source, self.options.rows))
        ends = graph_facts(graph, f"{NETWORK_FOLDER}/{MODEL_FILE}")
        facts = {**ends, "rows": self.options.rows, "positions": source.modality.longest, "executorch": version()}
        return Written(form=FORM, runtimes=(FORM,), facts=facts)

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights that are not the source's, and shapes that are answered otherwise."""
        from regraft.exporters.graph import graph_of
        from regraft.exporters.openvino_modules import with_one_column

        path = folder / NETWORK_FOLDER / MODEL_FILE
        graph = graph_of(source, with_one_column)
        expected = {name: tensor.detach().numpy() for name, tensor in graph.state_dict().items()}
        if problems := _absent(expected, path):
            return problems
        session = ExecutorchSession(path, graph.names, self.options.rows, 1)
        return shape_faults(source, path, lambda batch: session.run(graph.feeds(batch)))


def _program(graph: Graph, source: Source, rows: int) -> bytes:
    """Return a graph as a program.

    Raises:
        UsageError: It cannot be captured, or has an operator that ExecuTorch does not know.
    """
    import torch

    from regraft.exporters.graph import example_batch
    from regraft.models.backbones import BATCH

    called = {name for axes in graph.axes.values() for name in axes.values()}
    sizes = {name: torch.export.Dim(name, min=1, max=rows if name == BATCH else source.modality.longest) for name in called}
    shapes = {name: {axis: sizes[called] for axis, called in graph.axes[name].items()} for name in graph.names}
    example = graph.arguments(example_batch(source.modality))
    with _quiet():
        program = bare(captured(graph, example, ExecutorchExporter.name, shapes))
        try:
            return _lowered(program)
        except Exception as error:  # each stage of the lowering fails in its own way
            got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            what = "ExecuTorch cannot compute this network for rows of any length"
            raise UsageError(Problem(what=what, got=got, fix=_OTHER_FORMATS)) from error


def _lowered(program: torch.export.ExportedProgram) -> bytes:
    """Return a program with everything that XNNPACK takes given to it."""
    let_in()
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.gemm_configs import ConvolutionConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # XNNPACK's convolution over positions does not take both any number of rows and any number of positions.
    taken = [config for config in ALL_PARTITIONER_CONFIGS if config is not ConvolutionConfig]
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner(configs=taken)])
    return bytes(lowered.to_executorch().buffer)


def _absent(expected: Mapping[str, Array], path: Path) -> list[Problem]:
    """Return a problem for every weight whose bytes are nowhere in a file, in any order of its axes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        absent = [
            name
            for name, array in expected.items()
            if array.size and np.issubdtype(array.dtype, np.floating) and not _held(array, content)
        ]
    fix = "nothing was written; report this with the artifact's options"
    what = "the weight '{}' in the exported file is not the source's"
    return [
        Problem(what=what.format(name), where=str(path), got="no such numbers", expected="the same, bit for bit", fix=fix)
        for name in absent
    ]


def _held(array: Array, content: mmap.mmap) -> bool:
    orders = itertools.permutations(range(array.ndim))
    return any(content.find(np.ascontiguousarray(array.transpose(order)).tobytes()) >= 0 for order in orders)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ExecuTorch and what it imports from warning about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
