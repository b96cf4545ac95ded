"""A program of torch.export as it lies in a `.pt2` file, read without running anything that the file says.

The file is a zip archive: `models/model.json` holds the graph, `data/weights/` and `data/constants/` raw tensors. torch's own
reader runs code of a file in four ways: tensors and sample inputs may be pickles, operators are looked up as attributes of
`torch` and `operator` by name, shapes are expressions that are evaluated, guards are source that is executed. Here nothing is
evaluated, looked up or unpickled: what is not in the tables below is refused.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from regraft.artifact.pt2_operators import OPERATORS, SCALARS, SILENT
from regraft.errors import ArtifactError, Problem
from regraft.models.safety import JSON_LIMIT_BYTES
from regraft.options import JSON
from regraft.types import Array

SCHEMA = 8
"""Major version of the graph's layout that is known."""
_ATEN = "torch.ops.aten."
_MODEL = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_SAMPLES = "data/sample_inputs/model.pt"
_ENTRIES = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
_LAYOUTS = {7: "strided"}
_MEMORY_FORMATS = {1: "contiguous_format", 4: "preserve_format"}
_PLAIN = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
_LISTS = {"as_ints": int, "as_floats": float, "as_bools": bool}
_SYMBOLIC = {"as_sym_int": int, "as_sym_float": float, "as_sym_bool": bool}
_POSITIONAL, _KEYWORD = 1, 2


@dataclass(frozen=True, slots=True)
class Use:
    """The value with this name: an input, a weight, or what an earlier step gave."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of torch: a dtype, a layout, a memory format or a device."""

    name: str


Argument = Use | Constant | int | float | bool | str | None | Sequence["Argument"]
Output = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Step:
    """One operator.

    Args:
        operator: A name of `OPERATORS` ("linear.default") or of `SCALARS` ("_operator.mul").
        positional: Its arguments.
        named: Its named arguments.
        outputs: Names of what it gives; several where one of them is a list, nothing where it is not used.
    """

    operator: str
    positional: tuple[Argument, ...]
    named: Mapping[str, Argument]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the file.

    Args:
        name: As the network calls it.
        value: Its content.
    """

    name: str
    value: Array


@dataclass(frozen=True, slots=True)
class Program:
    """A graph: every step uses only what stands before it.

    Args:
        inputs: Names of the inputs, in order.
        weights: Name in the graph -> tensor.
        steps: In order.
        output: Name of the output.
    """

    inputs: tuple[str, ...]
    weights: Mapping[str, Weight]
    steps: tuple[Step, ...]
    output: str


def read_pt2(path: Path) -> Program:
    """Read a program.

    Args:
        path: The file.

    Raises:
        ArtifactError: It is not such a file, holds a pickle or anything else that is not known, or an operator that is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _program(_Reader(path, archive))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"[:300]
        expected = "a .pt2 file as `regraft export --format torch` writes it"
        what = "the program cannot be read"
        raise ArtifactError(Problem(what=what, where=str(path), got=got, expected=expected, fix=_FIX)) from None


def unknown_operators(path: Path) -> list[str]:
    """Return the operators of a program that `read_pt2` refuses, as torch names them.

    Args:
        path: The file, written by ourselves.
    """
    with zipfile.ZipFile(path) as archive:
        nodes = _Reader(path, archive).json(_MODEL)["graph_module"]["graph"]["nodes"]
    return sorted({str(node["target"]) for node in nodes if not _known(str(node["target"]))})


_FIX = "restore the artifact from its source, or export it again"


class _Reader:
    """The entries of an archive, checked before any is used."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if info.compress_type != zipfile.ZIP_STORED or not _ENTRIES.fullmatch(name) or name in self.entries:
                self.refuse("an entry that does not belong into a program", f"'{info.filename}'", "graph and raw tensors only")
            self.entries[name] = info
        if self.entries[_SAMPLES].file_size:
            self.refuse("sample inputs, which are a pickle", f"'{_SAMPLES}'", "none")
        if self.read("archive_format") != b"pt2" or self.read("byteorder") != b"little":
            self.refuse("another archive or byte order", repr(self.read("byteorder")), "pt2, little")

    def refuse(self, what: str, got: str, expected: str) -> NoReturn:
        raise ArtifactError(
            Problem(what=f"the program holds {what}", where=str(self.path), got=got, expected=expected, fix=_FIX)
        )

    def read(self, name: str) -> bytes:
        return self.archive.read(self.entries[name])

    def json(self, name: str) -> Any:
        if self.entries[name].file_size > JSON_LIMIT_BYTES:
            self.refuse(
                "a description that is too long", f"{name}: {self.entries[name].file_size} bytes", f"{JSON_LIMIT_BYTES}"
            )
        return json.loads(self.read(name))

    def tensors(self, folder: str) -> dict[str, Array]:
        """Return the tensors of a folder by the name that the network gives them."""
        kind = folder.split("/")[1]
        found, files = {}, dict[str, bytearray]()
        for name, entry in self.json(f"{folder}model_{kind}_config.json")["config"].items():
            if entry["use_pickle"]:
                self.refuse("a pickle", f"the tensor '{name}'", "raw tensors")
            file = folder + entry["path_name"]
            if file not in files:
                files[file] = bytearray(self.read(file))
            found[name] = self._tensor(name, entry["tensor_meta"], files[file])
        return found

    def _tensor(self, name: str, meta: Mapping[str, JSON], content: bytearray) -> Array:
        dtype = np.dtype(_DTYPES[meta["dtype"]])
        sizes = [_whole(side["as_int"]) for side in meta["sizes"]]
        strides = [_whole(step["as_int"]) for step in meta["strides"]]
        offset = _whole(meta["storage_offset"]["as_int"])
        count = math.prod(sizes)
        plain = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
        if any(side > 1 and step != wanted for side, step, wanted in zip(sizes, strides, plain, strict=True)):
            self.refuse("a tensor whose rows do not follow each other", f"'{name}'", "contiguous tensors")
        if (offset + count) * dtype.itemsize > len(content):
            self.refuse("a tensor that reaches beyond its file", f"'{name}'", f"at most {len(content)} bytes")
        return np.frombuffer(content, dtype, count, offset * dtype.itemsize).reshape(sizes)


def _program(reader: _Reader) -> Program:
    model = reader.json(_MODEL)
    if model["schema_version"]["major"] != SCHEMA:
        reader.refuse("a graph of another layout", str(model["schema_version"]["major"]), str(SCHEMA))
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    weights, constants = reader.tensors(_WEIGHTS), reader.tensors(_CONSTANTS)
    inputs: list[str] = []
    placed: dict[str, Weight] = {}
    for spec in signature["input_specs"]:
        (kind, entry), *_ = spec.items()
        if kind == "user_input":
            inputs.append(entry["arg"]["as_tensor"]["name"])
        elif kind == "parameter":
            placed[entry["arg"]["name"]] = _weight(weights, entry["parameter_name"])
        elif kind == "buffer":
            placed[entry["arg"]["name"]] = _weight(weights if entry["persistent"] else constants, entry["buffer_name"])
        elif kind == "tensor_constant":
            placed[entry["arg"]["name"]] = _weight(constants, entry["tensor_constant_name"])
        else:
            reader.refuse("an input that is neither a tensor nor a weight", kind, "tensors and weights")
    outputs = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in signature["output_specs"]]
    if len(outputs) != 1:
        reader.refuse("several outputs", ", ".join(outputs), "one")
    steps = tuple(_steps(reader, graph["nodes"], {*inputs, *placed}, outputs[0]))
    return Program(inputs=tuple(inputs), weights=placed, steps=steps, output=outputs[0])


def _weight(tensors: Mapping[str, Array], name: str) -> Weight:
    return Weight(name, tensors[name])


def _steps(reader: _Reader, nodes: Sequence[Mapping[str, JSON]], known: set[str], output: str) -> Iterator[Step]:
    """Yield the steps; each may use only what is known before it."""
    for node in nodes:
        target = str(node["target"])
        if target in SILENT:
            continue
        if not _known(target):
            reader.refuse("an operator that is not known here", target, "one of torch's own operators on tensors")
        positional: list[Argument] = []
        named: dict[str, Argument] = {}
        for entry in node["inputs"]:
            value = _argument(reader, entry["arg"], known)
            if entry["kind"] == _POSITIONAL and not named:
                positional.append(value)
            elif entry["kind"] == _KEYWORD:
                named[entry["name"]] = value
            else:
                reader.refuse("an argument that has no place", f"{target}: {entry['name']}", "positional or keyword")
        outputs = tuple(_output(reader, value) for value in node["outputs"])
        yield Step(target.removeprefix(_ATEN), tuple(positional), named, outputs)
        for value in outputs:
            known.update(() if value is None else (value,) if isinstance(value, str) else value)
    if output not in known:
        reader.refuse("an output that no step gives", output, "the name of a value")


def _known(target: str) -> bool:
    ours = target.startswith(_ATEN) and target.removeprefix(_ATEN) in OPERATORS
    return ours or target in SCALARS or target in SILENT


def _argument(reader: _Reader, argument: Mapping[str, Any], known: set[str]) -> Argument:
    ((kind, value),) = argument.items()

    def use(name: str) -> Use:
        if name not in known:
            reader.refuse("a step that uses what does not stand before it", str(name), "a value given before")
        return Use(name)

    def symbolic(entry: Mapping[str, JSON], of: type) -> Argument:
        ((form, inside),) = entry.items()
        number: int | float | bool = _typed(inside, of) if form != "as_name" else 0
        return use(inside) if form == "as_name" else number

    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return use(value["name"])
    if kind in _PLAIN:
        plain: int | float | bool | str = _typed(value, _PLAIN[kind])
        return plain
    if kind in _SYMBOLIC:
        return symbolic(value, _SYMBOLIC[kind])
    if kind in _LISTS:
        return [_typed(item, _LISTS[kind]) for item in value]
    if kind == "as_tensors":
        return [use(item["name"]) for item in value]
    if kind.removesuffix("s") in _SYMBOLIC:
        return [symbolic(item, _SYMBOLIC[kind.removesuffix("s")]) for item in value]
    if kind == "as_optional_tensors":
        return [None if "as_none" in item else use(item["as_tensor"]["name"]) for item in value]
    return _constant(reader, kind, value)


def _constant(reader: _Reader, kind: str, value: JSON) -> Constant:
    if kind == "as_scalar_type":
        return Constant(_DTYPES[value])
    if kind == "as_layout":
        return Constant(_LAYOUTS[value])
    if kind == "as_memory_format":
        return Constant(_MEMORY_FORMATS[value])
    if kind == "as_device" and value["type"] == "cpu":
        return Constant("cpu")
    return reader.refuse("an argument of a kind that is not known here", f"{kind} {value!r}"[:100], "tensors, numbers, text")


def _output(reader: _Reader, output: Mapping[str, JSON]) -> Output:
    ((kind, value),) = output.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return str(value["name"])
    if kind == "as_tensors":
        return tuple(str(item["name"]) for item in value)
    if kind in _SYMBOLIC and "as_name" in value:
        return str(value["as_name"])
    return reader.refuse("an output of a kind that is not known here", kind, "tensors and numbers")


def _typed(value: Any, of: type) -> Any:
    if of is float and isinstance(value, str | int) and not isinstance(value, bool):
        return float(value)  # infinities are text in the file
    if type(value) is not of:
        raise TypeError(f"{value!r} is not of type {of.__name__}")
    return value


def _whole(value: JSON) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
