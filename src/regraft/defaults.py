"""What a fit does where nothing was said: which weights learn, how often they see the rows, and how their rate rises.

The one place where this is decided. `RULES` is what `bench/defaults.py` chose: of the recipes that it fitted over data sets,
rows and seeds those that are not worse than the best by more than a standard error, and of these the quickest; around it rate,
batch and warm-up were moved, of which one move was surely better (no warm-up, from scratch on 100 rows). Its table is
`bench/defaults.out`; a test holds the two against each other. Whatever was said wins, each thing by itself. What was decided
stands in the options of the artifact, so that it can be made again whatever the rules become.

    settled(wanted, base, rows=450, task=task)     the same options with a tuning and epochs
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.options import Pick
from regraft.tuning import TUNINGS
from regraft.tuning.options import TuningOptions
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.models.base import Base
    from regraft.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is taken for a number of training rows.

    Args:
        rows: The most rows that it is for; all beyond the rules before it if None.
        tuning: Which weights learn.
        epochs: How often every row is seen, in the last phase where there are several.
        head_epochs: The same where nothing but a head learns.
        warmup_share: Share of all steps over which the rate rises to its peak.
    """

    rows: int | None
    tuning: Pick
    epochs: int
    head_epochs: int
    warmup_share: float = 0.1


UNTRAINED, SMALL, LARGE = "untrained", "small", "large"
SMALL_WEIGHTS = 10_000_000
"""Weights up to which a pretrained base is small. What the study had: 4.7 and 22.7 million."""

_FULL, _HEAD, _GRADUAL = Pick("full"), Pick("head"), Pick("gradual", {"head_epochs": 100})

RULES: dict[str, tuple[Rule, ...]] = {
    LARGE: (
        Rule(rows=200, tuning=_GRADUAL, epochs=5, head_epochs=100),
        Rule(rows=5000, tuning=_FULL, epochs=3, head_epochs=100),
        Rule(rows=None, tuning=_FULL, epochs=3, head_epochs=20),
    ),
    SMALL: (
        Rule(rows=1000, tuning=_HEAD, epochs=5, head_epochs=100),
        Rule(rows=5000, tuning=_GRADUAL, epochs=5, head_epochs=100),
        Rule(rows=None, tuning=_FULL, epochs=3, head_epochs=20),
    ),
    UNTRAINED: (
        Rule(rows=200, tuning=_FULL, epochs=30, head_epochs=100, warmup_share=0.0),
        Rule(rows=1000, tuning=_FULL, epochs=30, head_epochs=100),
        Rule(rows=5000, tuning=_FULL, epochs=10, head_epochs=100),
        Rule(rows=None, tuning=_FULL, epochs=3, head_epochs=20),
    ),
}
"""Size of the base -> rules, by rising number of rows. Studied were 100 and 500 rows; a rule between them ends about in the
middle, in factors. Beyond a thousand rows nothing was studied: epochs become fewer as rows become more, and a small base goes
from its head alone, the best at 500 rows, to all weights by way of the two phases that are next to it there."""


def size_of(base: Base) -> str:
    """Return which rules a base falls under; one whose number of weights is not known counts as large.

    Args:
        base: The model to start from.
    """
    if not base.pretrained:
        return UNTRAINED
    return SMALL if 0 < base.card().parameters <= SMALL_WEIGHTS else LARGE


def rule_for(rows: int, size: str) -> Rule:
    """Return the rule for a number of training rows.

    Args:
        rows: Training rows, without those for validation and test.
        size: What `size_of` gave.

    Example:
        >>> rule_for(100_000, LARGE).epochs
        3
    """
    return next(rule for rule in RULES[size] if rule.rows is None or rows <= rule.rows)


def check(tuning: Pick) -> None:
    """Refuse a tuning that cannot run here, and options of one that nobody has named, unless every tuning has them.

    Args:
        tuning: What was asked for.

    Raises:
        MissingExtraError: A package that it needs is not installed; names the extra.
        OptionsError: There are such options; one problem each, with the tunings that have them.
    """
    if tuning.name:
        cls, options = tuning.resolve(TUNINGS)
        cls(options).require()
        return
    problems = []
    for name in tuning.options:
        if name in _fields(TuningOptions):
            continue
        able = [other for other in TUNINGS.names() if name in _fields(TUNINGS.get(other).Options)]
        what = f"the option '{name}' was given without the name of a tuning that has it"
        expected = did_you_mean(name, sorted(_fields(TuningOptions)))
        fix = f"name the tuning: --tuning {able[0]}" if able else expected
        got, have = f"tuning.{name}, and no tuning", f"one of {', '.join(able)}" if able else "an option of a tuning"
        problems.append(Problem(what=what, where=f"tuning.{name}", got=got, expected=have, fix=fix))
    if problems:
        raise OptionsError(problems)


def _fields(options: type[Any]) -> set[str]:
    return {item.name for item in dataclasses.fields(options)}


def settled(wanted: FitOptions, base: Base, rows: int, task: Task, note: Callable[[str], None]) -> FitOptions:
    """Return the options with all that was left to the rules.

    Phases are for a base that has features to learn a head on, and for one target: where rows are held against each other,
    there are several targets, or a regulariser holds the weights back, all weights learn at once.

    Args:
        wanted: What was asked for.
        base: The model to start from.
        rows: Training rows.
        task: What is predicted.
        note: Told what was decided.
    """
    rule = rule_for(rows, size_of(base))
    tuning, train, said = wanted.tuning, wanted.train, []
    if not tuning.name:
        at_once = task.paired or task.several or train.regularize
        usual = _FULL if at_once else rule.tuning
        tuning = Pick(usual.name, {**usual.options, **tuning.options})
        said.append(f"tuning {tuning.name}")
    if train.epochs is None:
        epochs = rule.head_epochs if TUNINGS.get(tuning.name).head_alone else rule.epochs
        train = dataclasses.replace(train, epochs=epochs)
        said.append(f"{epochs} epochs")
    if train.warmup_share is None:
        train = dataclasses.replace(train, warmup_share=rule.warmup_share)
        if rule.warmup_share != Rule.warmup_share:
            said.append(f"warm-up over {rule.warmup_share:.0%} of the steps")
    if said:
        kind = "a pretrained base" if base.pretrained else "an untrained base"
        note(f"{', '.join(said)}: what suits {kind} and {rows:,} training rows, as nothing else was said")
    return dataclasses.replace(wanted, tuning=tuning, train=train)
