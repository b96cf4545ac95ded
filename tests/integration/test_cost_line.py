"""What answering cost stands in the reports of `evaluate` and `compare`, for networks that can be counted and others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from line_rows import mails
from rich.console import Console

from regraft import lifecycle
from regraft.artifact.store import Artifact
from regraft.cli.show import show_comparison, show_report
from regraft.training.arithmetic import inference_flops

ANSWER = {"judge": {"resamples": 200}, "machine": {"threads": 1}}
STAGES = {"open the artifact", "read", "tokenise", "answer", "judge"}
PEAK = 1e9


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, and nothing is left in the user's profile of the machine."""
    monkeypatch.setattr("regraft.training.cost.peak_flops", lambda *_given, **_named: PEAK)


@pytest.fixture(scope="module")
def counted(fit_small, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A transformer: its operations a token are known."""
    base = {"name": "transformer", "width": 16, "layers": 1}
    return fit_small(tmp_path_factory.mktemp("counted") / "counted", base=base, train={"epochs": 1})


def test_evaluate_says_what_it_cost(artifact: Artifact, fresh_file: Path) -> None:
    predictor = lifecycle.load(artifact, threads=1)
    report = lifecycle.evaluate(predictor, fresh_file, **ANSWER).to_json()
    cost, lengths = report["cost"], np.array([row.length for row in predictor.modality.encode(bodies(100, 2))])
    assert cost["predict_tokens_per_s"] / cost["predict_rows_per_s"] == pytest.approx(lengths.mean())
    batches = np.sort(lengths)
    padded = sum(len(batch) * batch.max() for batch in np.split(batches, range(32, 100, 32)))
    assert cost["predict_padding_ratio"] == pytest.approx(padded / lengths.sum())
    assert cost["threads"] == 1
    assert cost["cores"] >= 1
    assert cost["peak_memory_mb"] > 50
    assert cost["seconds_by_stage"] == report["seconds_by_stage"]
    assert report["seconds_by_stage"].keys() == STAGES
    assert all(took >= 0.0 for took in report["seconds_by_stage"].values())
    assert sum(report["seconds_by_stage"].values()) <= report["seconds"]
    assert cost["predict_mfu"] is None
    assert "not a transformer" in cost["predict_mfu_note"]
    assert "rows_per_s" not in cost, "nothing was trained"
    assert [step["seconds"] > 0 for step in report["ladder"]] == [False, True]
    assert 100 / cost["predict_rows_per_s"] == pytest.approx(report["ladder"][1]["seconds"])


def bodies(rows: int, seed: int) -> list[str]:
    return [row["body"] for row in mails(rows, seed=seed)]


def test_a_network_whose_operations_are_known_is_held_against_the_machine(counted: Artifact, fresh_file: Path) -> None:
    predictor = lifecycle.load(counted, threads=1)
    cost = lifecycle.evaluate(predictor, fresh_file, **ANSWER).to_json()["cost"]
    lengths = np.array([row.length for row in predictor.modality.encode(bodies(100, 2))])
    per_token = inference_flops(predictor.runtime.net, lengths).per_token
    assert cost["predict_flops_per_token"] == pytest.approx(per_token)
    assert cost["predict_mfu"] == pytest.approx(per_token * cost["predict_tokens_per_s"] / PEAK)
    assert cost["predict_precision"] == "fp32"


def test_compare_says_what_both_cost(artifact: Artifact, counted: Artifact, fresh_file: Path) -> None:
    report = lifecycle.compare(artifact, counted, fresh_file, **ANSWER)
    cost = report.to_json()["cost"]
    assert cost["predict_mfu"] > 0
    assert cost["against_mfu"] is None
    rates = [cost["against_rows_per_s"], cost["predict_rows_per_s"]]
    assert rates == pytest.approx([100 / step.seconds for step in report.ladder.steps])
    assert cost["seconds_by_stage"].keys() == (STAGES - {"open the artifact"}) | {"open the artifacts"}


def test_people_are_shown_it(artifact: Artifact, counted: Artifact, fresh_file: Path) -> None:
    report = lifecycle.evaluate(artifact, fresh_file, **ANSWER)
    both = lifecycle.compare(artifact, counted, fresh_file, **ANSWER)
    shown = []
    for show, found in ((show_report, report), (show_comparison, both)):
        console = Console(width=200)
        with console.capture() as drawn:
            show(found, console)
        shown.append(drawn.get())
    for text in shown:
        assert "cost: answering: " in text
        assert "padding ratio" in text
        assert "1 thread on" in text
    assert "cost: answering of the first: " in shown[1]


def test_the_cost_of_answers_is_told_without_torch() -> None:
    """A whole report over a runtime of numpy alone, in a process that has no torch and no transformers."""
    making = Path(__file__).parents[1] / "unit" / "serving"
    code = f"""
import json, sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "datasets", "pandas"), None))
sys.path.insert(0, {str(making)!r})
import numpy as np
from serving_making import make_predictor, make_rows
from regraft import answering
from regraft.options import build
from regraft.training.cost import Answered
from regraft.training.stages import Stages, ignore
from regraft.types import Ledger
from regraft.verbs import AnswerOptions

predictor, answered, stages = make_predictor(), Answered(), Stages(ignore)
with stages("answer"):
    shares = predictor.probabilities(make_rows(60), answered=answered)
labelled = answering.Labelled("rows", predictor.task, np.arange(60) % 3, [shares], None, Ledger(), [answered])
report = answering.evaluation([predictor], labelled, build(AnswerOptions, {{"judge": {{"resamples": 100}}}}), stages)
print(json.dumps(report.to_json()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)["cost"]
    assert cost["predict_tokens_per_s"] > cost["predict_rows_per_s"] > 0
    assert cost["predict_padding_ratio"] >= 1.0
    assert (cost["predict_mfu"], cost["predict_mfu_note"]) == (None, "the operations of numpy are not counted")
