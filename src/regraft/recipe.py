"""A recipe: the options of a fit, and the data that they are for, in one YAML file.

    data: mnist                       # a sample, or a file or folder as seen from this one; or {name: mnist, test_share: 0.1}
    target: label
    base: {name: conv, style: vgg}    # ./folder is seen from this file
    train: {epochs: 12}

Every option of `fit` may stand there; what is given beside the file wins over it. All that is wrong in it is reported together,
each with its line, before anything else is done.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from regraft.data import SAMPLES
from regraft.errors import OptionsError, Problem, UsageError
from regraft.options import JSON, Among, Before, as_text, build, is_options, merge, respelt, to_json
from regraft.verbs import FitOptions

_DATA, _NAME = "data", "name"
_LARGEST_BYTES = 2**20
_MOST_NODES = 10_000
_HERE = ("./", "../")
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_REQUIRED = {"target": "", "out": ""}
_Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a file says.

    Args:
        content: As it was written.
        data: What to fit to; None where the file does not say.
        options: Options of `fit`, paths as seen from where the program runs.
    """

    content: Mapping[str, JSON]
    data: str | None
    options: Mapping[str, JSON]


def with_recipe(config: str | Path | None, data: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Recipe | None]:
    """Return what to fit to and with which options, once a recipe has said what was not given.

    Args:
        config: The file, if there is one.
        data: As given beside it; None where it is not.
        options: As given beside it; they win.

    Raises:
        OptionsError: The file cannot be used.
        UsageError: Neither names data.
    """
    recipe = None if config is None else read_recipe(Path(config))
    if data is None:
        data = recipe.data if recipe else None
    if data is None:
        fix = "name a file, a folder or a sample; in a recipe as 'data: NAME'"
        raise UsageError(Problem(what="there are no data to fit to", where=str(config or ""), fix=fix))
    layers = [recipe.options if recipe else {}, options]
    return data, merge(respelt(FitOptions, layer) for layer in layers), recipe


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        path: The file.

    Raises:
        OptionsError: It cannot be read, is not such a file, or holds options that do not exist or do not fit.
    """
    nodes = _Nodes(path)
    content = nodes.values()
    options = dict(content)
    about, data = options.get(_DATA), None
    if isinstance(about, str):
        data = options.pop(_DATA)
    elif isinstance(about, Mapping) and isinstance(about.get(_NAME), str):
        data = about[_NAME]
        options[_DATA] = {key: value for key, value in about.items() if key != _NAME}
    try:
        build(FitOptions, {**_REQUIRED, **options})
    except UsageError as error:
        raise OptionsError([nodes.placed(problem) for problem in error.problems]) from None
    return Recipe(
        content=content,
        data=None if data is None else _seen_from(path.parent, data),
        options=_relocated(FitOptions, options, path.parent),
    )


def changed(asked: Mapping[str, JSON]) -> Iterator[tuple[_Path, JSON]]:
    """Yield the path and value of every option that differs from its default.

    Args:
        asked: Options of `fit` as plain values.

    Example:
        >>> list(changed({"target": "label", "seed": 0, "train": {"epochs": 5}}))
        [(('target',), 'label'), (('train', 'epochs'), 5)]
    """
    defaults: Mapping[str, JSON] = to_json(build(FitOptions, _REQUIRED))
    for path, value in _leaves(asked):
        default: JSON = defaults
        for key in path:
            default = default.get(key) if isinstance(default, Mapping) else None
        if value != default:
            yield path, value


def _leaves(values: Mapping[str, JSON], path: _Path = ()) -> Iterator[tuple[_Path, JSON]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


@dataclass
class _Nodes:
    """The nodes of a YAML file, with their lines.

    Args:
        path: The file.
    """

    path: Path
    lines: dict[_Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def values(self) -> dict[str, JSON]:
        """Return what the file holds as plain values."""
        loader = yaml.SafeLoader(self._text())
        try:
            node = loader.get_single_node()
            values = {} if node is None else self._plain(loader, node, ())
        except (yaml.YAMLError, RecursionError) as error:
            got = " ".join(str(error).split())
            raise OptionsError(
                Problem(what="the config is not YAML", where=str(self.path), got=got, fix="mend the file")
            ) from None
        finally:
            loader.dispose()
        if not isinstance(values, dict):
            what, got = "the config is not a mapping of options", type(values).__name__
            raise OptionsError(Problem(what=what, where=str(self.path), got=got, fix="write key: value lines"))
        if self.problems:
            raise OptionsError(self.problems)
        return values

    def placed(self, problem: Problem) -> Problem:
        """Return a problem with the line of the option that it is about."""
        path = tuple(problem.option.split(".")) if problem.option else ()
        ways = [path[start:end] for start in (0, 1) for end in range(len(path), start, -1)]
        line = next((self.lines[way] for way in ways if way in self.lines), None)
        place = str(self.path) + (f", line {line}" if line else "")
        return dataclasses.replace(problem, where=f"{place} ({problem.where})" if len(path) > 1 else place)

    def _text(self) -> str:
        where = str(self.path)
        try:
            with self.path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
        except OSError as error:
            got = error.strerror or ""
            raise OptionsError(
                Problem(what="the config cannot be read", where=where, got=got, fix="check the path of the config")
            ) from None
        if len(content) > _LARGEST_BYTES:
            expected = f"at most {_LARGEST_BYTES:,} bytes"
            raise OptionsError(Problem(what="the config is too large", where=where, expected=expected, fix="name another file"))
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise OptionsError(
                Problem(what="the config is not YAML", where=where, got=str(error), fix="save it as UTF-8")
            ) from None

    def _plain(self, loader: yaml.SafeLoader, node: yaml.Node, path: _Path) -> JSON:
        if id(node) in self.seen or len(self.seen) >= _MOST_NODES:
            what = "the config holds an alias (*name)" if id(node) in self.seen else "the config holds too many values"
            raise OptionsError(Problem(what=what, where=self._place(node), fix="write out what is meant"))
        self.seen.add(id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            what, fix = f"the config holds a tag ({node.tag})", "write plain values"
            raise OptionsError(Problem(what=what, where=self._place(node), fix=fix))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(loader, item, (*path, str(place))) for place, item in enumerate(node.value)]
        return loader.construct_object(node)

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: _Path) -> dict[str, JSON]:
        made: dict[str, JSON] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            if not key:
                self.problems.append(Problem(what="a key is not a name", where=self._place(key_node), fix="write key: value"))
                continue
            if key in made:
                first = self.lines[*path, key]
                what, fix = f"'{key}' is given twice", "keep one of the two"
                self.problems.append(Problem(what=what, where=self._place(key_node), got=f"first in line {first}", fix=fix))
            self.lines[*path, key] = key_node.start_mark.line + 1
            made[key] = self._plain(loader, value_node, (*path, key))
        return made

    def _place(self, node: yaml.Node) -> str:
        return f"{self.path}, line {node.start_mark.line + 1}"


def _seen_from(folder: Path, name: str) -> str:
    """Return a path as seen from where the program runs, and the name of a sample as it is."""
    path = Path(name).expanduser()
    return name if name in SAMPLES or not name.strip() or path.is_absolute() else str(folder / path)


def _relocated(cls: type[object], values: Mapping[str, JSON], folder: Path) -> dict[str, JSON]:
    """Return options whose paths, as seen from a folder, are as seen from where the program runs."""
    hints = typing.get_type_hints(cls, include_extras=True)
    made = dict(values)
    for key, value in values.items():
        hint = hints.get(key)
        if is_options(hint) and isinstance(value, Mapping):
            made[key] = _relocated(typing.cast(type[object], hint), value, folder)
        elif isinstance(value, str) and _is_path(hint):
            made[key] = _seen_from(folder, value)
        elif any(isinstance(mark, Among) and mark.normalise for mark in getattr(hint, "__metadata__", ())):
            made[key] = _base_from(folder, value)
    return made


def _is_path(hint: object) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(mark, Before) and mark.function is as_text for mark in marks) or any(map(_is_path, get_args(hint)))


def _base_from(folder: Path, value: JSON) -> JSON:
    """Return a pick whose texts that begin with ./ or ../ are paths as seen from where the program runs."""
    if isinstance(value, str):
        return str(folder.absolute() / value) if value.startswith(_HERE) else value
    return {key: _base_from(folder, item) for key, item in value.items()} if isinstance(value, Mapping) else value
