"""ONNX: one file with the whole network, head included, that ONNX Runtime, OpenVINO and most other tools compute.

    FOLDER/network/model.onnx     input_ids (batch, length), ..., attention_mask (batch, length) -> logits (batch, classes)

The shares of the labels are the softmax of the logits; names of labels stand in the file's metadata and in the manifest.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from regraft.artifact.onnx_file import STANDARD, onnx_problems, read_onnx
from regraft.errors import Problem, UsageError
from regraft.exporters.exporter import NETWORK_FOLDER, Exporter, Source, Written
from regraft.exporters.onnx_int8 import is_reduced, reduced, reduced_faults
from regraft.exporters.onnx_session import known_opset, open_session
from regraft.exporters.trials import shape_faults
from regraft.exporters.weights import weight_faults
from regraft.options import options
from regraft.registry import missing_extra
from regraft.types import Array, Batch, FloatArray

if TYPE_CHECKING:
    from regraft.exporters.graph import Graph
    from regraft.tasks.task import Part

MODEL_FILE = "model.onnx"
_OLDEST, _NEWEST = 18, 23
_CALIBRATION_ROWS = 128
_NEAR_IN_8_BITS = 0.25  # for rows that are nobody's, of the largest output of the user's: far from any weight that is wrong
_LARGEST_IN_ONE_FILE = 1_900_000_000  # a protocol buffer ends at 2 GB
_OPERATOR = re.compile(r"No ONNX function found for <(?:OpOverload\(op='|built-in function )([^'>]+)")


@options
class OnnxOptions:
    """How the ONNX file is written."""

    opset: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Version of the set of operators; an older one is understood by older runtimes."""

    precision: Literal["fp32", "int8"] = "fp32"
    """Numbers in products with weights: int8 takes a quarter of the room and less time, needs rows of yours to measure with
    (`--rows`), and may answer 1 of 100 rows otherwise."""

    external_data: bool = False
    """Write the weights into a file of their own beside the graph; above 2 GB that is always done."""


class OnnxExporter(Exporter):
    """One ONNX file with the whole network, for ONNX Runtime, OpenVINO and other tools."""

    Options: ClassVar[type[Any]] = OnnxOptions
    name: ClassVar[str] = "onnx"

    @property
    def calibration_rows(self) -> int:
        """How many rows the ranges of 8-bit numbers are taken from."""
        return _CALIBRATION_ROWS if self.options.precision == "int8" else 0

    def problems(self, source: Source) -> list[Problem]:
        """Return which packages are missing, or why the set of operators cannot be written or computed."""
        missing: list[Problem] = []
        for package, extra in (("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "runtime")):
            try:
                __import__(package)
            except ModuleNotFoundError as error:
                missing += missing_extra(error, f"'{self.name}' (exporters)", extra).problems
        return missing or self._opset_problems()

    def _opset_problems(self) -> list[Problem]:
        opset = self.options.opset
        unknown = known_opset(opset)
        if not _OLDEST <= opset <= _NEWEST:
            expected = f"{_OLDEST} to {_NEWEST}" + (f"; also {unknown.expected}" if unknown else "")
            what, fix = "this set of ONNX operators cannot be written", "leave out format.opset: 20 suits most runtimes"
            return [Problem(what=what, where="format.opset", got=str(opset), expected=expected, fix=fix)]
        if unknown:
            fix = "leave out format.opset, or pip install --upgrade onnxruntime"
            return [Problem(what=unknown.what, where="format.opset", got=unknown.got, expected=unknown.expected, fix=fix)]
        return []

    def write(self, source: Source, folder: Path) -> Written:
        """Write `network/model.onnx`.

        Raises:
            UsageError: The network has an operator that ONNX does not know, or cannot be captured as a graph.
        """
        inside = folder / NETWORK_FOLDER
        inside.mkdir()
        graph = graph_for_onnx(source)
        write_onnx(graph, source, inside / MODEL_FILE, self.options)
        facts = {"opset": self.options.opset, **graph_facts(graph, f"{NETWORK_FOLDER}/{MODEL_FILE}")}
        if source.task.several:
            facts["outputs"] = {part.name: _output_of(part) for part in source.task.parts}
        if self.options.precision == "int8":
            left = _in_8_bits(graph, source, inside / MODEL_FILE, external=self.options.external_data)
            note = f"{left} products with weights stay in float32: in 8 bits they move the answers most" if left else ""
            facts["precision"] = "int8"
            return Written(
                form="onnx", runtimes=("onnxruntime",), facts=facts, precision="reduced", notes=(note,) if note else ()
            )
        return Written(form="onnx", runtimes=("onnxruntime", "openvino"), facts=facts)

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights that are not the source's, and shapes that are answered otherwise."""
        from regraft.exporters.graph import token_tables

        path = folder / NETWORK_FOLDER / MODEL_FILE
        model = read_onnx(path)
        listed = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        if problems := onnx_problems(model, folder, listed):
            return problems
        graph = graph_for_onnx(source)
        expected = {name: tensor.detach().numpy() for name, tensor in graph.state_dict().items()}
        found = list(model.arrays())
        problems = weight_faults(expected, found, path, token_tables(graph))
        if not is_reduced(model.operators):
            return problems or shape_faults(source, path, _answering(path))
        problems += [_not_the_weight(name, times, path) for name, times in reduced_faults(found, expected)]
        return problems or shape_faults(source, path, _answering(path), _NEAR_IN_8_BITS * _size(graph, source))


def _not_the_weight(name: str, times: float, path: Path) -> Problem:
    what = f"the weight '{name}' in the exported file is not the source's, rounded to 8 bits"
    fix = "nothing was written; report this with the artifact's options"
    return Problem(
        what=what,
        where=str(path),
        got=f"numbers {times:.3g} times as far away as rounding goes",
        expected="at most as far",
        fix=fix,
    )


def _in_8_bits(graph: Graph, source: Source, path: Path, *, external: bool) -> int:
    """Write an ONNX file again with 8-bit products; returns how many stay in float32.

    Raises:
        UsageError: The network has none, or its outputs move too far.
    """
    import onnx

    from regraft.exporters.graph import OUTPUT

    def run(model: bytes, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[list[Array]]:
        session = open_session(model, 1)
        return [session.run(list(names), dict(feed)) for feed in feeds]

    def same(was: FloatArray, now: FloatArray) -> float:
        task = source.task
        pairs = zip(task.decode(was), task.decode(now), strict=True)
        return float(np.mean([task.alike(one.value, other.value) for one, other in pairs]))

    # One row at a time: there is no padding, whose numbers mean nothing.
    encoded = source.modality.encode(source.calibration, spans=False)
    batches = [Batch(*source.modality.collate([row])) for row in encoded]
    model, left = reduced(onnx.load(str(path)), [graph.feeds(batch) for batch in batches], run, OUTPUT, same)
    for file in path.parent.iterdir():
        file.unlink()
    onnx.save_model(model, str(path), save_as_external_data=external, location=f"{MODEL_FILE}.data")
    return left


def _size(graph: Graph, source: Source) -> float:
    """Return the largest output that calibration rows have: a row that is nobody's may have small ones, and the same errors."""
    import torch

    largest = 1.0
    with torch.inference_mode():
        for row in source.modality.encode(source.calibration, spans=False):
            batch = Batch(*source.modality.collate([row]))
            largest = max(largest, float(graph(*graph.arguments(batch)).abs().max()))
    return largest


def graph_for_onnx(source: Source) -> Graph:
    """Return the network of an artifact as a graph in which recurrent layers are operators of ONNX."""
    from regraft.exporters.graph import graph_of
    from regraft.exporters.recurrence import as_operator

    return graph_of(source, as_operator)


def graph_facts(graph: Graph, file: str) -> dict[str, Any]:
    """Return what a runtime must know of a graph: its file and the names of its ends."""
    from regraft.exporters.graph import MASK, OUTPUT

    return {"file": file, "inputs": list(graph.inputs), "mask": MASK if graph.masked else "", "output": OUTPUT}


def write_onnx(graph: Graph, source: Source, path: Path, options: OnnxOptions) -> None:
    """Write a graph as an ONNX file that says nothing about the machine it was written on.

    Raises:
        UsageError: It has an operator that ONNX does not know, or cannot be captured.
    """
    import torch

    from regraft.exporters.graph import OUTPUT, example_batch
    from regraft.exporters.read_positions import smallest

    arguments = graph.arguments(example_batch(source.modality))
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    with _quiet(), torch.random.fork_rng(devices=[]), _as_usage_error():
        program = torch.onnx.export(
            smallest(graph, arguments),
            arguments,
            input_names=list(graph.names),
            output_names=[OUTPUT],
            dynamic_shapes=graph.dynamic_shapes(),
            opset_version=options.opset,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) gives a program")
    _plain_model(program.model, source)
    if source.task.several:
        _split(program.model, source.task.parts)
    program.save(path, external_data=options.external_data or size > _LARGEST_IN_ONE_FILE)


def _plain_model(model: Any, source: Source) -> None:
    """Take what was noted about the capture (places of source files, names of nodes) out of a model; say what it answers."""
    for owner in (model.graph, *model.functions.values()):
        owner.metadata_props.clear()
        owner.doc_string = None
        for value in (*owner.inputs, *owner.outputs, *getattr(owner, "initializers", {}).values()):
            value.metadata_props.clear()
        for node in owner.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for domain in [domain for domain in model.opset_imports if domain != STANDARD]:
        if not any(node.domain == domain for node in model.graph.all_nodes()):
            del model.opset_imports[domain]
    model.graph.name = source.name
    model.metadata_props.clear()
    model.metadata_props.update({"task": source.task.name, "labels": json.dumps(list(source.task.names), ensure_ascii=False)})


def _output_of(part: Part) -> str:
    from regraft.exporters.graph import OUTPUT

    return f"{OUTPUT}.{part.name}"


def _split(model: Any, parts: Sequence[Part]) -> None:
    """Give a graph, beside the outputs of all heads in one, an output for each target."""
    import onnx_ir as ir

    (whole,) = model.graph.outputs
    widths = np.array([part.outputs.stop - part.outputs.start for part in parts], dtype=np.int64)
    sizes = ir.Value(name=f"{whole.name}.sizes", const_value=ir.tensor(widths, name=f"{whole.name}.sizes"))
    sizes.type, sizes.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(parts)])
    model.graph.register_initializer(sizes)
    node = ir.Node("", "Split", [whole, sizes], [ir.AttrInt64("axis", 1)], num_outputs=len(parts))
    for part, width, value in zip(parts, widths.tolist(), node.outputs, strict=True):
        value.name, value.type, value.shape = _output_of(part), whole.type, ir.Shape([whole.shape[0], width])
        model.graph.outputs.append(value)
    model.graph.append(node)


def _answering(path: Path) -> Callable[[Batch], FloatArray]:
    """Return what computes a batch with the file."""
    from regraft.exporters.graph import OUTPUT, arrays_of

    session = open_session(path, 1)
    inputs = [entry.name for entry in session.get_inputs()]

    def answer(batch: Batch) -> FloatArray:
        arrays = arrays_of(batch)
        try:
            values: FloatArray = session.run([OUTPUT], {name: arrays[name] for name in inputs})[0]
        except Exception as error:  # its errors have no class in common
            raise RuntimeError(str(error)) from error
        return values

    return answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own ways from users: what goes wrong comes as an error."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _as_usage_error() -> Iterator[None]:
    """Say what stands in the way of a graph."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each stage of the capture fails in its own way
        raise UsageError(_no_graph(error)) from error


def _no_graph(error: BaseException) -> Problem:
    said = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        said.append(str(error))
    fix = "export in a format that keeps PyTorch's operators: --format torch"
    operator = _OPERATOR.search("\n".join(said))
    if operator:
        name = operator.group(1)
        return Problem(what=f"ONNX has no operator for '{name}', which the network uses", got=name, fix=fix)
    # What failed first stands at the end of the chain; before it come hints for people who know the exporter.
    first = next((line.strip() for line in said[-1].splitlines() if line.strip()), type(error).__name__)
    return Problem(what="the network cannot be captured as a graph", got=first[:400], fix=fix)
