"""Opening an ONNX file with ONNX Runtime: how it computes, and what is said when it cannot be opened. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import ArtifactError, Problem

if TYPE_CHECKING:
    import onnxruntime

_OPSET = re.compile(r"[Oo]pset (\d+) is under development")
_KNOWN_OPSET = re.compile(r"till opset (\d+)")
_IR_VERSION = re.compile(r"IR version: (\d+), max supported IR version: (\d+)")
_ERRORS_ONLY = 3
_PROVIDERS = ["CPUExecutionProvider"]


def open_session(model: Path | bytes, threads: int, *, convolutional: bool = False) -> onnxruntime.InferenceSession:
    """Return a session that computes one batch after the other, and the graph as it was written but for convolutions.

    Args:
        model: The file, checked before (see `regraft.artifact.onnx_file`), or its bytes.
        threads: Threads of one matrix product.
        convolutional: Whether it is mostly convolutions over two axes.

    Raises:
        ArtifactError: The file is too new for the installed version, or cannot be opened.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Our exporter writes a simplified graph. Fusing it further was measured on every base: the fused operators are up to a
    # tenth slower (MiniLM) or no faster, and the session takes twice as long to open. Convolutions over two axes are another
    # matter: laid out in blocks of channels they take much less time.
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if convolutional else levels.ORT_DISABLE_ALL
    # A plan of memory is kept for every shape that was ever seen, and rows come in any number of shapes.
    options.enable_mem_pattern = False
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=_PROVIDERS)
    except Exception as error:  # its errors have no class in common
        where = str(model) if isinstance(model, Path) else ""
        raise ArtifactError(_refused(str(error), where, onnxruntime.__version__)) from error


def known_opset(opset: int) -> Problem | None:
    """Return the problem to report where the installed ONNX Runtime does not know a set of operators, else nothing."""
    try:
        open_session(_smallest_model(opset), 1)
    except ArtifactError as error:
        return error.problems[0]
    return None


def _refused(said: str, where: str, version: str) -> Problem:
    asked, known = _OPSET.search(said), _KNOWN_OPSET.search(said)
    update = "pip install --upgrade onnxruntime, or export again with an older set of operators: --set format.opset=20"
    if asked:
        return Problem(
            what="the installed ONNX Runtime does not know this set of operators",
            where=where,
            got=f"opset {asked.group(1)}",
            expected=f"at most opset {known.group(1) if known else '?'}, which onnxruntime {version} knows",
            fix=update,
        )
    if versions := _IR_VERSION.search(said):
        return Problem(
            what="the ONNX file is of a newer version than the installed ONNX Runtime",
            where=where,
            got=f"IR version {versions.group(1)}",
            expected=f"at most {versions.group(2)}, which onnxruntime {version} knows",
            fix=update,
        )
    fix = "export the artifact again, or get it from its source"
    got = " ".join(said.split())[:500]
    return Problem(what=f"onnxruntime {version} cannot open the network", where=where, got=got, fix=fix)


def _smallest_model(opset: int) -> bytes:
    """Return an ONNX file that hands its input on, in the encoding of protocol buffers."""

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes([number << 3, *_varint(content)])
        return bytes([number << 3 | 2, *_varint(len(content))]) + content

    tensor_type = field(1, field(1, 1) + field(2, field(1, field(1, 1))))  # float32, one number
    ends: list[Any] = [field(1, name) + field(2, tensor_type) for name in (b"x", b"y")]
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"smallest") + field(11, ends[0]) + field(12, ends[1])
    return field(1, 8) + field(7, graph) + field(8, field(2, opset))


def _varint(value: int) -> list[int]:
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return [*found, value]
