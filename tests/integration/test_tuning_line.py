"""Tunings through the whole line: fit, save, replay in a fresh process, answer, merge or its refusal, export or its refusal."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import mails
from safetensors.numpy import load_file

import regraft as rg
from regraft import lifecycle
from regraft.errors import InterruptedRunError, OptionsError, UsageError
from regraft.models import TRANSFORMS
from regraft.serving.predictor import Predictor
from regraft.training.events import StepEvent

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "models"))
from tiny_families import write_folder

TEXTS = [row["body"] for row in mails(30, seed=7)]
RATES = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
KINDS: dict[str, dict[str, Any]] = {
    "bitfit": {"layer_decay": 0.8},
    "rslora": {"rank": 4},
    "dora": {"rank": 4, "layers": 2, "rates": {"head": 0.5}},
    "pissa": {"rank": 4},
    "adalora": {"rank": 4, "layers": 2, "warmup": 0.0},
    "ia3": {},
    "prompt": {"tokens": 3},
    "prefix": {"tokens": 3},
    "full": {"reinit": 1},
}
QUICK = ("dora", "prompt", "adalora")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny-bert"
    write_folder(folder)
    return folder


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS])
def test_it_is_fitted_kept_answered_with_and_merged_or_refused(name, base, fit_small, tmp_path):
    events: list[Any] = []
    artifact = fit_small(
        tmp_path / "fitted",
        base={"name": "hub", "source": str(base), "pooling": "mean"},
        tuning={"name": name, **KINDS[name]},
        train=RATES,
        modality={"name": "text", "max_length": 40},
        listen=events.append,
    )
    assert artifact.report.about["tuning"] == name
    (begin,) = [event for event in events if hasattr(event, "parts")]
    assert begin.parts["head"].trainable == begin.parts["head"].weights
    assert sum(part.trainable for part in begin.parts.values()) == begin.trainable
    answers = Predictor.load(artifact.path, threads=1).outputs(TEXTS)
    assert np.isfinite(answers).all()
    applied = [entry["name"] for entry in artifact.manifest.transforms]
    if not applied:
        with pytest.raises(UsageError, match="no adapters that could be merged"):
            lifecycle.merge(artifact, out=str(tmp_path / "merged"), machine={"threads": 1})
    elif all(TRANSFORMS.get(one).foldable for one in applied):
        merged = lifecycle.merge(artifact, out=str(tmp_path / "merged"), machine={"threads": 1})
        np.testing.assert_allclose(Predictor.load(merged.path, threads=1).outputs(TEXTS), answers, rtol=0, atol=5e-6)
    else:
        for verb, more in ((lifecycle.merge, {}), (lifecycle.export, {"format": "transformers"})):
            with pytest.raises(UsageError, match=f"a {name} cannot be merged"):
                verb(artifact, out=str(tmp_path / "refused"), machine={"threads": 1}, **more)
        assert not (tmp_path / "refused").exists()
    assert rg.inspect(artifact)["digest"] == artifact.digest


@pytest.mark.slow
def test_an_interruption_changes_nothing_in_what_follows_the_training(base, fit_small, tmp_path):
    def fitted(out, listen):
        return fit_small(
            out,
            base={"name": "hub", "source": str(base), "pooling": "mean"},
            tuning={"name": "adalora", "rank": 6, "warmup": 0.0},
            train={**RATES, "epochs": 2},
            modality={"name": "text", "max_length": 40},
            listen=listen,
        )

    def stop(event):
        if isinstance(event, StepEvent) and event.step == 5:
            signal.raise_signal(signal.SIGTERM)

    whole = fitted(tmp_path / "whole", lambda _: None)
    with pytest.raises(InterruptedRunError, match="after step 5"):
        fitted(tmp_path / "stopped", stop)
    again = rg.fit(resume=tmp_path / "stopped")
    assert again.weights_digest == whole.weights_digest
    told = [note for note in again.report.notes if note.startswith("adalora: ")]
    assert told[0].startswith("adalora: 72 of 108 directions are left, ")
    assert told[0] in whole.report.notes


@pytest.mark.slow
def test_peft_answers_as_the_artifact_with_ranks_of_its_own(base, fit_small, mail_file, tmp_path):
    pytest.importorskip("peft")
    fitted = fit_small(
        tmp_path / "fitted",
        base={"name": "hub", "source": str(base), "pooling": "hub-head"},
        tuning={"name": "adalora", "rank": 4},
        train=RATES,
        modality={"name": "text", "max_length": 40},
    )
    exported = lifecycle.export(
        fitted, format="peft", out=str(tmp_path / "peft"), rows=str(mail_file), sample=60, machine={"threads": 1}
    )
    answers = [Predictor.load(one.path, threads=1).outputs(TEXTS) for one in (fitted, exported)]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)


def test_what_cannot_be_is_refused_before_anything_is_learnt(base, fit_small, tmp_path):
    hub = {"name": "hub", "source": str(base), "pooling": "mean"}
    for tuning, text in (
        ({"name": "lora", "reinit": 1}, "drawn anew that the tuning does not let learn"),
        ({"name": "head", "rates": {"layers": 0.1}}, "no part 'layers' that learns"),
        ({"name": "prompt", "tokens": 4000}, "no room for a prompt and the longest text"),
        ({"name": "pissa", "rank": 4000}, "no part of so large a rank"),
        ({"name": "adalora", "rank": 4, "target_rank": 4}, "no direction to give up"),
        ({"name": "adalora", "warmup": 0.7, "settling": 0.7}, "no updates are left in which directions could be given up"),
    ):
        events: list[Any] = []
        with pytest.raises(rg.RegraftError, match=text):
            fit_small(tmp_path / "out", base=hub, tuning=tuning, train=RATES, listen=events.append)
        assert not [event for event in events if hasattr(event, "total_steps")]
    assert not (tmp_path / "out").exists()


def test_averages_of_weights_have_no_budget(base, fit_small, tmp_path):
    with pytest.raises(OptionsError, match=r"adalora sets weights to zero(.|\n)*averages which ema keeps(.|\n)*leave ema out"):
        fit_small(
            tmp_path / "out",
            base={"name": "hub", "source": str(base), "pooling": "mean"},
            tuning={"name": "adalora", "rank": 4},
            train={**RATES, "regularize": ["ema"]},
        )
    assert not (tmp_path / "out").exists()


def test_rates_of_parts_and_layers_drawn_anew_reach_the_weights(base, fit_small, tmp_path):
    artifact = fit_small(
        tmp_path / "fitted",
        base={"name": "hub", "source": str(base), "pooling": "mean"},
        tuning={"name": "full", "rates": {"embeddings": 1e-9, "layers": 1e-9}, "reinit": 1},
        train={**RATES, "weight_decay": 0.0},
        modality={"name": "text", "max_length": 40},
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (base, artifact.path / "backbone"))
    far = {name: float(np.abs(after[name] - values).max()) for name, values in before.items() if name in after}
    anew = {name for name in far if name.startswith("encoder.layer.2.") and name.endswith("dense.weight")}
    assert anew
    assert all(far[name] > 0.01 for name in anew), "the top layer is another"
    assert all(gap < 1e-6 for name, gap in far.items() if not name.startswith(("encoder.layer.2.", "pooler."))), "others stay"
