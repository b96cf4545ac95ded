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

from regraft.errors import DataError, MissingExtraError, OptionsError, Problem
from regraft.evaluation import METRICS
from regraft.evaluation.rung import Rows
from regraft.judged import known_of_test
from regraft.learning import features_before, learner, train
from regraft.modalities import MODALITIES
from regraft.models import BASES
from regraft.options import Pick, to_json
from regraft.parts import settled
from regraft.planning import SPLITS, Plan, check_targets, joined_splits, plan, raws, read
from regraft.previous import previous_contender
from regraft.recipe import Recipe, changed
from regraft.tasks import TASKS
from regraft.training.cost import Answered, Passes, cost_of
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.tuning import TUNINGS
from regraft.types import Batch
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    from regraft.artifact.manifest import ManifestBody
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.report import Report
    from regraft.models.base import Base
    from regraft.models.net import Headed
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
    cls, options = wanted.base.resolve(BASES)
    base = cls(wanted.base.name, options)
    with stages(f"base {base.card().name}"):
        base.fetch(stages.note)
    return base, dataclasses.replace(wanted, modality=_read_by(base, wanted))


def _check_judging(wanted: FitOptions) -> None:
    """Refuse metrics and baselines that are for other answers than the task gives."""
    from regraft.evaluation.answer_kind import kind_for

    cls, options = wanted.task.resolve(TASKS)
    task = cls(options)
    if wanted.train.metric is not None and not task.several:
        METRICS.target(wanted.train.metric)
    kind = kind_for(task)
    if wanted.train.metric is not None:
        (measure,) = kind.measures([wanted.train.metric]).values()
        if measure.higher_is_better is None:
            what = f"the metric '{wanted.train.metric}' has no better end, so that it cannot choose the best weights"
            raise OptionsError(Problem(what=what, where="train.metric", fix=f"leave it out ({task.validation_metric} is used)"))
    kind.rungs(wanted.judge.rungs)
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
    tuning_class(tuning_options).prepare(net, _few_rows(plan), wanted.seed)
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
    from regraft.evaluation.by_target import ablation_of, judgement_of, ladder_of, reported
    from regraft.evaluation.ladder import Contender
    from regraft.evaluation.report import Report, TargetReport

    wanted, task = plan.wanted, plan.task
    options, seed = wanted.judge, wanted.seed
    door, answered = predictor(net, plan), Answered()
    with stages("answer the test rows", len(plan.rows["test"])):
        parts = [door.probabilities(chunk, answered=answered) for chunk in raws(plan.dataset, "test")]
    stood = previous_contender(
        options.previous, task, raws(plan.dataset, "test"), plan.modality, plan.dataset.input_column, wanted.machine
    )
    with stages("judge"):
        fitted = Contender(
            name="fitted",
            probabilities_NC=np.concatenate(parts),
            seconds=stages.seconds.get("train", 0.0),
            size_bytes=_bytes_of(net),
            latency_ms=1000 * answered.seconds / len(plan.rows["test"]),
        )
        targets, without = plan.targets["test"], [] if task.paired else _without_parts(door, plan)
        known = {split: dataclasses.replace(rows, widths=net.backbone.part_widths) for split, rows in before.items()}

        def one(part: Part) -> TargetReport:
            return TargetReport(
                judgement=judgement_of(part, targets, fitted.probabilities_NC, options, seed),
                ladder=ladder_of(part, known, plan.targets["train"], fitted, options, seed, previous=stood),
                ablation=ablation_of(part, targets, fitted, without, options, seed),
            )

        own = known_of_test(plan, before["test"].features_ND)
        found = reported(task, targets, fitted.probabilities_NC, one, options, seed, known=own)
    return Report(
        kind="fit",
        **found,
        ledger=plan.dataset.ledger,
        fingerprint=plan.dataset.fingerprint,
        seconds=stages.total,
        seconds_by_stage=stages.seconds,
        notes=(*plan.dataset.notes, *plan.modality.notes, *trained.notes),
        cost=cost_of(door.runtime.use(), stages.seconds, training=trained, answering=door.runtime.passes(answered)).to_json(),
        about=_about(plan, recipe),
    )


def _bytes_of(net: Headed) -> int:
    """Return the bytes of all weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))


def _about(plan: Plan, recipe: Recipe | None) -> dict[str, Any]:
    wanted = plan.wanted
    told = {"base": plan.base.name, "tuning": wanted.tuning.name, "task": wanted.task.name, "rows": _row_counts(plan)}
    return {**told, "recipe": to_json(recipe.content)} if recipe else told


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


def fill(folder: Path, net: Headed, plan: Plan, report: Report) -> ManifestBody:
    """Write everything a prediction needs into an empty folder, and say what it is."""
    from regraft.artifact.card import card
    from regraft.artifact.golden import record
    from regraft.artifact.manifest import HeadEntry, InputEntry, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
    from regraft.artifact.store import CARD, GOLDEN, REPORT, write_json, write_text
    from regraft.models.net import BACKBONE_FOLDER, save_net, weights_digest

    wanted, dataset, task = plan.wanted, plan.dataset, plan.task
    save_net(net, folder)
    plan.modality.save(folder / BACKBONE_FOLDER)
    asked: dict[str, Any] = {key: value for key, value in to_json(wanted).items() if key != "out"}
    body = ManifestBody(
        task=TaskEntry(name=wanted.task.name, options=dict(wanted.task.options), state=task.state()),
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
    )
    goldens = record(predictor(net, plan), _golden_rows(plan), plan.modality.shortened)
    write_json(folder / GOLDEN, goldens.to_json())
    # Not sorted like the manifest: the order of metrics is the task's, the most important first.
    write_text(folder / REPORT, json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / CARD, card(body, report.to_json(), name=Path(wanted.out).name, command=command_line(plan.data, asked)))
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


def command_line(data: str, asked: Mapping[str, Any]) -> str:
    """Return the command that makes this artifact again; only what differs from the defaults is spelt out.

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
    return shlex.join([*parts, "--out", "ARTIFACT"])


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
    "command_line",
    "features_before",
    "fill",
    "gate",
    "joined_splits",
    "judge",
    "learner",
    "network",
    "open_base",
    "plan",
    "predictor",
    "read",
    "settled",
    "train",
]
