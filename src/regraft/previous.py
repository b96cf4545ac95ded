"""The artifact that stood before, as a rung of the ladder: it answers the rows that the new one is judged on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import DataError, Problem, did_you_mean
from regraft.serving.agreement import column_orders
from regraft.training.cost import Answered
from regraft.types import FloatArray

if TYPE_CHECKING:
    from regraft.evaluation.ladder import Contender
    from regraft.modalities.modality import Modality
    from regraft.serving.outside import Outside
    from regraft.serving.predictor import Predictor
    from regraft.tasks.task import Task
    from regraft.training.options import MachineOptions

NAME = "previous"
_OPTION = "judge.previous"


def check_previous(folder: str | None, task: Task, columns: Sequence[str]) -> None:
    """Refuse an artifact that cannot answer the rows of a fit, or answers something else; its network is not opened.

    Args:
        folder: Of the artifact; None where none is asked for.
        task: What is predicted now; has learnt its labels.
        columns: Columns that are read now.

    Raises:
        ArtifactError: It is missing, damaged or too new.
        DataError: It reads columns that are not read now, or does not predict the same.
    """
    from regraft.artifact.store import read_artifact
    from regraft.serving.predictor import restore

    if folder is None:
        return
    artifact = read_artifact(Path(folder))
    modality, other = restore(artifact)
    reads = modality.columns or (artifact.manifest.inputs[0].column,)
    problems = [
        Problem(
            what=f"the previous artifact reads a column '{name}', which is not read now",
            where=f"{_OPTION}={folder}",
            got=", ".join(map(repr, columns)),
            expected="the columns that both read",
            fix=f"{did_you_mean(name, columns)}, or leave {_OPTION} out and use `regraft compare` on rows that have both",
        )
        for name in reads
        if name not in columns
    ]
    try:
        column_orders([task, other])
    except DataError as error:
        fix = f"name an artifact of the same target, or leave {_OPTION} out"
        problems += [dataclasses.replace(problem, where=f"{_OPTION}={folder}", fix=fix) for problem in error.problems]
    if problems:
        raise DataError(problems)


def previous_contender(
    folder: str, task: Task, rows: Iterator[Sequence[Any]], modality: Modality, column: str, machine: MachineOptions
) -> Contender:
    """Return what the artifact that stood before answers to rows; how many of them it learnt from is told.

    Args:
        folder: Of the artifact, which `check_previous` let pass.
        task: What is predicted now.
        rows: Raw values as they are read now, in chunks.
        modality: Reads them now.
        column: The column that is read now, where rows are not made of several.
        machine: What of the machine is used.

    Raises:
        DataError: It cannot answer some of the rows; lists them.
    """
    from regraft.artifact.learnt_rows import are_learnt, learnt_rows
    from regraft.evaluation.ladder import Contender
    from regraft.serving.predictor import Predictor

    predictor = Predictor.load(folder, threads=machine.threads, device=machine.device)
    order, answered = column_orders([task, predictor.task])[1], Answered()
    learnt, seen = learnt_rows(predictor.artifact), 0
    found = []
    for chunk in rows:
        own, _ = predictor.taken(_as_rows(chunk, predictor, modality, column))
        found.append(predictor.probabilities(own, answered=answered))
        seen += int(np.count_nonzero(are_learnt(own, learnt))) if learnt is not None else 0
    probabilities_NC: FloatArray = np.concatenate(found)
    told = f"it learnt from {seen:,} of these {len(probabilities_NC):,} rows, so that it looks better than it is"
    return Contender(
        name=NAME,
        probabilities_NC=probabilities_NC if order is None else probabilities_NC[:, order],
        seconds=predictor.artifact.report.seconds_by_stage.get("train", 0.0) if predictor.artifact else 0.0,
        note="; ".join([note_of(predictor), *([told] if seen else [])]),
        size_bytes=predictor.artifact.size_bytes if predictor.artifact else None,
        latency_ms=1000 * answered.seconds / max(1, len(probabilities_NC)),
    )


def note_of(predictor: Predictor | Outside) -> str:
    """Return which artifact it is."""
    artifact = predictor.artifact
    return f"the artifact '{artifact.path.name}', digest {artifact.digest[:12]}" if artifact else ""


def _as_rows(chunk: Sequence[Any], predictor: Predictor, modality: Modality, column: str) -> list[Any]:
    """Return rows as the predictor takes them: a value of one column becomes a row where it reads several of them."""
    if predictor.modality.columns and not modality.columns:
        return [{column: raw} for raw in chunk]
    return list(chunk)
