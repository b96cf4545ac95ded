"""A new fit begins with what another one learnt, finished or interrupted, or says why it cannot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from line_rows import mails, write_csv

import regraft
from regraft.artifact.run import RunFolder, folder_of
from regraft.errors import ArtifactError, InterruptedRunError, UsageError
from regraft.serving.predictor import Predictor
from regraft.training.checkpoint import WEIGHTS, part
from regraft.training.event_log import EVENTS, read
from regraft.training.events import StepEvent

STILL = {"epochs": 0}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return Predictor.load(out, runtime="torch").runtime.net.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def interrupted(fit_small, out: Path, at: int, **options) -> None:
    def listen(event):
        if isinstance(event, StepEvent) and event.step == at:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRunError):
        fit_small(out, listen=listen, **options)


def losses(out: Path) -> list[float]:
    return [event.loss for event in read(out / EVENTS) if isinstance(event, StepEvent)]


def test_from_an_artifact(fit_small, artifact, tmp_path: Path):
    notes = []
    still = fit_small(
        tmp_path / "still", start_from=artifact.path, train=STILL, listen=lambda e: notes.append(getattr(e, "text", ""))
    )
    assert same(weights(still.path), weights(artifact.path))
    assert "starting from the artifact 'spam-model'" in notes
    assert still.manifest.parent == artifact.digest
    (entry,) = still.manifest.lineage
    assert (entry.verb, entry.digest, entry.weights_digest) == ("fit", artifact.digest, artifact.weights_digest)
    assert "--start-from spam-model" in (still.path / "card.md").read_text()
    again = fit_small(tmp_path / "again", start_from=still.path)
    assert [one.digest for one in again.manifest.lineage] == [artifact.digest, still.digest]
    assert losses(again.path)[0] < losses(artifact.path)[0]


def test_from_a_fit_that_was_interrupted(fit_small, tmp_path: Path):
    """Only the rows of the token table that training uses are learnt: a checkpoint holds no others."""
    left, out = tmp_path / "left", tmp_path / "spam-model"
    interrupted(fit_small, left, 6)
    still = fit_small(out, start_from=left, train=STILL)
    assert "step 6 of an interrupted fit" in still.manifest.lineage[-1].name
    assert still.manifest.parent == still.manifest.lineage[-1].digest
    assert folder_of(left).exists(), "it is not touched"
    kept, about = RunFolder(left).look(), json.loads((folder_of(left) / "run.json").read_text())
    fresh, found = weights(fit_small(tmp_path / "fresh", train=STILL).path), weights(out)
    rows = about["arithmetic"]["0"]["rows"]
    assert rows
    for name, value in part(kept.tensors, WEIGHTS).items():
        if name in rows:
            assert torch.equal(found[name][rows[name]], value)
            others = sorted(set(range(len(found[name]))) - set(rows[name]))
            assert torch.equal(found[name][others], fresh[name][others])
        else:
            assert torch.equal(found[name], value)
    changed = fit_small(tmp_path / "more", start_from=left, train={"batch_size": 16})
    assert losses(changed.path)[0] < losses(folder_of(left))[0]


def test_it_can_itself_be_interrupted(fit_small, artifact, tmp_path: Path):
    out = tmp_path / "child"
    whole = fit_small(tmp_path / "whole", start_from=artifact.path)
    interrupted(fit_small, out, 5, start_from=artifact.path)
    assert regraft.fit(resume=out).weights_digest == whole.weights_digest
    interrupted(fit_small, out, 5, start_from=artifact.path)
    notes = []
    fit_small(out, listen=lambda event: notes.append(getattr(event, "text", "")))
    assert any("it is given up" in note for note in notes), "without its parent it is another fit"


def test_what_does_not_fit_is_refused_with_reasons(fit_small, artifact, tmp_path: Path):
    out = tmp_path / "spam-model"
    other = [{**row, "label": f"{row['label']}!"} for row in mails(240, seed=1)]
    with pytest.raises(ArtifactError) as caught:
        fit_small(out, data=other, start_from=artifact.path)
    text = str(caught.value)
    assert "this fit cannot start from the artifact 'spam-model': it answers something else" in text
    assert 'got: classification {"labels": ["ham", "spam"]}' in text
    with pytest.raises(ArtifactError, match="it stands on another base"):
        fit_small(out, base={"name": "lstm"}, start_from=artifact.path)
    with pytest.raises(ArtifactError, match="learnt from scratch over rows that became arrays in another way"):
        fit_small(out, data=write_csv(tmp_path / "new.csv", mails(300, seed=8)), start_from=artifact.path)
    with pytest.raises(UsageError, match="neither an artifact nor a checkpoint of an interrupted fit"):
        fit_small(out, start_from=tmp_path / "none")
    assert list(tmp_path.iterdir()) == [tmp_path / "new.csv"]


def test_the_same_place_is_refused(fit_small, tmp_path: Path):
    out = tmp_path / "spam-model"
    interrupted(fit_small, out, 5)
    with pytest.raises(UsageError, match="gives up the checkpoints of the one that it would start from"):
        fit_small(out, start_from=out)
    with pytest.raises(UsageError, match=f"--start-from {out} --out OTHER"):
        regraft.fit(resume=out, seed=9)
    assert folder_of(out).exists()


def test_on_the_command_line(fit_small, artifact, mail_file: Path, tmp_path: Path):
    options = json.loads((artifact.path / "manifest.json").read_text())["options"]
    flags = ["--set", f"base={json.dumps(options['base'])}", "--set", "train.epochs=0", "--set", "judge.rungs=[majority]"]
    out = tmp_path / "still"
    command = [sys.executable, "-m", "regraft", "fit", str(mail_file), "--target", "label", "--out", str(out), *flags]
    done = subprocess.run([*command, "--start-from", str(artifact.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(weights(out), weights(artifact.path))
