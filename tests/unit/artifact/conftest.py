from __future__ import annotations

from pathlib import Path

import pytest
from artifact_making import fill_with

from regraft.artifact.store import Artifact, write_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "spam", fill_with("first"))
