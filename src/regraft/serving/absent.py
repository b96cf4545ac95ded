"""Make installed packages look as if they were not, in this process: what an export must do without is really not there.

Libraries ask in three ways whether a package is installed: they import it, they look for its spec, they look for its version.
Each is answered as on a machine that never had it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from types import ModuleType
from typing import Any

_PACKAGE_OF = {"scikit_learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
"""Name of a distribution -> name of its package, where they differ."""


class Absent(MetaPathFinder):
    """Stand in the place of other finders, and find with them all but some packages.

    A finder that is only put before the others cannot say "not there": its None sends the question on, and an exception is not
    what `importlib.util.find_spec` gives for a package that is missing.

    Args:
        names: Top-level names of what is not there.
        finders: Find the rest.
    """

    def __init__(self, names: frozenset[str], finders: Iterable[Any]) -> None:
        self.names = names
        self.finders = tuple(finders)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module, or None."""
        if name.partition(".")[0] in self.names:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders if hasattr(finder, "find_spec"))
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Return what is installed under a name, or everything."""
        wanted = (context.name if context else None) or ""
        plain = wanted.lower().replace("-", "_").replace(".", "_")
        if {plain, _PACKAGE_OF.get(plain)} & self.names:
            return
        for finder in self.finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(context) if context else finder.find_distributions()

    def invalidate_caches(self) -> None:
        """Look again at what is on the disk."""
        for finder in self.finders:
            if hasattr(finder, "invalidate_caches"):
                finder.invalidate_caches()


def hide(names: Iterable[str]) -> None:
    """Make packages look as if they were not installed, from now on and for the whole process.

    Args:
        names: Top-level names.

    Raises:
        RuntimeError: One of them has been imported already.
    """
    hidden = frozenset(names)
    if imported := sorted(hidden & sys.modules.keys()):
        raise RuntimeError(f"{', '.join(imported)} cannot be hidden any more: imported already")
    sys.meta_path[:] = [Absent(hidden, sys.meta_path)]
