"""Tables of names: what can be chosen, where it lives, and what to say when it is not there.

A family (tasks, bases, readers, ...) is one `Registry`. An entry is a name and "module:attribute", imported on first use, so
that listing a family imports nothing. An outside package adds a name with an entry point in the group
`regraft.<family>`:

    [project.entry-points."regraft.tasks"]
    my-task = "my_package.my_task:MyTask"
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from regraft.errors import MissingExtraError, Problem, UnknownNameError, did_you_mean

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Registry(Generic[T]):
    """Map names to things that are imported when they are first asked for.

    Args:
        family: Plural noun of the family ("tasks"); also the entry-point group `regraft.<family>`.
        table: Name -> "module:attribute". Names are kebab-case.
        aliases: Other accepted spellings -> name.
        extra: The optional dependency group that this family needs, named when an import fails.

    Example:
        >>> numbers = Registry[object]("numbers", {"pi": "math:pi"})
        >>> numbers.get("pi")
        3.141592653589793
        >>> numbers.names()
        ['pi']
    """

    def __init__(
        self, family: str, table: Mapping[str, str], *, aliases: Mapping[str, str] | None = None, extra: str = "train"
    ) -> None:
        self.family = family
        self._table = dict(table)
        self._aliases = dict(aliases or {})
        self._extra = extra
        self._loaded: dict[str, T] = {}
        self._outside: dict[str, str] = {}
        self._outside_seen = False

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self.canonical(name) in self._table or self.canonical(name) in self._entries())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Return every registered name, in table order, outside packages last."""
        return list(self._entries())

    def canonical(self, name: str) -> str:
        """Return the registered spelling of a name or alias."""
        return self._aliases.get(name, name)

    def target(self, name: str) -> str:
        """Return the "module:attribute" behind a name without importing it.

        Raises:
            UnknownNameError: There is no such name; the nearest ones are offered.
        """
        canonical = self.canonical(name)
        # Outside packages never take the place of a name in the table, so they are looked for only when it is not there.
        if canonical not in self._table and canonical not in self._entries():
            raise UnknownNameError(self.unknown(name))
        return self._table[canonical]

    def unknown(self, name: str) -> Problem:
        """Return the problem to report for a name that is not registered."""
        return Problem(
            what=f"there is no '{name}' among the {self.family}",
            fix=did_you_mean(name, [*self._entries(), *self._aliases]),
        )

    def get(self, name: str) -> T:
        """Import and return what a name stands for.

        Raises:
            UnknownNameError: There is no such name.
            MissingExtraError: Its module needs a package that is not installed, or an outside package cannot be loaded.
        """
        target = self.target(name)
        canonical = self.canonical(name)
        if canonical not in self._loaded:
            needed_by = f"'{canonical}' ({self.family})"
            try:
                self._loaded[canonical] = cast(T, _imported(target))
            except Exception as error:  # an outside package may fail in any way
                if canonical in self._outside:
                    raise _broken(error, needed_by, self._outside[canonical]) from error
                if isinstance(error, ModuleNotFoundError):
                    raise missing_extra(error, needed_by, self._extra) from error
                raise
        return self._loaded[canonical]

    def add(self, name: str, target: str) -> None:
        """Register one more name for this process.

        Args:
            name: Kebab-case name, not yet taken.
            target: "module:attribute".

        Raises:
            ValueError: The name is taken or is not kebab-case, or the target has no attribute.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a kebab-case name such as 'text-classification'")
        if name in self._entries():
            raise ValueError(f"'{name}' is already registered among the {self.family}")
        if target.count(":") != 1:
            raise ValueError(f"'{target}' is not of the form 'module:attribute'")
        self._table[name] = target

    def discard(self, name: str) -> None:
        """Forget a name that `add` registered; unknown names are ignored."""
        self._table.pop(name, None)
        self._loaded.pop(name, None)

    def _entries(self) -> dict[str, str]:
        if not self._outside_seen:
            from importlib import metadata

            self._outside_seen = True
            for point in metadata.entry_points(group=f"regraft.{self.family}"):
                if point.name not in self._table:
                    self._table[point.name] = point.value
                    self._outside[point.name] = point.dist.name if point.dist else point.value
        return self._table


def _imported(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _broken(error: Exception, needed_by: str, package: str) -> MissingExtraError:
    return MissingExtraError(
        Problem(
            what=f"{needed_by} of the package '{package}' cannot be loaded",
            got=f"{type(error).__name__}: {error}"[:300],
            fix=f"mend or update the package '{package}', or remove it",
        )
    )


def installed(package: str) -> bool:
    """Return whether a package can be imported here, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def require(*packages: str, needed_by: str, extra: str) -> None:
    """Refuse before work begins what would fail at an import in its middle.

    Args:
        packages: Names of what will be imported.
        needed_by: Who needs them, as the user calls it.
        extra: Group of optional dependencies that brings them.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for package in packages:
        if not installed(package):
            raise missing_extra(ModuleNotFoundError(name=package), needed_by, extra)


def missing_extra(error: ModuleNotFoundError, needed_by: str, extra: str) -> MissingExtraError:
    """Return the error that names the extra to install for a package that is not there."""
    return MissingExtraError(
        Problem(
            what=f"{needed_by} needs the package '{error.name}', which is not installed",
            fix=f"pip install 'regraft[{extra}]'",
        )
    )
