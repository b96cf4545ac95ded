"""Write an artifact so that it appears whole or not at all; read it only if it is exactly what was written.

    private staging folder beside `out` -> files -> sync each -> manifest last -> sync -> gate -> one rename -> sync the parent

A process that dies at any moment leaves `out` as it was before (absent, or the old artifact) or as it is after. What it leaves
beside `out` is hidden and swept by the next run.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.artifact.files import (
    FILES,
    Files,
    give_ordinary_rights,
    machine_error,
    machine_errors,
    stage_name,
    sweep_stages,
    sync_tree,
)
from regraft.artifact.manifest import MANIFEST, Manifest, ManifestBody, canonical
from regraft.artifact.verify import file_entries, is_ours, unlisted, verify
from regraft.errors import ArtifactError, MachineError, Problem, UsageError
from regraft.options import JSON
from regraft.training.event_log import EVENTS

if TYPE_CHECKING:
    from regraft.evaluation.report import Report

REPORT = "report.json"
GOLDEN = "golden.json"
CARD = "card.md"
PAGE = "report.html"
PREDICTIONS = "predictions.parquet"
WORST = "worst.json"
EVIDENCE = frozenset({PAGE, WORST, PREDICTIONS, EVENTS})
"""Files of a fit that show how it went and how it was judged; what is made from the artifact leaves them behind."""
_WRITING = "writing the artifact"


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk that has been verified.

    Args:
        path: Its folder, resolved.
        manifest: What it is made of.
    """

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        form = self.manifest.network.form
        return f"Artifact({str(self.path)!r}, task={self.manifest.task.name!r}, form={form!r}, digest={self.digest[:12]!r})"

    @property
    def digest(self) -> str:
        """Digest of the whole artifact: of the manifest, which holds the digest of every file."""
        return self.manifest.digest

    @property
    def weights_digest(self) -> str:
        """Digest of the tensors alone; the same command on the same data and seed gives the same."""
        return self.manifest.weights_digest

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(entry.size_bytes for entry in self.manifest.files.values())

    @property
    def report(self) -> Report:
        """The report that was made when the artifact was."""
        from regraft.evaluation.report import Report

        return Report.from_json(self.json(REPORT))

    def json(self, name: str) -> dict[str, JSON]:
        """Return the object that one of the artifact's JSON files holds.

        Raises:
            ArtifactError: The manifest lists no such file, or it is not a JSON object.
        """
        if name not in self.manifest.files:
            fix = "fit it again with this version"
            raise ArtifactError(Problem(what=f"the artifact has no {name}", where=str(self.path), fix=fix))
        fix = "get the artifact from its source"
        try:
            content = json.loads((self.path / name).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ArtifactError(Problem(what=f"{name} is not JSON", where=str(self.path), got=str(error), fix=fix)) from None
        if not isinstance(content, dict):
            got = type(content).__name__
            raise ArtifactError(Problem(what=f"{name} is not a JSON object", where=str(self.path), got=got, fix=fix))
        return content


def read_artifact(path: Path | str, *, contents: bool = True) -> Artifact:
    """Open an artifact after verifying everything about it.

    Args:
        path: Its folder.
        contents: Whether to compute the digest of every file; everything else is checked in any case.

    Raises:
        ArtifactError: It is missing, damaged, edited, unsafe or too new; with one problem for each thing that is wrong.
    """
    root = Path(path).expanduser().resolve()
    try:
        return Artifact(root, verify(root, contents=contents))
    except OSError as error:
        where = str(error.filename or root)
        fix = "give this user the right to read it, or check the disk"
        raise ArtifactError(
            Problem(what="the artifact cannot be read", where=where, got=str(error.strerror), fix=fix)
        ) from error


def write_json(path: Path, value: JSON, files: Files = FILES) -> None:
    """Write a JSON file into a folder that is being filled."""
    files.write(path, canonical(value))


def write_text(path: Path, text: str, files: Files = FILES) -> None:
    """Write a text file into a folder that is being filled."""
    files.write(path, text.encode())


def check_out(out: Path | str, *, need_bytes: int = 0) -> Path:
    """Refuse a place that an artifact cannot be written to; call it before the work begins.

    Args:
        out: Where the artifact will stand: absent, an empty folder, or an artifact, which will be replaced (unless somebody
            has put files of their own into it).
        need_bytes: Room that the artifact will take.

    Returns:
        The resolved place.

    Raises:
        UsageError: Something that is not ours stands there, or the folder above cannot be written to.
        MachineError: There is not enough free space.
    """
    if not str(out).strip():
        # An unset shell variable; as a path it would be the current folder.
        raise UsageError(Problem(what="the name of the artifact is empty", where="--out", got=repr(out), fix="name a folder"))
    place = Path(out).expanduser().resolve()
    _recover(place)
    problem = _occupied(place)
    if problem:
        raise UsageError(problem)
    above = _nearest_folder(place)
    sweep_stages(above / place.name)
    probe = above / stage_name(place)
    try:
        probe.mkdir(mode=0o700)
        probe.rmdir()
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise machine_error("looking whether the artifact can be written", place, error.errno, str(error)) from error
        fix = "choose another --out, or give this user the right to write there"
        what = "the artifact cannot be written there"
        raise UsageError(Problem(what=what, where=str(above), got=error.strerror or str(error), fix=fix)) from None
    free = shutil.disk_usage(above).free
    if free < need_bytes:
        raise MachineError(
            Problem(
                what="there is not enough free space for the artifact",
                where=str(above),
                got=f"{free / 1e6:.0f} MB free",
                expected=f"at least {need_bytes / 1e6:.0f} MB",
                fix="free some space, or choose an --out on another file system",
            )
        )
    return place


def write_artifact(
    out: Path | str,
    fill: Callable[[Path], ManifestBody],
    gate: Callable[[Path], None] = lambda staged: None,
    *,
    need_bytes: int = 0,
    files: Files = FILES,
) -> Artifact:
    """Write an artifact atomically.

    Args:
        out: Where it will stand; see `check_out`.
        fill: Writes every file but the manifest into the folder it is given, and says what they are.
        gate: Looks at the finished folder before anybody else can see it; by raising it stops the artifact from appearing.
        need_bytes: Room that it will take.
        files: Changes the disk.

    Returns:
        The artifact at its final place.

    Raises:
        UsageError: Something that is not ours stands at `out`.
        MachineError: The disk is full, broken or closed. Whatever stood at `out` still stands there.
    """
    place = check_out(out, need_bytes=need_bytes)
    with _staging(place, files) as staged:
        with machine_errors(_WRITING, place):
            manifest = _filled(staged, fill, files)
        gate(staged)
        with machine_errors(_WRITING, place):
            _install(staged, place, files)
    return Artifact(place, manifest)


@contextmanager
def _staging(place: Path, files: Files) -> Iterator[Path]:
    """Give an empty folder beside `place` that vanishes with its private (0700) parent; the folder has ordinary rights."""
    stage = place.parent / stage_name(place)
    try:
        with machine_errors(_WRITING, place):
            place.parent.mkdir(parents=True, exist_ok=True)
            sweep_stages(place, files)
            files.make_folder(stage, 0o700)
            files.make_folder(stage / place.name)
        yield stage / place.name
    finally:
        files.remove(stage)


def _filled(staged: Path, fill: Callable[[Path], ManifestBody], files: Files) -> Manifest:
    body = fill(staged)
    give_ordinary_rights(staged, files)
    sync_tree(staged, files)
    manifest = Manifest.of(body, file_entries(staged))
    files.write(staged / MANIFEST, manifest.to_bytes())
    files.sync(staged)
    return manifest


def _install(staged: Path, place: Path, files: Files) -> None:
    """Put the finished folder in its place in one step, and take the step back if the disk does not keep it."""
    problem = _occupied(place)
    if problem:
        raise UsageError(problem)
    replaced = is_ours(place)
    if not replaced:
        files.rename(staged, place)
        _sync_or_undo(place, lambda: place.rename(staged), files)
    elif files.exchange(staged, place):
        _sync_or_undo(place, lambda: files.exchange(staged, place), files)
    else:
        _replace_in_two_steps(staged, place, files)


def _sync_or_undo(place: Path, undo: Callable[[], object], files: Files) -> None:
    try:
        files.sync(place.parent)
    except OSError:
        # If taking it back fails too, a whole artifact stands at `out` either way.
        with suppress(OSError):
            undo()
        raise


def _replace_in_two_steps(staged: Path, place: Path, files: Files) -> None:
    """Replace an artifact where folders cannot be swapped; `_recover` puts the old one back if this is cut in the middle."""
    kept = _kept(place)
    files.rename(place, kept)
    try:
        files.rename(staged, place)
        _sync_or_undo(place, lambda: place.rename(staged), files)
    except OSError:
        with suppress(OSError):
            kept.rename(place)
        raise
    files.remove(kept)


def _kept(place: Path) -> Path:
    return place.parent / f".{place.name}.replaced"


def _recover(place: Path) -> None:
    """Finish a replacement that was cut: the old artifact goes back if the new one did not arrive, else it is removed."""
    kept = _kept(place)
    if not is_ours(kept):
        return
    if is_ours(place):
        FILES.remove(kept)
    else:
        with suppress(OSError):
            kept.rename(place)


def _occupied(place: Path) -> Problem | None:
    """Return why `place` may not be written over, or None."""
    if not os.path.lexists(place):
        return None
    what, expected = (
        "something that is not a Regraft artifact stands at the place for the artifact",
        "nothing, or an empty folder",
    )
    if is_ours(place):
        strangers = unlisted(place)
        what, expected = "the artifact that would be replaced holds files that are not part of it", "only files of the artifact"
    elif place.is_dir():
        strangers = sorted(path.name for path in place.iterdir())
    else:
        strangers = [place.name]
    if not strangers:
        return None
    got = ", ".join(f"'{name}'" for name in strangers[:3]) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
    fix = "choose another --out, or move away what stands there"
    return Problem(what=what, where=str(place), got=got, expected=expected, fix=fix)


def _nearest_folder(place: Path) -> Path:
    """Return the deepest folder above `place` that exists; the ones below it are made when the artifact is written."""
    for above in place.parents:
        if above.is_dir():
            return above
        if os.path.lexists(above):
            what = "the artifact cannot be written there"
            fix = "choose another --out"
            raise UsageError(Problem(what=what, where=str(above), got="a file, not a folder", expected="a folder", fix=fix))
    return Path(place.anchor)
