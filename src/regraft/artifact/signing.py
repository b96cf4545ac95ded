"""Signatures: who made an artifact, proven with a key pair, in the format of the OpenSSF (`model-signing`, a Sigstore bundle).

    spam/        the artifact: immutable, and holding nothing but the files that its manifest lists
    spam.sig     its signature: beside the folder, because a file inside would be one that the manifest does not list

A digest says that an artifact is what was written; a signature says who wrote it. No network is asked, no service knows of it:
whoever holds the public key can verify, with this command or with `model_signing verify key`.

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem     the private key: signs; keep it to yourself
    openssl ec -in key.pem -pubout -out key.pub                      the public key: verifies; give it to everybody
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.artifact.manifest import MANIFEST
from regraft.artifact.store import Artifact
from regraft.artifact.verify import LEFT_BY_DESKTOPS, walk
from regraft.data.atomic import atomic_file
from regraft.errors import ArtifactError, Problem, RegraftError, UsageError
from regraft.registry import missing_extra

SUFFIX = ".sig"
PASSWORD = "REGRAFT_KEY_PASSWORD"  # noqa: S105 - the name of the variable that holds it
"""Environment variable with the password of an encrypted private key: on a command line everybody could read it."""
EXTRA = "sign"
_KEY_LIMIT_BYTES = 100_000
_BUNDLE_LIMIT_BYTES = 64 * 2**20
_UNTRUSTED = "do not use the artifact; get it, its signature and the public key again from whoever made it"


def signature_path(artifact: Artifact) -> Path:
    """Return where the signature of an artifact stands unless another place is named: beside its folder."""
    return artifact.path.with_name(artifact.path.name + SUFFIX)


def sign(artifact: Artifact, key: Path, *, signature: Path | None = None) -> Path:
    """Sign every file of an artifact.

    Args:
        artifact: Verified.
        key: Private key, PEM, on the curve P-256, P-384 or P-521.
        signature: Where the signature is written; beside the artifact if not given. An older signature is replaced.

    Returns:
        Where the signature stands.

    Raises:
        UsageError: The key cannot be used, or something else than a signature stands in its place.
        MissingExtraError: The package `model-signing` is not installed.
        MachineError: The disk is full.
    """
    place = signature or signature_path(artifact)
    _free(place, artifact)
    _pem(key, private=True)
    with _library():
        from model_signing import signing

        library: Any = signing  # its constructors carry no types
        password: Any = os.environ.get(PASSWORD, "").encode() or None  # the reader of keys takes bytes
        try:
            config = library.Config().use_elliptic_key_signer(private_key=key, password=password)
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(_unusable(key, error, private=True)) from error
        config.set_hashing_config(_hashing(artifact))
        # The library writes to a path: it gets one that nobody reads, and the place gets a whole file or none.
        with atomic_file(place) as file:
            file.write(_signed(config, artifact, place))
    return place


def verify_signature(artifact: Artifact, key: Path, *, signature: Path | None = None) -> Path:
    """Refuse an artifact that was not signed with the private key of a pair, or whose files changed since.

    Args:
        artifact: Verified against its own manifest.
        key: Public key, PEM.
        signature: Where the signature stands; beside the artifact if not given.

    Returns:
        Where the signature stands.

    Raises:
        ArtifactError: There is no signature, it is not of this key, or not of these files.
        UsageError: The key cannot be used.
        MissingExtraError: The package `model-signing` is not installed.
    """
    place = signature or signature_path(artifact)
    _present(place)
    _pem(key, private=False)
    with _library():
        from model_signing import verifying

        library: Any = verifying  # its constructors carry no types
        try:
            config = library.Config().use_elliptic_key_verifier(public_key=key)
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(_unusable(key, error, private=False)) from error
        config.set_hashing_config(_hashing(artifact))
        try:
            config.verify(artifact.path, place)
        except Exception as error:  # a signature comes from outside: each layer of the bundle fails in its own way
            raise ArtifactError(_not_signed(artifact, place, error)) from error
    if missing := {MANIFEST, *artifact.manifest.files} - _covered(place):
        got = f"nothing about {', '.join(sorted(missing)[:5])}"
        expected, what = "every file of the artifact", "the signature leaves files out"
        raise ArtifactError(Problem(what=what, where=str(place), got=got, expected=expected, fix=_UNTRUSTED))
    return place


def _signed(config: Any, artifact: Artifact, place: Path) -> bytes:
    """Return the bytes of a signature, by way of a private folder beside its place."""
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
        made = Path(folder) / "bundle"
        config.sign(artifact.path, made)
        return made.read_bytes()


def _hashing(artifact: Artifact) -> Any:
    """Return how files are hashed: each by sha256, all of them but what a desktop leaves in every folder it shows."""
    from model_signing import hashing

    left = [Path(name) for name, path in walk(artifact.path) if path.name in LEFT_BY_DESKTOPS]
    library: Any = hashing  # its constructors carry no types
    config = library.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=left, ignore_git_paths=False)


def _covered(place: Path) -> set[str]:
    """Return the names of the files that a signature speaks of; called when it has been verified."""
    envelope = json.loads(place.read_bytes())["dsseEnvelope"]
    said = json.loads(base64.b64decode(envelope["payload"]))
    return {str(resource["name"]) for resource in said.get("predicate", {}).get("resources", [])}


def _free(place: Path, artifact: Artifact) -> None:
    """Refuse a place inside the artifact, and a file there that is not a signature."""
    resolved = place.expanduser().resolve()
    if artifact.path == resolved or artifact.path in resolved.parents:
        what, fix = "a signature cannot stand in the artifact it signs", "leave out --signature, or name a file elsewhere"
        raise UsageError(Problem(what=what, where=str(place), expected="a file beside it", fix=fix))
    if os.path.lexists(resolved) and not _is_bundle(resolved):
        what, fix = "something that is not a signature stands at its place", "move it away, or name another --signature"
        raise UsageError(Problem(what=what, where=str(place), expected="nothing, or an older signature", fix=fix))


def _is_bundle(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= _BUNDLE_LIMIT_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "sigstore.bundle" in str(content.get("mediaType"))


def _present(place: Path) -> None:
    if not place.is_file():
        fix = "ask whoever made it for the signature, or name where it stands with --signature"
        problem = Problem(what="the artifact is not signed", where=str(place), got="nothing", expected="a signature", fix=fix)
        raise ArtifactError(problem)
    if not _is_bundle(place):
        what = "the file is not a signature"
        raise ArtifactError(Problem(what=what, where=str(place), expected="a Sigstore bundle", fix=_UNTRUSTED))


def _pem(key: Path, *, private: bool) -> None:
    """Refuse a key that is not there, and the wrong half of a pair, before a library stumbles over it."""
    try:
        content = key.read_bytes() if key.stat().st_size <= _KEY_LIMIT_BYTES else b""
    except OSError as error:
        fix = "name the file of the key with --key"
        problem = Problem(what="the key cannot be read", where=str(key), got=error.strerror or str(error), fix=fix)
        raise UsageError(problem) from None
    is_private, is_public = b"PRIVATE KEY-----" in content, b"PUBLIC KEY-----" in content
    if private and is_public and not is_private:
        fix = "sign with the private key of the pair"
        raise UsageError(Problem(what="the key is a public one, which cannot sign", where=str(key), fix=fix))
    if is_private and not private:
        fix = f"verify with the public key of the pair: openssl ec -in {key} -pubout -out key.pub"
        raise UsageError(Problem(what="the key is a private one: only who signs needs it", where=str(key), fix=fix))


def _unusable(key: Path, error: Exception, *, private: bool) -> Problem:
    curves = "an elliptic curve key (P-256, P-384 or P-521) as PEM"
    fix = "make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
    if private:
        fix += f"; the password of an encrypted one stands in the variable {PASSWORD}"
    return Problem(what="the key cannot be used", where=str(key), got=str(error)[:200], expected=curves, fix=fix)


def _not_signed(artifact: Artifact, place: Path, error: Exception) -> Problem:
    got = _told(str(error)) or type(error).__name__  # a wrong signature has no text of its own
    return Problem(
        what="the signature is not one of this key over these files",
        where=f"{artifact.path}, {place.name}",
        got=got[:500],
        expected="a signature made with the private key of the pair, over every file as it is now",
        fix=_UNTRUSTED,
    )


def _told(text: str) -> str:
    """Return what the library says about files, without the digests that it prints as bytes."""
    changed = [f"{name} was changed" for name in re.findall(r"Hash mismatch for \\?'(.+?)\\?': Expected", text)]
    return "; ".join([*re.findall(r"((?:Extra|Missing) files [^\"]*)", text), *changed]) or text


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except RegraftError:
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(error, "signing", EXTRA) from error
