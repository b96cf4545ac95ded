"""Options: the only description of a stage. Python, run.yaml, `--set a.b=c`, flags, HTTP and help text are drawn from them.

    @options
    class TrainOptions:
        epochs: PositiveInt = 3
        '''How often every training row is seen.'''

gives a frozen, keyword-only dataclass that refuses unknown keys and wrong values with one `OptionsError` that holds every
problem. The docstring under a field is its help text everywhere.

A stage that is chosen by name (`tuning: lora`, or `tuning: {name: lora, rank: 8}`) is a `Pick`, annotated with the registry it
comes from; the rest of the mapping is checked against the `Options` class of the thing picked.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import os
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, dataclass_transform, get_args

from regraft.errors import OptionsError, Problem, UsageError, did_you_mean
from regraft.registry import Registry
from regraft.typed import UNFIT, Before, Limits, made_exactly, record

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
    from pydantic_core import PydanticCustomError, core_schema

T = TypeVar("T")
JSON = Any  # any JSON value; the one place where Any is meant


def Field(*, default_factory: Callable[[], Any] | None = None, **limits: Any) -> Any:  # noqa: N802 - stands where pydantic's stood
    """Say more about a field than its type; `pydantic.Field` means the same here, but importing pydantic takes long.

        rank: Annotated[int, Field(ge=1)] = 8
        part: PartOptions = Field(default_factory=PartOptions)

    Args:
        default_factory: Makes the default; then nothing else is said.
        **limits: The fields of `regraft.typed.Limits`: ge, gt, le, lt, min_length, max_length, json_schema_extra.
    """
    return Limits(**limits) if default_factory is None else field(default_factory=default_factory)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, Field))
def options(cls: type[T]) -> type[T]:
    """Make a class with annotated, documented fields into an options class.

    Values that fit exactly are taken as they are; all others are shown to pydantic, which converts or refuses them.

    Args:
        cls: Class whose annotations are the options; at most 15, each with a docstring below it.

    Returns:
        A frozen keyword-only dataclass whose constructor raises `OptionsError`.

    Example:
        >>> @options
        ... class Small:
        ...     rank: int = 8
        ...     '''Width of the update.'''
        >>> Small(rank=4).rank
        4
        >>> Small(rnak=4)
        Traceback (most recent call last):
        regraft.errors.OptionsError: there is no option 'rnak'
          where: Small
          to do: did you mean 'rank'?
    """
    _own_defaults(cls)
    made: Any = record(cls)

    def init(self: T, *args: object, **kwargs: object) -> None:
        values = _with_default_names(made, kwargs)
        taken = UNFIT if args else made_exactly(made, values)
        if taken is UNFIT:
            taken = _validated(made, values, args)
        vars(self).update(vars(taken))

    made.__init__ = init
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}
    return typing.cast(type[T], made)


def _own_defaults(cls: type[Any]) -> None:
    """Let a default made with `pydantic.Field` be one of a plain dataclass."""
    for name, value in list(vars(cls).items()):
        if type(value).__module__.startswith("pydantic.") and callable(getattr(value, "default_factory", None)):
            setattr(cls, name, field(default_factory=value.default_factory))


def _validated(cls: type[T], values: Mapping[str, JSON], args: tuple[object, ...] = (), owner: str = "") -> T:
    """Return the options that pydantic makes of values, or raise everything that it finds wrong."""
    from pydantic import ValidationError
    from pydantic_core import ArgsKwargs

    try:
        return typing.cast(T, _adapter(cls).validate_python(ArgsKwargs(args, dict(values))))
    except ValidationError as error:
        raise OptionsError(_problems(error, cls, owner)) from None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        import pydantic

        _prepare(cls, set())
        _ADAPTERS[cls] = pydantic.TypeAdapter(cls)
    return _ADAPTERS[cls]


def _prepare(cls: type[Any], seen: set[type[Any]]) -> None:
    """Give pydantic the evaluated annotations of an options class and of those inside it, each with its help text."""
    import pydantic

    seen.add(cls)
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a type that stands inside a function: pydantic knows more ways to find it
        return
    help_texts = field_help(cls)
    for item in dataclasses.fields(cls):
        extra = _schema_extra(hints[item.name])
        told = pydantic.Field(description=help_texts.get(item.name), json_schema_extra=dict(extra) or None)
        item.type = Annotated[hints[item.name], told]
        for part in (hints[item.name], *get_args(hints[item.name])):
            if is_options(part) and part not in seen:
                _prepare(part, seen)


def field_help(cls: type[object]) -> dict[str, str]:
    """Return the docstring below each field of an options class, those of the classes above it included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # typed into a console
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for above, below in itertools.pairwise(body):
            said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(said, str):
                found[above.target.id] = inspect.cleandoc(said)
    return found


def _schema_extra(hint: object) -> Mapping[str, JSON]:
    marks = getattr(hint, "__metadata__", ())
    return next((mark.json_schema_extra for mark in marks if getattr(mark, "json_schema_extra", None)), {})


def build(cls: type[T], values: Mapping[str, JSON], owner: str = "") -> T:
    """Make an options object from plain values, reporting every problem together.

    Args:
        cls: An options class.
        values: Nested mapping, as YAML or JSON gives it.
        owner: What to call these options in messages; the class name if empty.

    Raises:
        OptionsError: With one problem per wrong, unknown or missing option.
    """
    named = _with_default_names(cls, values)
    taken = made_exactly(cls, named)
    return typing.cast(T, taken) if taken is not UNFIT else _validated(cls, named, owner=owner)


def to_json(value: object) -> JSON:
    """Return options (or any value inside them) as plain JSON values; `build` reads them back."""
    if isinstance(value, Pick):
        return {"name": value.name, **value.options}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def json_schema(cls: type[object]) -> dict[str, JSON]:
    """Return the JSON Schema of an options class, help texts included."""
    return _adapter(cls).json_schema()


def _with_default_names(cls: type[object], values: Mapping[str, JSON]) -> dict[str, JSON]:
    """Put the default's name into picks that are given by their options alone (`modality: {max_length: 256}`)."""
    filled = respelt(cls, values)
    spelt_out = getattr(cls, "spelt_out", None)
    if spelt_out is not None:
        filled = spelt_out(filled)
    mappings = [name for name, given in filled.items() if isinstance(given, Mapping)]
    if not mappings:
        return filled
    hints, items = typing.get_type_hints(cls), {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in mappings:
        if name not in items:
            continue
        given, default = filled[name], items[name].default
        if is_options(hints[name]):
            filled[name] = _with_default_names(hints[name], given)
        elif isinstance(default, Pick) and "name" not in given:
            filled[name] = {"name": default.name, **default.options, **given}
    return filled


def respelt(cls: type[object], values: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return values in which an entry of a mapping that has flags of its own (`text="body"`) stands in that mapping.

    Args:
        cls: An options class.
        values: As the user gave them.
    """
    as_layer = getattr(cls, "as_layer", dict)
    made: dict[str, JSON] = as_layer(values)
    for name, table in _tables(cls).items():
        given = made.get(name)
        spelt = {key.replace("-", "_"): key for key in table.names()}  # as Python writes it
        short = {key: made.pop(key) for key in table.names() if key in made}
        short |= {key: made.pop(as_said) for as_said, key in spelt.items() if as_said in made}
        if not short or not isinstance(given, Mapping | None):
            made |= short
            continue
        found = {key: value for key, value in short.items() if value is not None}
        made[name] = {**found, **(given or {})}
    return made


def _tables(cls: type[object]) -> dict[str, Registry[Any]]:
    """Return field -> registry of its keys, for mappings with one flag a key."""
    if not hasattr(cls, "__pydantic_config__"):
        return {}
    if cls not in _KEYED:
        marked = typing.get_type_hints(cls, include_extras=True)
        named = {item.name: _schema_extra(marked[item.name]).get("flags") for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        _KEYED[cls] = {name: str(target) for name, target in named.items() if target}
    return {name: typing.cast(Registry[Any], _imported(target)) for name, target in _KEYED[cls].items()}


_KEYED: dict[type[object], dict[str, str]] = {}


def as_text(value: object) -> object:
    """Return a path object as its text and anything else as it is, so that `Path("x")` may stand wherever "x" may."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


PathText = Annotated[str, Before(as_text)]
"""A path in options: text, or any path object."""


def joined_names(value: object) -> object:
    """Return names as one text with commas between them, and anything else as it is.

    Example:
        >>> joined_names(["age", "city, state"]), joined_names("age")
        ('age,"city, state"', 'age')
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return value
    return ",".join('"' + name.replace('"', '""') + '"' if {",", '"'} & set(name) else name for name in value)


class HasOptions(Protocol):
    """What a registered class must offer to be picked by name: its options class."""

    Options: type[Any]


@dataclass(frozen=True)
class Pick:
    """Name one thing of a family, with its options.

    Args:
        name: Registered name.
        options: Its options as plain values; already checked when the pick came through an options class.
    """

    name: str
    options: Mapping[str, JSON] = field(default_factory=dict)

    def resolve(self, registry: Registry[T]) -> tuple[T, Any]:
        """Return the picked class and its checked options object."""
        picked = registry.get(self.name)
        return picked, build(typing.cast(HasOptions, picked).Options, self.options, owner=registry.canonical(self.name))


@dataclass(frozen=True)
class Among:
    """Annotate a `Pick` field with the registry it is picked from.

    Args:
        registry: "module:ATTRIBUTE" of the registry, imported when a value is checked (an options module may stand below it).
        normalise: "module:function" that turns a name outside the table (a folder, a hub id) into a pick, or into nothing.
        later: Whether the name may be empty: something else decides it, and the options are checked then.
    """

    registry: str
    normalise: str = ""
    later: bool = False

    def table(self) -> Registry[Any]:
        """Return the registry."""
        return typing.cast(Registry[Any], _imported(self.registry))

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, JSON]:
        names = {"type": "string"} if self.normalise else {"type": "string", "enum": self.table().names()}
        return {"anyOf": [names, {"type": "object", "properties": {"name": names}, "required": ["name"]}]}

    def check(self, value: object) -> Pick:
        """Return a checked pick from a name, a mapping with a name, or a pick."""
        registry = self.table()
        pick = _as_pick(value)
        if self.later and not pick.name:
            return pick
        if self.normalise and pick.name not in registry:
            turned = typing.cast(Callable[[Pick], Pick | None], _imported(self.normalise))(pick)
            pick = turned or pick
        problems: list[Problem] = []
        if pick.name not in registry:
            problems.append(registry.unknown(pick.name))
        else:
            try:
                pick.resolve(registry)
            except UsageError as error:
                problems.extend(error.problems)
        if problems:
            raise _refusal("see problems", problems)
        return Pick(registry.canonical(pick.name), dict(pick.options))


def _as_pick(value: object) -> Pick:
    value = as_text(value)
    if isinstance(value, Pick):
        return value
    if isinstance(value, str):
        return Pick(value)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return Pick(value["name"], {str(key): item for key, item in value.items() if key != "name"})
    raise _refusal("a name, or a mapping with the key 'name', is expected")


def _refusal(message: typing.LiteralString, problems: Iterable[Problem] = ()) -> PydanticCustomError:
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("regraft", message, {"problems": list(problems)})


def _imported(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def parse_assignment(text: str) -> dict[str, JSON]:
    """Read one `--set a.b=c` into a nested mapping; the value is YAML.

    Raises:
        OptionsError: There is no '=' or an empty key.

    Example:
        >>> parse_assignment("train.epochs=3")
        {'train': {'epochs': 3}}
    """
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise OptionsError(
            Problem(
                what="--set takes KEY=VALUE", got=f"'{text}'", expected="for example --set train.epochs=3", fix="write it so"
            )
        )
    import yaml

    try:
        value: JSON = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    for key in reversed(keys):
        value = {key: value}
    return typing.cast(dict[str, JSON], value)


def merge(layers: Iterable[Mapping[str, JSON]]) -> dict[str, JSON]:
    """Lay nested mappings over each other; a later layer wins, a name over `{name: ...}` keeps the options only if equal.

    Example:
        >>> merge([{"train": {"epochs": 3, "seed": 1}}, {"train": {"epochs": 5}}])
        {'train': {'epochs': 5, 'seed': 1}}
        >>> merge([{"tuning": "lora"}, {"tuning": {"rank": 8}}])
        {'tuning': {'name': 'lora', 'rank': 8}}
    """
    merged: dict[str, JSON] = {}
    for layer in layers:
        for key, value in layer.items():
            merged[key] = _merge_value(merged[key], value) if key in merged else value
    return merged


def _merge_value(old: JSON, new: JSON) -> JSON:
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        if "name" in new and new["name"] != old.get("name"):
            return new
        return merge([old, new])
    if isinstance(new, Mapping) and isinstance(old, str) and "name" not in new:
        return {"name": old, **new}
    if isinstance(new, Mapping) and isinstance(old, int | float | list):
        keys = ", ".join(str(key) for key in new)
        problem = Problem(what="one option is given a value and options of its own", got=f"{old!r} and {keys}", fix="drop one")
        raise OptionsError(problem)
    if isinstance(new, str) and isinstance(old, Mapping) and old.get("name", new) == new:
        return {**old, "name": new}
    return new


@dataclass(frozen=True, kw_only=True)
class OptionHelp:
    """Describe one option for help texts and forms.

    Args:
        path: Dotted name ("train.epochs").
        type: The Python type as users read it.
        default: Default as text, empty if the option is required.
        help: The field's docstring.
        flag: Its own command-line flag ("--epochs"), or empty: then `--set path=value`.
        required: Whether there is no default.
        short: Another spelling of the path ("text" for "columns.text"), or empty.
        repeated: What a value of a flag that may stand several times looks like, or empty.
        family: Of what is picked by name, the family; what is picked has options of its own below the same path.
    """

    path: str
    type: str
    default: str
    help: str
    flag: str
    required: bool
    short: str = ""
    repeated: str = ""
    family: str = ""


def describe(cls: type[object], prefix: str = "") -> Iterator[OptionHelp]:
    """Yield every option of a class, nested ones with dotted names, in the order of their fields.

    Args:
        cls: An options class.
        prefix: Dotted path put before each name.
    """
    hints, marked = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    help_texts = field_help(cls)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        path, hint = f"{prefix}{item.name}", hints[item.name]
        if is_options(hint):
            yield from describe(hint, f"{path}.")
            continue
        if table := _tables(cls).get(item.name):
            yield from _keyed(path, table, help_texts.get(item.name, ""))
            continue
        made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        required = made is dataclasses.MISSING
        shown = "" if required or made is None else str(to_json(made))
        yield OptionHelp(
            path=path,
            type=_type_name(hint),
            default=made.name if isinstance(made, Pick) else shown,
            help=" ".join(help_texts.get(item.name, "").split()),
            flag=str(_schema_extra(marked[item.name]).get("flag", "")),
            required=required,
            repeated=str(_schema_extra(marked[item.name]).get("repeated", "")),
            family=_family(marked[item.name]),
        )


def _family(hint: object) -> str:
    marks = getattr(hint, "__metadata__", ())
    return next((mark.table().family for mark in marks if isinstance(mark, Among)), "")


def _keyed(path: str, table: Registry[Any], help_text: str) -> Iterator[OptionHelp]:
    """Yield one option for each name of a registry."""
    told = " ".join(help_text.split())
    for name in table:
        words = f"{told} ({name})"
        yield OptionHelp(
            path=f"{path}.{name}", type="column", default="", help=words, flag=f"--{name}", required=False, short=name
        )


def is_options(hint: object) -> bool:
    """Return whether a type is an options class."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and hasattr(hint, "__pydantic_config__")


def _type_name(hint: object) -> str:
    if hint is Pick:
        return "name"
    some = [part for part in get_args(hint) if part is not type(None)]
    if len(some) < len(get_args(hint)) and len(some) == 1:  # X | None, also as typing.Optional[X]
        return _type_name(some[0])
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return text.replace("typing.", "").replace("pathlib.", "").replace(" | None", "").replace("Literal", "one of ")


def _problems(error: ValidationError, cls: type[object], owner: str) -> list[Problem]:
    problems: list[Problem] = []
    owner = owner or cls.__name__
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        nested = item.get("ctx", {}).get("problems")
        if nested:
            problems += [_inside(problem, path) for problem in nested]
        elif item["type"] in {"unexpected_keyword_argument", "unexpected_positional_argument"}:
            *parents, key = (str(part) for part in item["loc"])
            inner = _class_at(cls, parents)
            known = [f.name for f in dataclasses.fields(inner)] if inner else []  # type: ignore[arg-type]
            known += [key for table in _tables(inner).values() for key in table.names()] if inner else []
            where = ".".join(parents) or owner
            # An option of a part ("epochs") is often written as if it were one of the whole ("train.epochs").
            deeper = [row.path for row in describe(inner) if row.path.endswith(f".{key}")] if inner else []
            fix = f"did you mean '{deeper[0]}'?" if deeper else did_you_mean(key, known)
            problems.append(Problem(what=f"there is no option '{key}'", where=where, fix=fix, option=path))
        elif item["type"] in {"missing", "missing_keyword_only_argument", "missing_argument"}:
            fix = f"give '{path}' a value (on the command line --{path})"
            problems.append(Problem(what=f"the option '{path}' is required", where=owner, fix=fix, option=path))
        else:
            expected = _expectation(item["msg"])
            got = repr(item["input"])[:200]
            what = f"the option '{path}' has a value it cannot take"
            fix = f"change '{path}'"
            problems.append(Problem(what=what, where=owner, got=got, expected=expected, fix=fix, option=path))
    return problems


def _inside(problem: Problem, path: str) -> Problem:
    """Return a problem of options as one of the options that hold them."""
    where, option = (
        sep.join(filter(None, parts)) for sep, parts in ((", ", (path, problem.where)), (".", (path, problem.option)))
    )
    return dataclasses.replace(problem, where=where, option=option)


def _expectation(message: str) -> str:
    text = message.removeprefix("Value error, ")
    for start in ("Input should be ", "Input should have "):
        text = text.removeprefix(start)
    return text


def _class_at(cls: type[object], path: Iterable[str]) -> type[object] | None:
    for part in path:
        hint = typing.get_type_hints(cls).get(part)
        if not is_options(hint):
            return None
        cls = typing.cast(type[object], hint)
    return cls


__all__ = [
    "JSON",
    "Among",
    "Before",
    "Field",
    "HasOptions",
    "OptionHelp",
    "PathText",
    "Pick",
    "build",
    "describe",
    "is_options",
    "joined_names",
    "json_schema",
    "merge",
    "options",
    "parse_assignment",
    "to_json",
]
