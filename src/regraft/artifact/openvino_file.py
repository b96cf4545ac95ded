"""What an OpenVINO network says, read from its bytes before any library opens it; with the standard library and numpy alone.

A network is two files: `model.xml` describes layers, `model.bin` holds the bytes of their constants end to end
(https://docs.openvino.ai, "OpenVINO IR format"). Only what decides whether it may be opened is understood: no document type
(entities that swell or name other files), layers of OpenVINO's own operator sets only (others need a library of somebody's
code), constants that lie inside `model.bin`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from regraft.errors import ArtifactError, Problem
from regraft.types import Array

LIMIT_BYTES = 256 * 2**20
_DEPTH, _LAYERS = 64, 1_000_000
_OPSET = re.compile(r"opset\d{1,2}")
_TYPES = {
    "f32": "<f4",
    "f64": "<f8",
    "f16": "<f2",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "u1",
    "boolean": "?",
}
_FIX = "export the artifact again, or get it from its source"


@dataclass(frozen=True, slots=True)
class Constant:
    """Where a constant lies in `model.bin`.

    Args:
        name: Name of its layer.
        kind: Its type, as OpenVINO spells it.
        shape: Its shape.
        offset: Its first byte.
        size_bytes: How many bytes it has.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class OpenvinoFile:
    """What a network says.

    Args:
        weights: The file that holds the constants.
        constants: All of them, those inside loops too.
        operators: Names of the operators that it uses.
    """

    weights: Path
    constants: tuple[Constant, ...]
    operators: frozenset[str]

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Yield name and values of the constants of types that numpy has, without copying."""
        for constant in self.constants:
            kind = _TYPES.get(constant.kind)
            if kind and constant.size_bytes and math.prod(constant.shape) * np.dtype(kind).itemsize == constant.size_bytes:
                yield constant.name, np.memmap(self.weights, kind, "r", constant.offset, constant.shape)


def read_openvino(path: Path, weights: Path) -> OpenvinoFile:
    """Read what a network says.

    Args:
        path: The .xml file.
        weights: The .bin file.

    Raises:
        ArtifactError: It is not one, it asks for more than its two files, or it is nested beyond any honest network.
    """
    walk = _Walk(path, weights.stat().st_size if weights.is_file() else 0)
    if path.stat().st_size > LIMIT_BYTES:
        walk.refuse("is too long", f"{path.stat().st_size} bytes", f"at most {LIMIT_BYTES} bytes")
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = walk.doctype
    parser.StartElementHandler = walk.start
    parser.EndElementHandler = walk.end
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, ValueError, KeyError) as error:
        walk.refuse("cannot be read", f"{type(error).__name__}: {error}"[:200], "an .xml file of OpenVINO")
    return OpenvinoFile(weights, tuple(walk.constants), frozenset(walk.operators))


@dataclass
class _Walk:
    """Elements as they come.

    Args:
        path: The .xml file.
        available: Bytes of the .bin file.
        constants: Found so far.
        operators: Found so far.
        open: Names of the elements that are open.
        layers: The layers that are open: those with loops hold others.
        count: Layers so far.
    """

    path: Path
    available: int
    constants: list[Constant] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    layers: list[Mapping[str, str]] = field(default_factory=list)
    count: int = 0

    def refuse(self, what: str, got: str, expected: str) -> NoReturn:
        what = f"the description of the network {what}"
        raise ArtifactError(Problem(what=what, where=str(self.path), got=got, expected=expected, fix=_FIX))

    def doctype(self, name: str, *_: object) -> None:
        self.refuse("declares a document type", f"<!DOCTYPE {name}", "none: it may swell or name other files")

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self.open.append(name)
        if len(self.open) > _DEPTH:
            self.refuse("is nested too deep", f"more than {_DEPTH} levels", f"at most {_DEPTH}")
        if self.open[0] != "net":
            self.refuse("is of another kind", f"<{self.open[0]}>", "<net>")
        if name == "layer":
            self._layer(attributes)
        elif name == "data" and self.open[-2:-1] == ["layer"] and "offset" in attributes:
            self._constant(attributes)

    def end(self, name: str) -> None:
        self.open.pop()
        if name == "layer":
            self.layers.pop()

    def _layer(self, attributes: Mapping[str, str]) -> None:
        self.count += 1
        self.layers.append(attributes)
        if self.count > _LAYERS:
            self.refuse("has too many layers", f"more than {_LAYERS}", f"at most {_LAYERS}")
        self.operators.add(attributes["type"])
        if not _OPSET.fullmatch(attributes.get("version", "")):
            got = f"'{attributes['type']}' of '{attributes.get('version', '')}'"
            self.refuse("uses an operator that is not OpenVINO's own", got, "opset1 and later")

    def _constant(self, attributes: Mapping[str, str]) -> None:
        name = self.layers[-1].get("name", "")
        offset, size = int(attributes["offset"]), int(attributes["size"])
        if offset < 0 or size < 0 or offset + size > self.available:
            got = f"'{name}': {size} bytes from {offset}"
            self.refuse("has a constant outside its file of weights", got, f"inside its {self.available} bytes")
        shape = tuple(int(side) for side in attributes.get("shape", "").split(",") if side.strip())
        self.constants.append(Constant(name, attributes.get("element_type", ""), shape, offset, size))
