"""bitsandbytes, imported without what it would fetch."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from typing import Any

from regraft.registry import require

_FETCHES = "kernels"
_TELLS = "bitsandbytes.backends.cpu.ops"


def bitsandbytes(needed_by: str) -> Any:
    """Return the package.

    Args:
        needed_by: Who needs it, as the user calls it.

    Raises:
        MissingExtraError: It is not installed.
    """
    require("bitsandbytes", needed_by=needed_by, extra="bitsandbytes")
    return loaded()


@functools.cache
def loaded() -> Any:
    """Return the package, which is known to be installed.

    While it is imported on a processor with bfloat16 it asks the package `kernels`, where that is installed, for compiled code
    of the hub, fetches it and runs it; where it is not, it says so on the console. It does neither here: nothing that is called
    here uses that code.
    """
    absent = object()
    known, logger = sys.modules.get(_FETCHES, absent), logging.getLogger(_TELLS)
    silent = logger.disabled
    sys.modules[_FETCHES] = None  # type: ignore[assignment]
    logger.disabled = True
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        logger.disabled = silent
        if known is absent:
            del sys.modules[_FETCHES]
        else:
            sys.modules[_FETCHES] = known  # type: ignore[assignment]
