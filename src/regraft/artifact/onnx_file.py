"""What an ONNX file says, read from its bytes before any library opens it; with the standard library and numpy alone.

ONNX files are protocol buffers; the messages are those of onnx.proto3 at https://github.com/onnx/onnx. Only what decides
whether a file may be opened is understood: which operators it uses, of which sets, and where its tensors lie. Runtimes look at
the paths of tensors in other files too, but needed several fixes (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from regraft.artifact.protobuf import Messages, Walk
from regraft.artifact.verify import contained
from regraft.errors import ArtifactError, Problem
from regraft.types import Array

STANDARD = ""
_DOMAINS = frozenset({STANDARD, "ai.onnx"})
# Built into ONNX Runtime: no library is loaded for it.
_BUILT_IN = frozenset({("com.microsoft", "MatMulIntegerToFloat")})
_FIX = "export the artifact again, or get it from its source"

# Fields that are not listed hold nothing that names a file, an operator or a tensor.
_MESSAGES: Final[Messages] = {
    "Model": {
        1: ("ir_version", "int"),
        7: ("graph", "Graph"),
        8: ("opset_import", "Opset"),
        20: ("training_info", "Training"),
        25: ("functions", "Function"),
    },
    "Training": {1: ("initialization", "Graph"), 2: ("algorithm", "Graph")},
    "Opset": {1: ("domain", "string"), 2: ("version", "int")},
    "Graph": {
        1: ("node", "Node"),
        5: ("initializer", "Tensor"),
        11: ("input", "Value"),
        12: ("output", "Value"),
        15: ("sparse_initializer", "Sparse"),
    },
    "Function": {
        1: ("name", "string"),
        7: ("node", "Node"),
        9: ("opset_import", "Opset"),
        10: ("domain", "string"),
        11: ("attribute", "Attribute"),
    },
    "Value": {1: ("name", "string")},
    "Node": {4: ("op_type", "string"), 5: ("attribute", "Attribute"), 7: ("domain", "string")},
    "Attribute": {
        5: ("tensor", "Tensor"),
        6: ("graph", "Graph"),
        10: ("tensors", "Tensor"),
        11: ("graphs", "Graph"),
        22: ("sparse", "Sparse"),
        23: ("sparses", "Sparse"),
    },
    "Sparse": {1: ("values", "Tensor"), 2: ("indices", "Tensor")},
    "Tensor": {
        1: ("dims", "int"),
        2: ("data_type", "int"),
        4: ("floats", "bytes"),
        8: ("name", "string"),
        9: ("raw", "bytes"),
        13: ("external", "Entry"),
        14: ("location", "int"),
    },
    "Entry": {1: ("key", "string"), 2: ("value", "string")},
}
_TYPES = dict(enumerate(("<f4", "u1", "i1", "<u2", "<i2", "<i4", "<i8", "", "?", "<f2", "<f8", "<u4", "<u8"), start=1))
_FLOAT = 1


@dataclass(frozen=True)
class Tensor:
    """Where a tensor of an ONNX file lies.

    Args:
        name: Its name; empty for most constants.
        dims: Its shape.
        data_type: Number of its type, as onnx.proto3 counts them.
        spans: Start and stop of its bytes in the file; none where they lie in another file.
        external: (key, value) of where they lie otherwise.
        initializer: Whether it is an initializer of the main graph.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    spans: tuple[tuple[int, int], ...]
    external: tuple[tuple[str, str], ...]
    initializer: bool


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says.

    Args:
        path: The file.
        opsets: Domain -> version of its operators.
        operators: (domain, name) of every operator that it uses anywhere.
        tensors: Every tensor that it holds anywhere.
        inputs: Names of the inputs of the main graph.
        outputs: Names of the outputs of the main graph.
    """

    path: Path
    opsets: Mapping[str, int]
    operators: frozenset[tuple[str, str]]
    tensors: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def convolutional(self) -> bool:
        """Whether most weights are kernels of convolutions over two axes, in float32."""
        sizes = {
            axes: sum(math.prod(t.dims) for t in self.tensors if len(t.dims) == axes and t.data_type == _FLOAT)
            for axes in (2, 4)
        }
        return sizes[4] > sizes[2]

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Yield name and values of the initializers of the main graph, without copying; of types that numpy has."""
        for tensor in self.tensors:
            kind = _TYPES.get(tensor.data_type)
            if tensor.initializer and kind:
                values = [self._values(tensor, kind)] if tensor.external else [self._span(*span, kind) for span in tensor.spans]
                flat = values[0] if len(values) == 1 else np.concatenate([np.zeros(0, kind), *values])
                if flat.size == math.prod(tensor.dims) and min(tensor.dims, default=0) >= 0:
                    yield tensor.name, flat.reshape(tensor.dims)

    def _span(self, start: int, stop: int, kind: str) -> Array:
        count = (stop - start) // np.dtype(kind).itemsize
        return np.memmap(self.path, kind, "r", offset=start, shape=(count,)) if count else np.zeros(0, kind)

    def _values(self, tensor: Tensor, kind: str) -> Array:
        entries = dict(tensor.external)
        count = math.prod(tensor.dims)
        where = self.path.parent / entries["location"]
        return np.memmap(where, kind, "r", offset=int(entries.get("offset", 0)), shape=(count,)) if count else np.zeros(0, kind)


def read_onnx(path: Path) -> OnnxFile:
    """Read what an ONNX file says.

    Raises:
        ArtifactError: It is not one, or it is nested or divided beyond any honest network.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            model = Walk(content, _MESSAGES).message("Model", 0, len(content), 0)
    except (ValueError, IndexError) as error:  # an empty file cannot be mapped: also a ValueError
        problem = Problem(what="the ONNX file cannot be read", where=str(path), got=str(error), expected="a model", fix=_FIX)
        raise ArtifactError(problem) from None
    nodes = list(_found(model, "op_type"))
    graphs: list[dict[str, Any]] = model.get("graph", [])
    initializers = {id(tensor) for graph in graphs for tensor in graph.get("initializer", [])}
    return OnnxFile(
        path=path,
        opsets=_opsets(model),
        operators=frozenset((_last(node, "domain", ""), _last(node, "op_type", "")) for node in nodes),
        tensors=tuple(_tensor(found, id(found) in initializers) for found in _tensors(model)),
        inputs=tuple(_last(value, "name", "") for graph in graphs for value in graph.get("input", [])),
        outputs=tuple(_last(value, "name", "") for graph in graphs for value in graph.get("output", [])),
    )


def onnx_problems(model: OnnxFile, root: Path, listed: Collection[str]) -> list[Problem]:
    """Return what an ONNX file of an artifact is refused for: tensors that lie where they may not, operators of others.

    Args:
        model: The file.
        root: Folder of the artifact.
        listed: Relative paths that its manifest lists.
    """
    problems = []
    outside = sorted(each for each in model.operators if each[0] not in _DOMAINS and each not in _BUILT_IN)
    if outside:
        used = ", ".join(f"{domain}.{name}" for domain, name in outside[:5])
        problems.append(_refusal("operators that are not ONNX's own are refused", model.path, used, "operators of ai.onnx"))
    if STANDARD not in model.opsets and "ai.onnx" not in model.opsets:
        problems.append(_refusal("the ONNX file does not say which operators it means", model.path, "no opset", "ai.onnx"))
    beside = _Beside(model.path, root, listed)
    seen: set[tuple[tuple[str, str], ...]] = set()
    for tensor in model.tensors:
        if tensor.external and tensor.external not in seen:
            seen.add(tensor.external)
            problems += _external_problems(tensor, beside)
    return problems


class _Beside:
    """The files of an artifact that tensors of an ONNX file may lie in; each is looked at once.

    Args:
        path: The ONNX file.
        root: Folder of the artifact.
        listed: Relative paths that its manifest lists.
    """

    def __init__(self, path: Path, root: Path, listed: Collection[str]) -> None:
        self.path, self.listed = path, listed
        self.root, self.inside = root.resolve(), path.parent.relative_to(root)
        self._sizes: dict[str, int | None] = {}

    def size(self, location: str) -> int | None:
        """Return the bytes of a file; None if no tensor may lie there."""
        if location not in self._sizes:
            place = self.path.parent / location
            allowed = (
                contained(location)
                and (self.inside / location).as_posix() in self.listed
                and not place.is_symlink()
                and place.resolve().is_relative_to(self.root)
            )
            self._sizes[location] = place.stat().st_size if allowed else None
        return self._sizes[location]


def _external_problems(tensor: Tensor, beside: _Beside) -> list[Problem]:
    """Return what is wrong with the place of a tensor outside the file."""
    what, path = "a tensor lies outside the files of the artifact", beside.path
    expected = "a file that the manifest lists, beside the model"
    locations = [value for key, value in tensor.external if key == "location"]
    if len(locations) != 1 or not locations[0]:
        got = f"'{tensor.name}' at {' and '.join(map(repr, locations)) or 'no place'}"
        return [_refusal(what, path, got, expected)]
    there = beside.size(locations[0])
    if there is None:
        return [_refusal(what, path, f"'{tensor.name}' at {locations[0]!r}", expected)]
    numbers = [value for key, value in tensor.external if key in {"offset", "length"}]
    if not all(number.isdecimal() and len(number) < 20 for number in numbers):
        return [_refusal(what, path, f"'{tensor.name}' at {numbers}", "numbers of bytes")]
    kind = _TYPES.get(tensor.data_type)
    size = math.prod(tensor.dims) * (np.dtype(kind).itemsize if kind else 0)
    if min(tensor.dims, default=0) < 0 or _end(tensor, size) > there:
        return [_refusal(what, path, f"'{tensor.name}' behind the end of '{locations[0]}'", expected)]
    return []


def _end(tensor: Tensor, size: int) -> int:
    entries = dict(tensor.external)
    return int(entries.get("offset", 0)) + max(size, int(entries.get("length", 0)))


def _refusal(what: str, path: Path, got: str, expected: str) -> Problem:
    return Problem(what=what, where=str(path), got=got, expected=expected, fix=_FIX)


def _last(message: Mapping[str, list[Any]], name: str, otherwise: Any) -> Any:
    """Return the value of a field that has one: of several the last counts."""
    return message[name][-1] if message.get(name) else otherwise


def _found(message: Mapping[str, list[Any]], field: str) -> Iterator[Mapping[str, list[Any]]]:
    """Yield every message inside a message that has a field."""
    if field in message:
        yield message
    for values in message.values():
        for value in values:
            if isinstance(value, dict):
                yield from _found(value, field)


def _tensors(message: Mapping[str, list[Any]]) -> Iterator[Mapping[str, list[Any]]]:
    for field, values in message.items():
        for value in values:
            if isinstance(value, dict):
                is_tensor = field in {"initializer", "tensor", "tensors", "values", "indices"}
                yield from [value] if is_tensor else _tensors(value)


def _opsets(message: Mapping[str, list[Any]]) -> dict[str, int]:
    """Return domain -> highest version that the model or one of its functions asks for."""
    found: dict[str, int] = {}
    for owner in _found(message, "opset_import"):
        for entry in owner["opset_import"]:
            domain = _last(entry, "domain", STANDARD)
            found[domain] = max(found.get(domain, 0), _last(entry, "version", 0))
    return found


def _tensor(message: Mapping[str, list[Any]], initializer: bool) -> Tensor:
    external = tuple((_last(entry, "key", ""), _last(entry, "value", "")) for entry in message.get("external", []))
    if _last(message, "location", 0) and not external:
        external = (("location", ""),)
    data_type = _last(message, "data_type", 0)
    raw = message.get("raw") or (message.get("floats", []) if data_type == _FLOAT else [])
    return Tensor(
        name=_last(message, "name", ""),
        dims=tuple(message.get("dims", [])),
        data_type=data_type,
        spans=() if external else tuple(raw),
        external=external,
        initializer=initializer,
    )
