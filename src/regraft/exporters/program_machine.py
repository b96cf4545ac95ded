"""Computing a program of torch.export step by step, with torch's own operators; no code of the file is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.artifact.pt2_file import Argument, Constant, Program, Step, Use
from regraft.artifact.pt2_operators import OPERATORS, SCALARS
from regraft.errors import ArtifactError, Problem
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the list of values."""

    number: int


@dataclass(frozen=True, slots=True)
class _Call:
    """A step with its operator found and its values numbered.

    Args:
        function: What it computes.
        positional: Its arguments; those that are or hold a `_Place` are filled in when it runs.
        named: Its named arguments.
        filled: Positions of `positional` to fill in.
        filled_names: Names of `named` to fill in.
        stores: Where what it gives goes: one place, or one for each of several; None where it is not used.
        frees: Places that nobody reads after it.
    """

    function: Callable[..., Any]
    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    filled: tuple[int, ...]
    filled_names: tuple[str, ...]
    stores: Any
    frees: tuple[int, ...]


class Machine:
    """Compute a program.

    Args:
        program: Its steps use only operators of the tables.
    """

    def __init__(self, program: Program) -> None:
        import torch

        self._names = program.inputs
        self._places: dict[str, int] = {}
        self._weights: list[Any] = []
        for name, weight in program.weights.items():
            self._place(name)
            self._weights.append(torch.from_numpy(weight.value))
        self._inputs = [self._place(name) for name in program.inputs]
        last = {name: number for number, step in enumerate(program.steps) for name in _read(step)}
        kept = {*program.weights, program.output}
        self._calls = [self._call(step, number, last, kept) for number, step in enumerate(program.steps)]
        self._output = self._places[program.output]

    def run(self, feeds: Mapping[str, Array]) -> FloatArray:
        """Return the output (B, ...) for inputs by name."""
        import torch

        with torch.inference_mode():
            values: FloatArray = self._output_of([torch.from_numpy(feeds[name]) for name in self._names]).float().numpy()
        return values

    def _output_of(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        values: list[Any] = [*self._weights, *[None] * (len(self._places) - len(self._weights))]
        for place, value in zip(self._inputs, inputs, strict=True):
            values[place] = value
        for call in self._calls:
            positional, named = list(call.positional), call.named
            for position in call.filled:
                positional[position] = _filled(positional[position], values)
            if call.filled_names:
                named = {**named, **{name: _filled(named[name], values) for name in call.filled_names}}
            _store(values, call.stores, call.function(*positional, **named))
            for place in call.frees:
                values[place] = None
        output: torch.Tensor = values[self._output]
        return output

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    def _call(self, step: Step, number: int, last: Mapping[str, int], kept: set[str]) -> _Call:
        positional = tuple(self._argument(argument) for argument in step.positional)
        named = {name: self._argument(argument) for name, argument in step.named.items()}
        stores = tuple(
            None if name is None else self._place(name) if isinstance(name, str) else tuple(self._place(part) for part in name)
            for name in step.outputs
        )
        unread = {name for name in _written(step) if name not in last}
        free = {name for name in _read(step) if last[name] == number} | unread
        return _Call(
            function=_function(step.operator),
            positional=positional,
            named=named,
            filled=tuple(place for place, argument in enumerate(positional) if _open(argument)),
            filled_names=tuple(name for name, argument in named.items() if _open(argument)),
            stores=stores[0] if len(stores) == 1 else stores,
            frees=tuple(self._places[name] for name in sorted(free - kept)),
        )

    def _argument(self, argument: Argument) -> Any:
        if isinstance(argument, Use):
            return _Place(self._places[argument.name])
        if isinstance(argument, Constant):
            return _constant(argument.name)
        if isinstance(argument, Sequence) and not isinstance(argument, str):
            return [self._argument(part) for part in argument]
        return argument


def _open(argument: Any) -> bool:
    return isinstance(argument, _Place) or (isinstance(argument, list) and any(isinstance(part, _Place) for part in argument))


def _filled(argument: Any, values: Sequence[Any]) -> Any:
    if isinstance(argument, _Place):
        return values[argument.number]
    return [values[part.number] if isinstance(part, _Place) else part for part in argument]


def _store(values: list[Any], stores: Any, given: Any) -> None:
    if isinstance(stores, int):
        values[stores] = given
    elif stores is not None:
        for place, part in zip(stores, given, strict=True):
            _store(values, place, part)


def _read(step: Step) -> set[str]:
    found: set[str] = set()
    for argument in (*step.positional, *step.named.values()):
        parts = argument if isinstance(argument, list) else [argument]
        found |= {part.name for part in parts if isinstance(part, Use)}
    return found


def _written(step: Step) -> set[str]:
    names: set[str] = set()
    for output in step.outputs:
        names.update(() if output is None else (output,) if isinstance(output, str) else output)
    return names


def _function(name: str) -> Callable[..., Any]:
    """Return what an operator of the tables computes."""
    import torch

    if name in SCALARS:
        return SCALARS[name]
    packet, _, overload = name.rpartition(".")
    if name in OPERATORS and hasattr(torch.ops.aten, packet) and overload in getattr(torch.ops.aten, packet).overloads():
        function: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
        return function
    fix = "use the version of torch that wrote it (see the manifest), or export it again"
    what = f"the operator '{name}' is not in this version of torch"
    raise ArtifactError(Problem(what=what, got=f"torch {torch.__version__}", fix=fix))


def _constant(name: str) -> Any:
    import torch

    constants = {"cpu": torch.device("cpu")}
    names = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool", "bfloat16")
    constants.update({known: getattr(torch, known) for known in (*names, "strided", "contiguous_format", "preserve_format")})
    return constants[name]
