"""The predictor: rows in, predictions out. Evaluation, command line, HTTP and monitoring all answer through this one door.

How rows become batches is part of the answer, because the last bits of a sum depend on what it was padded to. The rule is the
same everywhere: windows of 1,024 consecutive rows; inside a window, rows sorted by length and cut into batches. So the same
rows in the same window answer with the same bits, whether they came from a list, a file or a request.

This file imports no torch: the runtime does, if it is one that needs it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from regraft.artifact.golden import Goldens
from regraft.artifact.manifest import Manifest
from regraft.artifact.store import GOLDEN, Artifact, read_artifact
from regraft.data.options import DataOptions
from regraft.errors import ArtifactError, DataError, Problem, UnknownNameError, UsageError, did_you_mean
from regraft.modalities import MODALITIES, Modality
from regraft.models import TRANSFORMS
from regraft.options import JSON, build
from regraft.serving import RUNTIMES
from regraft.serving.choice import fastest, usable
from regraft.serving.runtime import Runtime
from regraft.tasks import TASKS, Task, sureness
from regraft.tasks.sureness import PLAIN, Asked
from regraft.training.cost import Answered
from regraft.training.options import MachineOptions
from regraft.types import Array, Batch, Encoded, FloatArray, Prediction
from regraft.version import __version__

if TYPE_CHECKING:
    from pyarrow import RecordBatch

    from regraft.data.rows import RowSource
    from regraft.data.write import StreamWriter
    from regraft.data.writer import Writer
    from regraft.serving.stream import StreamSummary

BATCH_SIZE = 32
WINDOW_ROWS = 1024
SHOWN_PROBLEMS = 100
Progress = Callable[[int, int | None], None]


def quiet(rows: int, total: int | None) -> None:
    """Report nothing about progress."""


class Predictor:
    """Answer rows.

    Args:
        modality: Turns raw values into arrays.
        task: Turns outputs into predictions; has learnt its labels.
        runtime: The network.
        column: Name of the column that holds the raw value, when a row is a mapping.
        artifact: Where all of it came from, if it came from an artifact.
    """

    def __init__(
        self, modality: Modality, task: Task, runtime: Runtime, *, column: str, artifact: Artifact | None = None
    ) -> None:
        self.modality = modality
        self.task = task
        self.runtime = runtime
        self.column = column
        self.artifact = artifact
        self.asked: Asked = PLAIN
        self._example: Prediction | None = None

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        runtime: str = "auto",
        threads: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        verify: bool = True,
    ) -> Self:
        """Open an artifact.

        Args:
            path: Its folder.
            runtime: Registered name of what computes the network; "auto" for the fastest that can, measured once a machine.
            threads: Threads of the numeric libraries; the cores this process may use if not given.
            device: Where the network runs.
            verify: Whether to compute the digest of every file; everything else is verified in any case.

        Raises:
            ArtifactError: The artifact is missing, damaged, edited, unsafe or too new.
            UnknownNameError: There is no such runtime.
            UsageError: The runtime cannot compute this form of network.
            MissingExtraError: No runtime that can is installed; names the extra.
        """
        options = MachineOptions(threads=threads, device=device)
        artifact = read_artifact(path, contents=verify)
        modality, task = restore(artifact)

        def opened(name: str) -> Predictor:
            network = RUNTIMES.get(name).load(artifact.path, artifact.manifest, task, options)
            return cls(modality, task, network, column=artifact.manifest.inputs[0].column, artifact=artifact)

        names = usable(artifact, runtime)
        found = opened(names[0]) if len(names) == 1 else fastest(artifact, names, opened, options)
        return cls(modality, task, found.runtime, column=found.column, artifact=artifact)

    def asking(self, asked: Asked) -> Self:
        """Return a predictor of the same network that tells more beside its answers: sets, intervals, whether to abstain.

        Args:
            asked: What is told.

        Raises:
            UsageError: The artifact cannot tell it.

        Example:
            `load("spam-model").asking(Asked(coverage=0.9)).predict(["Win a prize now"])[0].set`
        """
        sureness.check(self.task, asked)
        made = copy.copy(self)
        made.asked, made._example = asked, None
        return made

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a row must have."""
        return self.modality.columns or (self.column,)

    def values(self, rows: RecordBatch) -> list[Any]:
        """Return the raw value of each row of an Arrow table that has the columns."""
        if not self.modality.columns:
            found: list[Any] = rows.column(self.column).to_pylist()
            return found
        from regraft.data.gathering import together

        return list(together(rows, self.modality.columns))

    def predict(self, rows: Sequence[Any], *, batch_size: int = BATCH_SIZE, strict: bool = False) -> list[Prediction]:
        """Return one prediction a row, in order.

        Args:
            rows: Raw values, mappings from column name to value, or a table (a DataFrame, a `datasets` object, an Arrow table);
                other columns are ignored.
            batch_size: Rows a forward pass, at least 1. Answers of different batch sizes differ by at most 1e-5.
            strict: Whether a row that cannot be answered is an error; otherwise its prediction says why in `error`.

        Raises:
            DataError: With `strict`, rows cannot be answered; lists them.
            UsageError: `rows` is a single row.
        """
        rows = self._listed(rows, batch_size)
        raws, problems = self.raws(rows) if strict else self.taken(rows)
        if strict and problems:
            raise DataError(shortened(problems))
        predictions: list[Prediction] = []
        for start in range(0, len(rows), WINDOW_ROWS):
            window = raws[start : start + WINDOW_ROWS]
            bad = {i: problems[start + i] for i in range(len(window)) if start + i in problems}
            predictions += self.window(window, bad, batch_size)
        return predictions

    def answers(self, rows: Sequence[Any], *, batch_size: int = BATCH_SIZE) -> tuple[FloatArray, list[Prediction]]:
        """Return raw outputs (N, ...) float32 and predictions for rows that can all be answered.

        Raises:
            DataError: Rows cannot be answered; lists them.
        """
        outputs = self.outputs(rows, batch_size=batch_size)
        return outputs, self.task.decode(outputs) if len(outputs) else []

    def outputs(self, rows: Sequence[Any], *, batch_size: int = BATCH_SIZE, answered: Answered | None = None) -> FloatArray:
        """Return the network's raw outputs (N, ...), float32, for rows that can all be answered.

        Args:
            rows: As `predict` takes them.
            batch_size: Rows a forward pass.
            answered: What this took is added to it.

        Raises:
            DataError: Rows cannot be answered; lists them.
        """
        begin, answered = time.perf_counter(), answered if answered is not None else Answered()
        rows = self._listed(rows, batch_size)
        raws, problems = self.taken(rows)
        windows = []
        for start in range(0, len(raws), WINDOW_ROWS):
            encoded = [] if problems else self._encoded(raws[start : start + WINDOW_ROWS], answered)
            whole = [row for row in encoded if not isinstance(row, str)]
            if problems or len(whole) < len(encoded):
                raise DataError(shortened(self.raws(rows)[1]))
            windows.append(self._forward(whole, batch_size, answered)[0])
        outputs = np.concatenate(windows) if windows else np.empty((0, 0), dtype=np.float32)
        answered.seconds += time.perf_counter() - begin
        return outputs

    def probabilities(
        self, rows: Sequence[Any], *, batch_size: int = BATCH_SIZE, answered: Answered | None = None
    ) -> FloatArray:
        """Return what the metrics are computed on (for classification (N, C), float64), for rows that can all be answered.

        Args:
            rows: As `predict` takes them.
            batch_size: Rows a forward pass.
            answered: What this took is added to it.

        Raises:
            DataError: Rows cannot be answered; lists them.
        """
        return self.task.probabilities(self.outputs(rows, batch_size=batch_size, answered=answered))

    def predict_stream(
        self,
        source: RowSource,
        writer: Writer | StreamWriter,
        *,
        batch_size: int = BATCH_SIZE,
        strict: bool = False,
        progress: Progress = quiet,
    ) -> StreamSummary:
        """Answer every row of a source into a writer, in memory that does not grow with the number of rows.

        Args:
            source: Gives rows in chunks.
            writer: Takes rows in chunks; opened and closed here.
            batch_size: Rows a forward pass.
            strict: Whether rows that cannot be answered are an error; they are then looked for before any row is answered.
            progress: Called with rows done and, if known, rows in all.

        Raises:
            DataError: The input column is not there; with `strict`, rows cannot be answered.
            MachineError: The answers cannot be written.
        """
        from regraft.serving.stream import predict_stream

        return predict_stream(self, source, writer, batch_size=batch_size, strict=strict, progress=progress)

    def environment(self) -> dict[str, JSON]:
        """Return everything that may change the last bits of an answer."""
        return {"regraft": __version__, "numpy": np.__version__, **self.runtime.environment()}

    def goldens(self) -> Goldens:
        """Return the golden rows of the artifact.

        Raises:
            ArtifactError: There are none, because the predictor does not come from an artifact or the file is damaged.
        """
        if self.artifact is None:
            fix = "load the predictor from an artifact"
            raise ArtifactError(Problem(what="a predictor that is not from an artifact has no golden rows", fix=fix))
        return Goldens.from_json(self.artifact.json(GOLDEN))

    def example(self) -> Prediction:
        """Return the answer to an example of the modality: shows which names and types answers have."""
        if self._example is None:
            raw = self.modality.made_up(np.full((1, 4), 0.5), seed=0)
            self._example = self.predict(raw)[0]
        return self._example

    def raws(self, rows: Sequence[Any]) -> tuple[list[Any], dict[int, Problem]]:
        """Return the raw value of each row, and what is wrong with those that cannot be answered."""
        raws, problems = self.taken(rows)
        for index, raw in enumerate(raws):
            if index not in problems and (reason := self.modality.problem(raw)):
                # Of several columns, the reason says in which.
                where = f"row {index + 1}" + ("" if self.modality.columns else f", column '{self.column}'")
                problems[index] = Problem(what=reason, where=where, fix="correct or remove the row")
        return raws, problems

    def taken(self, rows: Sequence[Any]) -> tuple[list[Any], dict[int, Problem]]:
        """Return the raw value of each row, and which rows lack a column; the values themselves are not looked at."""
        problems: dict[int, Problem] = {}
        for index, row in enumerate(rows):
            missing = [name for name in self.columns if name not in row] if isinstance(row, Mapping) else []
            if missing:
                problems[index] = _lacking(missing, [str(name) for name in row], f"row {index + 1}")
        return [self._raw(row) for row in rows], problems

    def _raw(self, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        if self.modality.columns:
            return {name: row.get(name) for name in self.modality.columns}
        return row.get(self.column)

    def window(self, raws: Sequence[Any], bad: Mapping[int, Problem], batch_size: int) -> list[Prediction]:
        """Answer the rows of one window; those in `bad`, and those that cannot be encoded, say why in their place."""
        predictions: dict[int, Prediction] = {i: Prediction(value=None, error=one_line(why)) for i, why in bad.items()}
        work = Answered()
        known = [index for index in range(len(raws)) if index not in bad]
        good: dict[int, Encoded] = {}
        for index, row in zip(known, self._encoded([raws[index] for index in known], work), strict=True):
            if isinstance(row, str):
                predictions[index] = Prediction(value=None, error=row)
            else:
                good[index] = row
        if good:
            outputs, dropped = self._forward([*good.values()], batch_size, work)
            for index, prediction, lost in zip(good, sureness.answered(self.task, outputs, self.asked), dropped, strict=True):
                predictions[index] = replace(prediction, dropped=lost) if lost else prediction
        return [predictions[index] for index in range(len(raws))]

    def _encoded(self, raws: Sequence[Any], answered: Answered) -> list[Encoded | str]:
        """Return the rows of one window encoded, or why they cannot be."""
        begin = time.perf_counter()
        encoded = self.modality.attempt(raws) if len(raws) else []
        answered.encode_seconds += time.perf_counter() - begin
        return encoded

    def _forward(self, encoded: Sequence[Encoded], batch_size: int, answered: Answered) -> tuple[FloatArray, list[int]]:
        """Return the outputs of rows of one window, in row order, and how many positions of each were cut off."""
        order = np.argsort([row.length for row in encoded], kind="stable")
        result: FloatArray | None = None
        lengths = np.array([row.length for row in encoded])[order]
        for start, stop in batches(lengths, batch_size, self.runtime.positions):
            index = order[start:stop]
            inputs, mask_BT = self.modality.collate([encoded[i] for i in index])
            answered.add(len(index), int(np.count_nonzero(mask_BT)), mask_BT.size, 0.0)
            values = self.runtime.outputs(Batch(inputs=inputs, mask_BT=mask_BT, rows_B=index))
            if result is None:
                result = np.empty((len(order), *values.shape[1:]), dtype=np.float32)
            result[index] = values
        answered.lengths.append(np.array([row.length for row in encoded]))
        dropped = [row.dropped for row in encoded]
        answered.dropped += sum(dropped)
        answered.truncated_rows += sum(map(bool, dropped))
        outputs = np.empty((0, 0), dtype=np.float32) if result is None else result
        return outputs, dropped

    def _listed(self, rows: Sequence[Any], batch_size: int) -> list[Any]:
        if isinstance(rows, str | bytes | Mapping):
            got, fix = shown(rows), "put it into a list: predict([row])"
            raise UsageError(Problem(what="a list of rows is expected, not a single row", got=got, fix=fix))
        if batch_size < 1:
            raise UsageError(
                Problem(what="the batch size is too small", got=str(batch_size), expected="at least 1", fix="use 32")
            )
        if isinstance(rows, list | tuple):
            return list(rows)
        from regraft.data.objects import rows_of_object

        table = rows_of_object(rows, DataOptions())
        if table is None:
            return list(rows)
        # Iterating over a DataFrame gives the names of its columns, which would be answered as if they were rows.
        return [row for chunk in table.chunks(WINDOW_ROWS) for row in chunk.rows.to_pylist()]


def _lacking(missing: Sequence[str], there: Sequence[str], where: str) -> Problem:
    """Return the problem of a row without some of the columns."""
    names = ", ".join(f"'{name}'" for name in missing)
    what = f"the columns {names} are missing" if len(missing) > 1 else f"the column {names} is missing"
    got = ", ".join(f"'{name}'" for name in there[:10]) or "no columns"
    fix = f"name it {names}" if len(missing) == 1 else "give the row all of them"
    fix += f"; {did_you_mean(missing[0], there)}" if there else ""
    return Problem(what=what, where=where, got=got, expected=names, fix=fix)


def batches(lengths: Array, batch_size: int, positions: int | None) -> Iterator[tuple[int, int]]:
    """Cut rows that are sorted by length into batches.

    Args:
        lengths: Positions of each row (N,), ascending.
        batch_size: Most rows of a batch.
        positions: Most positions of a batch, padding included; no limit if None. A row that is longer stands alone.

    Yields:
        First row, and the one after the last.

    Example:
        >>> list(batches(np.array([2, 2, 3, 9]), 32, 6))
        [(0, 2), (2, 3), (3, 4)]
    """
    start = 0
    while start < len(lengths):
        stop = min(start + batch_size, len(lengths))
        if positions is not None:
            # Rows are sorted: (number of rows) x (length of the last) only grows.
            taken = np.arange(1, stop - start + 1) * lengths[start:stop]
            stop = start + max(1, int(np.searchsorted(taken, positions, side="right")))
        yield start, stop
        start = stop


def restore(artifact: Artifact) -> tuple[Modality, Task]:
    """Rebuild the preprocessing and the task of an artifact.

    Raises:
        ArtifactError: A name is not registered here, a state cannot be read, or the network was edited in an unknown way.
    """
    manifest: Manifest = artifact.manifest
    unknown = [str(entry.get("name", entry)) for entry in manifest.transforms if entry.get("name") not in TRANSFORMS]
    if unknown:
        # Leaving one out would answer with another network than the one that was judged.
        what = "the artifact has edits of its network that this version of Regraft cannot install"
        expected, got = f"only {', '.join(TRANSFORMS)}", ", ".join(unknown)[:200]
        fix = f"use regraft {manifest.versions.get('regraft', 'as new as the artifact')}, which wrote it"
        raise ArtifactError(Problem(what=what, where=str(artifact.path), got=got, expected=expected, fix=fix))
    entry = manifest.inputs[0]
    try:
        modality = MODALITIES.get(entry.modality).load(artifact.path / entry.folder, entry.spec)
        task_class = TASKS.get(manifest.task.name)
        task = task_class.restore(build(task_class.Options, manifest.task.options), dict(manifest.task.state))
        sureness.take_trust(task, manifest.task.calibration)
    except UnknownNameError as error:
        fix = "install the package that registers it; " + error.problems[0].fix
        raise ArtifactError([replace(problem, where=str(artifact.path), fix=fix) for problem in error.problems]) from error
    except (KeyError, TypeError, ValueError, OSError) as error:
        got = f"{type(error).__name__}: {error}"
        fix = "use the versions in its manifest, or fit it again"
        what = "the preprocessing or the task of the artifact cannot be rebuilt"
        raise ArtifactError(Problem(what=what, where=str(artifact.path), got=got[:500], fix=fix)) from error
    return modality, task


def one_line(problem: Problem) -> str:
    """Return a problem as it stands in the place of an answer."""
    details = [f"{name} {text}" for name, text in (("got", problem.got), ("expected", problem.expected)) if text]
    return problem.what + (f" ({', '.join(details)})" if details else "")


def shortened(problems: Mapping[int, Problem], count: int | None = None) -> list[Problem]:
    """Return the first hundred problems, and one that counts the rest.

    Args:
        problems: Row -> problem.
        count: How many there are, if `problems` holds only the first.
    """
    first = [problems[index] for index in sorted(problems)[:SHOWN_PROBLEMS]]
    rest = (len(problems) if count is None else count) - len(first)
    if rest:
        fix = "correct the rows, or leave out strict to get the reason in each row's place"
        first.append(Problem(what=f"{rest} more rows cannot be answered", fix=fix))
    return first


def shown(raw: object) -> str:
    """Return a value as it is shown in a message: its type and the beginning of what it holds."""
    text = repr(raw)
    return f"{type(raw).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
