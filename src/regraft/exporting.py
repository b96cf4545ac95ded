"""The stages of an export: open the source, choose rows, write the other form, hold it against the source, say so.

    artifact -> Source -> exporter.write -> preliminary manifest -> a fresh process answers -> manifest with what it found

Everything happens in the staging folder of `write_artifact`: a form that does not answer as its source never appears.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from regraft.artifact.golden import Goldens, record
from regraft.artifact.learnt_rows import LEARNT_ROWS
from regraft.artifact.manifest import MANIFEST, ExportEntry, LineageEntry, Manifest, ManifestBody, library_versions
from regraft.artifact.store import CARD, GOLDEN, REPORT, Artifact, write_json
from regraft.artifact.verify import file_entries
from regraft.errors import GateError, Problem, UsageError
from regraft.exporters import EXPORTERS
from regraft.exporters.calibrated_head import changes, in_the_head
from regraft.exporters.exporter import Exporter, Needs, Source, Written
from regraft.registry import installed
from regraft.sampling import choose_rows
from regraft.serving import RUNTIMES
from regraft.serving.parity import GOLDENS, PROBABILITIES, Answers, compare_in_fresh_process
from regraft.serving.predictor import Predictor
from regraft.tasks.sureness import trust_of
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.verbs import ExportOptions

PREPROCESSING_FOLDER = "preprocessing"
_NOT_PACKAGES = frozenset({"regraft", "python"})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be exported, and what its answers will be held against.

    Args:
        source: The artifact, opened.
        exporter: Writes the other form.
        expected: Rows and the source's answers.
        rows: Where the rows came from, for the manifest.
        wanted: The options.
        goldens: Golden rows as the source answers them with its calibrator in its weights, where it was put there.
        notes: What becomes of its calibrator, for people.
    """

    source: Source
    exporter: Exporter
    expected: Answers
    rows: str
    wanted: ExportOptions
    goldens: Goldens | None = None
    notes: tuple[str, ...] = ()


def plan(artifact: Path, wanted: ExportOptions, stages: Stages) -> Plan:
    """Open the source, refuse what cannot be exported, and answer the rows that the export must answer alike.

    Raises:
        UsageError: The exporter cannot read this form of network, or the network has no exact mapping; one problem each.
        MissingExtraError: A package is not installed; names the extra.
    """
    exporter_class, options = wanted.format.resolve(EXPORTERS)
    exporter: Exporter = exporter_class(options)
    apart(artifact, wanted.out)
    with stages("open the source"):
        predictor = Predictor.load(artifact, threads=wanted.machine.threads, device="cpu")
        source = _source(predictor, exporter, wanted)
        _refuse(exporter, source)
    chosen = choose_rows(predictor, wanted, stages, calibration=exporter.calibration_rows)
    source = dataclasses.replace(source, calibration=chosen.calibration)
    with stages("answer with the source", len(chosen.rows)):
        expected = Answers.of(predictor, chosen.rows, truth=chosen.truth)
        made = Plan(source=source, exporter=exporter, expected=expected, rows=chosen.told, wanted=wanted)
        return _with_calibrator(made, predictor) if changes(source.task) else made


def _with_calibrator(made: Plan, predictor: Predictor) -> Plan:
    """Return the plan with the calibrator in the weights where other tools would leave it out, or with a note on where it is.

    Raises:
        GateError: With it in the weights rows are answered otherwise.
    """
    source, exporter = made.source, made.exporter
    if exporter.reads is None:
        return made  # what answers there is regraft itself
    name, bias = source.task.trust.calibrator.name, exporter.head_bias(source)
    moved = None if bias is None else in_the_head(source.network(), source.task, bias=bias)
    if moved is None:
        told = ", ".join(dict.fromkeys(part.task.trust.calibrator.name for part in source.task.parts))
        note = f"outputs of the network are not calibrated: regraft applies the calibration ({told}) in manifest.json"
        return dataclasses.replace(made, notes=(f"{note}, other tools do not",))
    from regraft.serving.runtime_torch import TorchRuntime

    net, task = moved
    again = Predictor(source.modality, task, TorchRuntime(net, made.wanted.machine), column=predictor.column)
    answers = Answers.of(again, list(made.expected.rows), truth=made.expected.truth)
    _same_probabilities(made.expected, answers)
    goldens = record(again, predictor.goldens().rows, source.modality.shortened)
    note = f"the calibration ({name}) stands in the weights of the last layer: other tools give calibrated probabilities too"
    source = dataclasses.replace(source, net=net, task=task)
    return dataclasses.replace(made, source=source, expected=answers, goldens=goldens, notes=(note,))


def _same_probabilities(was: Answers, now: Answers) -> None:
    moved = float(np.abs(was.probabilities - now.probabilities).max(initial=0.0))
    if not moved <= PROBABILITIES:
        what = f"with the calibration in the weights of the last layer a probability moves by {moved:.3g}"
        fix = "nothing was written; export in another format (regraft list exporters)"
        raise GateError(Problem(what=what, expected=f"at most {PROBABILITIES:g}", fix=fix))


def _source(predictor: Predictor, exporter: Exporter, wanted: ExportOptions) -> Source:
    if predictor.artifact is None:
        raise UsageError(Problem(what="only an artifact on disk can be exported", fix="name the folder of an artifact"))
    # Only the form that `fit` writes has a network in PyTorch; exporters that wrap an artifact take any form as it is.
    net = getattr(predictor.runtime, "net", None)
    if net is not None and exporter.folds:
        from regraft.models.transform import folded

        net = folded(net)
    name = Path(wanted.out).expanduser().resolve().name
    needs = _needs(predictor.artifact)
    return Source(
        artifact=predictor.artifact, modality=predictor.modality, task=predictor.task, net=net, name=name, needs=needs
    )


def _needs(artifact: Artifact) -> Needs:
    """Return what answering with an artifact as it is takes, in the versions with which the gate sees it answer here."""
    from regraft.models.transform import packages

    engine = RUNTIMES.get(artifact.manifest.network.runtimes[0])
    names = {name: version for name, version in library_versions().items() if name not in engine.does_without}
    more = packages(str(entry["name"]) for entry in artifact.manifest.transforms)
    needed = {**names, **{name: metadata.version(name) for name in (engine.package, *more)}}
    # A local build ("2.13.0+cpu") is the same release; other machines have builds of their own.
    plain = {name: version.partition("+")[0] for name, version in sorted(needed.items()) if name not in _NOT_PACKAGES}
    return Needs(extra=engine.extra, packages=plain)


def apart(artifact: Path, out: str) -> None:
    """Refuse a place that is the source's own or inside it: the result would take the place of what it was made from.

    Raises:
        UsageError: It is such a place.
    """
    here, place = artifact.expanduser().resolve(), Path(out).expanduser().resolve()
    if place == here or here in place.parents:
        what = f"the result would be written {'over' if place == here else 'into'} its source"
        raise UsageError(Problem(what=what, where=str(place), expected="another folder", fix="choose another --out"))


def _refuse(exporter: Exporter, source: Source) -> None:
    form = source.manifest.network.form
    if exporter.reads is not None and form not in exporter.reads:
        parents = [entry for entry in source.manifest.lineage if entry.verb == "fit"]
        fix = (
            f"export the artifact it was made from ({parents[-1].name})" if parents else "export the artifact it was made from"
        )
        what = f"the exporter '{exporter.name}' cannot read this artifact"
        expected = f"the form {' or '.join(sorted(exporter.reads))}"
        where = str(source.artifact.path)
        raise UsageError(Problem(what=what, where=where, got=f"an export of the form '{form}'", expected=expected, fix=fix))
    if problems := exporter.problems(source):
        raise UsageError(problems)


def fill(folder: Path, made: Plan, stages: Stages) -> ManifestBody:
    """Write the export into an empty folder, have a fresh process hold it against its source, and say what it is.

    Raises:
        GateError: It does not answer as its source.
    """
    source = made.source
    with stages("write"):
        written = made.exporter.write(source, folder)
        _around(folder, source)
        if made.goldens is not None:
            (folder / GOLDEN).unlink(missing_ok=True)
            write_json(folder / GOLDEN, made.goldens.to_json())
        if faults := made.exporter.faults(source, folder):
            raise GateError(faults)
    body = _body(made, written)
    with stages("hold against the source in a fresh process"):
        checked = _gate(folder, body, made, written)
    stages.notes([*written.notes, *made.notes])
    for seen in checked.values():
        if (goldens := seen.pop(GOLDENS, None)) is not None:  # of reduced precision: its answers are its own
            (folder / GOLDEN).unlink()
            write_json(folder / GOLDEN, goldens)
    network = dataclasses.replace(body.network, runtimes=tuple(checked))
    export = dataclasses.replace(_entry(made), gate={"rows": made.rows, "runtimes": checked})
    return dataclasses.replace(body, network=network, export=export)


def _around(folder: Path, source: Source) -> None:
    """Write what every export carries: preprocessing, report, golden rows, card."""
    inside = folder / PREPROCESSING_FOLDER
    inside.mkdir(exist_ok=True)
    source.modality.save(inside)
    for name in (REPORT, GOLDEN, CARD, LEARNT_ROWS):
        if name in source.manifest.files:
            shutil.copyfile(source.artifact.path / name, folder / name)


def _body(made: Plan, written: Written) -> ManifestBody:
    parent = made.source.manifest
    said = {item.name: getattr(parent, item.name) for item in dataclasses.fields(ManifestBody)}
    network = dataclasses.replace(parent.network, form=written.form, runtimes=written.runtimes, facts=dict(written.facts))
    inputs = tuple(dataclasses.replace(entry, folder=PREPROCESSING_FOLDER) for entry in parent.inputs)
    changed = {"network": network, "inputs": inputs, "export": _entry(made), "verb": "export", "parent": parent.digest}
    if made.goldens is not None:
        from regraft.models.net import weights_digest

        changed["task"] = dataclasses.replace(parent.task, calibration=trust_of(made.source.task))
        changed["weights_digest"] = weights_digest(made.source.network())
    changed["transforms"] = () if made.exporter.folds else parent.transforms
    return ManifestBody(**{**said, **changed, "lineage": (*parent.lineage, ancestor(made.source.artifact))})


def _entry(made: Plan) -> ExportEntry:
    return ExportEntry(format=made.exporter.name, options=dict(made.wanted.format.options))


def ancestor(artifact: Artifact) -> LineageEntry:
    """Return the entry for an artifact in the lineage of what is made from it."""
    manifest = artifact.manifest
    return LineageEntry(
        verb=manifest.verb,
        digest=manifest.digest,
        weights_digest=manifest.weights_digest,
        name=artifact.path.name,
        created=manifest.created,
        regraft=manifest.versions.get("regraft", ""),
    )


def _gate(folder: Path, body: ManifestBody, made: Plan, written: Written) -> dict[str, Any]:
    """Return for each runtime that agrees with the source what was found; the first must."""
    threads = made.wanted.machine.threads or default_threads()
    found: dict[str, Any] = {}
    # The rows are the user's: they wait in the private folder around the staged one, which a later run sweeps if this one dies.
    with _provisional(folder, body), tempfile.TemporaryDirectory(prefix="parity-", dir=folder.parent) as name:
        made.expected.save(Path(name))
        for place, runtime in enumerate(written.runtimes):
            engine = RUNTIMES.get(runtime)
            if place and not installed(engine.package):
                continue
            try:
                found[runtime] = compare_in_fresh_process(
                    folder,
                    Path(name),
                    runtime=runtime,
                    threads=threads,
                    precision=written.precision,
                    without=engine.does_without,
                )
            except GateError:
                if not place:
                    raise
    return found


@contextmanager
def _provisional(folder: Path, body: ManifestBody) -> Iterator[None]:
    """Let the folder be an artifact while it is judged; what is found out becomes part of the manifest that stays."""
    path = folder / MANIFEST
    path.write_bytes(Manifest.of(body, file_entries(folder)).to_bytes())
    try:
        yield
    finally:
        path.unlink()
