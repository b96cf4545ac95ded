"""A folder that sentence-transformers opens: `SentenceTransformer(FOLDER).encode(texts)` gives our pooled vectors.

The embedding model lies at the top of the folder, where that library looks for it; the head lies beside it, so that the same
folder goes on to answer as the artifact does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from regraft.errors import Problem
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.exporters.hub_folder import (
    config_faults,
    tensor_faults,
    tokenizer_faults,
    tokenizer_problems,
    write_tokenizer,
)
from regraft.models.safety import weight_files
from regraft.options import JSON, options

MODULES, POOLING, SIZES, LIBRARY = (
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
_OTHER_MODES = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
_OF_THE_WRITER = ("architectures", "dtype", "torch_dtype", "transformers_version")


@options
class SentenceTransformersOptions:
    """What the vectors are."""

    normalize: bool = False
    """Whether that library scales vectors to length 1; the head of the artifact reads them as they are."""


class SentenceTransformersExporter(Exporter):
    """A folder of sentence-transformers whose vectors are the pooled features of the backbone."""

    Options: ClassVar[type[Any]] = SentenceTransformersOptions
    name = "sentence-transformers"

    def problems(self, source: Source) -> list[Problem]:
        """Return why that library has no pooling or no network that gives these vectors."""
        backbone = source.network().backbone
        problems = tokenizer_problems(source)
        if source.modality.part_names:
            return problems  # there is not one pooling
        if backbone.pooling_name not in _MODES:
            what = "sentence-transformers has no pooling that gives the vectors of this network"
            fix = "fit it again with one of them: regraft fit ... --set base.pooling=mean"
            got, expected = f"the pooling '{backbone.pooling_name}'", f"one of {', '.join(_MODES)}"
            problems.append(Problem(what=what, got=got, expected=expected, fix=fix))
        library = backbone.architecture.model.partition(":")[0]
        if library.partition(".")[0] == __name__.partition(".")[0]:
            what = f"sentence-transformers does not know the architecture '{backbone.body.config.model_type}', which is ours"
            fix = "fit a base of the hub, or the base 'transformer', which is a BERT"
            problems.append(Problem(what=what, fix=fix))
        return problems

    def write(self, source: Source, folder: Path) -> Written:
        """Write model and tokenizer at the top, what that library reads beside them, and the head."""
        from safetensors.torch import save_file

        from regraft.models.net import WEIGHTS_FILE, outside_backbone_folder

        net = source.network()
        net.backbone.save(folder)
        write_tokenizer(source, folder)
        save_file(outside_backbone_folder(net), folder / WEIGHTS_FILE)
        (folder / POOLING).parent.mkdir()
        for name, content in self._files(source).items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return Written(form="sentence-transformers", runtimes=("torch",), facts={"backbone_folder": "."})

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return weights, settings and tokens in the folder that would give other vectors than the source's."""
        from regraft.models.net import WEIGHTS_FILE, outside_backbone_folder

        net = source.network()
        body = {name: tensor.detach().cpu() for name, tensor in net.backbone.body.state_dict().items()}
        return [
            *tensor_faults({**net.backbone.unused, **body}, weight_files(folder)),
            *tensor_faults(outside_backbone_folder(net), [folder / WEIGHTS_FILE]),
            *self._file_faults(source, folder),
            *config_faults(source, folder, _OF_THE_WRITER),
            *tokenizer_faults(source, folder),
        ]

    def _files(self, source: Source) -> dict[str, JSON]:
        """Return the files that only this library reads, in the spelling that all its versions since 2.0 know."""
        backbone = source.network().backbone
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.options.normalize else [])]
        modules = [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(kinds)
        ]
        on = _MODES.get(backbone.pooling_name)
        modes = {key: key == on for key in (*_MODES.values(), *_OTHER_MODES)}
        return {
            MODULES: modules,
            POOLING: {"word_embedding_dimension": backbone.width, **modes, "include_prompt": True},
            SIZES: {"max_seq_length": source.modality.longest, "do_lower_case": False},
            LIBRARY: {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        }

    def _file_faults(self, source: Source, folder: Path) -> list[Problem]:
        problems = []
        for name, expected in self._files(source).items():
            found = json.loads((folder / name).read_bytes())
            if found != expected:
                what, fix = f"{name} does not describe the source", "report this with the artifact's options"
                got = json.dumps(found)[:300]
                problems.append(
                    Problem(what=what, where=str(folder / name), got=got, expected=json.dumps(expected)[:300], fix=fix)
                )
        return problems
