"""Everything an artifact is refused for, found before any of it is used; all problems at once.

The manifest is held against its own digest, each file against the manifest, and the folder against surprises: links, special
files, pickles, code, weights that nobody listed, safetensors headers that are made to exhaust memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from regraft.artifact.files import sha256_of
from regraft.artifact.manifest import MANIFEST, FileEntry, Manifest, from_json, parse
from regraft.artifact.migrate import migrate
from regraft.errors import ArtifactError, Problem, did_you_mean
from regraft.models.safety import PICKLES, check_safetensors_header

MANIFEST_LIMIT_BYTES = 64 * 2**20
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1"})
WEIGHTS = frozenset({".safetensors", ".onnx", ".gguf", ".tflite", ".pte", ".pt2", ".xml"})
"""Formats of weights that are fine when listed and a smuggled network when not."""
LEFT_BY_DESKTOPS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_LEFT_BY_REGISTRIES = frozenset({"registered_model_meta"})
"""What MLflow's registry puts into a folder that it hands out; nothing here reads it."""
_HARMLESS = LEFT_BY_DESKTOPS | _LEFT_BY_REGISTRIES
_FIT_AGAIN = "restore the artifact from its source, or fit it again"


def verify(root: Path, *, contents: bool = True) -> Manifest:
    """Return the manifest of an artifact that is whole and safe to load.

    Args:
        root: Folder of the artifact.
        contents: Whether to compute the digest of every file; sizes and everything else are checked in any case.

    Raises:
        ArtifactError: With one problem for each thing that is wrong.
    """
    manifest = read_manifest(root)
    problems = [*_unsafe_entries(root, manifest), *_wrong_files(root, manifest, contents)]
    if problems:
        raise ArtifactError(problems)
    return manifest


def read_manifest(root: Path) -> Manifest:
    """Return the manifest of an artifact, verified against its own digest but not against the files.

    Raises:
        ArtifactError: There is no artifact, or its manifest is edited, damaged or too new.
    """
    path = root / MANIFEST
    if not root.exists():
        raise ArtifactError(_nothing_there(root))
    if not path.is_file() or path.is_symlink():
        raise ArtifactError(_not_an_artifact(root))
    size = path.stat().st_size
    if size > MANIFEST_LIMIT_BYTES:
        limit = f"at most {MANIFEST_LIMIT_BYTES} bytes"
        raise ArtifactError(
            Problem(what="the manifest is too large", where=str(path), got=f"{size} bytes", expected=limit, fix=_FIT_AGAIN)
        )
    written = parse(path.read_bytes(), str(path))
    manifest = from_json(migrate(written, str(path)), str(path))
    return dataclasses.replace(manifest, format=written["format"])  # what stands on the disk, whatever it was read through


def is_ours(root: Path) -> bool:
    """Return whether a folder holds an artifact of ours, whole or damaged, of any format; nothing else is ever replaced."""
    return b'"kind": "regraft-artifact"' in _manifest_bytes(root)


def unlisted(root: Path) -> list[str]:
    """Return the files in an artifact's folder that are not part of it, as far as its manifest can still be read."""
    try:
        listed = json.loads(_manifest_bytes(root))["files"].keys()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return []
    return [name for name, path in walk(root) if name not in {*listed, MANIFEST} and path.name not in _HARMLESS]


def _manifest_bytes(root: Path) -> bytes:
    try:
        with (root / MANIFEST).open("rb") as file:
            return file.read(MANIFEST_LIMIT_BYTES)
    except OSError:
        return b""


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every entry that is not a folder as (relative POSIX path, path), and links to folders; follows no link."""
    for folder, folders, names in os.walk(root, followlinks=False):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(folder) / name
            yield path.relative_to(root).as_posix(), path


def file_entries(root: Path) -> dict[str, FileEntry]:
    """Return what the manifest records about every file of a folder but the manifest itself."""
    found = {}
    for relative, path in walk(root):
        if relative != MANIFEST:
            found[relative] = FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size)
    return found


def contained(relative: str) -> bool:
    """Return whether a recorded path is plain, relative and stays inside its folder on every system.

    Example:
        >>> [contained(path) for path in ("backbone/config.json", "../x", "/etc/passwd", "a//b", "c:x")]
        [True, False, False, False, False]
    """
    parts = relative.split("/")
    plain = not any(character in relative for character in ("\\", ":", "\0"))
    return plain and PurePosixPath(relative).parts == tuple(parts) and not {"", ".", ".."} & set(parts) and relative[0] != "/"


def _unsafe_entries(root: Path, manifest: Manifest) -> Iterator[Problem]:
    for relative, path in walk(root):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            got = f"a link to {os.readlink(path)}"  # noqa: PTH115 - the text of the link, not where it leads
            yield _refusal("links are refused in an artifact", path, got, "a regular file")
        elif not stat.S_ISREG(mode):
            yield _refusal("special files are refused in an artifact", path, "not a regular file", "a regular file")
        else:
            yield from _unsafe_file(relative, path, manifest)


def _unsafe_file(relative: str, path: Path, manifest: Manifest) -> Iterator[Problem]:
    suffix = path.suffix.lower()
    listed = relative in manifest.files
    if suffix in PICKLES and not _plain_bytes(path, relative, manifest):  # even when the manifest lists it
        yield _refusal("formats that can hold a pickle are refused in an artifact", path, f"'{path.name}'", "safetensors")
    elif suffix in CODE and listed:
        yield _refusal("code is refused in an artifact", path, f"'{path.name}'", "weights, JSON and text")
    elif listed or relative == MANIFEST or path.name in _HARMLESS:
        return
    elif suffix in WEIGHTS:
        yield _refusal("there are weights that the manifest does not list", path, f"'{relative}'", "only listed weights")
    elif manifest.export is not None or relative.split("/")[0] in _loaded_folders(manifest):
        # Formats read what stands beside them by name, each in its own way: an export holds nothing but its own files.
        yield _refusal("there is a file that the manifest does not list", path, f"'{relative}'", "only listed files here")


def _plain_bytes(path: Path, relative: str, manifest: Manifest) -> bool:
    """Return whether a file is the weights of a network of OpenVINO, in an export: numbers end to end, read as nothing else."""
    described = PurePosixPath(relative).with_suffix(".xml").as_posix()
    return path.suffix == ".bin" and manifest.export is not None and {relative, described} <= manifest.files.keys()


def _loaded_folders(manifest: Manifest) -> set[str]:
    """Return the top folders whose files are loaded by name, so that an extra file could change what is loaded."""
    return {entry.folder.split("/")[0] for entry in manifest.inputs} | {"backbone"}


def _wrong_files(root: Path, manifest: Manifest, contents: bool) -> Iterator[Problem]:
    folders = {f"inputs.{number}.folder": entry.folder for number, entry in enumerate(manifest.inputs)}
    for name, folder in folders.items():
        if not contained(folder):
            yield _refusal(
                "a path in the manifest leaves the artifact", root / MANIFEST, f"{name}: '{folder}'", "a plain folder"
            )
    for relative, entry in sorted(manifest.files.items()):
        if not contained(relative):
            yield _refusal("a path in the manifest leaves the artifact", root / MANIFEST, f"'{relative}'", "a path inside it")
            continue
        path = root / relative
        if not path.is_file():
            yield Problem(what="a file is missing", where=str(path), expected=f"{entry.size_bytes} bytes", fix=_FIT_AGAIN)
            continue
        if path.is_symlink():
            continue  # reported as a link already, and never opened
        size = path.stat().st_size
        if size != entry.size_bytes:
            yield _changed(path, f"{size} bytes", f"{entry.size_bytes} bytes")
        elif contents and (digest := sha256_of(path)) != entry.sha256:
            yield _changed(path, f"sha256 {digest[:12]}...", f"sha256 {entry.sha256[:12]}...")
        elif path.suffix == ".safetensors":
            yield from _header_problems(path)


def _header_problems(path: Path) -> Iterator[Problem]:
    try:
        check_safetensors_header(path, ArtifactError)
    except ArtifactError as error:
        yield from error.problems


def _changed(path: Path, got: str, expected: str) -> Problem:
    return Problem(what="a file is not the one that was written", where=str(path), got=got, expected=expected, fix=_FIT_AGAIN)


def _refusal(what: str, path: Path, got: str, expected: str) -> Problem:
    return Problem(what=what, where=str(path), got=got, expected=expected, fix="remove it, or get the artifact from its source")


def _nothing_there(root: Path) -> Problem:
    try:
        beside = sorted(path.name for path in root.parent.iterdir() if is_ours(path) and not path.name.startswith("."))
    except OSError:
        beside = []
    fix = did_you_mean(root.name, beside) if beside else "make one with `regraft fit DATA --target COLUMN --out FOLDER`"
    return Problem(what="there is no artifact", where=str(root), got="nothing", expected="a folder of `regraft fit`", fix=fix)


def _not_an_artifact(root: Path) -> Problem:
    got = f"no {MANIFEST}" if root.is_dir() else "a file, not a folder"
    fix = "name the folder that `regraft fit --out` wrote"
    if (root / "config.json").is_file():
        got += " but the config.json of a Hugging Face model"
        fix = f"fit it to your data first: regraft fit DATA --target COLUMN --base {root} --out FOLDER"
    return Problem(
        what="this is not a Regraft artifact", where=str(root), got=got, expected="a folder of `regraft fit`", fix=fix
    )
