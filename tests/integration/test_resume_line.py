"""A fit that was interrupted goes on to the same bytes, by the command line as a user meets it."""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from line_rows import SMALL, mails, write_csv

import regraft
from regraft import fitting
from regraft.artifact import room
from regraft.artifact.run import folder_of
from regraft.errors import InterruptedRunError, MachineError, UsageError
from regraft.training.event_log import EVENTS, read
from regraft.training.events import BeginEvent, StepEvent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
KILL_POINTS = Path(__file__).parent / "kill_points.py"


def weights(out: Path) -> str:
    return json.loads((out / "manifest.json").read_text())["weights_digest"]


def interrupted(fit_small, out: Path, at: int, data=None, **options) -> None:
    """Fit until a signal comes after some updates."""
    seen = []

    def listen(event):
        if type(event).__name__ == "StepEvent" and event.step == at:
            seen.append(event)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRunError) as caught:
        fit_small(out, **({} if data is None else {"data": data}), listen=listen, **options)
    assert seen
    assert f"SIGTERM after step {at}" in str(caught.value)
    assert f"regraft fit --resume {out}" in str(caught.value)
    assert not out.exists()


def test_it_goes_on_to_the_same_bytes(fit_small, artifact, tmp_path: Path):
    out = tmp_path / "spam-model"
    interrupted(fit_small, out, 5)
    notes = []
    found = regraft.fit(resume=out, listen=lambda event: notes.append(getattr(event, "text", "")))
    assert found.weights_digest == artifact.weights_digest
    assert "going on after step 5, where this fit was interrupted" in notes
    assert any("went on after step 5" in note for note in found.report.notes)
    assert not folder_of(out).exists()
    assert {name: entry.sha256 for name, entry in found.manifest.files.items() if name.startswith("backbone")} == {
        name: entry.sha256 for name, entry in artifact.manifest.files.items() if name.startswith("backbone")
    }


def test_the_events_in_the_artifact_are_those_of_one_fit(fit_small, artifact, tmp_path: Path):
    def losses(out: Path) -> list[tuple[int, float]]:
        return [(event.step, event.loss) for event in read(out / EVENTS) if isinstance(event, StepEvent)]

    out = tmp_path / "spam-model"
    interrupted(fit_small, out, 5, machine={"checkpoint": {"every": 3}})
    for kept in folder_of(out).glob("00000005"):
        shutil.rmtree(kept)  # killed between two checkpoints
    assert len(losses(folder_of(out))) == 5
    found = regraft.fit(resume=out)
    assert losses(found.path) == losses(artifact.path)
    assert [step for step, _ in losses(found.path)] == list(range(1, len(losses(artifact.path)) + 1))
    assert [event.step for event in read(found.path / EVENTS) if isinstance(event, BeginEvent)] == [0, 3]
    assert EVENTS in found.manifest.files


def full(monkeypatch, times: int, code: int = errno.ENOSPC) -> None:
    """Let the writing of artifacts end some times with a disk that is full."""
    honest, left = fitting.fill, [times]

    def fill(folder: Path, **given):
        if left[0]:
            left[0] -= 1
            (folder / "half").write_bytes(b"0")
            raise OSError(code, os.strerror(code))
        return honest(folder, **given)

    monkeypatch.setattr(fitting, "fill", fill)


def test_a_full_disk_at_the_end_is_waited_for(fit_small, artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "EVERY_S", 0.01)
    full(monkeypatch, 2)
    notes = []
    found = fit_small(tmp_path / "spam-model", listen=lambda event: notes.append(getattr(event, "text", "")))
    assert found.weights_digest == artifact.weights_digest
    assert sum("the disk or your quota is full" in note for note in notes) == 1
    assert not (found.path / "half").exists()


def test_what_was_learnt_is_written_later_without_learning_it_again(
    fit_small, artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, checkpoint = tmp_path / "spam-model", {"every": 3, "wait_s": 0.0}
    full(monkeypatch, 1)
    with pytest.raises(MachineError) as caught:
        fit_small(out, machine={"checkpoint": checkpoint})
    assert f"regraft fit --resume {out} (nothing is learnt again)" in str(caught.value)
    assert not out.exists()
    events = []
    found = regraft.fit(resume=out, listen=events.append)
    assert found.weights_digest == artifact.weights_digest
    assert [event for event in events if isinstance(event, StepEvent)] == []
    losses = [[event.loss for event in read(one.path / EVENTS) if isinstance(event, StepEvent)] for one in (found, artifact)]
    assert losses[0] == losses[1]
    assert found.report.cost["rows_per_s"] > 0.0
    assert not folder_of(out).exists()


def test_what_was_learnt_with_a_regulariser_is_written_later_too(fit_small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Weights that were averaged are the result, and what the average says of itself stands in the report."""
    options = {"train": {**SMALL["train"], "regularize": ["ema"]}}
    whole = fit_small(tmp_path / "whole", **options)
    full(monkeypatch, 1)
    out = tmp_path / "spam-model"
    with pytest.raises(MachineError):
        fit_small(out, machine={"checkpoint": {"every": 3, "wait_s": 0.0}}, **options)
    found = regraft.fit(resume=out)
    assert found.weights_digest == whole.weights_digest
    told = [[note for note in one.report.notes if note.startswith("ema: ")] for one in (whole, found)]
    assert told[0] == told[1] != []


def test_a_disk_that_is_too_small_is_refused_before_anything_is_learnt(fit_small, tmp_path: Path, monkeypatch):
    events = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: collections.namedtuple("Use", "total used free")(0, 0, 1_000_000))
    with pytest.raises(MachineError, match=r"not enough free space for what this fit writes(.|\n)*the artifact \d+ MB"):
        fit_small(tmp_path / "spam-model", listen=events.append)
    assert not [event for event in events if isinstance(event, BeginEvent)]
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_goes_on_too_and_another_one_gives_it_up(fit_small, artifact, tmp_path: Path):
    out = tmp_path / "spam-model"
    interrupted(fit_small, out, 5)
    notes = []
    listen = {"listen": lambda event: notes.append(getattr(event, "text", ""))}
    assert fit_small(out, **listen).weights_digest == artifact.weights_digest
    assert any("going on after step 5" in note for note in notes)
    other = tmp_path / "other"
    interrupted(fit_small, other, 5)
    notes.clear()
    assert fit_small(other, seed=7, **listen).weights_digest != artifact.weights_digest
    assert any("it is given up" in note for note in notes)
    assert not any("going on" in note for note in notes)


def test_another_fit_than_the_one_that_was_interrupted_is_refused(fit_small, mail_file: Path, tmp_path: Path):
    data, out = tmp_path / "mails.csv", tmp_path / "spam-model"
    shutil.copy(mail_file, data)
    interrupted(fit_small, out, 5, data=data)
    with pytest.raises(UsageError) as caught:
        regraft.fit(resume=out, train={"epochs": 9}, seed=1)
    text = str(caught.value)
    assert "this is not the fit that was interrupted" in text
    assert re.search(r"options\.train\.epochs\n\s+got: 9\n\s+expected: \d", text)
    assert "options.seed" in text
    write_csv(data, mails(240, seed=9))
    with pytest.raises(UsageError, match=r"rows\.fingerprint\.train"):
        regraft.fit(resume=out)
    shutil.copy(mail_file, data)
    assert regraft.fit(resume=out).path == out
    with pytest.raises(UsageError, match="no fit was interrupted here"):
        regraft.fit(resume=out)


def test_a_fit_that_died_before_its_first_checkpoint_begins_anew(fit_small, artifact, tmp_path: Path):
    out = tmp_path / "spam-model"
    interrupted(fit_small, out, 5)
    for kept in folder_of(out).glob("0*"):
        shutil.rmtree(kept)
    assert regraft.fit(resume=out).weights_digest == artifact.weights_digest


def test_rows_in_memory_are_asked_for_again(fit_small, tmp_path: Path):
    rows, out = mails(240, seed=1), tmp_path / "spam-model"
    table = [dict(zip(("text", "label"), row, strict=True)) if not isinstance(row, dict) else row for row in rows]
    whole = fit_small(tmp_path / "whole", data=table)
    interrupted(fit_small, out, 5, data=table)
    with pytest.raises(UsageError, match=r"give the same rows: fit\(rows, resume=OUT\)"):
        regraft.fit(resume=out)
    assert regraft.fit(table, resume=out).weights_digest == whole.weights_digest


def test_from_another_folder_it_says_where_to_go(fit_small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    interrupted(fit_small, tmp_path / "spam-model", 3)
    was = str(Path.cwd())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"cd {re.escape(was)}"):
        regraft.fit(resume="spam-model")


def test_by_signal_and_flag_on_the_command_line(mail_file: Path, artifact, tmp_path: Path):
    out = tmp_path / "spam-model"
    flags = [word for path, value in _flat(SMALL) for word in ("--set", f"{path}={json.dumps(value)}")]
    command = [sys.executable, "-m", "regraft", "fit"]
    with subprocess.Popen(
        [*command, str(mail_file), "--target", "label", "--out", str(out), "--json", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as fitting:
        for line in fitting.stdout:
            if json.loads(line).get("step") == 4:
                fitting.send_signal(signal.SIGINT if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else signal.SIGTERM)
                break
        _, stderr = fitting.communicate(timeout=120)
    assert fitting.returncode == 3, stderr
    assert f"go on with: regraft fit --resume {out}" in stderr
    going_on = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True, check=False)
    assert going_on.returncode == 0, going_on.stderr
    assert weights(out) == artifact.weights_digest
    nothing = subprocess.run([*command, "--resume", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert (nothing.returncode, "no fit was interrupted here" in nothing.stderr) == (2, True)


def _flat(values, path=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def test_two_fits_into_one_place_are_refused(fit_small, mail_file: Path, tmp_path: Path):
    out = tmp_path / "spam-model"
    met = []

    def listen(event):
        if type(event).__name__ == "StepEvent" and not met:
            with pytest.raises(UsageError, match="another fit writes to this place") as caught:
                fit_small(out)
            met.append(str(caught.value))

    fit_small(out, listen=listen)
    assert f"process {os.getpid()} works on it" in met[0]


def kill_points(points: int, seed: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(KILL_POINTS), "--points", str(points), "--seed", str(seed)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_killed_at_random_moments_it_ends_with_the_same_bits():
    found = kill_points(12, seed=1)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count(" same ") == 12


@pytest.mark.slow
def test_killed_at_two_hundred_random_moments_it_ends_with_the_same_bits():
    found = kill_points(200, seed=0)
    assert found.returncode == 0, found.stdout + found.stderr
