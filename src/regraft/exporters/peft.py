"""A PEFT folder: adapters and head for the hub's own class, on a base that is named, not copied.

    model = AutoModelForSequenceClassification.from_pretrained(BASE, config=AutoConfig.from_pretrained(FOLDER))
    PeftModel.from_pretrained(model, FOLDER)

Configuration (with the labels), adapters and tokenizer lie at the top of the folder, where the hub's tools look for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from regraft.errors import BaseError, Problem
from regraft.exporters.exporter import Source, Written
from regraft.exporters.hub_folder import config_faults, filler, tensor_faults, tokenizer_faults, write_tokenizer
from regraft.exporters.transformers import OF_THE_CLASS, TransformersExporter, label_faults
from regraft.models.folder_check import CONFIG_FILE
from regraft.models.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from regraft.models.safety import read_json
from regraft.options import JSON, options
from regraft.registry import require


@options
class PeftOptions:
    """What the folder says of its base."""

    base: str = ""
    """Id or folder of the base that PEFT is told of; where the base of the fit came from if not given. It is not looked at."""


class PeftExporter(TransformersExporter):
    """A PEFT folder with adapters and head for the hub's class, where its answers are exactly the same; the base is named."""

    Options: ClassVar[type[Any]] = PeftOptions
    name = "peft"
    keeps_transforms = True

    def problems(self, source: Source) -> list[Problem]:
        """Return why there is no class, no adapters, or no base that PEFT could put them on.

        Raises:
            UsageError: What was added is not of the kind that can be folded.
        """
        require("peft", needed_by="the exporter 'peft'", extra="peft")
        from regraft.models.hub_adapters import base_folder

        if not source.network().transforms:
            what = "the artifact has no adapters, all its weights are in one"
            fix = "export it with --format transformers, or fit adapters: regraft fit ... --tuning lora"
            return [Problem(what=what, where=str(source.artifact.path), expected="an artifact fitted with adapters", fix=fix)]
        from regraft.models.transform import folded, kept_otherwise

        folded(source.network())  # a prompt is no part of the hub's class: it says so
        problems = super().problems(source)
        if kept_otherwise(source.network()):
            what = "the adapters were learnt beside a base in 4 bits; on the base as it came they answer otherwise"
            fix = "export it with --format transformers: the weights that the 4 bits stand for, adapters folded in"
            problems.append(Problem(what=what, where=str(source.artifact.path), got="tuning.bits = 4", fix=fix))
        try:
            base_folder(source.manifest.base)
        except BaseError as error:
            problems += error.problems
        return problems

    def write(self, source: Source, folder: Path) -> Written:
        """Write configuration, adapters, head and tokenizer as PEFT and the hub's class do."""
        from regraft.models.hub_adapters import learnt_state
        from regraft.models.hub_classifier import class_of, hub_config
        from regraft.models.net import BACKBONE_FOLDER
        from regraft.models.peft_folder import write_adapter

        values = read_json(source.artifact.path / BACKBONE_FOLDER / CONFIG_FILE)
        config = hub_config(values, source.task.names, source.task.hub_problem, filler(source)[0])
        config.architectures = [class_of(config).__name__]
        config._name_or_path = ""
        config.save_pretrained(folder)
        settings = self._settings(source)
        write_adapter(folder, settings, learnt_state(source.network()))
        write_tokenizer(source, folder)
        note = f"put it on its base: PeftModel.from_pretrained(model, FOLDER), model of {settings['base_model_name_or_path']}"
        return Written(form="peft", runtimes=("peft",), facts={"class": config.architectures[0]}, notes=(note,))

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights, labels, settings and tokens in the folder that are not the source's."""
        from regraft.models.hub_adapters import learnt_state

        expected = {f"{PREFIX}{name}": tensor for name, tensor in learnt_state(source.network()).items()}
        return [
            *tensor_faults(expected, [folder / ADAPTER_WEIGHTS]),
            *_setting_faults(self._settings(source), folder),
            *label_faults(source, folder),
            *config_faults(source, folder, OF_THE_CLASS),
            *tokenizer_faults(source, folder),
        ]

    def _settings(self, source: Source) -> dict[str, JSON]:
        """Return PEFT's configuration."""
        from regraft.models.hub_adapters import base_folder, base_reference, classifier_adapters

        origin = source.manifest.base
        if self.options.base:
            return classifier_adapters(source.network(), {"base_model_name_or_path": self.options.base, "revision": None})
        return classifier_adapters(source.network(), base_reference(origin, base_folder(origin)))


def _setting_faults(expected: dict[str, JSON], folder: Path) -> list[Problem]:
    """Return the settings of the adapters that are not the source's: rank, scale, layers."""
    found = read_json(folder / ADAPTER_CONFIG)
    odd = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
    return [
        Problem(
            what=f"'{key}' of the adapters in the export is not the source's",
            where=str(folder / ADAPTER_CONFIG),
            got=json.dumps(found.get(key))[:100],
            expected=json.dumps(expected.get(key))[:100],
            fix="nothing was written; report this with the artifact's options",
        )
        for key in odd
    ]
