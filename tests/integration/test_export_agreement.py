"""A thousand real e-mails, answered through every door and by every runtime: one answer each."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import regraft as rg
from regraft.artifact.store import Artifact
from regraft.data import SAMPLES
from regraft.errors import UsageError
from regraft.exporters import EXPORTERS
from regraft.serving.parity import Answers, Tolerance, difference
from regraft.serving.predictor import Predictor
from regraft.serving.serve import BackgroundServer

pytestmark = pytest.mark.slow

ROWS = 1000
QUIET = {"threads": 1, "cache": {"disk_mb": 0}}
HUB_HEAD, ADAPTED = "hub-head", "adapted"
SOURCES = {"transformers": HUB_HEAD, "peft": ADAPTED}
"""Formats with one head of their own ask for the pooling that it reads, adapters for a base in a folder; others take the mean."""


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first thousand of the shipped sample."""
    path = tmp_path_factory.mktemp("mails") / "mails.parquet"
    pq.write_table(pq.read_table(SAMPLES.get("spam")).slice(0, ROWS), path)
    return path


@pytest.fixture(scope="module")
def texts(mails: Path) -> list[str]:
    found: list[str] = pq.read_table(mails).column("text").to_pylist()
    assert len(found) == ROWS
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what fits the sample with a pooling, or adapters on what came out of that, once."""
    folder = tmp_path_factory.mktemp("fitted")
    made: dict[str, Artifact] = {}

    def run(kind: str) -> Artifact:
        if kind not in made:
            base = {"name": "transformer", "width": 32, "heads": 2, "layers": 2, "pooling": kind}
            if kind == ADAPTED:
                base = {"name": "hub", "source": str(run(HUB_HEAD).path / "backbone"), "pooling": HUB_HEAD}
            made[kind] = rg.fit(
                "spam",
                target="label",
                out=folder / kind,
                base=base,
                tuning="lora" if kind == ADAPTED else "full",
                train={"epochs": 1, "learning_rate": 0.003},
                judge={"resamples": 200, "overlap": "keep"},
                machine=QUIET,
            )
        return made[kind]

    return run


def over_http(predictor: Predictor, texts: list[str]) -> list[list[float]]:
    with BackgroundServer(predictor) as server:
        body = json.dumps({"rows": texts}).encode()
        request = urllib.request.Request(f"{server.url}/predict", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return [list(row["probabilities"].values()) for row in json.load(answer)["predictions"]]


def on_the_command_line(path: Path, mails: Path, runtime: str) -> list[list[float]]:
    command = [sys.executable, "-m", "regraft", "predict", str(path), str(mails), "--runtime", runtime]
    done = subprocess.run([*command, "--set", "machine.threads=1"], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [[row["probability.ham"], row["probability.spam"]] for row in rows]


def agree(path: Path, runtime: str, expected: Answers, mails: Path, texts: list[str], *, folded: bool = False) -> None:
    """Hold one runtime against the source, and its doors against each other, bit for bit."""
    predictor = Predictor.load(path, runtime=runtime, threads=1, device="cpu")
    here = Answers.of(predictor, texts)
    if folded:
        # Raw outputs are calibrated there, those of the source are not: what both say of probabilities is the same.
        expected = dataclasses.replace(expected, outputs=here.outputs)
    found = difference(expected, here, Tolerance.of("fp32"))
    assert found["rows"] == ROWS
    assert found["agreement"] == 1.0
    python = here.probabilities.tolist()
    assert [list(answer.probabilities.values()) for answer in predictor.predict(texts)] == python
    assert over_http(predictor, texts) == python
    assert on_the_command_line(path, mails, runtime) == python


def test_the_source_answers_the_same_bits_through_every_door(fitted: Any, mails: Path, texts: list[str]):
    artifact = fitted("mean")
    agree(artifact.path, "torch", Answers.of(Predictor.load(artifact.path, threads=1, device="cpu"), texts), mails, texts)


@pytest.mark.parametrize("name", EXPORTERS.names())
def test_a_thousand_real_rows_are_answered_alike(name: str, fitted: Any, mails: Path, texts: list[str], tmp_path: Path):
    artifact = fitted(SOURCES.get(name, "mean"))
    try:
        made = rg.export(artifact, format=name, out=tmp_path / name, rows=mails, machine={"threads": 1})
    except UsageError as error:
        if "not installed" not in str(error):
            raise
        pytest.skip(error.problems[0].what)
    assert made.manifest.export is not None
    seen = made.manifest.export.gate["runtimes"]
    assert seen.keys() == set(made.manifest.network.runtimes)
    assert all(runtime["rows"] >= ROWS for runtime in seen.values())
    expected = Answers.of(Predictor.load(artifact.path, threads=1, device="cpu"), texts)
    assert set(np.unique(expected.values)) == {"ham", "spam"}
    was, now = (Predictor.load(each.path, threads=1, device="cpu").task.trust.calibrator.name for each in (artifact, made))
    for runtime in made.manifest.network.runtimes:
        agree(made.path, runtime, expected, mails, texts, folded=was != now)
    judged = [
        rg.evaluate(path, mails, judge={"resamples": 200, "overlap": "keep"}, machine={"threads": 1})
        for path in (artifact, made)
    ]
    was, now = ([metric.value for metric in report.judgement.metrics.values()] for report in judged)
    assert now == pytest.approx(was, abs=1e-5)
    assert (
        rg.compare(artifact, made, mails, judge={"resamples": 200, "overlap": "keep"}, machine={"threads": 1}).verdict
        == "no evidence"
    )
