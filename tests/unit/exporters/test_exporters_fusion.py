"""Networks of several parts as graphs with several inputs: rows that have all parts, rows that lack some, rows that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_making import _manifest_body, make_task, opened_export

from regraft.artifact.manifest import HeadEntry, Manifest, NetworkEntry
from regraft.artifact.store import Artifact
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Source
from regraft.exporters.graph import answers_of, graph_of, trial_batches
from regraft.modalities import MODALITIES
from regraft.models import BASES
from regraft.models.net import Headed
from regraft.options import Pick, build
from regraft.serving import RUNTIMES
from regraft.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
PARTS = {
    "text": {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "vocabulary_size": 300, "positions": 32},
    "image": {"name": "conv", "widths": [8]},
    "table": {"name": "table", "width": 16, "layers": 1},
}
FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch-program"}
SIGNAL = np.random.default_rng(0).random((9, 2))


def make_source(style: str) -> tuple[Source, list[dict[str, Any]]]:
    examples = {kind: MODALITIES.get(kind).example(SIGNAL, 0) for kind in PARTS}
    rows = [
        {"text": text, "image": image, **row}
        for text, image, row in zip(examples["text"], examples["image"], examples["table"], strict=True)
    ]
    cls = BASES.get("fusion")
    base = cls("fusion", build(cls.Options, {"parts": PARTS, "style": style, "width": 8, "heads": 2, "layers": 1}))
    options = {"parts": {"text": {"name": "text", "max_length": 16}}}
    modality, task = base.modality(options, lambda: iter([rows])), make_task()
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, backbone.head(task, 0.1, 1)).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for weight in (*net.head.parameters(), *net.backbone.pooling.parameters()):
            weight.normal_()
    network = NetworkEntry(backbone=backbone.spec(), head=HeadEntry(width=backbone.width))
    body = _manifest_body(net, modality, task, network)
    source = Source(
        artifact=Artifact(Path("nowhere"), Manifest.of(body, {})), modality=modality, task=task, net=net, name="out"
    )
    return source, rows


CASES = [
    pytest.param(kind, style, marks=pytest.mark.slow)  # the line over three parts (tests/integration) has one as well
    for kind in FORMATS
    for style in ("concat", "gated", "weighted", "early", "late")
]


@pytest.mark.parametrize(("kind", "style"), CASES)
def test_every_format_and_style_answers_as_its_source(kind: str, style: str, tmp_path: Path):
    source, rows = make_source(style)
    cls, options = Pick(kind).resolve(EXPORTERS)
    engine = RUNTIMES.get(FORMATS[kind])
    pytest.importorskip(engine.package)
    runtime = opened_export(cls(options), engine, source, tmp_path / "out")
    gaps = [
        {**row, **({"text": None} if number % 3 == 1 else {"image": None} if number % 3 == 2 else {})}
        for number, row in enumerate(rows)
    ]
    encoded = source.modality.encode(gaps, spans=False)
    batches = [Batch(*source.modality.collate(encoded)), *(batch for _, batch in trial_batches(source.modality))]
    for batch in batches:
        np.testing.assert_allclose(runtime.outputs(batch), answers_of(source.network(), batch), atol=1e-5, rtol=1e-5)


def test_a_graph_names_the_arrays_of_all_parts_and_their_axes():
    source, _ = make_source("concat")
    graph = graph_of(source)
    assert graph.names == (
        "text__input_ids",
        "text__attention_mask",
        "image__pixel_values",
        "image__attention_mask",
        "table__values",
        "table__ids",
        "table__attention_mask",
    )
    assert graph.axes["text__input_ids"] == {0: "batch", 1: "text__length"}
    assert graph.axes["image__attention_mask"] == {0: "batch"}
    told = [told for told, _ in trial_batches(source.modality)]
    assert "3 rows, all without 'image'," in told
    assert len(told) == 5 + 2 * 3


def test_executorch_refuses_parts_of_their_own_lengths():
    pytest.importorskip("executorch")
    source, _ = make_source("concat")
    cls, options = Pick("executorch").resolve(EXPORTERS)
    (problem,) = cls(options).problems(source)
    assert problem.what.startswith("a program of ExecuTorch takes rows of one length")
    assert problem.got == "the parts text, image, table"


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_tools_for_one_text_refuse(kind: str):
    source, _ = make_source("concat")
    cls, options = Pick(kind).resolve(EXPORTERS)
    problems = cls(options).problems(source)
    assert problems[0].what == "the hub's tools for sentences read one text"
    assert problems[0].got == "an artifact that reads Fusion"
