from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from artifact_making import body

from regraft.artifact import manifest as m
from regraft.artifact.migrate import migrate
from regraft.errors import ArtifactError


def whole() -> m.Manifest:
    return m.Manifest.of(body(), {"weights.safetensors": m.FileEntry(sha256="ab", size_bytes=3)})


def test_what_is_written_is_read_back_equal():
    manifest = whole()
    assert m.from_json(m.parse(manifest.to_bytes(), "here"), "here") == manifest


def test_the_digest_is_the_sha256_of_the_canonical_bytes_without_itself():
    values = json.loads(whole().to_bytes())
    digest = values.pop("digest")
    plain = json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert hashlib.sha256(plain.encode()).hexdigest() == digest


def test_every_edit_of_one_byte_is_found():
    content = whole().to_bytes()
    for place in range(len(content)):
        for changed in (content[place] ^ 1, content[place] ^ 0x20):
            edited = content[:place] + bytes([changed]) + content[place + 1 :]
            with pytest.raises(ArtifactError):
                m.parse(edited, "manifest.json")


@pytest.mark.parametrize(
    "edit", [lambda c: c[:-1], lambda c: c + b"\n", lambda c: c.replace(b'"seed": 3', b'"seed":  3'), lambda c: b""]
)
def test_shorter_longer_or_reformatted_bytes_are_found(edit):
    with pytest.raises(ArtifactError, match="the manifest has been edited or damaged"):
        m.parse(edit(whole().to_bytes()), "manifest.json")


def test_the_same_key_twice_is_found():
    content = whole().to_bytes().replace(b'"seed": 3', b'"seed": 3,\n "seed": 3')
    with pytest.raises(ArtifactError, match="not the canonical ones"):
        m.parse(content, "manifest.json")


@pytest.mark.parametrize("content", [b'{"kind": NaN}', b"[" * 100_000, b"\xff\xfe", b"not json"])
def test_what_is_not_json_is_said(content):
    with pytest.raises(ArtifactError, match=r"not JSON(.|\n)*restore the artifact from its source"):
        m.parse(content, "manifest.json")


@pytest.mark.parametrize("content", [b"[]\n", b"{}\n", b'{"kind": "other"}\n'])
def test_the_manifest_of_something_else_is_named(content):
    with pytest.raises(ArtifactError, match=r'not the manifest of a Regraft artifact(.|\n)*"kind": "regraft-artifact"'):
        m.parse(content, "manifest.json")


def test_a_newer_format_names_the_version_it_needs():
    values = {**whole().to_json(), "format": 9, "needs_regraft": "4.2.0"}
    with pytest.raises(ArtifactError) as caught:
        m.parse(m.canonical(values), "manifest.json")
    text = str(caught.value)
    assert "has format 9, which this version of Regraft does not know" in text
    assert "needs regraft 4.2.0 or newer; this is regraft" in text
    assert "pip install 'regraft>=4.2.0'" in text


def test_an_artifact_that_reads_nothing_is_refused():
    with pytest.raises(ArtifactError, match=r"the manifest's field 'inputs' cannot be read(.|\n)*at least 1 item"):
        m.from_json({**whole().to_json(), "inputs": []}, "manifest.json")


@pytest.mark.parametrize("number", [None, "1", True, -1, 1.0])
def test_a_format_that_is_no_number_is_damage(number):
    with pytest.raises(ArtifactError, match="edited or damaged"):
        m.parse(m.canonical({**whole().to_json(), "format": number}), "manifest.json")


def test_unknown_missing_and_wrong_fields_are_all_named():
    values = {**whole().to_json(), "new": 1, "seed": "x"}
    del values["target"]
    with pytest.raises(ArtifactError) as caught:
        m.from_json(values, "manifest.json")
    assert {p.what for p in caught.value.problems} == {
        f"the manifest's field '{n}' cannot be read" for n in ("new", "seed", "target")
    }


def test_when_it_was_made_says_nothing_about_the_weights():
    one, other = whole(), m.dataclasses.replace(whole(), created="1999-01-01T00:00:00+00:00")
    assert one.weights_digest == other.weights_digest
    assert m.digest_of(one.to_json()) != m.digest_of(other.to_json())


def test_versions_are_those_of_the_installed_packages():
    import numpy

    assert m.library_versions()["numpy"] == numpy.__version__


def test_steps_lead_from_format_to_format():
    steps = {1: lambda v: {"name": v["label"]}, 2: lambda v: {**v, "extra": 0}}
    assert migrate({"format": 1, "label": "x"}, "here", steps, 3) == {"format": 3, "name": "x", "extra": 0}


def test_an_old_format_without_a_step_names_who_wrote_it():
    with pytest.raises(ArtifactError) as caught:
        migrate({"format": 1, "versions": {"regraft": "0.0.7"}}, "a/manifest.json", {2: dict}, 3)
    text = str(caught.value)
    assert "format 1 of artifacts can no longer be read" in text
    assert "written by regraft 0.0.7" in text
    assert "format 2 to 3" in text
    assert "use regraft 0.0.7" in text


def test_a_step_that_fails_says_between_which_formats():
    with pytest.raises(ArtifactError, match=r"from format 1 to format 2(.|\n)*KeyError: 'label'"):
        migrate({"format": 1}, "here", {1: lambda v: {"name": v["label"]}}, 2)


def test_an_older_artifact_is_read_through_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The digest is that of the bytes as they were written; only then is the JSON brought up to date."""
    from regraft.artifact import migrate as steps
    from regraft.artifact import verify

    old = {**whole().to_json(), "format": 0, "random_state": 3}
    del old["seed"]
    old["digest"] = m.digest_of(old)
    (tmp_path / "manifest.json").write_bytes(m.canonical(old))
    step = {0: lambda v: {k: x for k, x in {**v, "seed": v["random_state"]}.items() if k != "random_state"}}
    monkeypatch.setattr(verify, "migrate", lambda values, where: steps.migrate(values, where, {**steps.STEPS, **step}))
    found = verify.read_manifest(tmp_path)
    assert (found.seed, found.format, found.digest) == (3, 0, old["digest"])
