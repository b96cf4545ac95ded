"""The stages of a fit, in the order in which they happen: read, plan, network, features before, train, judge, write.

What is known before the first step stands in `regraft.planning`, what happens while weights learn in `regraft.learning`; here
is what stands around them: the base, the network, the judgement, the artifact.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.calibrating import check
from regraft.data.rows import check_there
from regraft.defaults import check as check_tuning
from regraft.errors import DataError, MissingExtraError, OptionsError, Problem
from regraft.evaluation import METRICS
from regraft.evaluation.rung import Rows
from regraft.judged import known_of_test
from regraft.learning import features_before, learn, learner, train
from regraft.modalities import MODALITIES
from regraft.models import BASES
from regraft.options import Pick, to_json
from regraft.parts import settled
from regraft.planning import SPLITS, Plan, check_targets, joined_splits, plan, raws, read, values_of
from regraft.previous import previous_contender
from regraft.recipe import Recipe, changed
from regraft.tasks import TASKS
from regraft.tasks.sureness import trust_of
from regraft.training.cost import Answered, Passes, cost_of
from regraft.training.event_log import EVENTS
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.tuning import TUNINGS
from regraft.types import Array, Batch
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    from regraft.artifact.manifest import ManifestBody
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.report import Report
    from regraft.models.base import Base
    from regraft.models.net import Headed
    from regraft.resuming import Run
    from regraft.serving.predictor import Predictor
    from regraft.tasks.task import Part

_GOLDEN_POOL = 4096
_FEW = 4
_READ_BY_BASE = ("modality", "name")


def open_base(wanted: FitOptions, stages: Stages) -> tuple[Base, FitOptions]:
    """Return the base, fetched and verified, so that nothing else begins without it, and the options with its modality.

    Raises:
        BaseError: The base cannot be fetched, trusted or used.
        OptionsError: It does not read what was asked for.
        UnknownNameError: The validation metric is not registered.
    """
    _check_judging(wanted)
    check_tuning(wanted.tuning)
    cls, options = wanted.base.resolve(BASES)
    base = cls(wanted.base.name, options)
    with stages(f"base {base.card().name}"):
        base.fetch(stages.note)
    return base, dataclasses.replace(wanted, modality=_read_by(base, wanted))


def _check_judging(wanted: FitOptions) -> None:
    """Refuse metrics and baselines that are for other answers than the task gives."""
    from regraft.evaluation.answer_kind import kind_for
    from regraft.evaluation.by_target import check_metric

    cls, options = wanted.task.resolve(TASKS)
    task = cls(options)
    metric = wanted.train.validation.metric
    if metric is not None and not task.several:
        METRICS.target(metric)
    kind = kind_for(task)
    if metric is not None:
        (measure,) = kind.measures([metric]).values()
        if measure.higher_is_better is None:
            what = f"the metric '{metric}' has no better end, so that it cannot choose the best weights"
            fix = f"leave it out ({task.validation_metric} is used)"
            raise OptionsError(Problem(what=what, where="train.validation.metric", fix=fix))
    kind.rungs(wanted.judge.rungs)
    check_metric(task, wanted.judge)
    check(task, wanted.judge.calibrate)
    size, micro = wanted.train.batch_size, wanted.train.micro_batch_size
    if task.paired and micro is not None and micro < size:
        what = f"the rows of a batch are held against each other by '{task.name}', so that a batch cannot go through in pieces"
        fix = "leave train.micro_batch_size out, or lower train.batch_size"
        raise OptionsError(Problem(what=what, where="train.micro_batch_size", got=f"{micro} of {size} rows", fix=fix))


def _read_by(base: Base, wanted: FitOptions) -> Pick:
    """Return the modality that a base reads, with the options that were asked for, checked."""
    reads, given = base.reads, wanted.modality
    named = [*wanted.columns, *filter(None, [given.name])]
    other = [name for name in named if reads not in {name, MODALITIES.get(name).over}]
    if other:
        asked = f"--{other[0]} {wanted.columns[other[0]]}" if other[0] in wanted.columns else f"modality.name={other[0]}"
        able = [
            name
            for name in BASES
            if getattr(_class_of(name), "modality_name", "") == (MODALITIES.get(other[0]).over or other[0])
        ]
        fix = f"choose a base that reads it: --base {' or '.join(able)}" if able else "leave it out"
        raise OptionsError(
            Problem(what=f"the base '{base.name}' reads {reads}, not {other[0]}", where="base", got=asked, fix=fix)
        )
    pick = Pick(named[0] if named else reads, given.options)
    pick.resolve(MODALITIES)
    return pick


def _class_of(name: str) -> object:
    try:
        return BASES.get(name)
    except MissingExtraError:
        return None


def base_of(name: str) -> Base:
    """Return a base by registered name, folder or hub id.

    Raises:
        OptionsError: There is no such base; the nearest names are offered.
    """
    wanted = FitOptions(target="", out="", base=Pick(name))
    cls, options = wanted.base.resolve(BASES)
    return cls(wanted.base.name, options)


def network(plan: Plan, stages: Stages) -> Headed:
    """Return the base's backbone with a new head for the task, and with what the tuning adds.

    Raises:
        DataError: The backbone does not provide what the task needs.
        OptionsError: The backbone has not what the tuning needs.
    """
    wanted = plan.wanted
    with stages("open the network"):
        from regraft.models.backbones import Shapes
        from regraft.models.memory_layout import channels_last, gains
        from regraft.models.net import Headed
        from regraft.training.device import choose_device
        from regraft.training.precision import check_precision

        device = choose_device(wanted.machine)
        check_precision(wanted.machine.precision, device)
        backbone = plan.base.backbone(plan.modality, wanted.seed)
        backbone.shapes = Shapes(wanted.machine.shapes, plan.modality.longest)
        if backbone.packing.reason and wanted.machine.shapes == "packed":
            stages.note(f"rows are padded (sorted by length outside training): {backbone.packing.reason}")
    missing = plan.task.needs - backbone.provides
    if missing:
        what = f"the base '{plan.base.name}' does not provide {', '.join(sorted(missing))}, which the task needs"
        raise DataError(Problem(what=what, fix="choose another base: regraft list bases"))
    head = backbone.head(plan.task, wanted.train.dropout, wanted.seed)
    net = Headed(backbone, head).to(device)
    if gains(device):
        channels_last(net)
    tuning_class, tuning_options = wanted.tuning.resolve(TUNINGS)
    tuning = tuning_class(tuning_options)
    tuning.prepare(net, _few_rows(plan), wanted.seed)
    tuning.check(net)
    return net


def _few_rows(plan: Plan) -> Iterator[Batch]:
    """Yield small batches of training rows, for a tuning that has to see what happens inside the network."""
    rows = plan.rows["train"]
    for start in range(0, len(rows), _FEW):
        yield rows.batch(np.arange(start, min(start + _FEW, len(rows))))


def predictor(net: Headed, plan: Plan) -> Predictor:
    """Return the door through which the fitted network is judged: the one that serves it later."""
    from regraft.models.backbones import Shapes
    from regraft.serving.predictor import Predictor
    from regraft.serving.runtime_torch import TorchRuntime

    net.backbone.shapes = Shapes()  # those in which an artifact is opened, whatever it learnt in
    runtime = TorchRuntime(net, plan.wanted.machine)
    return Predictor(plan.modality, plan.task, runtime, column=plan.dataset.input_column)


def judge(
    net: Headed, plan: Plan, before: Mapping[str, Rows], trained: Passes, stages: Stages, recipe: Recipe | None = None
) -> Report:
    """Hold the fitted network against the baselines on the test rows, through the door that serves it later."""
    from regraft.evaluation.answers import Answers
    from regraft.evaluation.by_target import JudgedRows, ablation_of, judgement_of, ladder_of, reported
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.report import Report, TargetReport
    from regraft.evaluation.trusted import trusted

    wanted, task = plan.wanted, plan.task
    options, seed = wanted.judge, wanted.seed
    door, answered = predictor(net, plan), Answered()
    with stages("answer the test rows", len(plan.rows["test"])):
        outputs = np.concatenate([door.outputs(chunk, answered=answered) for chunk in raws(plan.dataset, "test")])
    stood = _previous(plan, stages)
    with stages("judge"):
        groups_N, told = _groups(plan)
        fitted = Contender(
            name="fitted",
            probabilities_NC=task.probabilities(outputs),
            seconds=stages.seconds.get("train", 0.0),
            size_bytes=_bytes_of(net),
            latency_ms=1000 * answered.seconds / len(plan.rows["test"]),
        )
        targets, without = plan.targets["test"], [] if task.paired else _without_parts(door, plan)
        known = {split: dataclasses.replace(rows, widths=net.backbone.part_widths) for split, rows in before.items()}

        def one(part: Part) -> TargetReport:
            return TargetReport(
                judgement=judgement_of(part, targets, fitted.probabilities_NC, options, seed, groups_N),
                ladder=ladder_of(part, known, plan.targets["train"], [*stood, fitted], options, seed, groups_N),
                ablation=ablation_of(part, targets, [fitted, *without], options, seed, groups_N),
                trust=trusted(part, targets, outputs, confidence=options.confidence),
            )

        own = known_of_test(plan, before["test"].features_ND)
        rows = JudgedRows(targets=targets, outputs_NC=fitted.probabilities_NC, groups_N=groups_N, known=own)
        found = reported(task, rows, one, options, seed)
    return Report(
        kind="fit",
        **found,
        ledger=plan.dataset.ledger,
        fingerprint=plan.dataset.fingerprint,
        seconds=stages.total,
        seconds_by_stage=stages.seconds,
        notes=(*plan.dataset.notes, *plan.modality.notes, *trained.notes, *told),
        cost=cost_of(door.runtime.use(), stages.seconds, training=trained, answering=door.runtime.passes(answered)).to_json(),
        about=_about(plan, recipe),
        answers=Answers(task, targets, fitted.probabilities_NC),
    )


def _groups(plan: Plan) -> tuple[Array | None, list[str]]:
    """Return which test rows belong together, and a note where such rows also lie among those that were learnt from."""
    from regraft.evaluation.clusters import group_codes

    name = plan.wanted.judge.group
    if name is None:
        return (plan.targets["test"] if plan.task.paired else None), []
    values = values_of(plan.dataset, "test", name, "judge.group")
    learnt = [split for split in SPLITS[:2] if split in plan.dataset.names]
    known = {value for split in learnt for value in values_of(plan.dataset, split, name, "judge.group")}
    shared = {value for value in values if value is not None} & known
    told = f"{len(shared):,} of {len(set(values)):,} groups ('{name}') of the test rows also have rows that were learnt from"
    return group_codes(values), [f"{told}: these numbers say little about groups that are new"] if shared else []


def _previous(plan: Plan, stages: Stages) -> list[Contender]:
    """Return the artifact that stood before with its answers to the test rows, where one is named."""
    dataset, machine, folder = plan.dataset, plan.wanted.machine, plan.wanted.judge.previous
    if folder is None:
        return []
    with stages("answer the test rows as before", len(plan.rows["test"])):
        rows = raws(dataset, "test")
        return [previous_contender(folder, plan.task, rows, plan.modality, dataset.input_column, machine)]


def _bytes_of(net: Headed) -> int:
    """Return the bytes of all weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))


def _about(plan: Plan, recipe: Recipe | None) -> dict[str, Any]:
    wanted = plan.wanted
    told = {"base": plan.base.name, "tuning": wanted.tuning.name, "task": wanted.task.name, "rows": _row_counts(plan)}
    told["command"] = command_line(plan.data, _asked(wanted))
    return {**told, "recipe": to_json(recipe.content)} if recipe else told


def _asked(wanted: FitOptions) -> dict[str, Any]:
    """Return what was asked for, as JSON; where the artifact stands is no part of what it is."""
    return {key: value for key, value in to_json(wanted).items() if key != "out"}


def _without_parts(door: Predictor, plan: Plan) -> list[Contender]:
    """Return what the fitted network answers to the test rows if a part is missing in all of them, for each part."""
    from regraft.evaluation.ladder import Contender
    from regraft.serving.predictor import Predictor

    found = []
    rows = plan.rows["test"]
    for place, name in enumerate(plan.modality.part_names):
        began = time.perf_counter()
        lacking = Predictor(plan.modality.without(name), door.task, door.runtime, column=door.column)
        parts = [lacking.probabilities(chunk) for chunk in raws(plan.dataset, "test")]
        seconds = time.perf_counter() - began
        held = getattr(rows, "places_PN", None)
        there = len(rows) if held is None else int(np.count_nonzero(held[place] >= 0))
        note = f"{there:,} of {len(rows):,} rows have it" if there < len(rows) else ""
        found.append(Contender(name=f"without {name}", probabilities_NC=np.concatenate(parts), seconds=seconds, note=note))
    return found


def _row_counts(plan: Plan) -> dict[str, int]:
    return {name: len(plan.rows[name]) for name in SPLITS}


def fill(folder: Path, net: Headed, plan: Plan, report: Report, run: Run) -> ManifestBody:
    """Write everything a prediction needs into an empty folder, with the events of training, and say what it is."""
    from regraft.artifact import kept_events, predictions
    from regraft.artifact.card import card
    from regraft.artifact.golden import record
    from regraft.artifact.learnt_rows import write_learnt_rows
    from regraft.artifact.manifest import HeadEntry, InputEntry, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
    from regraft.artifact.store import CARD, GOLDEN, PREDICTIONS, REPORT, write_json, write_text
    from regraft.models.net import BACKBONE_FOLDER, save_net, weights_digest

    wanted, dataset, task = plan.wanted, plan.dataset, plan.task
    save_net(net, folder)
    plan.modality.save(folder / BACKBONE_FOLDER)
    asked = _asked(wanted)
    body = ManifestBody(
        task=TaskEntry(
            name=wanted.task.name, options=dict(wanted.task.options), state=task.state(), calibration=trust_of(task)
        ),
        inputs=(
            InputEntry(
                column=dataset.input_column,
                modality=dataset.input_modality,
                spec=plan.modality.spec(),
                options=dict(wanted.modality.options),
                folder=BACKBONE_FOLDER,
            ),
        ),
        target=TargetEntry(column=", ".join(wanted.targets)),
        base=plan.base.origin(),
        network=NetworkEntry(
            backbone=net.backbone.spec(), head=HeadEntry(width=net.backbone.width, dropout=wanted.train.dropout)
        ),
        weights_digest=weights_digest(net),
        transforms=tuple(applied.to_json() for applied in net.transforms),
        options=asked,
        seed=wanted.seed,
        fingerprints=dataset.fingerprint,
        parent=run.lineage[-1].digest if run.lineage else None,
        lineage=run.lineage,
    )
    if run.events.exists():
        (folder / EVENTS).write_bytes(kept_events.thinned(run.events))
    write_learnt_rows(folder, [dataset.split(name).keys() for name in SPLITS[:2] if name in dataset.names])
    goldens = record(predictor(net, plan), _golden_rows(plan), plan.modality.shortened, task.steepness)
    write_json(folder / GOLDEN, goldens.to_json())
    command = command_line(plan.data, asked, run.lineage[-1].name if run.lineage else "")
    # Not sorted like the manifest: the order of metrics is the task's, the most important first.
    write_text(folder / REPORT, json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if report.answers is not None:
        (folder / PREDICTIONS).write_bytes(predictions.to_bytes(report.answers))
    write_text(folder / CARD, card(body, report.to_json(), name=Path(wanted.out).name, command=command))
    return body


def _golden_rows(plan: Plan) -> list[Any]:
    """Return raw values of test rows, spread over targets and lengths."""
    from regraft.artifact.golden import choose
    from regraft.evaluation.answer_kind import kind_for

    split = plan.dataset.split("test")
    # Enough to choose from; a test split of millions is not read whole for sixteen rows, nor thousands of photographs.
    count = min(len(split), _GOLDEN_POOL // (1024 // plan.modality.chunk_rows))
    values = list(itertools.islice(itertools.chain.from_iterable(raws(plan.dataset, "test")), count))
    labels = kind_for(plan.task).group_names(plan.targets["test"][:count])
    return [values[i] for i in choose(values, labels, plan.rows["test"].lengths[:count].tolist(), seed=plan.wanted.seed)]


def command_line(data: str, asked: Mapping[str, Any], parent: str = "") -> str:
    """Return the command that makes this artifact again; only what differs from the defaults is spelt out.

    Args:
        data: What was fitted to.
        asked: The options.
        parent: What it started from, if that was something that was fitted.

    Example:
        >>> command_line("mails.csv", {"target": "label", "seed": 0, "train": {"epochs": 5}})
        'regraft fit mails.csv --target label --set train.epochs=5 --out ARTIFACT'
    """
    target = asked["target"]
    said = [target] if isinstance(target, str) else [f"{column}={task}" for column, task in target.items()]
    parts = ["regraft", "fit", data, *(word for one in said for word in ("--target", one))]
    known: set[tuple[str, ...]] = {_READ_BY_BASE, *([] if isinstance(target, str) else [("task", "name")])}
    known |= set() if isinstance(target, str) else {("task", "targets", column, "name") for column in target}
    for path, value in changed(asked):
        if path[0] != "target" and path not in known:
            text = json.dumps(value) if not isinstance(value, str) else value
            parts += ["--set", f"{'.'.join(path)}={text}"]
    started = ["--start-from", parent] if parent else []
    return shlex.join([*parts, *started, "--out", "ARTIFACT"])


def gate(staged: Path, net: Headed, wanted: FitOptions) -> None:
    """Replay the golden rows of the written artifact in a fresh process; a difference is an error.

    Raises:
        GateError: An answer moved, a tensor changed, or the process died.
    """
    from regraft.serving.replay import replay_in_fresh_process

    replay_in_fresh_process(staged, threads=wanted.machine.threads or default_threads(), device=net.device.type)


__all__ = [
    "Plan",
    "base_of",
    "check_targets",
    "check_there",
    "command_line",
    "features_before",
    "fill",
    "gate",
    "joined_splits",
    "judge",
    "learn",
    "learner",
    "network",
    "open_base",
    "plan",
    "predictor",
    "read",
    "settled",
    "train",
]
