"""The stages of an export: open the source, choose rows, write the other form, hold it against the source, say so.

    artifact -> Source -> exporter.write -> preliminary manifest -> a fresh process answers -> manifest with what it found

Everything happens in the staging folder of `write_artifact`: a form that does not answer as its source never appears.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from regraft.artifact.manifest import MANIFEST, ExportEntry, LineageEntry, Manifest, ManifestBody, library_versions
from regraft.artifact.store import CARD, GOLDEN, REPORT, Artifact
from regraft.artifact.verify import file_entries
from regraft.data.rows import open_rows
from regraft.errors import DataError, GateError, Problem, UsageError, did_you_mean
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Exporter, Needs, Source, Written
from regraft.registry import installed
from regraft.serving import RUNTIMES
from regraft.serving.parity import Answers, compare_in_fresh_process
from regraft.serving.predictor import Predictor
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.verbs import ExportOptions

PREPROCESSING_FOLDER = "preprocessing"
_MADE_UP = 48
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
    """

    source: Source
    exporter: Exporter
    expected: Answers
    rows: str
    wanted: ExportOptions


def plan(artifact: Path, wanted: ExportOptions, stages: Stages) -> Plan:
    """Open the source, refuse what cannot be exported, and answer the rows that the export must answer alike.

    Raises:
        UsageError: The exporter cannot read this form of network, or the network has no exact mapping; one problem each.
        MissingExtraError: A package is not installed; names the extra.
    """
    exporter_class, options = wanted.format.resolve(EXPORTERS)
    exporter: Exporter = exporter_class(options)
    _apart(artifact, wanted)
    with stages("open the source"):
        predictor = Predictor.load(artifact, threads=wanted.machine.threads, device="cpu")
        source = _source(predictor, wanted)
        _refuse(exporter, source)
    rows, told = _rows(predictor, wanted, stages)
    with stages("answer with the source", len(rows)):
        expected = Answers.of(predictor, rows)
    return Plan(source=source, exporter=exporter, expected=expected, rows=told, wanted=wanted)


def _source(predictor: Predictor, wanted: ExportOptions) -> Source:
    if predictor.artifact is None:
        raise UsageError(Problem(what="only an artifact on disk can be exported", fix="name the folder of an artifact"))
    # Only the form that `fit` writes has a network in PyTorch; exporters that wrap an artifact take any form as it is.
    net = getattr(predictor.runtime, "net", None)
    name = Path(wanted.out).expanduser().resolve().name
    needs = _needs(predictor.artifact)
    return Source(
        artifact=predictor.artifact, modality=predictor.modality, task=predictor.task, net=net, name=name, needs=needs
    )


def _needs(artifact: Artifact) -> Needs:
    """Return what answering with an artifact as it is takes, in the versions with which the gate sees it answer here."""
    engine = RUNTIMES.get(artifact.manifest.network.runtimes[0])
    names = {name: version for name, version in library_versions().items() if name not in engine.does_without}
    packages = {**names, engine.package: metadata.version(engine.package)}
    # A local build ("2.13.0+cpu") is the same release; other machines have builds of their own.
    plain = {name: version.partition("+")[0] for name, version in sorted(packages.items()) if name not in _NOT_PACKAGES}
    return Needs(extra=engine.extra, packages=plain)


def _apart(artifact: Path, wanted: ExportOptions) -> None:
    """Refuse a place that is the source's own or inside it: the export would take the place of what it was made from."""
    here, place = artifact.expanduser().resolve(), Path(wanted.out).expanduser().resolve()
    if place == here or here in place.parents:
        what = "the export would be written over its source" if place == here else "the export would be written into its source"
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


def _rows(predictor: Predictor, wanted: ExportOptions, stages: Stages) -> tuple[list[Any], str]:
    """Return golden rows and a sample of real ones; without data, golden rows and examples of the modality."""
    golden = list(predictor.goldens().rows)
    if wanted.rows is not None:
        found = _sample(predictor, wanted, stages)
        return golden + found, f"{len(golden)} golden rows and {len(found)} rows of {Path(str(wanted.rows)).name}"
    signal_NS = np.random.default_rng(wanted.seed).random((_MADE_UP, 4))
    modality = predictor.modality
    made = [modality.as_json(raw) for raw in modality.made_up(signal_NS, wanted.seed) if not modality.problem(raw)]
    return golden + made, f"{len(golden)} golden rows and {len(made)} made-up ones; --rows DATA takes real rows"


def _sample(predictor: Predictor, wanted: ExportOptions, stages: Stages) -> list[Any]:
    """Return raw values of rows that can be answered, drawn from all of the data."""
    rows = open_rows(wanted.rows, wanted.data, split="test")
    stages.notes(rows.notes)
    if predictor.column not in rows.columns:
        what = f"there is no column '{predictor.column}' to read"
        raise DataError(Problem(what=what, where=rows.name, fix=did_you_mean(predictor.column, rows.columns)))
    modality = predictor.modality
    chunks = ((chunk.rows.column(predictor.column).to_pylist(), chunk.folder) for chunk in rows.chunks(modality.chunk_rows))
    raws = itertools.chain.from_iterable(modality.brought(values, folder)[0] for values, folder in chunks)
    good = (raw for raw in raws if not modality.problem(raw))
    found = [modality.as_json(raw) for raw in _drawn(good, wanted.sample, wanted.seed)]
    if not found:
        raise DataError(Problem(what="none of the rows can be answered", where=rows.name, fix="name other data with --rows"))
    return found


def _drawn(raws: Iterable[Any], count: int, seed: int) -> list[Any]:
    """Return at most `count` of the values, each as likely as any other (algorithm R of Vitter 1985), in bounded memory.

    Files are often sorted by label or time: the first rows say little about the rest.

    Example:
        >>> len(_drawn(range(100), 5, 0)), _drawn("abc", 5, 0)
        (5, ['a', 'b', 'c'])
    """
    generator = np.random.default_rng(seed)
    kept: list[Any] = []
    for seen, raw in enumerate(raws):
        if seen < count:
            kept.append(raw)
        elif (place := int(generator.integers(seen + 1))) < count:
            kept[place] = raw
    return kept


def fill(folder: Path, made: Plan, stages: Stages) -> ManifestBody:
    """Write the export into an empty folder, have a fresh process hold it against its source, and say what it is.

    Raises:
        GateError: It does not answer as its source.
    """
    source = made.source
    with stages("write"):
        written = made.exporter.write(source, folder)
        _around(folder, source)
        if faults := made.exporter.faults(source, folder):
            raise GateError(faults)
    body = _body(made, written)
    with stages("hold against the source in a fresh process"):
        checked = _gate(folder, body, made, written)
    stages.notes(written.notes)
    network = dataclasses.replace(body.network, runtimes=tuple(checked))
    export = dataclasses.replace(_entry(made), gate={"rows": made.rows, "runtimes": checked})
    return dataclasses.replace(body, network=network, export=export)


def _around(folder: Path, source: Source) -> None:
    """Write what every export carries: preprocessing, report, golden rows, card."""
    inside = folder / PREPROCESSING_FOLDER
    inside.mkdir(exist_ok=True)
    source.modality.save(inside)
    for name in (REPORT, GOLDEN, CARD):
        if name in source.manifest.files:
            shutil.copyfile(source.artifact.path / name, folder / name)


def _body(made: Plan, written: Written) -> ManifestBody:
    parent = made.source.manifest
    said = {item.name: getattr(parent, item.name) for item in dataclasses.fields(ManifestBody)}
    network = dataclasses.replace(parent.network, form=written.form, runtimes=written.runtimes, facts=dict(written.facts))
    inputs = tuple(dataclasses.replace(entry, folder=PREPROCESSING_FOLDER) for entry in parent.inputs)
    changed = {"network": network, "inputs": inputs, "export": _entry(made), "verb": "export", "parent": parent.digest}
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
