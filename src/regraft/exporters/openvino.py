"""OpenVINO's own files (`network/model.xml`, `network/model.bin`): answers on a CPU without torch.

Weights are kept in float32: OpenVINO's default halves them, and its runtime computes in bfloat16 where the processor can.
Either moves answers further than an export may.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.artifact.openvino_file import read_openvino
from regraft.errors import Problem, UsageError
from regraft.exporters.exporter import NETWORK_FOLDER, Exporter, Source, Written
from regraft.exporters.onnx import OnnxOptions, graph_facts, write_onnx
from regraft.exporters.openvino_session import open_openvino, version
from regraft.exporters.trials import shape_faults
from regraft.exporters.weights import weight_faults
from regraft.options import options
from regraft.registry import missing_extra

if TYPE_CHECKING:
    import openvino

    from regraft.exporters.graph import Graph

FORM = "openvino"
MODEL_FILE = "model.xml"
_COUNTED = re.compile(r"\w+_\d+")
_OPERATORS = re.compile(r"operations: ([\w., -]+)")


@options
class OpenvinoOptions:
    """Nothing can be chosen: the graph is written in float32, for any number of rows and positions."""


class OpenvinoExporter(Exporter):
    """Write the network as OpenVINO's own files."""

    Options = OpenvinoOptions
    name = "openvino"

    def problems(self, source: Source) -> list[Problem]:
        """Return which packages are missing."""
        missing: list[Problem] = []
        for package, extra in (("onnx", "export"), ("onnxscript", "export"), ("openvino", "openvino")):
            try:
                __import__(package)
            except ModuleNotFoundError as error:
                missing += missing_extra(error, f"'{self.name}' (exporters)", extra).problems
        return missing

    def write(self, source: Source, folder: Path) -> Written:
        """Write `network/model.xml` and `network/model.bin`.

        Raises:
            UsageError: The network has an operator that OpenVINO does not know, or cannot be captured as a graph.
        """
        import openvino

        from regraft.exporters.graph import graph_of
        from regraft.exporters.openvino_modules import in_other_words

        inside = folder / NETWORK_FOLDER
        inside.mkdir()
        graph = graph_of(source, in_other_words)
        openvino.save_model(converted(graph, source), inside / MODEL_FILE, compress_to_fp16=False)
        facts = {**graph_facts(graph, f"{NETWORK_FOLDER}/{MODEL_FILE}"), "openvino": version()}
        return Written(form=FORM, runtimes=(FORM,), facts=facts)

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights that are not the source's, and shapes that are answered otherwise."""
        from regraft.exporters.graph import arrays_of, graph_of, token_tables
        from regraft.exporters.openvino_modules import in_other_words

        path = folder / NETWORK_FOLDER / MODEL_FILE
        files = (path, path.with_suffix(".bin"))
        graph = graph_of(source, in_other_words)
        expected = {name: tensor.detach().numpy() for name, tensor in graph.state_dict().items()}
        if problems := weight_faults(expected, list(read_openvino(*files).arrays()), files[1], token_tables(graph)):
            return problems
        session = open_openvino(files, 1)
        return shape_faults(source, path, lambda batch: session.run(arrays_of(batch)))


def converted(graph: Graph, source: Source) -> openvino.Model:
    """Return a graph as OpenVINO's own.

    Raises:
        UsageError: It has an operator that OpenVINO does not know, or cannot be captured.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="regraft-openvino-") as name:
        path = Path(name) / "model.onnx"
        write_onnx(graph, source, path, OnnxOptions())
        try:
            model = openvino.convert_model(path)
        except Exception as error:  # each stage of the conversion fails in its own way
            raise UsageError(_not_converted(str(error))) from error
    return _named(model)


def _named(model: openvino.Model) -> openvino.Model:
    """Give names that count on through a whole process names that the network alone decides."""
    model.set_friendly_name("network")
    for place, node in enumerate(model.get_ordered_ops()):
        if _COUNTED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    return model


def _not_converted(said: str) -> Problem:
    unknown = _OPERATORS.search(said)
    return Problem(
        what="OpenVINO cannot convert this network" + (f": it does not know {unknown.group(1).strip()}" if unknown else ""),
        got=" ".join(said.split())[:500],
        fix="export it in another format, for example --format onnx or --format torch",
    )
