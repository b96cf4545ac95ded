"""The stages of a fit, in the order in which they happen: read, plan, network, features before, train, judge, write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.data.dataset import Dataset, load_dataset
from regraft.errors import DataError, Problem
from regraft.evaluation import METRICS
from regraft.evaluation.rung import Rows
from regraft.evaluation.sample import stratified
from regraft.modalities import MODALITIES
from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.encoded_store import EncodedStore
from regraft.models import BASES
from regraft.objectives import OBJECTIVES
from regraft.options import Pick, to_json
from regraft.tasks import TASKS
from regraft.training.events import BeginEvent, Event
from regraft.training.stages import Stages
from regraft.training.threads import available_cores, crowding, default_threads
from regraft.tuning import TUNINGS
from regraft.tuning.parts import Decided
from regraft.types import Array
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    from regraft.artifact.manifest import ManifestBody
    from regraft.evaluation.report import Report
    from regraft.modalities.modality import Modality
    from regraft.models.base import Base
    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.serving.predictor import Predictor
    from regraft.tasks.task import Task
    from regraft.training.cost import Passes
    from regraft.training.frozen import Learner, Setting
    from regraft.training.loop import Validation
    from regraft.training.precision import Precision

SPLITS = ("train", "valid", "test")
_CHUNK_ROWS = 1024
_FORWARD_ROWS = 32
_GOLDEN_POOL = 4096
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known before the first step.

    Args:
        wanted: What was asked for.
        data: What the rows were read from, as it was named.
        dataset: The rows and their splits.
        base: The model to start from.
        modality: Raw values to arrays.
        preprocessing: Digest of the modality: same digest, same arrays.
        task: What is predicted; has learnt the training targets.
        rows: Split -> its encoded rows.
        targets: Split -> its targets.
    """

    wanted: FitOptions
    data: str
    dataset: Dataset
    base: Base
    modality: Modality
    preprocessing: str
    task: Task
    rows: Mapping[str, EncodedRows]
    targets: Mapping[str, Array]


def joined_splits(data: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return data and options in which objects given as `valid` or `test` have become splits of the data.

    Options are plain values that travel in the artifact; a DataFrame is not one.
    """
    objects = {name: options[name] for name in SPLITS[1:] if not isinstance(options.get(name), str | os.PathLike | None)}
    if not objects:
        return data, dict(options)
    return {SPLITS[0]: data, **objects}, {name: value for name, value in options.items() if name not in objects}


def open_base(wanted: FitOptions, stages: Stages) -> Base:
    """Return the base, fetched and verified, so that nothing else begins without it.

    Raises:
        BaseError: The base cannot be fetched, trusted or used.
        UnknownNameError: The validation metric is not registered.
    """
    if wanted.train.metric is not None:
        METRICS.target(wanted.train.metric)
    cls, options = wanted.base.resolve(BASES)
    base = cls(wanted.base.name, options)
    with stages(f"base {base.card().name}"):
        base.fetch(stages.note)
    return base


def base_of(name: str) -> Base:
    """Return a base by registered name, folder or hub id.

    Raises:
        OptionsError: There is no such base; the nearest names are offered.
    """
    wanted = FitOptions(target="", out="", base=Pick(name))
    cls, options = wanted.base.resolve(BASES)
    return cls(wanted.base.name, options)


def read(data: Any, wanted: FitOptions, stages: Stages) -> Dataset:
    """Read the rows, find the roles of the columns, split."""
    modality = wanted.modality.name
    with stages("read"):
        dataset = load_dataset(
            data,
            target=wanted.target,
            inputs={modality: wanted.text or MODALITIES.get(modality).recognises},
            valid=wanted.valid,
            test=wanted.test,
            seed=wanted.seed,
            options=wanted.data,
        )
    stages.notes(dataset.notes)
    if crowded := crowding(wanted.machine.threads or default_threads(), available_cores()):
        stages.note(crowded, "warning")
    for name in ("train", "test"):
        dataset.split(name)  # neither fitting nor judging can do without
    return dataset


def plan(data: Any, dataset: Dataset, base: Base, wanted: FitOptions, stages: Stages) -> Plan:
    """Learn the task's targets, open the preprocessing, encode every split once."""
    cls, options = wanted.task.resolve(TASKS)
    task, ledger = cls(options), dataset.ledger
    name = str(data) if isinstance(data, str | Path) else "DATA"
    try:
        task.learn(dataset.targets("train"), ledger)
    except DataError as error:
        # The task knows values only; the user looks for a file and a column.
        place = f"{name}, column '{wanted.target}'"
        raise DataError([dataclasses.replace(problem, where=place) for problem in error.problems]) from None
    check_targets(task, dataset)
    with stages("tokenise", sum(len(dataset.split(split)) for split in dataset.names)):
        modality = base.modality(wanted.modality.options, lambda: _raws(dataset, "train"))
        preprocessing, cache = modality_digest(modality), wanted.machine.cache
        store = EncodedStore(cache.place, cache.disk_bytes, preprocessing, stages.note, about=base.name)
        rows = {split: EncodedRows(modality, functools.partial(_raws, dataset, split), store=store) for split in SPLITS}
    for split, encoded in rows.items():
        if encoded.dropped:
            where = f"{split}: {encoded.truncated_rows:,} of {len(encoded):,} rows"
            ledger.add("truncated tokens", encoded.dropped, where)
    targets = {split: task.targets(dataset.targets(split) if split in dataset.names else []) for split in SPLITS}
    return Plan(
        wanted=wanted,
        data=name,
        dataset=dataset,
        base=base,
        modality=modality,
        preprocessing=preprocessing,
        task=task,
        rows=rows,
        targets=targets,
    )


def _raws(dataset: Dataset, split: str) -> Iterator[Sequence[Any]]:
    """Yield the raw values of a split in chunks; nothing where there is no such split."""
    if split in dataset.names:
        yield from dataset.split(split).chunks(dataset.input_column, _CHUNK_ROWS)


def check_targets(task: Task, dataset: Dataset) -> None:
    """Refuse validation and test rows with a target that the training rows do not know, and classes of too few rows.

    Raises:
        DataError: One problem for each different cause, with the places of the first rows.
    """
    problems = [*_unknown_targets(task, dataset), *_rare_targets(task, dataset)]
    if problems:
        raise DataError(problems)


def _rare_targets(task: Task, dataset: Dataset) -> list[Problem]:
    fewest = task.fewest_rows
    if fewest < 2:
        return []
    counts = Counter(value for name in dataset.names for value in dataset.targets(name))
    rare = {value: n for value, n in counts.items() if n < fewest and not task.target_problem(value)}
    if not rare:
        return []
    places: dict[Any, str] = {}
    for name in dataset.names:
        split = dataset.split(name)
        for row, value in enumerate(split.targets()):
            if value in rare:
                places.setdefault(value, split.place(row))
    several = f"{len(rare):,} classes have" if len(rare) > 1 else "a class has"
    shown = ", ".join(f"{value!r} in {n} row{'s' if n > 1 else ''}" for value, n in list(rare.items())[:_SHOWN])
    return [
        Problem(
            what=f"{several} fewer than {fewest} rows: too few to learn from some and be judged on others",
            where=", ".join(f"{places[value]}, column '{dataset.target_column}'" for value in list(rare)[:3]),
            got=shown + (f" and {len(rare) - _SHOWN:,} more" if len(rare) > _SHOWN else ""),
            expected=f"at least {fewest} rows of every class",
            fix="add rows of it, join it with another class, take the rows out, or allow it with --set task.min_rows=1",
        )
    ]


def _unknown_targets(task: Task, dataset: Dataset) -> list[Problem]:
    found: dict[str, list[str]] = {}
    for name in dataset.names:
        split = dataset.split(name)
        for row, value in enumerate(split.targets()):
            problem = task.target_problem(value)
            if problem:
                found.setdefault(problem, []).append(split.place(row))
    fix = "mend the label, add training rows that have it, or leave the row out"
    return [
        Problem(what=what, where="; ".join(places[:3]), got=f"{len(places)} such rows", fix=fix)
        for what, places in list(found.items())[:_SHOWN]
    ]


def network(plan: Plan, stages: Stages) -> Headed:
    """Return the base's backbone with a new head for the task.

    Raises:
        DataError: The backbone does not provide what the task needs.
    """
    wanted = plan.wanted
    with stages("open the network"):
        from regraft.models.backbones import Shapes
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
    head = plan.task.head(backbone.width, wanted.train.dropout, wanted.seed)
    return Headed(backbone, head).to(device)


@contextlib.contextmanager
def learner(net: Headed, plan: Plan, stages: Stages) -> Iterator[Learner]:
    """Give the part of the network that is trained; what is frozen below it is computed once a row, and kept."""
    from regraft.training.frozen import learner as made

    tuning_class, tuning_options = plan.wanted.tuning.resolve(TUNINGS)
    trainable = tuning_class(tuning_options).trainable(net)
    used = {split: plan.rows[split] for split in SPLITS[:2]}
    with contextlib.ExitStack() as stack:
        with stages("compute what is frozen", sum(map(len, used.values()))):
            setting = _setting(plan, stages)
            found = stack.enter_context(made(net, trainable, plan.task.needs, used, setting, stages.progress))
        yield found


def _setting(plan: Plan, stages: Stages) -> Setting:
    from regraft.training.frozen import Setting

    machine = plan.wanted.machine
    return Setting(
        cache=machine.cache,
        preprocessing=plan.preprocessing,
        about=plan.base.name,
        threads=machine.threads or default_threads(),
        note=stages.note,
    )


def features_before(net: Headed, learner: Learner, plan: Plan, stages: Stages) -> dict[str, Rows]:
    """Return what the baselines learn from and are tested on: pooled features of the base as it is, and targets."""
    from regraft.models.forward import pooled
    from regraft.training.frozen import kept_pooled

    index = {name: np.arange(len(plan.rows[name])) for name in SPLITS}
    index["train"] = stratified(plan.targets["train"], plan.wanted.judge.probe_rows, plan.wanted.seed)
    found: dict[str, Rows] = {}
    with stages("features of the base", sum(len(positions) for positions in index.values())):
        done = 0
        for name, positions in index.items():
            progress = functools.partial(lambda n, before: stages.progress(before + n), before=done)
            if learner.cut is not None and name in learner.rows:
                features = pooled(learner.net, learner.rows[name], positions, _FORWARD_ROWS, progress)
            else:
                features = kept_pooled(net, plan.rows[name], positions, _setting(plan, stages), progress)
            found[name] = Rows(features, plan.targets[name][positions])
            done += len(positions)
    return found


def train(net: Headed, learner: Learner, plan: Plan, stages: Stages) -> Passes:
    """Train the network in place; the best weights by the validation metric are left in it.

    Returns:
        What went through the network in training, for the report.
    """
    from regraft.models.dropout import fast_dropouts
    from regraft.models.view import view
    from regraft.training.arithmetic import training_flops
    from regraft.training.compact import Compacted, compacted, used_ids
    from regraft.training.cost import Meter, Passes
    from regraft.training.loop import train as loop

    wanted, meter = plan.wanted, Meter(stages.listen)
    objective_class, objective_options = wanted.objective.resolve(OBJECTIVES)
    objective = objective_class(objective_options).attach(learner.rows["train"], plan.targets["train"], plan.task)
    with contextlib.ExitStack() as stack, stages("train"):
        compact = Compacted(learner.net)
        if wanted.machine.compact:
            used = functools.partial(used_ids, plan.rows["train"])
            compact = stack.enter_context(compacted(learner.net, learner.trainable, used))
        stages.notes(compact.notes)
        learning = view(compact.net, fast_dropouts(compact.net))
        learning, precision = _arithmetic(learning, objective, learner, plan, stages)
        events = loop(
            precision.network(learning),
            objective,
            Decided(learner.trainable),
            wanted.train,
            validation=_validation(learning, learner, plan),
            seed=wanted.seed,
            pretrained=plan.base.pretrained,
        )
        for event in stack.enter_context(contextlib.closing(events)):
            meter(_whole(event, net))
    if learner.pooled:
        meter.training.tokens = 0  # the head sees rows
    flops = training_flops(net, learner.trainable, plan.rows["train"].lengths, learner.cut)
    return Passes(meter.training, flops, precision.name)


def _arithmetic(net: Headed, objective: Objective, learner: Learner, plan: Plan, stages: Stages) -> tuple[Headed, Precision]:
    """Return the network as it is trained fastest here, and its number format."""
    from regraft.training.kernels import compiled
    from regraft.training.machine import Profile
    from regraft.training.precision import Workload, choose
    from regraft.training.seed import row_generator

    wanted = plan.wanted
    size = wanted.train.batch_size
    micro_size = min(wanted.train.micro_batch_size or size, size)
    batch = next(objective.batches(0, size, micro_size, row_generator(wanted.seed, 0)))[0]
    names = learner.trainable & {name for name, _ in net.named_parameters()}
    steps = wanted.train.epochs * objective.steps_per_epoch(size)
    workload = Workload(
        loss=lambda tried: objective.loss(tried, batch)[0].total,
        trainable=names,
        passes=min(steps, wanted.train.max_steps or steps) * -(-size // micro_size),
        positions=int(np.count_nonzero(batch.mask_BT)),
        threads=wanted.machine.threads or default_threads(),
    )
    precision = choose(net, wanted.machine.precision, workload, Profile.load(), stages.note)
    if wanted.machine.compile:
        net = compiled(net, workload.loss, names, stages.note)
    return net, precision


def _whole(event: Event, net: Headed) -> Event:
    """Return an event that counts the weights of the whole network, of which the loop may have seen only a part."""
    if not isinstance(event, BeginEvent):
        return event
    return dataclasses.replace(event, parameters=sum(parameter.numel() for parameter in net.parameters()))


def _validation(net: Headed, learner: Learner, plan: Plan) -> Validation | None:
    """Return how the network is judged while it learns, or nothing where there are no validation rows."""
    from regraft.models.forward import outputs
    from regraft.training.loop import Validation

    if not len(plan.rows["valid"]):
        return None
    names = list(dict.fromkeys([plan.wanted.train.metric or plan.task.validation_metric, plan.task.metrics[0]]))
    measures = {name: METRICS.get(name)() for name in names}

    def run() -> dict[str, float]:
        judged = plan.task.probabilities(outputs(net, learner.rows["valid"], _FORWARD_ROWS))
        return {name: measure.value(plan.targets["valid"], judged) for name, measure in measures.items()}

    return Validation(run=run, metric=names[0], higher_is_better=measures[names[0]].higher_is_better)


def predictor(net: Headed, plan: Plan) -> Predictor:
    """Return the door through which the fitted network is judged: the one that serves it later."""
    from regraft.serving.predictor import Predictor
    from regraft.serving.runtime_torch import TorchRuntime

    runtime = TorchRuntime(net, plan.wanted.machine)
    return Predictor(plan.modality, plan.task, runtime, column=plan.dataset.input_column)


def judge(net: Headed, plan: Plan, before: Mapping[str, Rows], trained: Passes, stages: Stages) -> Report:
    """Hold the fitted network against the baselines on the test rows, through the door that serves it later."""
    from regraft.evaluation.judge import judge as judged
    from regraft.evaluation.ladder import Contender, LadderRows, build_ladder
    from regraft.evaluation.report import Report

    wanted, task = plan.wanted, plan.task
    options, seed = wanted.judge, wanted.seed
    with stages("answer the test rows", len(plan.rows["test"])):
        door = predictor(net, plan)
        parts = [door.probabilities(chunk) for chunk in _raws(plan.dataset, "test")]
    with stages("judge"):
        fitted = Contender(name="fitted", probabilities_NC=np.concatenate(parts), seconds=stages.seconds.get("train", 0.0))
        counts_C = np.bincount(plan.targets["train"], minlength=len(task.names))
        rows = LadderRows(
            train=before["train"], valid=before["valid"], test=before["test"], labels=task.names, class_counts_C=counts_C
        )
        ladder = build_ladder(rows, fitted, task.metrics, options=options, seed=seed)
        judgement = judged(task.metrics, plan.targets["test"], fitted.probabilities_NC, task.names, options=options, seed=seed)
    return Report(
        kind="fit",
        judgement=judgement,
        ladder=ladder,
        ledger=plan.dataset.ledger,
        fingerprint=plan.dataset.fingerprint,
        seconds=stages.total,
        seconds_by_stage=stages.seconds,
        notes=plan.dataset.notes,
        cost=_cost(net, plan, trained, stages),
        about={"base": plan.base.name, "tuning": wanted.tuning.name, "task": wanted.task.name, "rows": _row_counts(plan)},
    )


def _cost(net: Headed, plan: Plan, trained: Passes, stages: Stages) -> dict[str, Any]:
    from regraft.training.arithmetic import inference_flops
    from regraft.training.cost import Passes, Use, Work, cost_of

    machine, lengths = plan.wanted.machine, plan.rows["test"].lengths
    answered = Work(rows=len(lengths), tokens=int(lengths.sum()), seconds=stages.seconds["answer the test rows"])
    return cost_of(
        Use(threads=machine.threads or default_threads(), cores=available_cores(), device=net.device),
        stages.seconds,
        training=trained,
        answering=Passes(answered, inference_flops(net, lengths)),
    ).to_json()


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
        target=TargetEntry(column=wanted.target),
        base=plan.base.origin(),
        network=NetworkEntry(
            backbone=net.backbone.spec(), head=HeadEntry(width=net.backbone.width, dropout=wanted.train.dropout)
        ),
        weights_digest=weights_digest(net),
        options=asked,
        seed=wanted.seed,
        fingerprints=dataset.fingerprint,
    )
    write_json(folder / GOLDEN, record(predictor(net, plan), _golden_rows(plan)).to_json())
    # Not sorted like the manifest: the order of metrics is the task's, the most important first.
    write_text(folder / REPORT, json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / CARD, card(body, report.to_json(), name=Path(wanted.out).name, command=command_line(plan.data, asked)))
    return body


def _golden_rows(plan: Plan) -> list[Any]:
    """Return raw values of test rows, spread over labels and lengths."""
    from regraft.artifact.golden import choose

    split = plan.dataset.split("test")
    # Enough to choose from; a test split of millions is not read whole for sixteen rows.
    count = min(len(split), _GOLDEN_POOL)
    raws = list(itertools.islice(itertools.chain.from_iterable(_raws(plan.dataset, "test")), count))
    labels = [plan.task.names[target] for target in plan.targets["test"][:count]]
    return [raws[i] for i in choose(raws, labels, plan.rows["test"].lengths[:count].tolist(), seed=plan.wanted.seed)]


def command_line(data: str, asked: Mapping[str, Any]) -> str:
    """Return the command that makes this artifact again; only what differs from the defaults is spelt out.

    Example:
        >>> command_line("mails.csv", {"target": "label", "seed": 0, "train": {"epochs": 5}})
        'regraft fit mails.csv --target label --set train.epochs=5 --out ARTIFACT'
    """
    defaults: dict[str, Any] = to_json(FitOptions(target="", out=""))
    parts = ["regraft", "fit", data, "--target", str(asked["target"])]
    for path, value in _leaves(asked):
        default: Any = defaults
        for key in path:
            default = default.get(key) if isinstance(default, Mapping) else None
        if path != ("target",) and value != default:
            text = json.dumps(value) if not isinstance(value, str) else value
            parts += ["--set", f"{'.'.join(path)}={text}"]
    return shlex.join([*parts, "--out", "ARTIFACT"])


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def gate(staged: Path, net: Headed, wanted: FitOptions) -> None:
    """Replay the golden rows of the written artifact in a fresh process; a difference is an error.

    Raises:
        GateError: An answer moved, a tensor changed, or the process died.
    """
    from regraft.serving.replay import replay_in_fresh_process

    replay_in_fresh_process(staged, threads=wanted.machine.threads or default_threads(), device=net.device.type)
