"""One stored artifact of each format, written by the version that made that format: every later version reads them.

`tests/golden/artifacts/format-N` are never written again. A change of what a manifest holds needs a new number, a step in
`artifact/migrate.py`, and one more folder.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from regraft.artifact import manifest as m
from regraft.artifact import migrate, verify
from regraft.artifact.describe import describe
from regraft.artifact.golden import replay
from regraft.artifact.store import read_artifact
from regraft.calibration.trust import NOTHING
from regraft.errors import ArtifactError
from regraft.serving.predictor import Predictor
from regraft.tasks.sureness import Asked

STORED = Path(__file__).parents[2] / "golden" / "artifacts"
FORMATS = sorted(STORED.iterdir(), key=lambda folder: int(folder.name.removeprefix("format-")))
DIGESTS = {
    "format-1": "c9af13cb4c5472fc3a30eeb935e9df6214c4cd3e9670c9312313691338734514",
    "format-3": "bbb03c159cf9c7c56bc6cee814658d7ad7e1959bd054fe58ba02a426dfccc671",
    "format-2": "2abb12b32ddc888a6a23bd90d61f7e3bdcaf4a83ea9c8aafe1c5bed2fb594b1b",
}


def test_every_format_has_a_stored_artifact_and_every_step_a_format_to_start_from():
    assert [folder.name for folder in FORMATS] == [f"format-{number}" for number in range(1, m.FORMAT + 1)]
    assert sorted(migrate.STEPS) == list(range(1, m.FORMAT))
    assert {folder.name for folder in FORMATS} == DIGESTS.keys()


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_a_stored_artifact_is_read_whole(folder: Path):
    """Its digest is that of the bytes as they were written: migrating changes what is understood, not what is there."""
    artifact = read_artifact(folder)
    assert artifact.digest == DIGESTS[folder.name]
    assert artifact.manifest.format == int(folder.name.removeprefix("format-"))
    assert artifact.manifest.network.runtimes
    said = (folder / "manifest.json").read_bytes()
    for hint in (b"/work", b"/tmp", b"/home", b"/root", b"/Users"):
        assert hint not in b"".join(path.read_bytes() for path in folder.rglob("*.json")), "no machine's paths"
    assert json.loads(said)["digest"] == artifact.digest
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100_000


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_a_stored_artifact_answers_as_it_did(folder: Path):
    predictor = Predictor.load(folder, threads=1)
    goldens = predictor.goldens()
    assert len(goldens.rows) == 16
    found = replay(predictor, goldens)
    outputs, predictions = predictor.answers(goldens.rows)
    np.testing.assert_allclose(outputs, np.array(goldens.outputs), rtol=1e-5, atol=1e-5)
    assert [prediction.value for prediction in predictions] == list(goldens.values)
    for prediction, was in zip(predictions, goldens.probabilities, strict=True):
        assert prediction.probabilities == pytest.approx(was, abs=1e-5)
    assert found.rows == 16


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_a_stored_artifact_is_described(folder: Path):
    facts = describe(read_artifact(folder))
    assert facts["format"] == int(folder.name.removeprefix("format-")), "of the format that stands on the disk"
    assert facts["task"]["state"]["labels"] == ["ham", "spam"]
    assert facts["golden_rows"] == 16
    assert facts["verb"] == "fit"
    assert facts["lineage"] == []
    assert facts["network"]["form"] == m.FORM_OF_FIT
    assert facts["network"]["runtimes"] == ["torch"]
    assert facts["report"]["metrics"]["accuracy"]["n"] == 48


def test_a_manifest_of_the_current_format_is_written_as_it_was():
    """Fails when a field comes, goes or changes its default while the number stays: then older versions would be misled."""
    path = STORED / f"format-{m.FORMAT}" / "manifest.json"
    stored = m.from_json(m.parse(path.read_bytes(), str(path)), str(path))
    assert stored.to_bytes() == path.read_bytes()
    body = m.ManifestBody(**{item.name: getattr(stored, item.name) for item in dataclasses.fields(m.ManifestBody)})
    again = dataclasses.replace(m.Manifest.of(body, stored.files), created=stored.created, versions=stored.versions)
    again = dataclasses.replace(again, digest=m.digest_of(again.to_json()))
    assert again.digest == stored.digest == DIGESTS[f"format-{m.FORMAT}"]


def test_one_byte_of_an_old_artifact_is_as_safe_as_of_a_new_one(tmp_path: Path):
    for number, name in enumerate(["manifest.json", "golden.json", "weights.safetensors", "backbone/model.safetensors"]):
        copy = tmp_path / str(number)
        shutil.copytree(FORMATS[0], copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(ArtifactError):
            read_artifact(copy)


def test_a_field_of_a_later_format_in_an_old_one_is_refused(tmp_path: Path):
    """An old version never wrote it: whoever put it there made the digest fit too."""
    shutil.copytree(FORMATS[0], tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    values = json.loads(path.read_bytes())
    values["transforms_of_tomorrow"] = []
    values["digest"] = m.digest_of(values)
    path.write_bytes(m.canonical(values))
    with pytest.raises(ArtifactError, match="the manifest's field 'transforms_of_tomorrow' cannot be read"):
        read_artifact(tmp_path / "old")


def test_a_newer_format_is_refused_with_what_to_do_through_every_door(tmp_path: Path):
    shutil.copytree(FORMATS[-1], tmp_path / "new")
    path = tmp_path / "new" / "manifest.json"
    values = {**json.loads(path.read_bytes()), "format": m.FORMAT + 1, "needs_regraft": "9.1.0", "unheard": {"of": 1}}
    values["digest"] = m.digest_of(values)
    path.write_bytes(m.canonical(values))
    for door in (read_artifact, verify.read_manifest, Predictor.load):
        with pytest.raises(ArtifactError) as caught:
            door(tmp_path / "new")
        text = str(caught.value)
        assert f"the artifact has format {m.FORMAT + 1}, which this version of Regraft does not know" in text
        assert "pip install 'regraft>=9.1.0'" in text
    assert verify.is_ours(tmp_path / "new"), "it may still be replaced by its owner, and by nobody else's folder"


def test_the_step_to_format_2_says_what_format_1_left_unsaid():
    values = json.loads((STORED / "format-1" / "manifest.json").read_bytes())
    new = migrate.migrate(values, "here")
    assert new["format"] == m.FORMAT
    assert {key: new["network"][key] for key in ("form", "runtimes", "facts")} == {
        "form": "torch",
        "runtimes": ["torch"],
        "facts": {},
    }
    assert (new["verb"], new["lineage"], new["export"]) == ("fit", [], None)
    assert new["task"] == {**values["task"], "calibration": {}}, "and format 3 how far answers can be trusted"
    kept = {key: value for key, value in values.items() if key not in {"network", "format", "task"}}
    assert {key: new[key] for key in kept} == kept
    assert new["network"]["backbone"] == values["network"]["backbone"]
    assert "form" not in values["network"], "the step works on its own copy"


def test_an_artifact_that_says_nothing_of_calibration_answers_as_the_network_does():
    for name in ("format-1", "format-2"):
        predictor = Predictor.load(STORED / name, threads=1)
        assert predictor.task.trust is NOTHING
        outputs, answers = predictor.answers(predictor.goldens().rows)
        shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose([list(answer.probabilities.values()) for answer in answers], shares, atol=1e-6)


def test_the_stored_calibration_is_part_of_the_answers():
    predictor = Predictor.load(STORED / "format-3", threads=1)
    assert predictor.task.trust.calibrator.name == "isotonic"
    outputs, answers = predictor.answers(predictor.goldens().rows)
    odds = outputs[:, 1].astype(np.float64) - outputs[:, 0]
    knots = predictor.artifact.manifest.task.calibration[""]["calibrator"]["columns"][1]
    spam = 1 / (1 + np.exp(-np.interp(odds, knots["at"], knots["odds"])))
    np.testing.assert_allclose([answer.probabilities["spam"] for answer in answers], spam, atol=1e-12)
    (one,) = predictor.asking(Asked(coverage=0.8, precision=0.6)).predict([predictor.goldens().rows[0]])
    assert one.set
    assert one.abstained is not None
