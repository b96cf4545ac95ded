"""Real recordings out of two Debian packages, where they have been put; tests that need them are skipped where not."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

PACKAGES = {
    "pocketsphinx-testdata_0.8+5prealpha+1-15_all.deb": "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    "asterisk-core-sounds-en-wav_1.6.1-1_all.deb": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
}


@functools.cache
def recordings_of(name: str) -> dict[str, bytes]:
    """Return the WAV files of a package: path inside it -> bytes. Needs no Debian tools but dpkg-deb."""
    package = next(each for each in PACKAGES if each.startswith(name))
    cache = Path(os.environ.get("REGRAFT_CACHE", "~/.cache/regraft")).expanduser()
    folders = [Path(os.environ[key]).expanduser() for key in ("REGRAFT_WHEELS",) if os.environ.get(key)]
    found = [folder / package for folder in [*folders, cache / "wheels"] if (folder / package).is_file()]
    if not found:
        pytest.skip(f"the Debian package {package} is not in {cache / 'wheels'}: apt-get download {name}")
    content = found[0].read_bytes()
    assert hashlib.sha256(content).hexdigest() == PACKAGES[package]
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(found[0])], capture_output=True, check=True)
    made = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() and member.name.endswith(".wav") else None
            if opened is not None:
                made[member.name] = opened.read()
    return made
