"""One small fitted artifact for the tests that ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line_rows import SMALL, mails, write_csv

from regraft import lifecycle
from regraft.artifact.store import Artifact


@pytest.fixture(scope="session")
def mail_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "mails.csv", mails(240, seed=1))


@pytest.fixture(scope="session")
def fresh_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("fresh") / "fresh.csv", mails(100, seed=2))


@pytest.fixture(scope="session")
def fit_small(mail_file: Path) -> Callable[..., Artifact]:
    def run(out: Path, data: Any = mail_file, **options: Any) -> Artifact:
        return lifecycle.fit(data, target=options.pop("target", "label"), out=str(out), **{**SMALL, **options})

    return run


@pytest.fixture(scope="session")
def artifact(fit_small: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fit_small(tmp_path_factory.mktemp("artifacts") / "spam-model")


@pytest.fixture(scope="session")
def bert(fit_small: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny transformer: unlike in an mlp, its pooling, its scales and the order of its tokens show in every answer."""
    base = {"name": "transformer", "width": 16, "heads": 2, "layers": 1, "vocabulary_size": 300, "positions": 64}
    return fit_small(tmp_path_factory.mktemp("artifacts") / "bert", base=base)
