"""Command-line flags drawn from options classes, and how flags and `--set` become one set of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.options import JSON, OptionHelp, describe, merge, parse_assignment, respelt

F = TypeVar("F", bound=Callable[..., Any])


def with_options(cls: type[object], *, config: bool = False) -> Callable[[F], F]:
    """Add the flags of an options class, `--set` and (if wanted) `--config` to a click command.

    The command receives one argument `values`: the nested values of `--set` and flags, the later winning; and, if wanted, the
    path `config`.

    Args:
        cls: The options class of the verb.
        config: Whether the command reads a recipe.
    """
    rows = list(describe(cls))
    flagged = [row for row in rows if row.flag]

    def decorate(function: F) -> F:
        def command(**given: Any) -> Any:
            layers = [_checked_assignment(text, rows) for text in given.pop("assignments")]
            layers += [_nested(row.path, _given(row, given.pop(_variable(row)))) for row in flagged]
            return function(values=merge(respelt(cls, layer) for layer in layers), **given)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        wrapped: Any = command
        wrapped = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any option, see below.")(
            wrapped
        )
        if config:
            help_text = (
                "A recipe: a YAML file with the same options, and the data if it names them; flags and --set win over it."
            )
            wrapped = click.option("--config", type=click.Path(path_type=Path), default=None, help=help_text)(wrapped)
        for row in reversed(flagged):
            wrapped = _click_option(row)(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


def with_page(function: F) -> F:
    """Add `--page` and `--language` to a click command of a verb that judges."""
    written = click.option(
        "--page", type=click.Path(path_type=Path), metavar="FILE", help="Write the report page too: a .html."
    )
    spoken = click.option("--language", default="en", show_default=True, help="Language of the page: en or zh.")
    return written(spoken(function))


def options_help(cls: type[object]) -> str:
    """Return the list of `--set` keys with defaults and help texts, for the end of a command's help."""
    lines = ["\b", "Options for --set and --config:"]
    for row in describe(cls):
        default = f" [{row.default}]" if row.default else ""
        lines += [f"  {row.path}: {row.type}{default}", f"      {row.help}"]
        if row.family:
            lines += [f"      names, each with its own {row.path}.OPTION: regraft list {row.family} [NAME]"]
    return "\n".join(lines)


def _click_option(row: OptionHelp) -> Callable[[F], F]:
    help_text = row.help + (f" [default: {row.default}]" if row.default and row.type != "bool" else "")
    if row.type == "bool":
        return click.option(row.flag, _variable(row), is_flag=True, default=None, help=help_text)
    metavar = row.repeated or row.type.upper()
    many = bool(row.repeated)
    return click.option(row.flag, _variable(row), default=None, metavar=metavar, help=help_text, multiple=many)


def _given(row: OptionHelp, value: Any) -> Any:
    """Return the value of a flag; of one that may stand several times the only one, or the list of them."""
    if not row.repeated:
        return value
    return None if not value else value[0] if len(value) == 1 else list(value)


def _variable(row: OptionHelp) -> str:
    return "flag_" + row.path.replace(".", "__").replace("-", "_")


def _nested(path: str, value: object) -> dict[str, JSON]:
    if value is None:
        return {}
    nested: JSON = value
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return dict(nested)


def _checked_assignment(text: str, rows: list[OptionHelp]) -> dict[str, JSON]:
    values = parse_assignment(text)
    first = next(iter(values))
    known = list(dict.fromkeys([*(row.path.split(".")[0] for row in rows), *(row.short for row in rows if row.short)]))
    if first not in known:
        paths = [row.path for row in rows]
        full = text.partition("=")[0].strip()
        # "epochs=3" is most likely meant as "train.epochs=3": look at the last part of every path as well.
        tails = [path for path in paths if path.split(".")[-1] == full]
        fix = (
            "did you mean " + " or ".join(f"'{path}'" for path in tails) + "?"
            if tails
            else did_you_mean(full, list(dict.fromkeys([*known, *paths])))
        )
        raise OptionsError(Problem(what=f"there is no option '{full}'", where=f"--set {text}", fix=fix))
    return values
