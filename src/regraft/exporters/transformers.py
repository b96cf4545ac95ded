"""The hub's own class for classifying sequences: `transformers.pipeline("text-classification", FOLDER)` gives our answers.

Configuration, weights and tokenizer lie at the top of the folder, where the hub's tools look for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regraft.errors import Problem
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.exporters.hub_folder import (
    config_faults,
    filler,
    tensor_faults,
    tokenizer_faults,
    tokenizer_problems,
    write_tokenizer,
)
from regraft.models.folder_check import CONFIG_FILE
from regraft.models.safety import config_problems, read_json, weight_files
from regraft.options import options

OF_THE_CLASS = (
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "pad_token_id",
    "problem_type",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
)


@options
class TransformersOptions:
    """The hub's folder has nothing to choose."""


class TransformersExporter(Exporter):
    """A hub folder with the hub's own class for classifying sequences, where its answers are exactly the same."""

    Options: ClassVar[type[Any]] = TransformersOptions
    name = "transformers"

    def problems(self, source: Source) -> list[Problem]:
        """Return why the hub has no class that answers as this network, or the hub's tools cannot read its inputs."""
        from regraft.models.hub_classifier import mapping_problems

        if source.modality.part_names:
            return tokenizer_problems(source)  # there is not one body that could be mapped
        labels = dict.fromkeys(source.task.names, 1)
        problems = [*tokenizer_problems(source), *mapping_problems(source.network()), *config_problems(labels, "the labels")]
        if not source.task.hub_problem:
            what = f"the hub has no class for the task '{source.task.name}'"
            fix = "make another form of it, such as regraft export ARTIFACT --format onnx"
            problems.append(Problem(what=what, fix=fix))
        return problems

    def head_bias(self, source: Source) -> bool | None:
        """Return whether the hub's head has summands; its pipeline makes probabilities of what that gives."""
        from regraft.models.hub_heads import HUB_HEADS

        if source.modality.part_names:
            return None
        head = HUB_HEADS.get(str(source.network().backbone.body.config.model_type))
        return None if head is None else head.bias

    def write(self, source: Source, folder: Path) -> Written:
        """Write configuration, weights and tokenizer as `save_pretrained` of the hub's class does."""
        from regraft.models.hub_classifier import hub_config, save_classifier
        from regraft.models.net import BACKBONE_FOLDER

        values = read_json(source.artifact.path / BACKBONE_FOLDER / CONFIG_FILE)
        config = hub_config(values, source.task.names, source.task.hub_problem, filler(source)[0])
        save_classifier(source.network(), config, folder)
        write_tokenizer(source, folder)
        length = source.modality.longest
        note = f"texts are cut at {length} tokens only if asked to: pipeline('text-classification', FOLDER, truncation=True)"
        return Written(form="transformers", runtimes=("transformers",), facts={"class": config.architectures[0]}, notes=(note,))

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights, labels, settings and tokens in the folder that are not the source's."""
        from regraft.models.hub_classifier import hub_state

        return [
            *tensor_faults(hub_state(source.network()), weight_files(folder)),
            *label_faults(source, folder),
            *config_faults(source, folder, OF_THE_CLASS),
            *tokenizer_faults(source, folder),
        ]


def label_faults(source: Source, folder: Path) -> list[Problem]:
    """Return where the labels in a folder's config.json are not those of the source, in their order."""
    said = read_json(folder / CONFIG_FILE)
    expected = {str(number): label for number, label in enumerate(source.task.names)}
    turned = {label: int(number) for number, label in expected.items()}
    if said.get("id2label") == expected and said.get("label2id") == turned:
        return []
    what, fix = (
        "the labels of the export are not those of the source, in their order",
        "report this with the artifact's options",
    )
    got = f"{said.get('id2label')}, {said.get('label2id')}"[:300]
    return [Problem(what=what, where=str(folder / CONFIG_FILE), got=got, expected=str(expected)[:300], fix=fix)]
