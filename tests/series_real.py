"""Real series out of the package aeon, where its wheel has been put; tests that need them are skipped where not."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHEEL = "aeon-1.6.0-py3-none-any.whl"
SHA256 = "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"
_LOADERS = ("_load_header_info", "_get_channel_strings", "_load_data")


@functools.cache
def wheel() -> zipfile.ZipFile:
    """Return the wheel, opened; never installed."""
    cache = Path(os.environ.get("REGRAFT_CACHE", "~/.cache/regraft")).expanduser()
    named = [Path(os.environ[key]).expanduser() for key in ("REGRAFT_WHEELS",) if os.environ.get(key)]
    found = [folder / WHEEL for folder in [*named, cache / "wheels"] if (folder / WHEEL).is_file()]
    if not found:
        pytest.skip(f"the wheel {WHEEL} is not in {cache / 'wheels'}: pip download --no-deps aeon==1.6.0 -d {cache / 'wheels'}")
    assert hashlib.sha256(found[0].read_bytes()).hexdigest() == SHA256
    return zipfile.ZipFile(found[0])


def series_file(name: str, folder: Path) -> Path:
    """Return a .ts file of a set ("ArrowHead/ArrowHead_TRAIN") in a folder."""
    path = folder / f"{name.split('/')[1]}.ts"
    path.write_bytes(wheel().read(f"aeon/datasets/data/{name}.ts"))
    return path


def as_aeon_reads(path: Path) -> tuple[list[Any], list[str]]:
    """Return the cases (channels, steps) and labels of a file, read by aeon's own functions."""
    tree = ast.parse(wheel().read("aeon/datasets/_data_loaders.py").decode())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in _LOADERS]
    names: dict[str, Any] = {"np": np, "re": re}
    exec(compile(tree, WHEEL, "exec"), names)  # three functions of a file whose digest was checked
    with path.open(encoding="utf-8") as file:
        header = names["_load_header_info"](file)
        cases, labels, _ = names["_load_data"](file, header)
    return list(cases), labels.tolist()
