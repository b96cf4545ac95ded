"""A new fit that starts from what another one learnt: an artifact, or the last checkpoint of a fit that was interrupted.

    parent = opened("spam", out)             an artifact, or the --out of a fit that left a checkpoint
    begin(parent, net, plan, stages)         weights and head of the parent; optimiser, schedule and seed are those of a new fit

What is taken are weights, so that all that gives them a meaning must be the same: the base, the task and its labels, the
shapes, and, where the base is untrained, how rows become arrays. Everything else (rows, tuning, rates, epochs, versions) may
differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.artifact.manifest import LineageEntry
from regraft.errors import ArtifactError, Problem, UsageError
from regraft.options import JSON, Pick, to_json
from regraft.planning import Plan
from regraft.training.stages import Stages
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed

_STATISTICS = frozenset({"counts", "weights", "mean", "scale"})
"""What tasks learn of rows that says nothing about what their outputs stand for."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a new fit starts from.

    Args:
        place: Where it is, resolved.
        said: What it is, as people read it.
        weights: Name -> values.
        rows: Name of a weight of which only some rows were learnt -> their places in the whole.
        base: Where its base came from.
        preprocessing: Digest of how rows became arrays.
        task: Registered name of its task.
        state: What that had learnt of the targets.
        lineage: The parent last, what it descends from before it.
    """

    place: Path
    said: str
    weights: Mapping[str, torch.Tensor]
    base: Mapping[str, JSON]
    preprocessing: str
    task: str
    state: Mapping[str, JSON]
    lineage: Sequence[LineageEntry]
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the artifact, or of the checkpoint."""
        return self.lineage[-1].digest


def as_it_goes_on(wanted: FitOptions, parent: Parent | None) -> FitOptions:
    """Return the options of a fit that may start from a parent: its head has learnt, so that all weights learn at once.

    Args:
        wanted: What was asked for.
        parent: What it starts from; nothing changes without.
    """
    if parent is None or wanted.tuning.name:
        return wanted
    return replace(wanted, tuning=Pick("full", wanted.tuning.options))


def opened(place: str | Path, out: Path) -> Parent:
    """Open what a fit is to start from, verified.

    Args:
        place: An artifact, or the `out` of a fit that was interrupted.
        out: Where the new artifact will stand, resolved.

    Raises:
        UsageError: There is neither, or the interrupted fit is one into the same place.
        ArtifactError: The artifact is damaged, or an export.
    """
    from regraft.artifact.run import left_at
    from regraft.artifact.verify import is_ours

    found = Path(place).expanduser().resolve()
    if is_ours(found):
        return _artifact(found)
    left = left_at(found)
    if left is None or not left.step:
        what = "there is neither an artifact nor a checkpoint of an interrupted fit to start from"
        fix = "name an artifact, or the --out of a fit that was interrupted"
        raise UsageError(Problem(what=what, where=f"--start-from {place}", fix=fix))
    if found == out:
        what, fix = "a new fit gives up the checkpoints of the one that it would start from", "choose another --out"
        raise UsageError(Problem(what=what, where=f"--out {out}", got="the place of --start-from", fix=fix))
    return _run(found, left.about)


def _artifact(place: Path) -> Parent:
    from regraft.artifact.store import read_artifact
    from regraft.exporting import ancestor
    from regraft.modalities.digests import modality_digest
    from regraft.serving.predictor import Predictor

    artifact = read_artifact(place)
    manifest = artifact.manifest
    if manifest.export is not None:
        what, fix = "an export holds no weights that could learn", "start from the artifact that it was made of"
        raise ArtifactError(Problem(what=what, where=str(place), got=f"form '{manifest.network.form}'", fix=fix))
    predictor: Any = Predictor.load(place, runtime=manifest.network.runtimes[0])
    return Parent(
        place=place,
        said=f"the artifact '{place.name}'",
        weights=predictor.runtime.net.state_dict(),
        base=manifest.base,
        preprocessing=modality_digest(predictor.modality),
        task=manifest.task.name,
        state=manifest.task.state,
        lineage=(*manifest.lineage, ancestor(artifact)),
    )


def _run(place: Path, about: Mapping[str, Any]) -> Parent:
    from regraft.artifact.files import sha256_of
    from regraft.artifact.run import MANIFEST, RunFolder
    from regraft.artifact.run_keeper import turn_of
    from regraft.training.checkpoint import BEST, WEIGHTS, part

    folder = RunFolder(place)
    state = folder.look()
    if state is None or "task" not in about:
        what, fix = "no checkpoint of the interrupted fit is whole", "name an artifact, or another fit"
        raise UsageError(Problem(what=what, where=str(place), fix=fix))
    best = part(state.tensors, BEST)
    identity, digest = about["identity"], sha256_of(folder.at(state.step) / MANIFEST)
    entry = LineageEntry(
        verb="fit",
        digest=digest,
        weights_digest="",
        name=f"{place.name}, step {state.step} of an interrupted fit",
        regraft=str(identity["versions"]["regraft"]),
    )
    return Parent(
        place=place,
        said=f"{'the best weights by' if best else ''} step {state.step} of the interrupted fit '{place.name}'".strip(),
        weights=best or part(state.tensors, WEIGHTS),
        rows=about["arithmetic"].get(str(turn_of(state)), {}).get("rows", {}),
        base=identity["base"],
        preprocessing=identity["rows"]["preprocessing"],
        task=identity["options"]["task"]["name"],
        state=about["task"],
        lineage=(entry,),
    )


def begin(parent: Parent, net: Headed, plan: Plan, stages: Stages) -> tuple[LineageEntry, ...]:
    """Let a network begin with what a parent learnt; returns its lineage.

    Raises:
        ArtifactError: It is of another base, task or shape.
    """
    put_in(parent, net, plan)
    stages.note(f"starting from {parent.said}")
    return tuple(parent.lineage)


def put_in(parent: Parent, net: Headed, plan: Plan) -> None:
    """Write the weights of a parent into a network that is about to learn.

    Args:
        parent: What was opened.
        net: The network of the new fit; changed only if everything fits.
        plan: Of the new fit.

    Raises:
        ArtifactError: It is of another base, task or shape; one problem each.
    """
    import torch

    places = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    problems = [*_other_meaning(parent, plan), *_other_shapes(parent, places)]
    if problems:
        raise ArtifactError(problems)
    with torch.no_grad():
        for name, value in parent.weights.items():
            if name in parent.rows:
                rows = torch.tensor(list(parent.rows[name]), device=places[name].device)
                places[name].index_copy_(0, rows, value.to(places[name]))
            else:
                places[name].copy_(value)


def _other_meaning(parent: Parent, plan: Plan) -> Iterator[Problem]:
    base, wanted = to_json(plan.base.origin()), plan.wanted
    if dict(parent.base) != base:
        got, expected = str(parent.base.get("name")), str(base.get("name"))
        fix = f"give the same base with the same options: --base {got}"
        shown = (got, expected) if got != expected else (json.dumps(parent.base)[:200], json.dumps(base)[:200])
        yield _problem(parent, "it stands on another base", *shown, fix)
    elif not plan.base.pretrained and parent.preprocessing != plan.preprocessing:
        what = "it was learnt from scratch over rows that became arrays in another way (another vocabulary, other scales)"
        yield _problem(
            parent, what, "another preprocessing", "the same", "give the same training rows, or take a pretrained base"
        )
    task, names = (parent.task, _names(parent.state)), (wanted.task.name, _names(plan.task.state()))
    if task != names:
        fix = "start anew without --start-from: its outputs stand for something else"
        yield _problem(parent, "it answers something else", _short(task), _short(names), fix)


def _other_shapes(parent: Parent, places: Mapping[str, torch.Tensor]) -> Iterator[Problem]:
    wrong = []
    for name, value in parent.weights.items():
        place = places.get(name)
        whole = list(place.shape) if place is not None else None
        shape = list(value.shape)
        if whole is not None and name in parent.rows:
            inside = max(parent.rows[name], default=0) < whole[0] and len(parent.rows[name]) == shape[0]
            shape = [whole[0], *shape[1:]] if inside else shape
        if shape != whole:
            wrong.append((name, str(shape), "none of that name" if whole is None else str(whole)))
    fix = "give the tuning and the options of the network that it was fitted with; adapters can be merged first: regraft merge"
    for name, got, expected in wrong[:_SHOWN]:
        yield _problem(parent, f"its weight '{name}' has no place here", got, expected, fix)
    if len(wrong) > _SHOWN:
        yield _problem(parent, f"and {len(wrong) - _SHOWN} more weights have none", "", "", fix)


def _problem(parent: Parent, what: str, got: str, expected: str, fix: str) -> Problem:
    return Problem(
        what=f"this fit cannot start from {parent.said}: {what}", where=str(parent.place), got=got, expected=expected, fix=fix
    )


def _names(state: Any) -> Any:
    """Return what of a task's state says what its outputs stand for."""
    if isinstance(state, Mapping):
        return {str(name): _names(value) for name, value in state.items() if name not in _STATISTICS}
    return [_names(value) for value in state] if isinstance(state, list | tuple) else state


def _short(meaning: tuple[str, Any]) -> str:
    return f"{meaning[0]} {json.dumps(meaning[1], ensure_ascii=False)}"[:200]
