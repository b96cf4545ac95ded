"""Whether artifacts predict the same things, so that they can be held against each other on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.errors import DataError, Problem
from regraft.tasks.task import Part, Task


def column_orders(tasks: Sequence[Task]) -> list[list[int] | None]:
    """Return for each task the places of the first one's columns (labels, levels) among its own; nothing where they are alike.

    Args:
        tasks: At least one; each has learnt its labels.

    Raises:
        DataError: They do not predict the same targets, give other kinds of answers, or know other labels.
    """
    first = tasks[0]
    orders: list[list[int] | None] = []
    for task in tasks:
        own = {part.name: part for part in task.parts}
        _same_targets(list(own), [part.name for part in first.parts])
        found = [place for part in first.parts for place in _places(own[part.name], part)]
        orders.append(None if found == sorted(found) else found)
    return orders


def _same_targets(own: Sequence[str], first: Sequence[str]) -> None:
    if sorted(own) != sorted(first):
        got = " against ".join(", ".join(names) if any(names) else "one target" for names in (own, first))
        fix = "compare artifacts that predict the same targets"
        raise DataError(Problem(what="the artifacts do not predict the same targets", got=got, fix=fix))


def _places(own: Part, first: Part) -> list[int]:
    """Return where the columns of a target of the first task stand among those of another one."""
    from regraft.evaluation.answer_kind import kind_of

    task, wanted, of = own.task, first.task, f" for '{first.name}'" if first.name else ""
    fix = "compare artifacts that predict the same target"
    if task.answers != wanted.answers:
        got = f"{task.answers.replace('-', ' ')} against {wanted.answers.replace('-', ' ')}"
        raise DataError(Problem(what=f"the artifacts do not give the same kind of answers{of}", got=got, fix=fix))
    ordered = kind_of(task.answers).ordered
    if (task.names != wanted.names) if ordered else (sorted(task.names) != sorted(wanted.names)):
        got = f"{', '.join(task.names[:10])} against {', '.join(wanted.names[:10])}"
        what = f"the artifacts do not know the same labels{of}" + (" in the same order" if ordered else "")
        raise DataError(Problem(what=what, got=got, fix=fix))
    start = own.judged.start or 0
    return [start + task.names.index(name) for name in wanted.names] or [start]
