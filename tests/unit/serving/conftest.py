from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from serving_making import make_artifact, make_predictor

from regraft.artifact.store import Artifact, read_artifact
from regraft.serving.predictor import Predictor


@pytest.fixture
def predictor() -> Predictor:
    return make_predictor()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Predictor]:
    """An artifact of a tiny BERT, and the predictor it was written from. Not to be changed: see `tiny_copy`."""
    folder = tmp_path_factory.mktemp("tiny")
    return make_artifact(folder / "spam", folder / "base")


@pytest.fixture
def tiny_copy(tiny: tuple[Artifact, Predictor], tmp_path: Path) -> Artifact:
    shutil.copytree(tiny[0].path, tmp_path / "spam")
    return read_artifact(tmp_path / "spam")
