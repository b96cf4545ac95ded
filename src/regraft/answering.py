"""What the verbs that ask an artifact share: opening, reading labelled rows, holding answers against the truth."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import DataError, MissingExtraError, Problem, UsageError, did_you_mean
from regraft.options import JSON
from regraft.registry import Registry
from regraft.serving.agreement import column_orders
from regraft.tasks.sureness import PLAIN
from regraft.training.cost import Answered, cost_of
from regraft.training.stages import Stages
from regraft.types import Array, FloatArray, Ledger
from regraft.verbs import AnswerOptions

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact
    from regraft.data.rows import RowSource
    from regraft.data.writer import Writer
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.metadata import Metadata
    from regraft.evaluation.report import Report
    from regraft.models import BaseCard
    from regraft.serving.labelled_rows import LabelledRows
    from regraft.serving.outside import Outside
    from regraft.serving.predictor import Predictor
    from regraft.serving.truths import Truths
    from regraft.tasks.task import Part, Task

    Entrant = Predictor | Outside
    """What is judged: an artifact, or predictions that another model made elsewhere."""

Seeing = Callable[[Array, FloatArray, Sequence[Any], Sequence[str]], None]
_ANSWER = "answer"


@dataclass
class Labelled:
    """Answers to rows whose truth is known.

    Args:
        name: What was read.
        task: What is predicted.
        targets: Targets (N, ...), in the order of the task's labels.
        probabilities: For each entrant what is judged (N, C), in the same order.
        outputs: Raw outputs of the judged predictor (N, ...), in its own order; nothing where it is none.
        ledger: Rows that could not be used, tokens that were cut.
        answered: For each entrant, what went through it in how long; nothing went through predictions made elsewhere.
        groups: Which rows belong together (N,), if anything says so.
        notes: Sentences a reader must know.
        known: What slices of the rows are made of; none are looked at if it is None.
    """

    name: str
    task: Task
    targets: Array
    probabilities: list[FloatArray]
    outputs: FloatArray | None
    ledger: Ledger
    answered: list[Answered]
    groups: Array | None = None
    notes: Sequence[str] = ()
    known: Metadata | None = None


def folder(artifact: str | Path | Artifact) -> Path:
    """Return the folder of an artifact that is given as a path or as an object."""
    return Path(artifact) if isinstance(artifact, str | Path) else artifact.path


def opened(artifact: str | Path | Artifact | Predictor, wanted: AnswerOptions) -> Predictor:
    """Return a predictor for a folder, an artifact or a predictor."""
    from regraft.serving.predictor import Predictor

    machine = wanted.machine
    if not isinstance(artifact, Predictor):
        artifact = Predictor.load(folder(artifact), runtime=wanted.runtime, threads=machine.threads, device=machine.device)
    return artifact if wanted.asked == PLAIN else artifact.asking(wanted.asked)


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


def data_last(first: Any, second: Any, others_then_data: Sequence[Any]) -> list[Any]:
    """Return what is compared, and last the labelled rows.

    Raises:
        UsageError: There are no labelled rows.
    """
    if not others_then_data:
        what, got = "there are no rows to compare on", f"{first} and {second}"
        fix = "name two artifacts or more, then the labelled rows: compare FIRST SECOND DATA"
        raise UsageError(Problem(what=what, got=got, fix=fix))
    return [first, second, *others_then_data]


def entrant(given: Any, wanted: AnswerOptions, number: int = 1) -> Entrant:
    """Return what is judged: a predictor for an artifact, or predictions made elsewhere for a file or table of them.

    Args:
        given: Folder of an artifact, an artifact, a predictor, a file of predictions, or a table of them.
        wanted: How to open it.
        number: Its place among what is compared.
    """
    from regraft.artifact.store import Artifact
    from regraft.serving.outside import outside
    from regraft.serving.predictor import Predictor

    ours = isinstance(given, Artifact | Predictor)
    found = None if ours else outside(given, wanted.data, wanted.judge.id, number)
    return found or opened(given, wanted)


def labelled(
    entrants: Sequence[Entrant],
    data: Any,
    wanted: AnswerOptions,
    stages: Stages,
    see: Seeing | None = None,
    judged: int = -1,
) -> Labelled:
    """Answer every labelled row with every predictor, and find the predictions that others made for it.

    Args:
        entrants: One, or several that know the same labels.
        data: Labelled rows.
        wanted: How to read and answer.
        stages: Told about progress.
        see: Shown some rows at a time: targets, what the judged predictor gave, its raw values, and where the rows stand.
        judged: Which of the entrants is reported on.

    Raises:
        DataError: A column is missing, a label is unknown, rows were learnt from, too many rows cannot be used, or there are
            none.
    """
    from regraft.evaluation.by_target import check_metric
    from regraft.judged import KnownRows, check_judging, plain_columns
    from regraft.serving.labelled_rows import LabelledRows
    from regraft.serving.predictor import Predictor

    rows = source(data, wanted, stages)
    predictors = [one for one in entrants if isinstance(one, Predictor)]
    tables = [one for one in entrants if not isinstance(one, Predictor)]
    task, truths = _judged_by(predictors, tables, rows, wanted, stages)
    _check_columns(predictors, rows)
    check_metric(task, wanted.judge)
    check_judging(wanted.judge, task, plain_columns(rows), rows.name)
    orders = column_orders([task, *(predictor.task for predictor in predictors)])[1:]
    asks = [place for place, one in enumerate(entrants) if isinstance(one, Predictor)]
    reads = asks.index(judged % len(entrants)) if judged % len(entrants) in asks else 0
    known = KnownRows(rows, predictors[reads] if predictors else None, truths.columns, wanted.judge)
    reading = LabelledRows(rows, truths, predictors, task, wanted.judge, known.add)
    kept: list[Array] = []
    raw: list[FloatArray] = []
    answers: list[list[FloatArray]] = [[] for _ in predictors]
    answered = [Answered() for _ in predictors]
    with stages(_ANSWER, rows.row_count):
        for targets, raws, places in reading.chunks():
            kept.append(targets)
            for place, predictor in enumerate(predictors):
                values = raws[predictor.columns]
                given = predictor.outputs(values, batch_size=wanted.batch_size, answered=answered[place])
                found = predictor.task.probabilities(given)
                answers[place].append(found if orders[place] is None else found[:, orders[place]])
                if asks[place] == judged % len(entrants):
                    raw.append(given)
                    if see is not None:
                        see(targets, answers[place][-1], values, places)
            stages.progress(reading.read)
    _tell_apart(answered, stages)
    reading.settle(0.0 if wanted.strict else wanted.data.lost_share)
    for number, (predictor, work) in enumerate(zip(predictors, answered, strict=True), start=1):
        if work.dropped:
            where = f"{rows.name}: {work.truncated_rows:,} of {reading.read:,} rows"
            where += f", artifact {number}" if len(predictors) > 1 else ""
            reading.ledger.add(f"truncated {predictor.modality.unit}", work.dropped, where)
    targets = np.concatenate(kept)
    asked = zip((np.concatenate(parts) for parts in answers), answered, strict=True)
    brought = iter(_brought(tables, task, reading))
    every = [next(asked) if isinstance(one, Predictor) else (next(brought), Answered()) for one in entrants]
    judged_task, notes = _decisions_only(task, tables)
    return Labelled(
        name=rows.name,
        task=judged_task,
        targets=targets,
        probabilities=[given for given, _ in every],
        outputs=np.concatenate(raw) if raw else None,
        ledger=reading.ledger,
        answered=[work for _, work in every],
        groups=reading.groups(targets),
        notes=[*notes, *reading.notes],
        known=known.finish(answered[reads].lengths if predictors else ()),
    )


def _judged_by(
    predictors: Sequence[Predictor], tables: Sequence[Outside], rows: RowSource, wanted: AnswerOptions, stages: Stages
) -> tuple[Task, Truths]:
    """Return what is predicted and what reads the truth: as the first predictor whose column the data have knows it."""
    from regraft.serving.judged_by import judged_by
    from regraft.serving.truths import Truths

    if not predictors:
        return judged_by(tables, rows, wanted.target)
    found = [Truths(predictor, rows.columns, wanted.target) for predictor in predictors]
    chosen = next((truths for truths in found if truths.columns), None)
    if chosen is None:
        names = list(dict.fromkeys(name for truths in found for name in truths.wanted if name))
        told = " or ".join(f"'{name}'" for name in names) or "a target column"
        fix = did_you_mean(names[0], rows.columns) if names else "judge an artifact"
        fix += "; --target names another one"
        raise DataError(Problem(what=f"there is no column {told} to judge against", where=rows.name, fix=fix))
    if chosen.together:
        stages.notes([f"there is no column '{name}': this target is not judged" for name in chosen.absent])
    chosen.kind = found[0].kind
    return predictors[0].task, chosen


def _brought(tables: Sequence[Outside], task: Task, reading: LabelledRows) -> list[FloatArray]:
    """Return what predictions made elsewhere say of the judged rows; the problems of all of them together."""
    found: list[FloatArray] = []
    problems: list[Problem] = []
    for table in tables:
        try:
            found.append(table.answers(task, reading.ids, np.array(reading.positions, dtype=np.int64), reading.rows.name))
        except DataError as error:
            problems += error.problems
        problems += table.surplus(reading.read)
    if problems:
        raise DataError(problems)
    return found


def _decisions_only(task: Task, tables: Sequence[Outside]) -> tuple[Task, list[str]]:
    """Return the task with the metrics that are made of decisions, where somebody gave nothing but decisions."""
    from regraft.evaluation.answer_kind import kind_for

    bare = [table.name for table in tables if table.decides_only(task)]
    if not bare:
        return task, []
    measures = kind_for(task).measures(task.metrics)
    judged = copy.copy(task)
    judged.metrics = tuple(name for name, measure in measures.items() if measure.of_decisions)
    left_out = ", ".join(name for name in measures if name not in judged.metrics)
    return judged, [f"{bare[0]} holds answers without probabilities: nothing is told of {left_out}"]


def _tell_apart(answered: Sequence[Answered], stages: Stages) -> None:
    """Count reading and tokenising, which take turns with answering, as stages of their own."""
    stages.part(_ANSWER, "read", stages.seconds[_ANSWER] - sum(work.seconds for work in answered))
    stages.part(_ANSWER, "tokenise", sum(work.encode_seconds for work in answered))


def with_previous(judged: Entrant, wanted: AnswerOptions) -> list[Entrant]:
    """Return what is judged, and after it the artifact that stood before where `judge.previous` names it."""
    return [judged, *([opened(wanted.judge.previous, wanted)] if wanted.judge.previous else [])]


def evaluation(entrants: Sequence[Entrant], answered: Labelled, wanted: AnswerOptions, stages: Stages) -> Report:
    """Return the report on the first model, held against the best answer that is the same for all of these rows, and against
    the one that stood before where there is a second.
    """
    from regraft.evaluation.by_target import constant_contender
    from regraft.previous import NAME, note_of

    judged, *others = entrants
    contenders = [constant_contender(answered.task, answered.targets)]
    contenders += [replace(_contender(one, answered, 1), name=NAME, note=note_of(one)) for one in others]
    alone = replace(answered, answered=answered.answered[:1])
    return _report("evaluate", [*contenders, _contender(judged, answered, 0)], [judged], alone, wanted, stages)


def comparison(entrants: Sequence[Entrant], answered: Labelled, wanted: AnswerOptions, stages: Stages) -> Report:
    """Return the report on the last of several models, held against those before it."""
    from regraft.serving.outside import unique_names

    if wanted.judge.previous:
        stages.note("judge.previous is not looked at: it is the artifacts before the last that it is held against")
    contenders = [_joined(entrants, answered, places) for places in same_but_for_the_seed(entrants)]
    names = unique_names(contender.name for contender in contenders)
    contenders = [replace(contender, name=name) for contender, name in zip(contenders, names, strict=True)]
    if len(contenders) == 1:
        from regraft.evaluation.by_target import constant_contender

        contenders = [constant_contender(answered.task, answered.targets), *contenders]
    return _report("compare", contenders, entrants, answered, wanted, stages)


def _report(
    verb: str,
    contenders: Sequence[Contender],
    entrants: Sequence[Entrant],
    answered: Labelled,
    wanted: AnswerOptions,
    stages: Stages,
) -> Report:
    from regraft.evaluation.answers import Answers
    from regraft.evaluation.by_target import JudgedRows, climbed, reported
    from regraft.evaluation.report import Report, TargetReport
    from regraft.evaluation.trusted import trusted

    task, options, seed = answered.task, wanted.judge, wanted.seed

    def trust(part: Part) -> Mapping[str, JSON]:
        if len(entrants) > 1 or answered.outputs is None:
            return {}  # models are held against each other; each has a report of its own
        return trusted(part, answered.targets, answered.outputs, wanted.asked, options.confidence)

    last, notes = contenders[-1], list(answered.notes)
    if last.more and answered.known is not None:
        notes.append("slices are those of one fit: of several seeds they are left out, evaluate one of the artifacts")
    with stages("judge"):
        rows = JudgedRows(
            targets=answered.targets,
            outputs_NC=last.probabilities_NC,
            groups_N=answered.groups,
            known=None if last.more else answered.known,
        )

        def one(part: Part) -> TargetReport:
            return climbed(part, contenders, answered.targets, options, seed, answered.groups, trust)

        found = reported(task, rows, one, options, seed)
    artifact = entrants[-1].artifact
    return Report(
        kind=verb,
        **found,
        ledger=answered.ledger,
        seconds=stages.total,
        seconds_by_stage=stages.seconds,
        cost=_cost(entrants, answered.answered, stages),
        notes=notes,
        about={
            "data": answered.name,
            "contenders": [contender.name for contender in contenders],
            "artifact": artifact.digest if artifact else None,
        },
        answers=Answers(task, answered.targets, last.probabilities_NC),
    )


def _cost(entrants: Sequence[Entrant], answered: Sequence[Answered], stages: Stages) -> dict[str, JSON]:
    """Return what answering cost: of the last one, and of the first where there are two; nothing of what others predicted."""
    from regraft.serving.predictor import Predictor

    last, first = entrants[-1], entrants[0]
    if not isinstance(last, Predictor):
        return {}
    held = isinstance(first, Predictor) and len(entrants) > 1
    against = first.runtime.passes(answered[0]) if held and isinstance(first, Predictor) else None
    return cost_of(last.runtime.use(), stages.seconds, answering=last.runtime.passes(answered[-1]), against=against).to_json()


def same_but_for_the_seed(entrants: Sequence[Entrant]) -> list[list[int]]:
    """Return the places of artifacts that differ in nothing but their seed together, in the order of the first of each.

    Of two alone each stands by itself: whoever names two wants to know which is better.
    """
    from regraft.options import to_json

    together: dict[str, list[int]] = {}
    for place, one in enumerate(entrants):
        told = f"alone {place}"
        if one.artifact is not None and len(entrants) > 2:
            made = one.artifact.manifest
            asked = {name: value for name, value in made.options.items() if name != "seed"}
            told = json.dumps([asked, to_json(made.base), made.network.form, to_json(made.export)], sort_keys=True, default=str)
            others = [entrants[other].artifact for other in together.get(told, ())]
            seeds = {other.manifest.seed for other in others if other is not None}
            told = f"again {place}" if made.seed in seeds else told
        together.setdefault(told, []).append(place)
    return list(together.values())


def _joined(entrants: Sequence[Entrant], answered: Labelled, places: Sequence[int]) -> Contender:
    """Return one contender of all seeds of one way to fit."""
    first, *others = (_contender(entrants[place], answered, place) for place in places)
    if not others:
        return first
    seeds = tuple(artifact.manifest.seed for place in places if (artifact := entrants[place].artifact))
    seconds = sum(contender.seconds for contender in (first, *others)) / len(places)
    latency_ms = 1000 * seconds / max(1, len(first.probabilities_NC))
    name, more = f"{first.name} ({len(seeds)} seeds)", tuple(contender.probabilities_NC for contender in others)
    note = "seeds " + ", ".join(map(str, seeds))
    return replace(first, name=name, seconds=seconds, seeds=seeds, more=more, note=note, latency_ms=latency_ms)


def _contender(judged: Entrant, answered: Labelled, place: int) -> Contender:
    from regraft.evaluation.ladder import Contender
    from regraft.serving.predictor import Predictor

    probabilities_NC = answered.probabilities[place]
    if not isinstance(judged, Predictor):
        return Contender(name=judged.name, probabilities_NC=probabilities_NC)
    artifact, seconds = judged.artifact, answered.answered[place].seconds
    return Contender(
        name=artifact.path.name if artifact else f"predictor {place + 1}",
        probabilities_NC=probabilities_NC,
        seconds=seconds,
        size_bytes=artifact.size_bytes if artifact else None,
        latency_ms=1000 * seconds / max(1, len(probabilities_NC)),
    )


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
