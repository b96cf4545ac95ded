"""What the hub's library opens beside what it is asked for, wherever it is installed: torchao, which nothing of it needs here.

Opening it takes a second and writes warnings to the console. ExecuTorch brings it, and needs it when it writes a program.
"""

from __future__ import annotations

import sys

_PACKAGE = "torchao"


def keep_out() -> None:
    """Make torchao look as if it were not installed, from now on in this process; nothing if it has been opened already.

    For processes that are Regraft's own: whoever uses Regraft as a library may want the hub's library to open it.
    """
    sys.modules.setdefault(_PACKAGE, None)  # type: ignore[arg-type]


def let_in() -> None:
    """Undo `keep_out`."""
    if sys.modules.get(_PACKAGE, sys) is None:
        del sys.modules[_PACKAGE]
