"""bitsandbytes is imported without code that it would fetch, and without a word on the console."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from regraft.errors import MissingExtraError
from regraft.models.bitsandbytes_library import bitsandbytes

_FETCHER = """
import pathlib
def get_kernel(*asked, **how):
    pathlib.Path(__file__).with_name("fetched").write_text(str(asked))
    raise OSError("no network")
"""
_PROGRAM = """
import sys
from regraft.models.bitsandbytes_library import bitsandbytes
assert bitsandbytes("a test").functional.quantize_4bit
assert "kernels" not in sys.modules
import kernels
assert bitsandbytes("a test") is sys.modules["bitsandbytes"]
"""


def test_nothing_is_fetched_and_nothing_said_while_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    (tmp_path / "kernels.py").write_text(_FETCHER)
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{_PROGRAM}"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "fetched").exists()


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.registry.installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"'some' needs the package 'bitsandbytes'(.|\n)*regraft\[bitsandbytes\]"):
        bitsandbytes("'some'")
