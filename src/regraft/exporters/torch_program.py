"""A program of torch.export (`network/model.pt2`): needs torch to answer, but neither transformers nor the network's code.

The format itself can hold pickles; what is written here holds none: the rows that the graph was captured with are left out,
and weights are raw. `regraft.artifact.pt2_file` reads it without running anything of it; so does `torch.export.load`, with less
care.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.artifact.pt2_file import read_pt2, unknown_operators
from regraft.errors import Problem, UsageError
from regraft.exporters.exporter import NETWORK_FOLDER, Exporter, Source, Written
from regraft.exporters.onnx import graph_facts
from regraft.exporters.program_machine import Machine
from regraft.exporters.trials import shape_faults
from regraft.exporters.weights import weight_faults
from regraft.options import options

if TYPE_CHECKING:
    import torch

    from regraft.exporters.graph import Graph

FORM = "torch-program"
MODEL_FILE = "model.pt2"
_TOLD = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""What torch notes beside each step: where in whose files it came from, on the machine that exported."""


@options
class TorchOptions:
    """Nothing can be chosen: the graph is captured as it is, in float32, for any number of rows and positions."""


class TorchExporter(Exporter):
    """Write the network as a program of torch.export."""

    Options = TorchOptions
    name = "torch"

    def write(self, source: Source, folder: Path) -> Written:
        """Capture the network and write it."""
        import torch

        from regraft.exporters.graph import example_batch, graph_of
        from regraft.exporters.recurrence_call import as_call

        graph = graph_of(source, as_call)
        program = captured(graph, graph.arguments(example_batch(source.modality)), self.name)
        inside = folder / NETWORK_FOLDER
        inside.mkdir()
        torch.export.save(bare(program), inside / MODEL_FILE)
        if unknown := unknown_operators(inside / MODEL_FILE):
            raise UsageError([_unknown(name) for name in unknown])
        facts = {**graph_facts(graph, f"{NETWORK_FOLDER}/{MODEL_FILE}"), "torch": str(torch.__version__)}
        return Written(form=FORM, runtimes=(FORM,), facts=facts)

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights that are not the source's, and shapes that are answered otherwise."""
        from regraft.exporters.graph import graph_of, token_tables
        from regraft.exporters.recurrence_call import as_call

        path = folder / NETWORK_FOLDER / MODEL_FILE
        program = read_pt2(path)
        graph = graph_of(source, as_call)
        expected = {name: tensor.detach().numpy() for name, tensor in graph.state_dict().items()}
        found = [(weight.name, weight.value) for weight in program.weights.values()]
        if problems := weight_faults(expected, found, path, token_tables(graph)):
            return problems
        machine = Machine(program)
        return shape_faults(source, path, lambda batch: machine.run(graph.feeds(batch)))


def captured(
    graph: Graph, example: tuple[torch.Tensor, ...], exporter: str, shapes: Any = None
) -> torch.export.ExportedProgram:
    """Return a network as a program.

    Args:
        graph: The network.
        example: Its arguments for a few rows.
        exporter: Registered name, for messages.
        shapes: For each argument its axes of any length; any number of rows and positions if not given.

    Raises:
        UsageError: torch cannot capture it.
    """
    import torch

    from regraft.exporters.recurrence_call import with_own_operators

    axis = torch.export.Dim.DYNAMIC
    any_shape = {name: dict.fromkeys(graph.axes[name], axis) for name in graph.names}
    try:
        with torch.no_grad():
            program = torch.export.export(
                graph, (), dict(zip(graph.names, example, strict=True)), dynamic_shapes=shapes or any_shape
            )
    except Exception as error:  # each stage of the capture fails in its own way
        problem = Problem(
            what=f"the network cannot be exported as '{exporter}': torch.export does not capture it",
            got=f"{type(error).__name__}: {error}"[:500],
            fix="export it in another format, for example --format onnx",
        )
        raise UsageError(problem) from error
    return with_own_operators(program)


def bare(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program without the rows it was captured with, which would be a pickle, and without paths of this machine."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", program.graph).nodes:
            for key in _TOLD:
                node.meta.pop(key, None)
    return program


def _unknown(operator: str) -> Problem:
    return Problem(
        what=f"the network uses the operator '{operator}', which the runtime 'torch-program' does not know",
        fix="export it in another format, for example --format onnx",
    )
