"""What each verb can be asked for: the options of `fit`, `evaluate`, `predict`, `compare`, `serve`, `export`, `merge`, `sign`.

Python, run.yaml, `--set` and flags all end here. A field with a `flag` has its own command-line flag; every field can be
reached with `--set path=value`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from regraft.data.options import DataOptions
from regraft.evaluation.options import FitJudgeOptions, JudgeOptions
from regraft.options import JSON, Among, Before, Field, PathText, Pick, joined_names, options
from regraft.tasks.sureness import Asked
from regraft.training.options import ComputeOptions, MachineOptions, TrainOptions


@options
class FitOptions:
    """How a base becomes an artifact."""

    target: Annotated[str | dict[str, str], Field(json_schema_extra={"flag": "--target", "repeated": "COLUMN[=TASK]"})]
    """Column to predict; with several, each as COLUMN=TASK, a head for each over one backbone."""

    out: Annotated[PathText, Field(json_schema_extra={"flag": "--out"})]
    """Directory the artifact is written to; it appears whole or not at all, and takes the place of an older artifact."""

    columns: Annotated[
        dict[str, Annotated[str, Before(joined_names)]], Field(json_schema_extra={"flags": "regraft.modalities:MODALITIES"})
    ] = Field(default_factory=dict)
    """Column to read, of a table several with commas between them; found by looking at the columns if not given."""

    task: Annotated[Pick, Among("regraft.tasks:TASKS"), Field(json_schema_extra={"flag": "--task"})] = Pick("classification")
    """What is predicted."""

    base: Annotated[
        Pick, Among("regraft.models:BASES", "regraft.models.hub:as_base"), Field(json_schema_extra={"flag": "--base"})
    ] = Pick("minilm")
    """Model to start from: a name of `regraft bases`, a Hugging Face folder, or a hub id such as owner/name."""

    modality: Annotated[Pick, Among("regraft.modalities:MODALITIES", later=True)] = Pick("")
    """How raw values become arrays (`--set modality.max_length=256`); what the base reads if no name is given."""

    tuning: Annotated[Pick, Among("regraft.tuning:TUNINGS", later=True), Field(json_schema_extra={"flag": "--tuning"})] = Pick(
        ""
    )
    """Which weights learn; if not given, those that suit the base and the number of rows (`regraft.defaults`)."""

    objective: Annotated[Pick, Among("regraft.objectives:OBJECTIVES")] = Pick("supervised")
    """How the loss is made."""

    valid: Annotated[PathText | None, Field(json_schema_extra={"flag": "--valid"})] = None
    """Validation data (a file, a folder or a name); split off if not given."""

    test: Annotated[PathText | None, Field(json_schema_extra={"flag": "--test"})] = None
    """Test data (a file, a folder or a name); split off if not given."""

    seed: Annotated[int, Field(ge=0, lt=2**63, json_schema_extra={"flag": "--seed"})] = 0
    """Draws the split, new weights, the order of rows and dropout. Same seed, same bytes."""

    data: DataOptions = Field(default_factory=DataOptions)
    """How files are read and rows are split."""

    train: TrainOptions = Field(default_factory=TrainOptions)
    """How the network is trained."""

    judge: FitJudgeOptions = Field(default_factory=FitJudgeOptions)
    """How the result is calibrated and judged."""

    machine: ComputeOptions = Field(default_factory=ComputeOptions)
    """What of the machine is used, and how its arithmetic is done."""

    @classmethod
    def as_layer(cls, values: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return values with targets as one list, which another layer's takes the place of whole."""
        target = values.get("target")
        listed = {"target": [{name: task} for name, task in target.items()]} if isinstance(target, Mapping) else {}
        return {**values, **listed}

    @classmethod
    def spelt_out(cls, values: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return values in which several targets stand in the task."""
        from regraft.tasks.short_form import spelt_out

        usual = next(item.default for item in dataclasses.fields(cls) if item.name == "task")
        return spelt_out(values, usual.name)

    @property
    def targets(self) -> tuple[str, ...]:
        """Columns to predict."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)


@options
class AnswerOptions:
    """How an artifact is asked: for `evaluate`, `predict`, `compare` and `serve`."""

    batch_size: Annotated[int, Field(ge=1, json_schema_extra={"flag": "--batch-size"})] = 32
    """Rows a forward pass."""

    strict: Annotated[bool, Field(json_schema_extra={"flag": "--strict"})] = False
    """Stop at the first row that cannot be answered, instead of reporting it in its place."""

    seed: Annotated[int, Field(ge=0, lt=2**63, json_schema_extra={"flag": "--seed"})] = 0
    """Draws the resamples behind the intervals."""

    target: Annotated[str | None, Field(json_schema_extra={"flag": "--target"})] = None
    """Column that holds the truth; the one that the artifact was fitted to if not given."""

    data: DataOptions = Field(default_factory=DataOptions)
    """How files are read."""

    judge: JudgeOptions = Field(default_factory=JudgeOptions)
    """How answers are judged."""

    machine: MachineOptions = Field(default_factory=MachineOptions)
    """What of the machine is used."""

    runtime: Annotated[str, Field(json_schema_extra={"flag": "--runtime"})] = "auto"
    """What computes the network: a name of `regraft list runtimes`, or auto for the fastest here that can."""

    coverage: Annotated[float | None, Field(gt=0.0, lt=1.0, json_schema_extra={"flag": "--coverage"})] = None
    """Chance with which the set (of labels) or interval (of numbers) told beside each answer holds the truth, such as 0.9."""

    min_confidence: Annotated[float | None, Field(ge=0.0, le=1.0, json_schema_extra={"flag": "--min-confidence"})] = None
    """Probability below which an answer is marked as abstained."""

    precision: Annotated[float | None, Field(gt=0.0, lt=1.0, json_schema_extra={"flag": "--precision"})] = None
    """Share of the answers that must be right, such as 0.98; the others are marked as abstained. Found on the validation rows
    of the fit, with a bound that holds in 95 of 100 fits."""

    @property
    def asked(self) -> Asked:
        """What is told beside answers."""
        return Asked(coverage=self.coverage, min_confidence=self.min_confidence, precision=self.precision)


@options
class RetrieveOptions(AnswerOptions):
    """How an artifact of two towers is asked: for `retrieve`."""

    top: Annotated[int, Field(ge=1, json_schema_extra={"flag": "--top"})] = 10
    """Rows that are found for each row that asks."""

    by: Annotated[str | None, Field(json_schema_extra={"flag": "--by"})] = None
    """The part that asks, by its name (its column); found by looking at the columns of both sides if not given."""


@options
class ExportOptions:
    """How an artifact is made into another form."""

    format: Annotated[Pick, Among("regraft.exporters:EXPORTERS"), Field(json_schema_extra={"flag": "--format"})]
    """What to make of it: a name of `regraft list exporters`."""

    out: Annotated[PathText, Field(json_schema_extra={"flag": "--out"})]
    """Directory it is written to; it appears whole and held against its source, or not at all."""

    rows: Annotated[PathText | None, Field(json_schema_extra={"flag": "--rows"})] = None
    """Data (a file, a folder or a name) whose rows the export must answer as its source does, beside the golden rows; made up
    from the golden rows and examples of the modality if not given."""

    sample: Annotated[int, Field(ge=1, le=1_000_000, json_schema_extra={"flag": "--sample"})] = 1000
    """Most rows that are taken for that."""

    seed: Annotated[int, Field(ge=0, lt=2**63, json_schema_extra={"flag": "--seed"})] = 0
    """Draws the rows."""

    data: DataOptions = Field(default_factory=DataOptions)
    """How files are read."""

    machine: MachineOptions = Field(default_factory=MachineOptions)
    """What of the machine is used."""


@options
class MergeOptions:
    """How the adapters of an artifact become part of its weights."""

    out: Annotated[PathText, Field(json_schema_extra={"flag": "--out"})]
    """Directory it is written to; it appears whole and held against its source, or not at all."""

    machine: MachineOptions = Field(default_factory=MachineOptions)
    """What of the machine is used."""


@options
class ReportOptions:
    """Where the report page is written, and in which language."""

    out: Annotated[PathText, Field(json_schema_extra={"flag": "--out"})]
    """File of the page, .html; one that stands there is replaced."""

    language: Annotated[str, Field(json_schema_extra={"flag": "--language"})] = "en"
    """Language of the page: en or zh. What data and notes say stays as it is."""


@options
class SignOptions:
    """How an artifact is signed, and how its signature is verified."""

    key: Annotated[PathText, Field(json_schema_extra={"flag": "--key"})]
    """File with the key (PEM, elliptic curve): the private one to sign, the public one to verify."""

    signature: Annotated[PathText | None, Field(json_schema_extra={"flag": "--signature"})] = None
    """File of the signature; beside the artifact, with .sig after its name, if not given."""

    @property
    def place(self) -> Path | None:
        """The file of the signature, if one was named."""
        return None if self.signature is None else Path(self.signature)
