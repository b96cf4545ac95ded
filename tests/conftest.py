"""What every test can use."""

from __future__ import annotations

import os

import pytest

from fixtures_base import minilm

__all__ = ["minilm"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks gain nothing from a second thread
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(autouse=True)
def _no_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("COLUMNS", "120")
