"""Plain values as dataclasses, where they fit the annotations exactly; whatever does not is left to pydantic.

Importing pydantic and building its validators takes about as long as a small network takes to answer first. Values that were
written by this program fit exactly, so that a process which only answers never needs it; and what is refused is refused with
pydantic's words, because a value that does not fit is always shown to it.

`record` makes the dataclasses of what every process imports: their methods are shared, where `dataclass` writes and compiles
six functions for each class (a millisecond; fifty classes are a tenth of the time to the first answer).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar, dataclass_transform, get_args, get_origin

UNFIT: Final = object()
"""Stands for: not exactly of that type; ask pydantic, which may convert it or say what is wrong."""

Reader = Callable[[Any], Any]
T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a class what `dataclass(frozen=True, kw_only=True)` makes it, without compiling methods for it.

    Args:
        cls: Annotated fields.

    Example:
        >>> @record
        ... class Size:
        ...     width: int
        ...     height: int = 1
        >>> Size(width=2), Size(width=2) == Size(width=2, height=1)
        (Size(width=2, height=1), True)
    """
    made: Any = dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
    made.__record_fields__ = dataclasses.fields(made)
    methods = (_init, _repr, _equal, _hash, _refuse_set, _refuse_delete)
    for name, method in zip(_METHODS, methods, strict=True):
        if name not in vars(cls):
            setattr(made, name, method)
    return typing.cast(type[T], made)


_METHODS = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


def _init(self: Any, **values: Any) -> None:
    filled = filled_in(type(self), values)
    name = type(self).__name__
    if filled is None:
        missing = [one.name for one in self.__record_fields__ if one.name not in values and _required(one)]
        raise TypeError(f"{name}.__init__() missing {len(missing)} required keyword-only arguments: {', '.join(missing)}")
    if strangers := values.keys() - filled.keys():
        raise TypeError(f"{name}.__init__() got an unexpected keyword argument '{min(strangers)}'")
    self.__dict__.update(filled)


def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in self.__record_fields__ if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, one.name) for one in self.__record_fields__)


def _equal(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse_set(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field '{name}'")


def _refuse_delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field '{name}'")


def filled_in(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the values of all fields of a dataclass, defaults where there is no value; nothing where one is required."""
    filled = {}
    for one in dataclasses.fields(cls):
        if one.name in values:
            filled[one.name] = values[one.name]
        elif one.default_factory is not dataclasses.MISSING:
            filled[one.name] = one.default_factory()
        elif one.default is not dataclasses.MISSING:
            filled[one.name] = one.default
        else:
            return None
    return filled


def _required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a value, and what else is said about a field.

    Args:
        ge: Smallest value.
        gt: Largest value that is too small.
        le: Largest value.
        lt: Smallest value that is too large.
        min_length: Shortest length.
        max_length: Longest length.
        json_schema_extra: Added to the JSON schema of the field; "flag" is its command-line flag.
    """

    __is_annotated_types_grouped_metadata__ = True  # pydantic asks for the parts one by one

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    json_schema_extra: Mapping[str, Any] | None = field(default=None, hash=False)

    def admits(self, value: Any) -> bool:
        """Return whether a value lies within."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and (self.min_length is None or len(value) >= self.min_length)
            and (self.max_length is None or len(value) <= self.max_length)
        )

    def __iter__(self) -> Iterator[Any]:
        import annotated_types as parts

        kinds = {"ge": parts.Ge, "gt": parts.Gt, "le": parts.Le, "lt": parts.Lt}
        kinds |= {"min_length": parts.MinLen, "max_length": parts.MaxLen}
        yield from (kind(getattr(self, name)) for name, kind in kinds.items() if getattr(self, name) is not None)


@dataclass(frozen=True)
class Before:
    """Call a function on a value before it is held against the type.

    Args:
        function: Must not raise.
    """

    function: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: object, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.function, handler(source))


def made_exactly(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a dataclass of values that fit its annotations exactly, else `UNFIT`. No constructor is called.

    Args:
        cls: A dataclass without `__post_init__`.
        values: Field name -> plain value, or an instance where the field is a dataclass.

    Example:
        >>> @dataclass
        ... class Size:
        ...     width: Annotated[int, Limits(ge=1)]
        ...     names: tuple[str, ...] = ()
        >>> made_exactly(Size, {"width": 2, "names": ["a"]})
        Size(width=2, names=('a',))
        >>> [made_exactly(Size, given) is UNFIT for given in ({"width": 0}, {"width": "2"}, {"width": 2, "height": 2}, {})]
        [True, True, True, True]
    """
    readers = _readers(cls)  # type: ignore[arg-type]  # mypy looks at the hash of instances
    if readers is None or not values.keys() <= readers.keys():
        return UNFIT
    taken = {}
    for name, value in values.items():
        taken[name] = readers[name](value)
        if taken[name] is UNFIT:
            return UNFIT
    filled = filled_in(cls, taken)
    if filled is None:
        return UNFIT
    made = object.__new__(cls)
    for name, value in filled.items():
        object.__setattr__(made, name, value)
    return made


@functools.cache
def _readers(cls: type[Any]) -> dict[str, Reader] | None:
    """Return for each field what takes a value in; nothing where a class does more than hold fields."""
    fields = dataclasses.fields(cls)
    if hasattr(cls, "__post_init__") or not all(one.init for one in fields):
        return None
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a type that stands inside a function
        return None
    return {one.name: _reader(hints[one.name]) for one in fields}


def _reader(hint: Any) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Annotated:
        return _annotated(_reader(arguments[0]), arguments[1:])
    if origin is Literal:
        known = {(type(one), one) for one in arguments}
        return lambda value: value if isinstance(value, str | int) and (type(value), value) in known else UNFIT
    if origin in {typing.Union, types.UnionType}:
        return _first([_reader(one) for one in arguments])
    if origin in {list, tuple, dict}:
        return _container(origin, arguments)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: value if type(value) is hint else made_exactly(hint, value) if type(value) is dict else UNFIT
    return _unfit


def _annotated(inner: Reader, marks: tuple[Any, ...]) -> Reader:
    if not all(isinstance(mark, Limits | Before) for mark in marks):
        return _unfit
    limits = [mark for mark in marks if isinstance(mark, Limits)]
    before = [mark.function for mark in marks if isinstance(mark, Before)]

    def read(value: Any) -> Any:
        for function in before:
            value = function(value)
        value = inner(value)
        if value is None:  # a bound on what may be missing binds only what is there
            return value
        return value if value is not UNFIT and all(one.admits(value) for one in limits) else UNFIT

    return read


def _first(readers: list[Reader]) -> Reader:
    def read(value: Any) -> Any:
        return next((taken for taken in (reader(value) for reader in readers) if taken is not UNFIT), UNFIT)

    return read


def _container(origin: Any, arguments: tuple[Any, ...]) -> Reader:
    if origin is dict:
        key, inner = _reader(arguments[0]), _reader(arguments[1])

        def read_mapping(value: Any) -> Any:
            if type(value) is not dict:
                return UNFIT
            taken = {key(name): inner(item) for name, item in value.items()}
            return UNFIT if UNFIT in taken or any(item is UNFIT for item in taken.values()) else taken

        return read_mapping
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not ...):
        return _unfit
    each = _reader(arguments[0])

    def read_sequence(value: Any) -> Any:
        if type(value) is not list and type(value) is not tuple:
            return UNFIT
        taken = [each(item) for item in value]
        return UNFIT if any(item is UNFIT for item in taken) else origin(taken)

    return read_sequence


def _unfit(value: Any) -> Any:
    return UNFIT


def _text(value: Any) -> Any:
    if type(value) is not str:
        return UNFIT
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character
        return UNFIT
    return value


_PLAIN: dict[Any, Reader] = {
    str: _text,
    bool: lambda value: value if type(value) is bool else UNFIT,
    int: lambda value: value if type(value) is int else UNFIT,
    float: lambda value: value if type(value) is float and math.isfinite(value) else UNFIT,
    type(None): lambda value: None if value is None else UNFIT,
}

__all__ = ["UNFIT", "Before", "Limits", "filled_in", "made_exactly", "record"]
