"""Every format whose graph is computed elsewhere, for every base and family: it answers as its source, which stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_making import FAMILIES, SCRATCH, check_export, make_source

from regraft.errors import UsageError
from regraft.exporters import EXPORTERS
from regraft.options import Pick
from regraft.serving import RUNTIMES

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch-program", "executorch": "executorch"}
POOLINGS = ("cls", "mean", "last", "attention", "layer-weighted")
# Converting takes seconds: of each base, and of each way of pooling, one always.
ALWAYS = {
    *(("onnx", *each) for each in (("transformer", "cls"), ("lstm", "last"), ("mlp", "mean"))),
    *(("torch", *each) for each in (("transformer", "cls"), ("lstm", "last"), ("gru", "attention"))),
    ("openvino", "gru", "attention"),
    ("torch", "transformer", "layer-weighted"),
}
# ExecuTorch computes recurrences for rows of one length only, and refuses them.
BASES = [
    pytest.param(kind, name, pooling, marks=() if (kind, name, pooling) in ALWAYS else pytest.mark.slow)
    for kind in FORMATS
    for name in SCRATCH
    for pooling in POOLINGS
    if not (kind == "executorch" and name in {"lstm", "gru"})
]


# Their positions or masks are made in ways that ExecuTorch plans for one length of rows; it must not be written for others.
REFUSED = {("executorch", family) for family in ("modernbert", "deberta", "gpt2", "gpt_neox", "gemma")}


def held(kind: str, source: Any, folder: Path, atol: float = 1e-5) -> None:
    runtime = RUNTIMES.get(FORMATS[kind])
    pytest.importorskip(runtime.package)
    cls, options = Pick(kind).resolve(EXPORTERS)
    check_export(cls(options), runtime, source, folder, atol)


@pytest.mark.parametrize(("kind", "name", "pooling"), BASES)
def test_every_base_answers_as_its_source_with_every_pooling(kind: str, name: str, pooling: str, tmp_path: Path):
    held(kind, make_source(name, pooling), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_family_of_the_hub_answers_as_its_source(kind: str, family: str, tmp_path: Path):
    for pooling in ("last", "mean") if kind == "onnx" else ("mean",):
        if (kind, family) in REFUSED:
            refused(kind, make_source(family, pooling), tmp_path)
        else:
            held(kind, make_source(family, pooling), tmp_path / pooling, atol=2e-5)


def refused(kind: str, source: Any, folder: Path) -> None:
    """It says that it cannot be computed, or what was written is found not to answer as its source."""
    pytest.importorskip(RUNTIMES.get(FORMATS[kind]).package)
    cls, options = Pick(kind).resolve(EXPORTERS)
    exporter = cls(options)
    try:
        exporter.write(source, folder)
        problems = exporter.faults(source, folder)
    except UsageError as error:
        problems = error.problems
    assert problems
    assert all(problem.what and problem.fix for problem in problems)
