"""A base in 4 bits through the whole line: fit, keep, open, answer, start from it, merge, export; and without bitsandbytes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import mails
from safetensors.numpy import load_file

from regraft import lifecycle
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.errors import InterruptedRunError, MissingExtraError, UsageError
from regraft.serving.predictor import Predictor
from regraft.training.events import StepEvent

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "models"))
from tiny_families import write_folder

ONE_THREAD = {"machine": {"threads": 1}}
TEXTS = [row["body"] for row in mails(40, seed=7)]
QLORA = {"name": "qlora", "rank": 4, "alpha": 8.0, "dropout": 0.1}
RATES = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.01}
Fit = Callable[..., Artifact]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bases") / "tiny-bert"
    write_folder(folder)
    base = {"name": "hub", "source": str(folder), "pooling": "hub-head"}
    return {"base": base, "tuning": QLORA, "train": RATES, "modality": {"name": "text", "max_length": 48}}


@pytest.fixture(scope="module")
def tuned(fit_small: Fit, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("bitsandbytes")
    return fit_small(tmp_path_factory.mktemp("tuned") / "four-bits", **options)


def answered(artifact: Artifact) -> np.ndarray:
    return Predictor.load(artifact.path, threads=1).outputs(TEXTS)


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.registry.installed", lambda package: package != "bitsandbytes")


def test_what_was_fitted_is_kept_in_4_bits_and_fitted_again_it_has_the_same_bytes(
    tuned: Artifact, fit_small: Fit, options: dict[str, Any], tmp_path: Path
) -> None:
    again = fit_small(tmp_path / "again", **options)
    assert again.manifest.weights_digest == tuned.manifest.weights_digest
    assert [entry["name"] for entry in tuned.manifest.transforms] == ["nf4", "lora"]
    kept = load_file(tuned.path / "nf4" / "weights.safetensors")
    whole = load_file(tuned.path / "backbone" / "model.safetensors")
    layers = tuned.manifest.transforms[0]["plan"]["layers"]
    assert {name.rpartition(".")[0] for name in kept} == set(layers)
    for path in layers:
        assert kept[f"{path}.weight_codes"].size == -(-whole[f"{path}.weight"].size // 64) * 32
    assert np.array_equal(answered(again), answered(tuned))
    begin = next(json.loads(line) for line in (tuned.path / "events.jsonl").read_text().splitlines() if '"parts"' in line)
    layer_part = begin["parts"]["layers"]
    assert layer_part["size_bytes"] < 2 * layer_part["weights"], "the tables of levels are as large as these layers"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_an_interruption_changes_nothing(tuned: Artifact, fit_small: Fit, options: dict[str, Any], tmp_path: Path) -> None:
    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            signal.raise_signal(signal.SIGTERM)

    out = tmp_path / "four-bits"
    with pytest.raises(InterruptedRunError, match="after step 3"):
        fit_small(out, listen=listen, **options)
    found = lifecycle.fit(resume=out)
    assert found.weights_digest == tuned.weights_digest
    files = {name: entry.sha256 for name, entry in tuned.manifest.files.items() if name.startswith(("nf4/", "adapter/"))}
    assert len(files) >= 3
    assert {name: found.manifest.files[name].sha256 for name in files} == files


def test_merged_it_answers_alike_and_needs_no_bitsandbytes(
    tuned: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answered(tuned)
    merged = lifecycle.merge(tuned, out=str(tmp_path / "merged"), **ONE_THREAD)
    without(monkeypatch)
    np.testing.assert_allclose(answered(merged), expected, rtol=0, atol=1e-5)
    with pytest.raises(MissingExtraError, match=r"a base in 4 bits needs(.|\n)*regraft\[bitsandbytes\]"):
        answered(tuned)


@pytest.mark.slow
def test_another_fit_starts_from_it(tuned: Artifact, fit_small: Fit, options: dict[str, Any], tmp_path: Path) -> None:
    child = fit_small(tmp_path / "child", **{**options, "train": {**RATES, "epochs": 0}, "start_from": str(tuned.path)})
    assert child.manifest.parent == tuned.digest
    assert child.manifest.weights_digest == tuned.manifest.weights_digest


@pytest.mark.slow
def test_exports_hold_what_the_bits_stand_for_and_peft_says_why_not(tuned: Artifact, mail_file: Path, tmp_path: Path) -> None:
    made = lifecycle.export(
        tuned, format="transformers", out=str(tmp_path / "hub"), rows=str(mail_file), sample=60, **ONE_THREAD
    )
    assert not made.manifest.transforms
    pytest.importorskip("peft")
    with pytest.raises(UsageError, match=r"learnt beside a base in 4 bits(.|\n)*--format transformers"):
        lifecycle.export(tuned, format="peft", out=str(tmp_path / "peft"), rows=str(mail_file), sample=60, **ONE_THREAD)


def test_without_bitsandbytes_a_fit_is_refused_before_anything_is_read(
    mail_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch)
    monkeypatch.setattr("regraft.planning.load_dataset", None)
    for tuning in (["--tuning", "qlora"], ["--tuning", "dora", "--set", "tuning.bits=4"]):
        code = _run(["fit", str(mail_file), "--target", "label", "--out", str(tmp_path / "out"), *tuning])
        said = " ".join(capsys.readouterr().err.split())
        assert code != 0
        assert "a base in 4 bits (tuning.bits) needs the package 'bitsandbytes', which is not installed" in said
        assert "pip install 'regraft[bitsandbytes]'" in said
