"""The stages of a merge: open the artifact, fold what transforms added into the weights, hold that against it, write.

W + s B A, added up in float64 and rounded once, answers as W and the adapters beside it do, but for the last bits.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.artifact.golden import record
from regraft.artifact.learnt_rows import LEARNT_ROWS
from regraft.artifact.manifest import ManifestBody
from regraft.artifact.store import CARD, GOLDEN, REPORT, Artifact, write_json
from regraft.errors import GateError, Problem, UsageError
from regraft.exporting import ancestor, apart
from regraft.serving.predictor import Predictor
from regraft.training.options import MachineOptions
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.verbs import MergeOptions

if TYPE_CHECKING:
    from regraft.models.net import Headed

TOLERANCE = 1e-6
"""How far a probability may move; and an output, relative to the row's largest one above 1. Both networks are computed in
float64: in float32 sums in another order alone move them by more."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be written.

    Args:
        source: The artifact.
        net: Its network, folded.
        merged: Answers with it.
        wanted: The options.
    """

    source: Artifact
    net: Headed
    merged: Predictor
    wanted: MergeOptions


def plan(artifact: Path, wanted: MergeOptions, stages: Stages) -> Plan:
    """Open the artifact, fold, and refuse a fold that answers otherwise.

    Raises:
        UsageError: There is nothing to merge, or nothing that can be merged.
        GateError: The folded network does not answer the golden rows as the artifact does.
    """
    apart(artifact, wanted.out)
    with stages("open the artifact"):
        predictor = Predictor.load(artifact, threads=wanted.machine.threads, device="cpu")
    source = predictor.artifact
    if source is None or not source.manifest.transforms:
        what, fix = "the artifact has no adapters that could be merged", "use it as it is; regraft fit --tuning lora makes some"
        raise UsageError(Problem(what=what, where=str(artifact), fix=fix))
    from regraft.models.transform import folded
    from regraft.serving.runtime_torch import TorchRuntime

    if not isinstance(predictor.runtime, TorchRuntime):
        what = f"an export of the form '{source.manifest.network.form}' cannot be merged"
        fix = "merge the artifact that it was made from, then export that"
        raise UsageError(Problem(what=what, where=str(artifact), fix=fix))
    with stages("fold"):
        net = folded(predictor.runtime.net)
        runtime = TorchRuntime(net, wanted.machine)
        merged = Predictor(predictor.modality, predictor.task, runtime, column=predictor.column)
        hold_against(predictor, merged, stages)
    return Plan(source=source, net=net, merged=merged, wanted=wanted)


def hold_against(predictor: Predictor, merged: Predictor, stages: Stages) -> None:
    """Refuse a folded network whose answers to the golden rows are further from the artifact's than rounding takes them.

    Raises:
        GateError: They are; names the worst row.
    """
    rows = predictor.goldens().rows
    if not rows:
        return
    (was, before), (now, after) = (_exact(each).answers(rows) for each in (predictor, merged))
    old, new = (np.asarray(each, dtype=np.float64).reshape(len(rows), -1) for each in (was, now))
    scale_N = np.maximum(1.0, np.abs(old).max(axis=1))
    far_N = np.abs(old - new).max(axis=1) / scale_N
    for row, (one, other) in enumerate(zip(before, after, strict=True)):
        moved = [abs(value - other.probabilities.get(name, np.inf)) for name, value in one.probabilities.items()]
        far_N[row] = max(far_N[row], *moved, 0.0)
        if not np.isfinite(new[row]).all() or not predictor.task.same_answer(one, other, TOLERANCE * predictor.task.steepness):
            far_N[row] = np.inf
    worst = int(np.argmax(far_N))
    limit = TOLERANCE * predictor.task.steepness
    if not far_N[worst] <= limit:
        raise GateError(
            Problem(
                what=f"merged, a golden row is not answered as before (worst difference {far_N[worst]:.3g})",
                where=f"golden row {worst + 1} of {len(rows)}: {str(rows[worst])[:100]}",
                got=f"{after[worst].value!r} {new[worst].tolist()}",
                expected=f"{before[worst].value!r} {old[worst].tolist()}, within {limit:g}",
                fix="keep the adapters apart: the artifact answers, and exports, without being merged",
            )
        )
    stages.note(f"merged, {len(rows)} golden rows are answered as before, within {far_N[worst]:.1g}")


def fill(folder: Path, made: Plan) -> ManifestBody:
    """Write the merged artifact into an empty folder, and say what it is."""
    from regraft.models.net import BACKBONE_FOLDER, save_net, weights_digest

    source, merged = made.source, made.merged
    save_net(made.net, folder)
    merged.modality.save(folder / BACKBONE_FOLDER)
    rows = made.source.json(GOLDEN)["rows"]
    goldens = record(merged, [row["input"] for row in rows], merged.modality.shortened, merged.task.steepness)
    write_json(folder / GOLDEN, goldens.to_json())
    for name in (REPORT, CARD, LEARNT_ROWS):
        if name in source.manifest.files:
            shutil.copyfile(source.path / name, folder / name)
    said = {item.name: getattr(source.manifest, item.name) for item in dataclasses.fields(ManifestBody)}
    lineage = (*source.manifest.lineage, ancestor(source))
    changed = {"transforms": (), "weights_digest": weights_digest(made.net), "verb": "merge"}
    return ManifestBody(**{**said, **changed, "parent": source.digest, "lineage": lineage})


def gate(staged: Path, made: Plan) -> None:
    """Replay the golden rows of the written artifact in a fresh process; a difference is an error.

    Raises:
        GateError: An answer moved, a tensor changed, or the process died.
    """
    from regraft.serving.replay import replay_in_fresh_process

    replay_in_fresh_process(staged, threads=made.wanted.machine.threads or default_threads())


def _exact(predictor: Predictor) -> Predictor:
    """Return a predictor that computes the same network in float64."""
    import copy

    import torch

    from regraft.serving.runtime_torch import TorchRuntime

    runtime = predictor.runtime
    if not isinstance(runtime, TorchRuntime):
        raise TypeError(f"a network in torch is expected, got {type(runtime).__name__}")
    net = copy.deepcopy(runtime.net).double()

    def widened(module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs, mask_BT = given
        return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}, mask_BT

    net.register_forward_pre_hook(widened)
    return Predictor(
        predictor.modality, predictor.task, TorchRuntime(net, MachineOptions(threads=runtime.threads)), column=predictor.column
    )
