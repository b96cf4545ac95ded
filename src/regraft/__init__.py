"""Regraft: fit a pretrained model to your data, judge it honestly, ship what was judged.

The verbs stand in `regraft.lifecycle`; start reading there. Names are imported when they are first used, so that
`import regraft` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact as Artifact
    from regraft.data.dataset import Dataset as Dataset
    from regraft.data.dataset import load_dataset as load_dataset
    from regraft.errors import RegraftError as RegraftError
    from regraft.evaluation.report import Report as Report
    from regraft.families import FAMILIES as FAMILIES
    from regraft.lifecycle import bases as bases
    from regraft.lifecycle import cache as cache
    from regraft.lifecycle import compare as compare
    from regraft.lifecycle import evaluate as evaluate
    from regraft.lifecycle import export as export
    from regraft.lifecycle import fit as fit
    from regraft.lifecycle import inspect as inspect
    from regraft.lifecycle import load as load
    from regraft.lifecycle import merge as merge
    from regraft.lifecycle import predict as predict
    from regraft.lifecycle import render as render
    from regraft.lifecycle import report as report
    from regraft.lifecycle import retrieve as retrieve
    from regraft.lifecycle import serve as serve
    from regraft.lifecycle import sign as sign
    from regraft.lifecycle import verify as verify
    from regraft.serving.predictor import Predictor as Predictor
    from regraft.types import Ledger as Ledger
    from regraft.types import Metric as Metric
    from regraft.types import Prediction as Prediction
    from regraft.verbs import FitOptions as FitOptions
    from regraft.version import __version__ as __version__

_PUBLIC = {
    "Artifact": "regraft.artifact.store",
    "Dataset": "regraft.data.dataset",
    "FAMILIES": "regraft.families",
    "FitOptions": "regraft.verbs",
    "Ledger": "regraft.types",
    "Metric": "regraft.types",
    "Prediction": "regraft.types",
    "Predictor": "regraft.serving.predictor",
    "RegraftError": "regraft.errors",
    "Report": "regraft.evaluation.report",
    "__version__": "regraft.version",
    "bases": "regraft.lifecycle",
    "cache": "regraft.lifecycle",
    "compare": "regraft.lifecycle",
    "evaluate": "regraft.lifecycle",
    "export": "regraft.lifecycle",
    "fit": "regraft.lifecycle",
    "inspect": "regraft.lifecycle",
    "load": "regraft.lifecycle",
    "load_dataset": "regraft.data.dataset",
    "merge": "regraft.lifecycle",
    "predict": "regraft.lifecycle",
    "render": "regraft.lifecycle",
    "report": "regraft.lifecycle",
    "retrieve": "regraft.lifecycle",
    "serve": "regraft.lifecycle",
    "sign": "regraft.lifecycle",
    "verify": "regraft.lifecycle",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'regraft' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
