"""What formats share that put an artifact, in whatever form it is, into a folder for somebody else's server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from regraft.artifact.files import sha256_of
from regraft.artifact.store import CARD, EVIDENCE, GOLDEN, REPORT
from regraft.errors import Problem
from regraft.exporters.exporter import Source, Written
from regraft.version import __version__

_LEFT_OUT = frozenset({REPORT, GOLDEN, CARD}) | EVIDENCE


def copy_artifact(source: Source, folder: Path, notes: tuple[str, ...]) -> Written:
    """Copy the files of an artifact into an empty folder, but those that every export gets, or none; say what they are."""
    for name in _copied(source):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.artifact.path / name, place)
    network = source.manifest.network
    return Written(form=network.form, runtimes=network.runtimes, facts=dict(network.facts), notes=notes)


def copy_faults(source: Source, folder: Path, written: frozenset[str]) -> list[Problem]:
    """Return the copied files that are not, byte for byte, the source's.

    Args:
        source: What was copied.
        folder: Where to.
        written: Files that the format has of its own, under names that the source may have too.
    """
    problems = []
    for name in sorted(set(_copied(source)) - written):
        path, entry = folder / name, source.manifest.files[name]
        got = sha256_of(path) if path.is_file() else "nothing"
        if got != entry.sha256:
            what, fix = "a file of the export is not the source's", "nothing was written; see whether the disk is sound"
            problems.append(Problem(what=what, where=str(path), got=got[:12], expected=f"sha256 {entry.sha256[:12]}", fix=fix))
    return problems


def requirements(source: Source, *extras: str) -> list[str]:
    """Return what pip must install to answer as the gate saw it: regraft and all that decides answers, pinned.

    Args:
        source: What is wrapped.
        extras: Of regraft, beside the one that the network needs.
    """
    wanted = ",".join(dict.fromkeys((source.needs.extra, *extras)))
    return [f"regraft[{wanted}]=={__version__}", *(f"{name}=={version}" for name, version in source.needs.packages.items())]


def _copied(source: Source) -> Iterator[str]:
    return (name for name in source.manifest.files if name not in _LEFT_OUT)
