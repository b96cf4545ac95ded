"""What is known of the rows that a verb judges, beside what is read and what is predicted: what slices are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.data.split import is_plain
from regraft.errors import DataError
from regraft.evaluation.fairness import positive_problems
from regraft.evaluation.metadata import Describing, Metadata, column_problems, read_columns, wanted_columns
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.scripts import script_of
from regraft.evaluation.slices import computed_columns
from regraft.modalities.modality import Modality
from regraft.planning import Plan, raws
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

    from regraft.data.rows import RowSource
    from regraft.serving.predictor import Predictor
    from regraft.tasks.task import Task

_SPLIT = "test"


def known_of_test(plan: Plan, features_ND: FloatArray | None) -> Metadata:
    """Return what is known of the test rows of a fit; of their columns only those of single values are read.

    Args:
        plan: What is known before the first step.
        features_ND: Features of the base of these rows.
    """
    split, options = plan.dataset.split(_SPLIT), plan.wanted.judge
    there = split.plain_columns
    wanted = wanted_columns(options, there, besides=_besides(plan.modality, plan.wanted.targets, plan.dataset.input_column))
    columns = read_columns(wanted, {name: split.plain_chunks(name) for name in wanted})
    scripts = _scripts(plan.modality, raws(plan.dataset, _SPLIT)) if _has_text(plan.modality) else None
    return Metadata(
        columns=columns,
        computed=computed_columns(plan.rows[_SPLIT].lengths, scripts, [column.name for column in columns]),
        numbers_N=np.array([split.row_number(row) for row in range(len(split))], dtype=np.int64),
        features_ND=features_ND,
    )


def check_judging(options: JudgeOptions, task: Task, there: Iterable[str], where: str) -> None:
    """Refuse columns of slices and groups that are not there, and a positive label that no target has, all at once.

    Args:
        options: What is asked for.
        task: What is predicted; has learnt its labels.
        there: Columns of single values that the judged data have.
        where: What messages call the data.

    Raises:
        DataError: Columns are not there, the label is not there, or there are no groups for it.
    """
    problems = column_problems(options, there, where)
    if problems := problems + positive_problems(options, task):
        raise DataError(problems)


class KnownRows:
    """Take in what is known of rows while they are read, for the verbs that judge an artifact.

    Args:
        rows: Where they come from.
        reader: Who reads them; None where nobody does, since all predictions were made elsewhere.
        targets: Columns of the targets.
        options: What is asked for.
    """

    def __init__(self, rows: RowSource, reader: Predictor | None, targets: Sequence[str], options: JudgeOptions) -> None:
        read = _besides(reader.modality, targets, reader.column) if reader else dict.fromkeys(targets)
        wanted = wanted_columns(options, plain_columns(rows), besides=read)
        self._describing = [Describing(name, asked=asked) for name, asked in wanted.items()]
        self._reader = reader
        self._numbers: list[Array] = [np.empty(0, dtype=np.int64)]
        self._scripts: list[str] | None = [] if reader and _has_text(reader.modality) else None

    def add(
        self, rows: pa.RecordBatch, good: Sequence[int], first_row: int, raws: Mapping[tuple[str, ...], Sequence[Any]]
    ) -> None:
        """Take in some rows of a chunk.

        Args:
            rows: The chunk.
            good: Places of the rows that are judged.
            first_row: Number of the first row of the chunk in its source.
            raws: For all columns that are read together the raw values of the rows that are judged.
        """
        import pyarrow as pa

        places = pa.array(good, pa.int64())
        for describing in self._describing:
            if not describing.given_up:
                describing.add(rows.column(describing.name).take(places).to_pylist())
        self._numbers.append(first_row + np.asarray(good, dtype=np.int64))
        if self._reader is not None and self._scripts is not None:
            self._scripts += _scripts(self._reader.modality, [raws[self._reader.columns]])

    def finish(self, lengths: Sequence[Array]) -> Metadata:
        """Return what is known of all rows that were taken in.

        Args:
            lengths: Their positions, in order; empty where nobody reads them.
        """
        columns = tuple(column for describing in self._describing if (column := describing.finish()))
        numbers_N = np.concatenate(self._numbers)
        lengths_N = np.concatenate([np.empty(0, dtype=np.int64), *lengths])
        taken = [column.name for column in columns]
        return Metadata(columns=columns, computed=computed_columns(lengths_N, self._scripts, taken), numbers_N=numbers_N)


def plain_columns(rows: RowSource) -> list[str]:
    """Return the columns of a source that hold single values."""
    return [field.name for field in rows.schema if is_plain(field.type)]


def _besides(modality: Modality, targets: Sequence[str], column: str) -> Mapping[str, None]:
    """Return columns that nothing is grouped by unless it is asked for: targets, and the text or file that is read alone."""
    return dict.fromkeys([*targets, *([] if modality.columns else [column])])


def _has_text(modality: Modality) -> bool:
    return type(modality).running_text is not Modality.running_text


def _scripts(modality: Modality, chunks: Iterable[Sequence[Any]]) -> list[str]:
    return [script_of(modality.running_text(raw)) for chunk in chunks for raw in chunk]
