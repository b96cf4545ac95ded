"""The verbs. Start reading here: each is one stage of a model's life, of one shape.

verb(artifact or base, data, options) -> artifact or report

artifact = fit("mails.csv", target="label", out="spam")     data -> base -> fit -> judge -> one verified directory
report   = evaluate(artifact, "new.csv")                    how good on these rows, with intervals
answers  = predict(artifact, ["Win a prize now"])           one prediction a row
found    = retrieve(artifact, ["a cat"], among="photos")    of two towers: what belongs to these rows
artifact = merge(artifact, out="spam-merged")               adapters folded into the weights, the same answers
artifact = export(artifact, format="onnx", out="spam-onnx") the same answers from another runtime, or a refusal
report   = compare(old, new, "new.csv")                     better, no evidence, or worse
page     = report(old, new, out="both.html")                what was found when each was made, for people
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import answering
from regraft.families import FAMILIES
from regraft.models import BASES
from regraft.options import build
from regraft.registry import require
from regraft.training.stages import Listener, Stages, ignore
from regraft.training.threads import with_threads
from regraft.types import Ledger, Prediction
from regraft.verbs import AnswerOptions, ExportOptions, FitOptions, MergeOptions, ReportOptions, RetrieveOptions, SignOptions

if TYPE_CHECKING:
    from rich.console import Console

    from regraft.artifact.store import Artifact
    from regraft.evaluation.report import Report
    from regraft.models import BaseCard
    from regraft.reporting.event_reader import LogTo
    from regraft.retrieving import Found
    from regraft.serving.predictor import Predictor
    from regraft.serving.stream import StreamSummary
    from regraft.training.cache.listing import CacheListing


def fit(
    data: Any = None,
    /,
    *,
    config: str | Path | None = None,
    resume: str | Path | None = None,
    start_from: str | Path | None = None,
    log_to: LogTo = (),
    listen: Listener = ignore,
    **options: Any,
) -> Artifact:
    """Fit a base to data, judge it against the baselines, save it as an artifact that answers as it was judged.

    Args:
        data: A file, a folder, the name of a sample, a DataFrame, a `datasets` object, an Arrow table or a list of dicts;
            given by position, because `data={...}` among the options says how it is read. A recipe may name it instead.
        config: A recipe: a YAML file with options (`regraft.recipe`); those given here win over it.
        resume: The `out` of a fit that was interrupted: goes on where it stood, with the same data and
            options, to the same bytes.
        start_from: An artifact, or the `out` of a fit that was interrupted: the network begins with what that learnt, with an
            optimiser and a schedule of its own. Base, task and labels must be the same.
        log_to: Readers of events (`regraft list event-readers`) with their places: {"tensorboard": "runs"}, ["curves"].
        listen: Called with every event (`regraft.training.events`).
        **options: The fields of `FitOptions`; `target` and `out` are required. `valid` and `test` take whatever `data` takes;
            `text="body"` or `image="file"` name the column to read.

    Returns:
        The artifact; `artifact.report` holds metrics, ladder, verdict and ledger.

    Raises:
        UsageError: Options, data or base cannot be used; nothing was started.
        MissingExtraError: What brings networks is not installed; names the extra.
        GateError: The saved artifact does not answer as the network that was judged; nothing was written.
        InterruptedRunError: SIGINT or SIGTERM came while weights learnt; what was learnt is kept for `resume`.

    Example:
        `fit("mails.csv", target="label", out="spam-model", train={"epochs": 2})`
    """
    require("torch", "transformers", needed_by="fitting", extra="train")
    from regraft import fitting, resuming, starting
    from regraft.artifact.store import check_out, write_artifact
    from regraft.recipe import with_recipe
    from regraft.reporting.event_reader import Following
    from regraft.reporting.writing import with_page

    if resume is None:
        data, options, recipe = with_recipe(config, data, options)
    else:
        data, options, recipe, start_from = resuming.as_it_was(resume, data, options)
    data, options = fitting.joined_splits(data, options)
    wanted = build(FitOptions, options)
    fitting.check_there(data, wanted.valid, wanted.test)
    following = Following(log_to, wanted.out, listen)
    stages, place = Stages(following), check_out(wanted.out)
    parent = None if start_from is None else starting.opened(start_from, place)
    run = resuming.run_of(place, wanted, data, recipe, start_from, resumed=resume is not None)
    base, wanted = fitting.open_base(starting.as_it_goes_on(fitting.settled(data, wanted, stages), parent), stages)
    with following, run.folder, with_threads(wanted.machine.threads), fitting.read(data, wanted, stages) as dataset:
        plan = fitting.plan(data, dataset, base, wanted, stages)
        net = fitting.network(plan, stages)
        run.require_room(net)
        if parent is not None:
            run.lineage = starting.begin(parent, net, plan, stages)
        before, trained = fitting.learn(net, plan, stages, run)
        report = fitting.judge(net, plan, before, trained, stages, recipe)
        with stages("save and replay in a fresh process"):
            fill = functools.partial(fitting.fill, net=net, plan=plan, report=report, run=run)
            paged, gate = with_page(fill, plan, report, stages), functools.partial(fitting.gate, net=net, wanted=wanted)
            return run.written(functools.partial(write_artifact, wanted.out, paged, gate), net, plan, stages)


def load(artifact: str | Path | Artifact, *, threads: int | None = None) -> Predictor:
    """Open an artifact, verified, ready to answer.

    Args:
        artifact: Its folder.
        threads: Threads of the numeric libraries; the cores this process may use if not given.

    Raises:
        ArtifactError: It is missing, damaged, edited, unsafe or too new.
    """
    from regraft.serving.predictor import Predictor

    return Predictor.load(answering.folder(artifact), threads=threads)


def predict(artifact: str | Path | Artifact | Predictor, rows: Sequence[Any], **options: Any) -> list[Prediction]:
    """Answer rows.

    Args:
        artifact: Its folder, or a predictor that `load` gave.
        rows: Raw values, or mappings from column name to value.
        **options: The fields of `AnswerOptions`.

    Returns:
        One prediction a row, in order; a row that cannot be answered says why in `error` (an error with `strict=True`).
    """
    wanted = build(AnswerOptions, options)
    return answering.opened(artifact, wanted).predict(rows, batch_size=wanted.batch_size, strict=wanted.strict)


def predict_file(
    artifact: str | Path | Artifact | Predictor,
    data: Any,
    /,
    *,
    out: str | Path | None,
    listen: Listener = ignore,
    **options: Any,
) -> StreamSummary:
    """Answer every row of a file into another, in memory that does not grow with the number of rows.

    Args:
        artifact: Its folder, or a predictor that `load` gave.
        data: A file, a folder, the name of a sample, or any object that `fit` takes.
        out: A .csv, .tsv, .jsonl or .parquet file; standard output as JSON lines if None.
        listen: Called with every event.
        **options: The fields of `AnswerOptions`.

    Returns:
        How many rows were read, answered and bad, and what was lost.
    """
    wanted, stages = build(AnswerOptions, options), Stages(listen)
    source = answering.source(data, wanted, stages)
    writer = answering.writer(out, source)
    predictor = answering.opened(artifact, wanted)
    with stages("predict", source.row_count):
        return predictor.predict_stream(
            source,
            writer,
            batch_size=wanted.batch_size,
            strict=wanted.strict,
            progress=lambda done, _: stages.progress(done),
        )


def retrieve(
    artifact: str | Path | Artifact | Predictor,
    queries: Any,
    /,
    *,
    among: Any,
    listen: Listener = ignore,
    **options: Any,
) -> list[Found]:
    """Find what belongs to rows that have one part of a pair: pictures by names, names by pictures, labels by their words.

    Args:
        artifact: Folder of an artifact of the task retrieval, or a predictor that `load` gave.
        queries: Rows that ask: whatever `fit` takes as data, or a list of plain values of one part.
        among: Rows that can be found, the same. A list of names makes it zero-shot classification.
        listen: Called with every event.
        **options: The fields of `RetrieveOptions`.

    Returns:
        One entry a row that asks, in order, the nearest matches first with cosine and probability.

    Raises:
        UsageError: The artifact holds no parts against each other.
        DataError: Columns are missing, or nothing can be found.

    Example:
        `retrieve("emoji-model", ["a cat that laughs"], among="emoji", by="name")`
    """
    from regraft import retrieving

    windows, *_ = retrieving.asked(artifact, queries, among, build(RetrieveOptions, options), Stages(listen))
    return [found for window in windows for found, _ in window]


def retrieve_file(
    artifact: str | Path | Artifact | Predictor,
    queries: Any,
    /,
    *,
    among: Any,
    out: str | Path | None,
    listen: Listener = ignore,
    **options: Any,
) -> Ledger:
    """Write what `retrieve` finds, one line for each row that was found; returns rows that could not ask or be found.

    Args:
        artifact: As `retrieve` takes it.
        queries: As `retrieve` takes them.
        among: As `retrieve` takes them.
        out: A .csv, .tsv, .jsonl or .parquet file; standard output as JSON lines if None.
        listen: Called with every event.
        **options: The fields of `RetrieveOptions`.
    """
    from regraft import retrieving

    wanted, stages = build(RetrieveOptions, options), Stages(listen)
    windows, held, asking = retrieving.asked(artifact, queries, among, wanted, stages)
    ledger = retrieving.written(windows, answering.writer(out, asking))
    ledger.include(held.ledger)
    return ledger


def render(
    artifact: str | Path | Artifact | Predictor,
    data: Any = None,
    /,
    *,
    out: str | Path | Console,
    rows: int = 24,
    listen: Listener = ignore,
    **options: Any,
) -> list[Path]:
    """Draw answered rows as people look at them: pictures, spectrograms, lines, tables, texts, each with its answer.

    Args:
        artifact: Its folder, or a predictor that `load` gave.
        data: What to draw rows of, drawn from all of it; the golden rows of the artifact if not given.
        out: A .png (all on one sheet), a .html (a page that needs nothing else), a folder (both), or a console of `rich`.
        rows: How many.
        listen: Called with every event.
        **options: The fields of `AnswerOptions`.

    Returns:
        The files.

    Raises:
        OptionsError: Nothing can be drawn there.
        MissingExtraError: matplotlib is wanted and not installed; names the extra.
    """
    from regraft.rendering import answered, render

    wanted, stages = build(AnswerOptions, options), Stages(listen)
    render.check_out(out)
    answered.check_count(rows)
    predictor = answering.opened(artifact, wanted)
    with stages("draw rows", rows):
        shown = answered.goldens(predictor, rows) if data is None else answered.drawn(predictor, data, rows, wanted, stages)
        return render.render(predictor.modality, shown, out, answered.title(predictor, data))


def evaluate(
    artifact: str | Path | Artifact | Predictor,
    data: Any,
    /,
    *,
    page: str | Path | None = None,
    language: str = "en",
    listen: Listener = ignore,
    **options: Any,
) -> Report:
    """Judge an artifact on labelled rows that it has not learnt from.

    Args:
        artifact: Its folder, or a predictor that `load` gave; or a file or table of predictions made elsewhere.
        data: Labelled rows: a file, a folder, the name of a sample, or any object that `fit` takes.
        page: File of the report page (.html), if one is wanted.
        language: Of the page: en or zh.
        listen: Called with every event.
        **options: The fields of `AnswerOptions`.

    Returns:
        Metrics with n and interval, per class, confusion matrix, the verdict against always answering the commonest label, and
        what answering cost.

    Raises:
        DataError: Rows cannot be judged: a label is unknown, a column is missing, the artifact learnt from them.
    """
    from regraft.reporting.writing import PageOf

    wanted, stages = build(AnswerOptions, options), Stages(listen)
    drawn = PageOf(page, language)
    with stages("open the artifact"):
        entrants = answering.with_previous(answering.entrant(artifact, wanted), wanted)
    answered = answering.labelled(entrants, data, wanted, stages, drawn.seeing(entrants[0]), judged=0)
    return drawn.written(answering.evaluation(entrants, answered, wanted, stages))


def compare(
    first: Any,
    second: Any,
    /,
    *others_then_data: Any,
    page: str | Path | None = None,
    language: str = "en",
    listen: Listener = ignore,
    **options: Any,
) -> Report:
    """Say whether the last of two or more artifacts is better than those before it, on the same labelled rows.

    Args:
        first: Folder of the artifact that stands; or a file or table of predictions made elsewhere.
        second: Folder of the artifact that may take its place; or such predictions.
        others_then_data: Further artifacts, if any; and last the labelled rows: a file, a folder, the name of a sample, or any
            object that `fit` takes. Artifacts that differ in nothing but their seed are one contender with several seeds.
        page: File of the report page (.html), if one is wanted.
        language: Of the page: en or zh.
        listen: Called with every event.
        **options: The fields of `AnswerOptions`.

    Returns:
        A report on the last, its ladder holding all, with the verdict better / no evidence / worse and what they cost.

    Raises:
        UsageError: No labelled rows are named.
        DataError: Rows cannot be judged, or predictions made elsewhere do not fit them.

    Example:
        `compare("spam-old", "spam-new", "new.csv")`, `compare("spam-model", "their-answers.csv", "new.csv")`
    """
    from regraft.reporting.writing import PageOf

    *others, data = answering.data_last(first, second, others_then_data)
    wanted, stages = build(AnswerOptions, options), Stages(listen)
    drawn = PageOf(page, language)
    with stages("open the artifacts"):
        entrants = [answering.entrant(one, wanted, number) for number, one in enumerate(others, start=1)]
    answered = answering.labelled(entrants, data, wanted, stages, drawn.seeing(entrants[-1]))
    return drawn.written(answering.comparison(entrants, answered, wanted, stages))


def report(*artifacts: str | Path | Artifact, **options: Any) -> Path:
    """Write the report page of an artifact, or of up to ten side by side: one HTML file that needs nothing from outside.

    Args:
        *artifacts: Their folders. Those judged on the same test rows are held against the first by a paired test.
        **options: The fields of `ReportOptions`; `out` is required.

    Returns:
        The file.

    Raises:
        UsageError: There are none or too many.
        OptionsError: The file cannot be a page, or the page does not speak the language.
        ArtifactError: An artifact is damaged, or has no report.

    Example:
        `report("spam-full", "spam-lora", out="both.html", language="zh")`
    """
    from regraft.artifact.store import read_artifact
    from regraft.reporting.writing import check_count, check_page, write_pages

    wanted = build(ReportOptions, options)
    place = check_page(wanted.out, wanted.language)
    check_count(len(artifacts))
    return write_pages([read_artifact(answering.folder(artifact)) for artifact in artifacts], place, wanted.language)


def export(artifact: str | Path | Artifact, *, listen: Listener = ignore, **options: Any) -> Artifact:
    """Make an artifact into another form, and let it appear only if a fresh process answers with it as the source does.

    Args:
        artifact: Its folder.
        listen: Called with every event.
        **options: The fields of `ExportOptions`; `format` and `out` are required.

    Returns:
        The export, an artifact itself: `predict`, `evaluate`, `compare` and `serve` take it. Its manifest says what was seen.

    Raises:
        UsageError: It cannot be made into this form; nothing was started.
        GateError: What was written does not answer as the source; it was removed again.

    Example:
        `export("spam-model", format="onnx", out="spam-onnx", rows="mails.csv")`
    """
    from regraft import exporting
    from regraft.artifact.store import check_out, write_artifact

    wanted, stages = build(ExportOptions, options), Stages(listen)
    check_out(wanted.out)
    made = exporting.plan(answering.folder(artifact), wanted, stages)
    return write_artifact(wanted.out, functools.partial(exporting.fill, made=made, stages=stages))


def merge(artifact: str | Path | Artifact, *, listen: Listener = ignore, **options: Any) -> Artifact:
    """Fold the adapters of an artifact into its weights, and let the result appear only if it answers as before.

    Args:
        artifact: Its folder.
        listen: Called with every event.
        **options: The fields of `MergeOptions`; `out` is required.

    Returns:
        An artifact without adapters, its backbone a hub folder with the merged weights; the first one is its parent.

    Raises:
        UsageError: There is nothing to merge.
        GateError: Merged, it answers otherwise; nothing was written.

    Example:
        `merge("spam-lora", out="spam-merged")`
    """
    from regraft import merging
    from regraft.artifact.store import check_out, write_artifact

    wanted, stages = build(MergeOptions, options), Stages(listen)
    check_out(wanted.out)
    made = merging.plan(answering.folder(artifact), wanted, stages)
    with stages("save and replay in a fresh process"):
        return write_artifact(
            wanted.out, functools.partial(merging.fill, made=made), functools.partial(merging.gate, made=made)
        )


def sign(artifact: str | Path | Artifact, **options: Any) -> Path:
    """Sign every file of an artifact with a private key.

    Args:
        artifact: Its folder.
        **options: The fields of `SignOptions`; `key` is required.

    Returns:
        Where the signature stands: beside the folder, because what is inside is what was judged.

    Raises:
        ArtifactError: The artifact is damaged or edited; it is not signed.
        UsageError: The key cannot be used.
    """
    from regraft.artifact import signing
    from regraft.artifact.store import read_artifact

    wanted = build(SignOptions, options)
    return signing.sign(read_artifact(answering.folder(artifact)), Path(wanted.key), signature=wanted.place)


def verify(artifact: str | Path | Artifact, **options: Any) -> Artifact:
    """Refuse an artifact unless the holder of a key signed every file as it is now.

    Args:
        artifact: Its folder.
        **options: The fields of `SignOptions`; `key`, the public one, is required.

    Returns:
        The artifact.

    Raises:
        ArtifactError: It is damaged, edited, not signed, or signed with another key.
    """
    from regraft.artifact import signing
    from regraft.artifact.store import read_artifact

    wanted, whole = build(SignOptions, options), read_artifact(answering.folder(artifact))
    signing.verify_signature(whole, Path(wanted.key), signature=wanted.place)
    return whole


def inspect(artifact: str | Path | Artifact) -> dict[str, Any]:
    """Verify an artifact and return its facts: what it answers, from what, how good, made of which files."""
    from regraft.artifact.describe import describe
    from regraft.artifact.store import read_artifact

    return describe(read_artifact(answering.folder(artifact)))


def bases(name: str | None = None, *, fetch: bool = False, say: Callable[[str], None] = lambda _: None) -> list[BaseCard]:
    """Return the cards of the base models, or of one; fetch that one if asked to.

    Args:
        name: Registered name, folder or hub id; all registered ones if not given.
        fetch: Fetch and verify it, so that it works without a network.
        say: Called with sentences about the fetching.
    """
    if name is None:
        return [card for known in BASES if (card := answering.base_card(known))]
    from regraft.fitting import base_of

    base = base_of(name)
    if fetch:
        base.fetch(say)
    return [base.card()]


def cache(**options: Any) -> CacheListing:
    """Say what is kept of earlier work (features of frozen layers, encoded rows), and remove what is asked for.

    Args:
        **options: The fields of `PruneOptions`; without `prune=True` nothing is removed.

    Returns:
        What is there, by key, the last used first; what was removed.
    """
    from regraft.training.cache.listing import listing
    from regraft.training.cache.options import PruneOptions

    return listing(build(PruneOptions, options))


def serve(
    artifact: str | Path | Artifact,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> None:
    """Answer over HTTP until interrupted: POST /predict, of two towers POST /retrieve, GET /health, GET /info.

    Args:
        artifact: Its folder.
        host: Address to listen on; another than loopback needs a token in REGRAFT_TOKEN.
        port: Port; 0 takes a free one.
        say: Called with the address and what happens.
        **options: The fields of `AnswerOptions`.
    """
    from regraft.serving.options import ServeOptions
    from regraft.serving.serve import serve as run

    wanted = build(AnswerOptions, options)
    served = build(ServeOptions, {"host": host, "port": port, "batch_size": wanted.batch_size})
    run(answering.opened(artifact, wanted), served, say=say)


def list_family(family: str, *, compatible: str | Path | None = None) -> dict[str, str]:
    """Return the names of a family with one line each.

    Args:
        family: A family of `regraft.families` ("tasks", "bases", "tunings", ...).
        compatible: Folder of an artifact: only what works with its network.
    """
    names = answering.summaries(FAMILIES.get(family))
    return names if compatible is None else answering.compatible(names, family, Path(compatible))


__all__ = [
    "bases",
    "cache",
    "compare",
    "evaluate",
    "export",
    "fit",
    "inspect",
    "list_family",
    "load",
    "merge",
    "predict",
    "predict_file",
    "render",
    "report",
    "retrieve",
    "retrieve_file",
    "serve",
    "sign",
    "verify",
]
