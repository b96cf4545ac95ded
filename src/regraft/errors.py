"""Every error a user can meet, in one tree.

    RegraftError                     exit code 1
    |- UsageError                    2  wrong use or wrong input; nothing was started
    |  |- OptionsError                  options that do not exist, do not fit or contradict each other
    |  |- UnknownNameError              a registered name that does not exist (nearest names offered)
    |  |- MissingExtraError             an optional package is not installed (names the extra)
    |  |- DataError                     a file, row, column or value that cannot be used
    |  |- BaseError                     a base model that cannot be found, fetched, trusted or loaded
    |- ArtifactError                 2  an artifact that is damaged, edited, unsafe, too new or not one
    |- GateError                     1  a check that guards an answer failed (parity, golden rows, budget)
    |- MachineError                  1  the machine gave up: disk full, out of memory
    |- InterruptedRunError           3  stopped by a signal; nothing half-written

A `Problem` says what, where, got, expected and what to do. An error carries one or many of them, because everything
that can be refused is refused together, before work starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Problem:
    """State one thing that is wrong and what to do about it.

    Args:
        what: One sentence: what is wrong.
        where: File, row, column or option, as the user would look it up ("mails.csv, row 17, column 'label'").
        got: What was found.
        expected: What would have been right.
        fix: What to do now, as an imperative.
        option: Dotted name of the option that it is about, for programs ("train.epochs"); not shown.

    Example:
        >>> print(Problem(what="the target column is not there", where="mails.csv", got="'lable'", fix="use 'label'"))
        the target column is not there
          where: mails.csv
          got: 'lable'
          to do: use 'label'
    """

    what: str
    where: str = ""
    got: str = ""
    expected: str = ""
    fix: str = ""
    option: str = ""

    def __str__(self) -> str:
        rows = [("where", self.where), ("got", self.got), ("expected", self.expected), ("to do", self.fix)]
        return "\n".join([self.what, *(f"  {name}: {text}" for name, text in rows if text)])

    def to_json(self) -> dict[str, str]:
        """Return the filled fields as a JSON object."""
        return {name: text for name, text in vars(self).items() if text}


class RegraftError(Exception):
    """Root of the tree; carries the problems it is about.

    Args:
        problems: One problem, several, or a plain sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problems: Problem | str | Sequence[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(what=problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"{len(self.problems)} problems:"]
        for number, problem in enumerate(self.problems, start=1):
            lines += [f"{number}. " + str(problem).replace("\n", "\n   ")]
        return "\n".join(lines)


class UsageError(RegraftError):
    """Wrong use or wrong input; nothing was started."""

    exit_code = 2


class OptionsError(UsageError):
    """Options that do not exist, do not fit or contradict each other."""


class UnknownNameError(UsageError):
    """A registered name that does not exist."""


class MissingExtraError(UsageError):
    """An optional package is not installed."""


class DataError(UsageError):
    """A file, row, column or value that cannot be used."""


class BaseError(UsageError):
    """A base model that cannot be found, fetched, trusted or loaded."""


class ArtifactError(RegraftError):
    """An artifact that is damaged, edited, unsafe, too new or not one."""

    exit_code = 2


class GateError(RegraftError):
    """A check that guards an answer failed."""


class MachineError(RegraftError):
    """The machine gave up: disk full, out of memory, a file system that refuses."""


class InterruptedRunError(RegraftError):
    """Stopped by a signal; nothing was left half-written."""

    exit_code = 3


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return the known names most like `name`, best first.

    Args:
        name: What the user wrote.
        known: The names that exist.
        limit: How many to return at most.

    Example:
        >>> nearest("lable", ["label", "text"])
        ['label']
    """
    choices = list(dict.fromkeys(known))
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(choice.casefold(), choice)
    hits = difflib.get_close_matches(name.casefold(), folded, n=limit, cutoff=0.6)
    return [folded[hit] for hit in hits]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return an imperative that offers the nearest known names, or lists them all.

    Example:
        >>> did_you_mean("lable", ["label", "text"])
        "did you mean 'label'?"
        >>> did_you_mean("zzz", ["label", "text"])
        "use one of 'label', 'text'"
    """
    hits = nearest(name, known)
    if hits:
        return "did you mean " + " or ".join(f"'{hit}'" for hit in hits) + "?"
    listed = ", ".join(f"'{choice}'" for choice in known[:20])
    if not known:
        return "there is none"
    return f"use one of {listed}" + (f" (and {len(known) - 20} more)" if len(known) > 20 else "")
