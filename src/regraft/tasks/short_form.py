"""Which columns are predicted, and what is predicted in each: what was said in short, as options in full.

    --target label                                              one target, by --task (classification if not given)
    --target label=classification --target price=regression     two targets, each with a head of its own
    target={"label": "classification", "price": "regression"}   the same in Python and in recipes
    --task regression --target width --target height            two targets of one task

What is found stands in the options of the artifact, complete, so that the same command can be made of it again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.errors import OptionsError, Problem, did_you_mean, nearest
from regraft.options import JSON, Pick, to_json
from regraft.tasks import SEVERAL, TASKS

_SAID = "target"
_TASK = "task"
_TARGETS = "targets"


def spelt_out(values: Mapping[str, Any], usual: str) -> dict[str, Any]:
    """Return options of `fit` in which several targets are a mapping from column to task, and the task holds them all.

    Args:
        values: As the user gave them.
        usual: Task of a target of which nothing is said.

    Raises:
        OptionsError: A target is named twice, or has two tasks, or a task that does not exist.

    Example:
        >>> spelt_out({"target": ["kind", "price=regression"]}, "classification")["task"]
        {'name': 'multi-target', 'targets': {'kind': {'name': 'classification'}, 'price': {'name': 'regression'}}}
    """
    task = _as_mapping(values.get(_TASK))
    named = _entries(values.get(_SAID), task)
    if named is None:
        return dict(values)
    whole = "name" not in task or bool(_several(task["name"]))
    if len(named) == 1:
        ((column, own),) = named.items()
        return {**values, _SAID: column, **({_TASK: _one(column, own, task)} if own else {})}
    others = {key: value for key, value in task.items() if key not in {"name", _TARGETS}} if whole else {}
    if not whole and all(named.values()):
        what, fix = "every target has a task of its own, and another one is named beside them", "leave out --task"
        raise OptionsError(Problem(what=what, where=_TASK, got=str(task["name"]), fix=fix))
    said = dict(task.get(_TARGETS) or {}) if whole else {}
    strange = [name for name in said if name not in named]
    if strange:
        fix = did_you_mean(strange[0], list(named))
        raise OptionsError(
            Problem(what=f"there are options for '{strange[0]}', which is no target", where="task.targets", fix=fix)
        )
    default = {"name": usual} if whole else task
    made = {name: _pick(name, own, _as_mapping(said.get(name)), default) for name, own in named.items()}
    told = {name: str(pick["name"]) for name, pick in made.items()}
    return {**values, _SAID: told, _TASK: {"name": SEVERAL, _TARGETS: made, **others}}


def _entries(said: Any, task: Mapping[str, Any]) -> dict[str, str] | None:
    """Return column -> name of the task, or an empty text; nothing where one column is named in the plain way."""
    if isinstance(said, Mapping):
        said = [said]
    if isinstance(said, str) or said is None:
        inside = task.get(_TARGETS) if not said and _several(task.get("name")) else None
        if isinstance(inside, Mapping) and inside:
            return dict.fromkeys(map(str, inside), "")
        column, own = _apart(said or "")
        return {column: own} if own else None
    if not isinstance(said, Sequence) or not said:
        return None
    pairs = [pair for entry in said for pair in _pairs(entry)]
    twice = [column for column, count in Counter(column for column, _ in pairs).items() if count > 1]
    if twice:
        problems = [
            Problem(what=f"the target '{column}' is named twice", where=_SAID, fix="name it once, with one task")
            for column in twice
        ]
        raise OptionsError(problems)
    return dict(pairs)


def _pairs(entry: Any) -> list[tuple[str, str]]:
    if isinstance(entry, Mapping):
        return [(str(column), _task_name(str(column), own)) for column, own in entry.items()]
    return [_apart(entry) if isinstance(entry, str) else (str(entry), "")]


def _apart(entry: str) -> tuple[str, str]:
    """Return the column and the task of COLUMN=TASK; all of it is a column where no task stands after the sign."""
    column, sign, own = entry.rpartition("=")
    column, own = column.strip(), own.strip()
    if not sign or not column:
        return entry, ""
    if own in TASKS:
        return column, TASKS.canonical(own)
    if nearest(own, TASKS.names()):
        raise OptionsError(dataclasses.replace(TASKS.unknown(own), where=f"--target {entry}"))
    return entry, ""


def _task_name(column: str, own: Any) -> str:
    name = own.name if isinstance(own, Pick) else own.get("name", "") if isinstance(own, Mapping) else own or ""
    if name and name not in TASKS:
        raise OptionsError(dataclasses.replace(TASKS.unknown(str(name)), where=f"target '{column}'"))
    return TASKS.canonical(str(name))


def _several(name: Any) -> bool:
    return isinstance(name, str) and name in TASKS and TASKS.get(name).several


def _as_mapping(given: Any) -> dict[str, JSON]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"name": given}
    return dict(to_json(given)) if isinstance(given, Pick | Mapping) else {"name": given}


def _one(column: str, own: str, task: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the task of the only target."""
    if task.get("name", own) != own:
        raise OptionsError(_two(column, own, str(task["name"])))
    return {**task, "name": own}


def _pick(column: str, own: str, said: Mapping[str, JSON], default: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the task of one of several targets with its options."""
    if own and said.get("name", own) != own:
        raise OptionsError(_two(column, own, str(said["name"])))
    if own or "name" in said:
        return {**said, "name": own or said["name"]}
    return {**default, **said}


def _two(column: str, own: str, other: str) -> Problem:
    what = f"the target '{column}' has two tasks"
    return Problem(what=what, where=_TASK, got=f"{own} and {other}", fix=f"name one: --target {column}={own}")
