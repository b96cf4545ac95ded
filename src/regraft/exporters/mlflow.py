"""A model folder of MLflow around an artifact as it is: `mlflow models serve -m FOLDER --env-manager local` answers with it.

MLflow reads `MLmodel`, imports the loader it names (`regraft.serving.mlflow_model`) and hands it the folder. No pickle is
involved, and MLflow itself is not needed to write it. The format: https://mlflow.org/docs/latest/ml/model/#storage-format
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from regraft.artifact.store import GOLDEN
from regraft.errors import Problem
from regraft.exporters.as_is import copy_artifact, copy_faults, requirements
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.options import JSON, options

MODEL, REQUIREMENTS, PYTHON, CONDA = "MLmodel", "requirements.txt", "python_env.yaml", "conda.yaml"
LOADER = "regraft.serving.mlflow_model"
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "long"),
    (float, "double"),
    (str, "string"),
    (bytes, "binary"),
)


@options
class MlflowOptions:
    """Who serves the folder."""

    mlflow_version: str = "3.17.2"
    """Version of MLflow that environments made from the folder get."""


class MlflowExporter(Exporter):
    """An MLflow model folder (python_function) with signature and environments, around an artifact of any form."""

    Options: ClassVar[type[Any]] = MlflowOptions
    name = "mlflow"
    reads = None

    def write(self, source: Source, folder: Path) -> Written:
        """Copy the artifact's files and write what MLflow reads beside them."""
        note = f"serve it with: mlflow models serve -m {source.name} --env-manager local"
        written = copy_artifact(source, folder, (note,))
        lines = [*requirements(source), f"mlflow=={self.options.mlflow_version}"]
        (folder / REQUIREMENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, content in self._files(source, lines).items():
            (folder / name).write_text(
                yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=4096), encoding="utf-8"
            )
        return written

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return files that are not the source's."""
        return copy_faults(source, folder, frozenset({MODEL, REQUIREMENTS, PYTHON, CONDA}))

    def _files(self, source: Source, lines: list[str]) -> dict[str, JSON]:
        python = platform.python_version()
        flavor = {
            "env": {"conda": CONDA, "virtualenv": PYTHON},
            "loader_module": LOADER,
            "python_version": python,
        }
        model = {
            "flavors": {"python_function": flavor},
            "mlflow_version": self.options.mlflow_version,
            "model_uuid": source.artifact.digest[:32],
            "signature": {"inputs": json.dumps(_inputs(source)), "outputs": json.dumps(_outputs(source)), "params": None},
            "utc_time_created": source.manifest.created.partition("+")[0].replace("T", " "),
        }
        conda = {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": lines}]}
        tools = {"python": python, "build_dependencies": ["pip", "setuptools", "wheel"], "dependencies": [f"-r {REQUIREMENTS}"]}
        return {MODEL: model, PYTHON: tools, CONDA: conda}


def _inputs(source: Source) -> list[dict[str, JSON]]:
    """Return the columns that a row must have, as MLflow describes them."""
    entry = source.manifest.inputs[0]
    raw = source.modality.as_json(source.modality.made_up(np.full((1, 4), 0.5), 0)[0])
    cells = raw if source.modality.columns else {entry.column: raw}
    return [{"type": _type(cell), "name": name, "required": True} for name, cell in cells.items()]


def _outputs(source: Source) -> list[dict[str, JSON]]:
    """Return the columns of an answer: those that `regraft predict` writes."""
    golden = source.artifact.json(GOLDEN)["rows"] if GOLDEN in source.manifest.files else []
    value = golden[0]["value"] if golden else ""
    answers = [("prediction", _type(value))]
    if source.task.columns:
        by_target: Mapping[str, Any] = value if isinstance(value, dict) else {}
        answers = [(f"prediction.{name}", _type(by_target.get(name, ""))) for name in source.task.columns]
    columns = [*answers, *((name, "double") for name in source.task.answer_columns)]
    return [{"type": kind, "name": name, "required": False} for name, kind in (*columns, ("error", "string"))]


def _type(value: object) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "string")
