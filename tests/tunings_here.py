"""The registered tunings as parameters of tests; one whose package is not installed is skipped with the reason."""

from __future__ import annotations

import pytest

from regraft.errors import MissingExtraError
from regraft.tuning import TUNINGS


def tunings_here():
    return [pytest.param(name, marks=_marks(name)) for name in TUNINGS.names()]


def _marks(name):
    cls = TUNINGS.get(name)
    try:
        cls(cls.Options()).require()
    except MissingExtraError as error:
        return [pytest.mark.skip(reason=str(error))]
    return []
