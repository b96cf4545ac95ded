from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
from artifact_making import body, safetensors

from regraft.artifact import manifest as m
from regraft.artifact.store import Artifact, read_artifact, write_artifact
from regraft.artifact.verify import contained, file_entries
from regraft.errors import ArtifactError


def problems(path: Path, **how: bool) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_artifact(path, **how)
    assert caught.value.exit_code == 2
    assert all(problem.fix for problem in caught.value.problems)
    return str(caught.value)


def forged(root: Path, **changes: object) -> None:
    """Write a manifest that fits its own digest: what an attacker would do."""
    values = {**m.Manifest.of(body(), file_entries(root)).to_json(), **changes}
    values["digest"] = m.digest_of(values)
    (root / "manifest.json").write_bytes(m.canonical(values))


def test_nothing_there_offers_the_nearest_artifact(artifact: Artifact):
    text = problems(artifact.path.with_name("spma"))
    assert "there is no artifact" in text
    assert "did you mean 'spam'?" in text


def test_nothing_there_and_no_artifact_beside_says_how_to_make_one(tmp_path: Path):
    assert "make one with `regraft fit DATA --target COLUMN --out FOLDER`" in problems(tmp_path / "x")


def test_another_folder_a_file_and_a_hub_folder_are_told_apart(tmp_path: Path):
    assert "got: no manifest.json" in problems(tmp_path)
    (tmp_path / "file").write_text("")
    assert "a file, not a folder" in problems(tmp_path / "file") or "not a Regraft artifact" in problems(tmp_path / "file")
    (tmp_path / "config.json").write_text("{}")
    text = problems(tmp_path)
    assert "the config.json of a Hugging Face model" in text
    assert "--base" in text


@pytest.mark.parametrize("name", ["weights.safetensors", "backbone/config.json", "report.json"])
def test_one_changed_byte_in_any_file_is_found(artifact: Artifact, name: str):
    path = artifact.path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    text = problems(artifact.path)
    assert "a file is not the one that was written" in text
    assert str(path) in text
    assert "sha256" in text
    if name != "weights.safetensors":
        assert read_artifact(artifact.path, contents=False)


def test_several_things_are_reported_together(artifact: Artifact):
    (artifact.path / "report.json").unlink()
    (artifact.path / "backbone" / "config.json").write_text("{}")
    (artifact.path / "backbone" / "extra.json").write_text("{}")
    text = problems(artifact.path, contents=False)
    assert "3 problems:" in text
    assert "a file is missing" in text
    assert "a file is not the one that was written" in text
    assert "a file that the manifest does not list" in text


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "report.json"])
def test_links_are_refused_wherever_they_lead(artifact: Artifact, target: str):
    (artifact.path.parent / "outside").write_text("x")
    (artifact.path / "backbone" / "link").symlink_to(target)
    text = problems(artifact.path)
    assert "links are refused in an artifact" in text
    assert f"a link to {target}" in text


def test_a_listed_file_that_became_a_link_is_refused_and_not_followed(artifact: Artifact):
    path = artifact.path / "report.json"
    (artifact.path.parent / "same").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(artifact.path.parent / "same")
    assert "links are refused" in problems(artifact.path)


def test_a_linked_folder_is_refused(artifact: Artifact):
    (artifact.path / "backbone").rename(artifact.path.parent / "elsewhere")
    (artifact.path / "backbone").symlink_to(artifact.path.parent / "elsewhere")
    assert "links are refused" in problems(artifact.path)


def test_a_linked_manifest_is_refused(artifact: Artifact):
    path = artifact.path / "manifest.json"
    path.rename(artifact.path.parent / "manifest.json")
    path.symlink_to(artifact.path.parent / "manifest.json")
    assert "not a Regraft artifact" in problems(artifact.path)


def test_the_artifact_itself_may_be_reached_through_a_link(artifact: Artifact):
    link = artifact.path.parent / "current"
    link.symlink_to(artifact.path)
    assert read_artifact(link).path == artifact.path


def test_special_files_are_refused(artifact: Artifact):
    os.mkfifo(artifact.path / "pipe")
    assert "special files are refused" in problems(artifact.path)


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".bin", ".pth", ".joblib", ".npy", ".ckpt"])
@pytest.mark.parametrize("folder", ["", "backbone"])
def test_pickles_are_refused_listed_or_not(artifact: Artifact, suffix: str, folder: str):
    (artifact.path / folder / f"extra{suffix}").write_bytes(pickle.dumps([1]))
    assert "formats that can hold a pickle are refused" in problems(artifact.path)
    forged(artifact.path)
    assert "formats that can hold a pickle are refused" in problems(artifact.path)


def test_raw_weights_are_no_pickle_beside_their_description_in_an_export(artifact: Artifact):
    export = {"format": "openvino", "options": {}, "gate": {}}
    (artifact.path / "model.bin").write_bytes(bytes(8))
    forged(artifact.path, export=export)
    assert "formats that can hold a pickle are refused" in problems(artifact.path), "nothing describes it"
    (artifact.path / "model.xml").write_text("<net/>")
    forged(artifact.path)
    assert "formats that can hold a pickle are refused" in problems(artifact.path), "no export"
    forged(artifact.path, export=export)
    assert read_artifact(artifact.path).manifest.export is not None
    listed = read_artifact(artifact.path).manifest.to_json()["files"]
    forged(artifact.path, export=export, files={name: entry for name, entry in listed.items() if name != "model.bin"})
    assert "formats that can hold a pickle are refused" in problems(artifact.path), "nobody lists it"


def test_weights_and_code_that_nobody_listed(artifact: Artifact):
    (artifact.path / "more.safetensors").write_bytes(safetensors())
    assert "there are weights that the manifest does not list" in problems(artifact.path)
    (artifact.path / "more.safetensors").unlink()
    (artifact.path / "code.py").write_text("")
    forged(artifact.path)
    assert "code is refused" in problems(artifact.path)


def test_what_is_harmless_is_left_alone(artifact: Artifact):
    for name in (".DS_Store", "report.html", "notes.txt", "backbone/.DS_Store"):
        (artifact.path / name).write_text("x")
    (artifact.path / "pictures").mkdir()
    (artifact.path / "pictures" / "a.png").write_bytes(b"x")
    assert read_artifact(artifact.path)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "backbone/../../secret", "a\\b", "c:x", "", "a//b", "./report.json"]
)
def test_paths_that_leave_the_folder_are_refused_and_not_opened(artifact: Artifact, name: str, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    forged(artifact.path, files={name: {"sha256": "0" * 64, "size_bytes": 1}})
    monkeypatch.setattr("regraft.artifact.verify.sha256_of", lambda path: opened.append(str(path)) or "")
    assert "a path in the manifest leaves the artifact" in problems(artifact.path)
    assert opened == []
    assert not contained(name)


def test_a_folder_of_an_input_that_leaves_is_refused(artifact: Artifact):
    entry = m.to_json(body().inputs[0]) | {"folder": "../elsewhere"}
    forged(artifact.path, inputs=[entry])
    assert "inputs.0.folder: '../elsewhere'" in problems(artifact.path)


def test_a_header_made_to_exhaust_memory_is_refused(artifact: Artifact):
    (artifact.path / "weights.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    forged(artifact.path)
    assert "the header of a weights file is too large" in problems(artifact.path)


def test_more_tensors_than_allowed_are_refused(artifact: Artifact):
    header = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_001)}).encode()
    (artifact.path / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    forged(artifact.path)
    assert "too many tensors" in problems(artifact.path)


def test_a_huge_manifest_is_refused_unread(artifact: Artifact, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regraft.artifact.verify.MANIFEST_LIMIT_BYTES", 100)
    assert "the manifest is too large" in problems(artifact.path)


def test_a_truncated_manifest_is_damage(artifact: Artifact):
    path = artifact.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert "edited or damaged" in problems(artifact.path)


def test_an_empty_file_list_still_guards_the_backbone(tmp_path: Path):
    def fill(folder: Path):
        return body()

    made = write_artifact(tmp_path / "empty", fill)
    (made.path / "backbone").mkdir()
    (made.path / "backbone" / "config.json").write_text("{}")
    assert "a file that the manifest does not list" in problems(made.path)


def test_a_file_that_the_system_does_not_give_is_named(artifact: Artifact, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("regraft.artifact.verify.sha256_of", refuse)
    text = problems(artifact.path)
    assert "the artifact cannot be read" in text
    assert "Permission denied" in text
    assert str(artifact.path) in text
