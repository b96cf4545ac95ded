"""Signatures: whatever is changed, taken away, added or signed by somebody else is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from artifact_making import fill_with

from regraft import lifecycle
from regraft.artifact import signing
from regraft.artifact.manifest import canonical, digest_of
from regraft.artifact.store import Artifact, write_artifact
from regraft.cli.app import _run
from regraft.errors import ArtifactError, MissingExtraError, UsageError

pytestmark = pytest.mark.usefixtures("_library")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def _library() -> None:
    pytest.importorskip("model_signing", reason="the extra 'sign'")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Key pairs: ours, somebody else's, one with a password, and kinds that cannot be used."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    folder = tmp_path_factory.mktemp("keys")
    made = {
        "ours": (ec.generate_private_key(ec.SECP256R1()), s.NoEncryption()),
        "theirs": (ec.generate_private_key(ec.SECP256R1()), s.NoEncryption()),
        "long": (ec.generate_private_key(ec.SECP521R1()), s.NoEncryption()),
        "locked": (ec.generate_private_key(ec.SECP384R1()), s.BestAvailableEncryption(b"open sesame")),
        "bitcoin": (ec.generate_private_key(ec.SECP256K1()), s.NoEncryption()),
        "rsa": (rsa.generate_private_key(public_exponent=65537, key_size=2048), s.NoEncryption()),
        "ed25519": (ed25519.Ed25519PrivateKey.generate(), s.NoEncryption()),
    }
    found = {}
    for name, (key, lock) in made.items():
        found[name], found[f"{name}.pub"] = folder / f"{name}.pem", folder / f"{name}.pub"
        found[name].write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, lock))
        public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        found[f"{name}.pub"].write_bytes(public)
    return found


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def verify(artifact: Artifact, key: Path, **options: object) -> str:
    """Return what a verification is refused with."""
    with pytest.raises(ArtifactError) as caught:
        lifecycle.verify(artifact.path, key=key, **options)
    text = str(caught.value)
    assert "to do: " in text
    return text


def test_what_was_signed_is_verified_wherever_it_is_moved(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    before = {path.name for path in artifact.path.iterdir()}
    place = lifecycle.sign(artifact, key=keys["ours"])
    assert place == tmp_path / "spam.sig"
    assert {path.name for path in artifact.path.iterdir()} == before, "an artifact never changes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spam", "spam.sig"]
    assert lifecycle.verify(artifact, key=keys["ours.pub"]).digest == artifact.digest
    (tmp_path / "there").mkdir()
    artifact.path.rename(tmp_path / "there" / "renamed")
    place.rename(tmp_path / "there" / "renamed.sig")
    assert lifecycle.verify(tmp_path / "there" / "renamed", key=keys["ours.pub"]).digest == artifact.digest


def test_the_signature_names_every_file_with_its_sha256(artifact: Artifact, keys: dict[str, Path]):
    bundle = json.loads(lifecycle.sign(artifact, key=keys["ours"]).read_bytes())
    said = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    found = {entry["name"]: entry["digest"] for entry in said["predicate"]["resources"]}
    assert found.pop("manifest.json")
    assert found == {name: entry.sha256 for name, entry in artifact.manifest.files.items()}


def test_the_tool_of_the_openssf_verifies_it_too(artifact: Artifact, keys: dict[str, Path]):
    place = lifecycle.sign(artifact, key=keys["ours"])
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(artifact.path), "--signature", str(place)]
    for name, code in (("ours.pub", 0), ("theirs.pub", 1)):
        done = subprocess.run([*command, "--public_key", str(keys[name])], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_another_key_is_refused(artifact: Artifact, keys: dict[str, Path]):
    lifecycle.sign(artifact, key=keys["ours"])
    for name in ("theirs.pub", "long.pub"):
        text = verify(artifact, keys[name])
        assert "the signature is not one of this key over these files" in text
        assert "get it, its signature and the public key again" in text


def test_no_signature_is_refused(artifact: Artifact, keys: dict[str, Path]):
    text = verify(artifact, keys["ours.pub"])
    assert "the artifact is not signed" in text
    assert "spam.sig" in text
    assert "--signature" in text


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "backbone/config.json", "report.json"])
def test_every_byte_counts(artifact: Artifact, keys: dict[str, Path], name: str):
    lifecycle.sign(artifact, key=keys["ours"])
    path = artifact.path / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    verify(artifact, keys["ours.pub"])


def test_whoever_makes_the_digests_fit_still_has_no_key(artifact: Artifact, keys: dict[str, Path]):
    """An attacker can write a manifest that fits any file: this is what a signature is for."""
    lifecycle.sign(artifact, key=keys["ours"])
    forged = write_artifact(artifact.path, fill_with("forged"))
    assert forged.digest != artifact.digest
    text = verify(artifact, keys["ours.pub"])
    assert "the signature is not one of this key over these files" in text
    assert "got: backbone/config.json was changed; manifest.json was changed\n" in text, text


def test_a_manifest_edited_with_a_fitting_digest_is_refused(artifact: Artifact, keys: dict[str, Path]):
    lifecycle.sign(artifact, key=keys["ours"])
    path = artifact.path / "manifest.json"
    values = json.loads(path.read_bytes())
    values["seed"] += 1
    values["digest"] = digest_of(values)
    path.write_bytes(canonical(values))
    assert "manifest.json" in verify(artifact, keys["ours.pub"])


def test_a_file_taken_away_or_put_in_is_refused(artifact: Artifact, keys: dict[str, Path]):
    lifecycle.sign(artifact, key=keys["ours"])
    report = (artifact.path / "report.json").read_bytes()
    (artifact.path / "report.json").unlink()
    assert "a file is missing" in verify(artifact, keys["ours.pub"])
    (artifact.path / "report.json").write_bytes(report)
    (artifact.path / "notes.txt").write_text("harmless at the top of a fitted artifact, and yet not signed")
    text = verify(artifact, keys["ours.pub"])
    assert "notes.txt" in text
    (artifact.path / "notes.txt").unlink()
    (artifact.path / ".gitignore").write_text("*")
    assert ".gitignore" in verify(artifact, keys["ours.pub"])
    (artifact.path / ".gitignore").unlink()
    (artifact.path / ".DS_Store").write_bytes(b"left by a desktop")
    assert lifecycle.verify(artifact, key=keys["ours.pub"]).digest == artifact.digest


def test_a_signature_of_another_artifact_is_refused(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    other = write_artifact(tmp_path / "other", fill_with("other"))
    shutil.copyfile(lifecycle.sign(other, key=keys["ours"]), tmp_path / "spam.sig")
    assert "the signature is not one of this key over these files" in verify(artifact, keys["ours.pub"])


def test_a_signature_that_leaves_files_out_is_refused(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    """Signed with the right key by the library itself, but not over the weights."""
    from model_signing import hashing
    from model_signing import signing as library

    left = hashing.Config().set_ignored_paths(paths=["weights.safetensors"], ignore_git_paths=False)
    config = library.Config().use_elliptic_key_signer(private_key=keys["ours"]).set_hashing_config(left)
    config.sign(artifact.path, tmp_path / "spam.sig")
    text = verify(artifact, keys["ours.pub"])
    assert "the signature leaves files out" in text
    assert "nothing about weights.safetensors" in text


def _payload(bundle: dict, change: Callable[[dict], None]) -> None:
    said = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(said)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(said).encode()).decode()


EDITS: dict[str, Callable[[dict], object]] = {
    "payload": lambda b: _payload(b, lambda said: said["predicate"]["resources"].pop()),
    "signature": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x" * 70).decode()),
    "no signatures": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
    "no key": lambda b: b.pop("verificationMaterial"),
    "payload is no JSON": lambda b: b["dsseEnvelope"].update(payload="!!"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edited_signature_is_refused(artifact: Artifact, keys: dict[str, Path], edit: Callable[[dict], object]):
    place = lifecycle.sign(artifact, key=keys["ours"])
    bundle = json.loads(place.read_bytes())
    edit(bundle)
    place.write_text(json.dumps(bundle))
    assert "the signature is not one of this key over these files" in verify(artifact, keys["ours.pub"])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"mediaType": "text/plain"}'])
def test_what_is_no_signature_is_refused_and_not_written_over(artifact: Artifact, keys: dict[str, Path], content: bytes):
    place = artifact.path.with_name("spam.sig")
    place.write_bytes(content)
    assert "the file is not a signature" in verify(artifact, keys["ours.pub"])
    with pytest.raises(UsageError, match="something that is not a signature stands at its place"):
        lifecycle.sign(artifact, key=keys["ours"])
    assert place.read_bytes() == content


def test_signing_again_replaces_the_signature(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    lifecycle.sign(artifact, key=keys["theirs"])
    lifecycle.sign(artifact, key=keys["ours"])
    assert lifecycle.verify(artifact, key=keys["ours.pub"]).digest == artifact.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spam", "spam.sig"]


def test_the_signature_may_stand_elsewhere_but_not_inside(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    (tmp_path / "vault").mkdir()
    place = tmp_path / "vault" / "spam.bundle"
    assert lifecycle.sign(artifact, key=keys["long"], signature=place) == place
    assert lifecycle.verify(artifact, key=keys["long.pub"], signature=place)
    with pytest.raises(UsageError, match="a signature cannot stand in the artifact it signs"):
        lifecycle.sign(artifact, key=keys["ours"], signature=artifact.path / "spam.sig")
    with pytest.raises(UsageError, match="the folder to write to does not exist"):
        lifecycle.sign(artifact, key=keys["ours"], signature=tmp_path / "nowhere" / "spam.sig")
    assert not (artifact.path / "spam.sig").exists()


def test_a_locked_key_is_opened_by_the_password_in_the_environment(
    artifact: Artifact, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(signing.PASSWORD, raising=False)
    with pytest.raises(UsageError) as caught:
        lifecycle.sign(artifact, key=keys["locked"])
    assert "the key cannot be used" in str(caught.value)
    assert "REGRAFT_KEY_PASSWORD" in str(caught.value)
    monkeypatch.setenv(signing.PASSWORD, "open barley")
    with pytest.raises(UsageError, match="the key cannot be used"):
        lifecycle.sign(artifact, key=keys["locked"])
    monkeypatch.setenv(signing.PASSWORD, "open sesame")
    lifecycle.sign(artifact, key=keys["locked"])
    assert lifecycle.verify(artifact, key=keys["locked.pub"])


@pytest.mark.parametrize("name", ["bitcoin", "rsa", "ed25519"])
def test_keys_of_another_kind_are_refused(artifact: Artifact, keys: dict[str, Path], name: str):
    for run, key in ((lifecycle.sign, keys[name]), (lifecycle.verify, keys[f"{name}.pub"])):
        if run is lifecycle.verify:
            lifecycle.sign(artifact, key=keys["ours"])
        with pytest.raises(UsageError) as caught:
            run(artifact, key=key)
        assert "the key cannot be used" in str(caught.value)
        assert "P-256, P-384 or P-521" in str(caught.value)
        assert "openssl ecparam -name prime256v1" in str(caught.value)


def test_the_wrong_half_of_a_pair_and_no_key_at_all_are_named(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    with pytest.raises(UsageError, match="the key is a public one, which cannot sign"):
        lifecycle.sign(artifact, key=keys["ours.pub"])
    lifecycle.sign(artifact, key=keys["ours"])
    with pytest.raises(UsageError, match=r"the key is a private one: only who signs needs it(.|\n)*openssl ec -in .* -pubout"):
        lifecycle.verify(artifact, key=keys["ours"])
    (tmp_path / "noise.pem").write_bytes(b"\0" * 300)
    for run in (lifecycle.sign, lifecycle.verify):
        with pytest.raises(UsageError, match=r"the key cannot be read(.|\n)*No such file"):
            run(artifact, key=tmp_path / "nowhere.pem")
        with pytest.raises(UsageError, match="the key cannot be used"):
            run(artifact, key=tmp_path / "noise.pem")


def test_a_damaged_artifact_is_not_signed(artifact: Artifact, keys: dict[str, Path], tmp_path: Path):
    (artifact.path / "report.json").write_text("{}")
    with pytest.raises(ArtifactError, match="a file is not the one that was written"):
        lifecycle.sign(artifact, key=keys["ours"])
    assert not (tmp_path / "spam.sig").exists()


def test_without_the_package_the_extra_is_named(artifact: Artifact, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    place = lifecycle.sign(artifact, key=keys["ours"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert place.is_file()
    for run, key in ((lifecycle.sign, "ours"), (lifecycle.verify, "ours.pub")):
        with pytest.raises(MissingExtraError, match=r"signing needs the package 'model_signing'(.|\n)*regraft\[sign\]"):
            run(artifact, key=keys[key])


def test_on_the_command_line(artifact: Artifact, keys: dict[str, Path], tmp_path: Path, call: Call):
    code, _, stderr = call("verify", artifact.path, "--key", keys["ours.pub"])
    assert (code, "the artifact is not signed" in stderr) == (2, True)
    code, stdout, stderr = call("sign", artifact.path, "--key", keys["ours"])
    assert (code, stdout) == (0, f"signed: {tmp_path / 'spam.sig'}\n"), stderr
    code, stdout, _ = call("verify", artifact.path, "--key", keys["ours.pub"])
    assert code == 0
    assert f"{artifact.path}: signed with the pair of {keys['ours.pub']}, 4 files as they were" in stdout
    code, stdout, _ = call("verify", artifact.path, "--key", keys["ours.pub"], "--json")
    assert json.loads(stdout) == {"artifact": str(artifact.path), "digest": artifact.digest, "verified": True}
    code, stdout, stderr = call("verify", artifact.path, "--key", keys["theirs.pub"], "--json")
    assert code == 2
    assert "not one of this key" in stderr
    assert "verified" not in stdout
    code, _, stderr = call("sign", artifact.path)
    assert (code, "key" in stderr) == (2, True)
    code, stdout, _ = call("sign", artifact.path, "--key", keys["long"], "--signature", tmp_path / "else.sig", "--json")
    assert json.loads(stdout) == {"artifact": str(artifact.path), "signature": str(tmp_path / "else.sig")}
