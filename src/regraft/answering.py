"""What the verbs that ask an artifact share: opening, reading labelled rows, holding answers against the truth."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import DataError, MissingExtraError, Problem, did_you_mean
from regraft.options import JSON
from regraft.registry import Registry
from regraft.serving.agreement import column_orders
from regraft.training.cost import Answered, cost_of
from regraft.training.stages import Stages
from regraft.types import Array, FloatArray, Ledger
from regraft.verbs import AnswerOptions

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact
    from regraft.data.reader import Chunk
    from regraft.data.rows import RowSource
    from regraft.data.writer import Writer
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.metadata import Metadata
    from regraft.evaluation.report import Report
    from regraft.judged import KnownRows
    from regraft.models import BaseCard
    from regraft.serving.predictor import Predictor
    from regraft.serving.truths import Truths

_CHUNK_ROWS = 1024
_SHOWN = 20
_ANSWER = "answer"


@dataclass
class Labelled:
    """Answers to rows whose truth is known.

    Args:
        name: What was read.
        targets: Targets (N, ...), in the first predictor's label order.
        probabilities: For each predictor what is judged (N, C), in the first one's label order.
        ledger: Rows that could not be used, tokens that were cut.
        answered: For each predictor, what went through it in how long.
        known: What slices of the rows are made of; none are looked at if it is None.
    """

    name: str
    targets: Array
    probabilities: list[FloatArray]
    ledger: Ledger
    answered: list[Answered]
    known: Metadata | None = None


def folder(artifact: str | Path | Artifact) -> Path:
    """Return the folder of an artifact that is given as a path or as an object."""
    return Path(artifact) if isinstance(artifact, str | Path) else artifact.path


def opened(artifact: str | Path | Artifact | Predictor, wanted: AnswerOptions) -> Predictor:
    """Return a predictor for a folder, an artifact or a predictor."""
    from regraft.serving.predictor import Predictor

    if isinstance(artifact, Predictor):
        return artifact
    machine = wanted.machine
    return Predictor.load(folder(artifact), runtime=wanted.runtime, threads=machine.threads, device=machine.device)


def source(data: Any, wanted: AnswerOptions, stages: Stages) -> RowSource:
    """Open rows and tell what was found out about them; of data that hold splits, the test rows."""
    from regraft.data.rows import open_rows

    rows = open_rows(data, wanted.data, split="test")
    stages.notes(rows.notes)
    return rows


def writer(out: str | Path | None, rows: RowSource) -> Writer:
    """Return where answers go: a file chosen by its suffix, or standard output as JSON lines."""
    import sys

    from regraft.data.formats import writer_for
    from regraft.data.write import StreamWriter

    if out is None:
        return StreamWriter(sys.stdout)
    if rows.is_part(Path(out)):
        problem = Problem(what="the answers would be written over the data", where=str(out), fix="give --out another name")
        raise DataError(problem)
    return writer_for(out)


def labelled(predictors: Sequence[Predictor], data: Any, wanted: AnswerOptions, stages: Stages) -> Labelled:
    """Answer every labelled row with every predictor.

    Args:
        predictors: One, or several that know the same labels.
        data: Labelled rows.
        wanted: How to read and answer.
        stages: Told about progress.

    Raises:
        DataError: A column is missing, a label is unknown, too many rows cannot be used, or there are none.
    """
    from regraft.judged import KnownRows, check_judging, plain_columns

    rows = source(data, wanted, stages)
    truths = _truths(predictors, rows, stages)
    _check_columns(predictors, rows)
    orders = column_orders([predictor.task for predictor in predictors])
    first = predictors[0]
    check_judging(wanted.judge, first.task, plain_columns(rows), rows.name)
    known = KnownRows(rows, first.modality, truths.columns, first.column, wanted.judge)
    reading = _Reading(rows, truths, predictors, Ledger(), known)
    kept: list[Array] = []
    answers: list[list[FloatArray]] = [[] for _ in predictors]
    answered = [Answered() for _ in predictors]
    with stages(_ANSWER, rows.row_count):
        for targets, raws in reading.chunks():
            kept.append(targets)
            for place, predictor in enumerate(predictors):
                values = raws[predictor.columns]
                found = predictor.probabilities(values, batch_size=wanted.batch_size, answered=answered[place])
                answers[place].append(found if orders[place] is None else found[:, orders[place]])
            stages.progress(reading.read)
    _tell_apart(answered, stages)
    reading.settle(wanted)
    for number, (predictor, work) in enumerate(zip(predictors, answered, strict=True), start=1):
        if work.dropped:
            where = f"{rows.name}: {work.truncated_rows:,} of {reading.read:,} rows"
            where += f", artifact {number}" if len(predictors) > 1 else ""
            reading.ledger.add(f"truncated {predictor.modality.unit}", work.dropped, where)
    probabilities = [np.concatenate(parts) for parts in answers]
    return Labelled(
        name=rows.name,
        targets=np.concatenate(kept),
        probabilities=probabilities,
        ledger=reading.ledger,
        answered=answered,
        known=known.finish(answered[0].lengths),
    )


def _tell_apart(answered: Sequence[Answered], stages: Stages) -> None:
    """Count reading and tokenising, which take turns with answering, as stages of their own."""
    stages.part(_ANSWER, "read", stages.seconds[_ANSWER] - sum(work.seconds for work in answered))
    stages.part(_ANSWER, "tokenise", sum(work.encode_seconds for work in answered))


class _Reading:
    """Rows of a source as targets and raw values; what cannot be used is counted, unknown labels are collected."""

    def __init__(
        self, rows: RowSource, truths: Truths, predictors: Sequence[Predictor], ledger: Ledger, known: KnownRows
    ) -> None:
        self.rows, self.truths, self.predictors, self.ledger, self.known = rows, truths, predictors, ledger, known
        self.task = predictors[0].task
        self.inputs = {predictor.columns: predictor for predictor in predictors}
        self.read = self.used = 0
        self.unknown: dict[str, list[str]] = {}

    def chunks(self) -> Iterator[tuple[Array, dict[tuple[str, ...], list[Any]]]]:
        """Yield targets (B,) and, for all columns that are read together, the raw values of the same rows."""
        for chunk in self.rows.chunks(_CHUNK_ROWS):
            truth = self.truths.of(chunk.rows)
            raws = {}
            for columns, predictor in self.inputs.items():  # what cannot be read stays, and is a problem
                raws[columns], _ = predictor.modality.brought(predictor.values(chunk.rows), chunk.folder)
            good = [row for row in range(chunk.rows.num_rows) if self._usable(chunk, truth[row], raws, row)]
            self.read += chunk.rows.num_rows
            self.used += len(good)
            if good and not self.unknown:
                kept = {columns: [found[row] for row in good] for columns, found in raws.items()}
                self.known.add(chunk.rows, good, chunk.first_row, kept[self.predictors[0].columns])
                yield self.task.targets([truth[row] for row in good]), kept

    def _usable(self, chunk: Chunk, value: Any, raws: Mapping[tuple[str, ...], list[Any]], row: int) -> bool:
        place = f"{chunk.source or self.rows.name}, row {chunk.first_row + row}"
        if row in chunk.bad:
            self.ledger.add("rows that cannot be read", where=place)
        elif value is None:
            self.ledger.add("rows without a label", where=place)
        elif any(predictor.modality.problem(raws[columns][row]) for columns, predictor in self.inputs.items()):
            self.ledger.add("rows without an input", where=place)
        elif problem := self.task.target_problem(value):
            self.unknown.setdefault(problem, []).append(place)
        else:
            from regraft.data.clean import lacking_reason

            for name in self.truths.columns if self.truths.together else ():
                if value[name] is None:
                    self.ledger.add(lacking_reason(name), where=place)
            return True
        return False

    def settle(self, wanted: AnswerOptions) -> None:
        """Raise what stands in the way of judging these rows."""
        fix = "leave these rows out, mend the label, or fit again with training rows that have it"
        problems = [
            Problem(what=what, where="; ".join(places[:3]), got=f"{len(places)} such rows", fix=fix)
            for what, places in list(self.unknown.items())[:_SHOWN]
        ]
        lost = self.read - self.used
        budget = 0.0 if wanted.strict else wanted.data.lost_share
        if not problems and (not self.used or lost > budget * self.read):
            places = "; ".join(f"{why}: {count}" for why, count in self.ledger.counts.items()) or "no rows"
            where = "; ".join(place for first in self.ledger.examples.values() for place in first) or self.rows.name
            problems.append(
                Problem(
                    what=f"{lost:,} of {self.read:,} rows cannot be judged" if self.read else "there are no rows",
                    where=where,
                    got=places,
                    expected=f"at most {budget:.0%} (data.lost_share)" if self.used else "at least one labelled row",
                    fix="mend the rows" + (", or raise the budget with --set data.lost_share=SHARE" if self.used else ""),
                )
            )
        if problems:
            raise DataError(problems)


def with_previous(predictor: Predictor, wanted: AnswerOptions) -> list[Predictor]:
    """Return a predictor, and after it the one that stood before where `judge.previous` names it."""
    return [predictor, *([opened(wanted.judge.previous, wanted)] if wanted.judge.previous else [])]


def evaluation(predictors: Sequence[Predictor], answered: Labelled, wanted: AnswerOptions, stages: Stages) -> Report:
    """Return the report on the first predictor, held against the best answer that is the same for all of these rows, and
    against the one that stood before where there is a second.
    """
    from regraft.evaluation.by_target import constant_contender
    from regraft.previous import NAME, note_of

    first, *others = predictors
    contenders = [constant_contender(first.task, answered.targets)]
    contenders += [replace(_contender(one, answered, 1), name=NAME, note=note_of(one)) for one in others]
    alone = replace(answered, answered=answered.answered[:1])
    return _report("evaluate", [*contenders, _contender(first, answered, 0)], [first], alone, wanted, stages)


def comparison(predictors: Sequence[Predictor], answered: Labelled, wanted: AnswerOptions, stages: Stages) -> Report:
    """Return the report on the second of two predictors, held against the first."""
    contenders = [_contender(predictor, answered, place) for place, predictor in enumerate(predictors)]
    if wanted.judge.previous:
        stages.note("judge.previous is not looked at: it is the first artifact that the second is held against")
    if contenders[0].name == contenders[1].name:
        places = zip(contenders, ("first", "second"), strict=True)
        contenders = [replace(contender, name=f"{contender.name} ({place})") for contender, place in places]
    return _report("compare", contenders, predictors, answered, wanted, stages)


def _report(
    verb: str,
    contenders: Sequence[Contender],
    predictors: Sequence[Predictor],
    answered: Labelled,
    wanted: AnswerOptions,
    stages: Stages,
) -> Report:
    from regraft.evaluation.by_target import climbed, reported
    from regraft.evaluation.report import Report

    task, options, seed = predictors[0].task, wanted.judge, wanted.seed
    with stages("judge"):
        found = reported(
            task,
            answered.targets,
            contenders[-1].probabilities_NC,
            lambda part: climbed(part, contenders, answered.targets, options, seed),
            options,
            seed,
            known=answered.known,
        )
    artifact = predictors[-1].artifact
    return Report(
        kind=verb,
        **found,
        ledger=answered.ledger,
        seconds=stages.total,
        seconds_by_stage=stages.seconds,
        cost=_cost(predictors, answered.answered, stages),
        about={
            "data": answered.name,
            "contenders": [contender.name for contender in contenders],
            "artifact": artifact.digest if artifact else None,
        },
    )


def _cost(predictors: Sequence[Predictor], answered: Sequence[Answered], stages: Stages) -> dict[str, JSON]:
    """Return what answering cost: of the last predictor, and of the first where there are two."""
    passes = [predictor.runtime.passes(work) for predictor, work in zip(predictors, answered, strict=True)]
    against = passes[0] if len(passes) > 1 else None
    return cost_of(predictors[-1].runtime.use(), stages.seconds, answering=passes[-1], against=against).to_json()


def _contender(predictor: Predictor, answered: Labelled, place: int) -> Contender:
    from regraft.evaluation.ladder import Contender

    name = predictor.artifact.path.name if predictor.artifact else f"predictor {place + 1}"
    probabilities_NC, seconds = answered.probabilities[place], answered.answered[place].seconds
    return Contender(
        name=name,
        probabilities_NC=probabilities_NC,
        seconds=seconds,
        size_bytes=predictor.artifact.size_bytes if predictor.artifact else None,
        latency_ms=1000 * seconds / max(1, len(probabilities_NC)),
    )


def _truths(predictors: Sequence[Predictor], rows: RowSource, stages: Stages) -> Truths:
    """Return what reads the targets: of the first predictor whose column the data have; its kinds are those of the first."""
    from regraft.serving.truths import Truths

    found = [Truths(predictor, rows.columns) for predictor in predictors]
    chosen = next((truths for truths in found if truths.columns), None)
    if chosen is None:
        names = list(dict.fromkeys(name for truths in found for name in truths.wanted if name))
        wanted = " or ".join(f"'{name}'" for name in names) or "a target column"
        fix = did_you_mean(names[0], rows.columns) if names else "judge an artifact"
        raise DataError(Problem(what=f"there is no column {wanted} to judge against", where=rows.name, fix=fix))
    if chosen.together:
        stages.notes([f"there is no column '{name}': this target is not judged" for name in chosen.absent])
    chosen.kind = found[0].kind
    return chosen


def _check_columns(predictors: Sequence[Predictor], rows: RowSource) -> None:
    missing = [name for name in dict.fromkeys(name for p in predictors for name in p.columns) if name not in rows.columns]
    if missing:
        problems = [
            Problem(what=f"there is no column '{name}' to read", where=rows.name, fix=did_you_mean(name, rows.columns))
            for name in missing
        ]
        raise DataError(problems)


def base_card(name: str) -> BaseCard | None:
    """Return the card of a registered base that can be used by its name alone, or nothing."""
    from regraft.errors import OptionsError
    from regraft.fitting import base_of

    try:
        return base_of(name).card()
    except OptionsError:
        return None  # its options name the model: the hub base is a way to get bases, not one of them


def summaries(registry: Registry[Any]) -> dict[str, str]:
    """Return the names of a family with the first line of what stands behind each, or why it cannot be loaded here."""
    found = {}
    for name in registry:
        try:
            found[name] = (inspect.getdoc(registry.get(name)) or "").partition("\n")[0]
        except MissingExtraError as error:
            found[name] = f"({error.problems[0].what})"
    return found


def compatible(names: Mapping[str, str], family: str, artifact: Path) -> dict[str, str]:
    """Keep the names whose `needs` the network of an artifact provides; a family without needs is kept whole."""
    from regraft.artifact.store import read_artifact
    from regraft.families import FAMILIES

    provides = frozenset(read_artifact(artifact).manifest.network.backbone.get("provides", ()))
    registry = FAMILIES.get(family)
    return {name: what for name, what in names.items() if declared(registry, name, "needs", frozenset()) <= provides}


def declared(registry: Registry[Any], name: str, attribute: str, otherwise: Any) -> Any:
    """Return what a registered thing declares about itself; `otherwise` if nothing, or if it cannot be loaded here."""
    try:
        return getattr(registry.get(name), attribute, otherwise)
    except MissingExtraError:
        return otherwise  # it is listed with the reason
