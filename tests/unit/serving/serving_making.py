"""Small predictors and artifacts for tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from regraft.artifact import golden
from regraft.artifact.manifest import HeadEntry, InputEntry, Manifest, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
from regraft.artifact.store import GOLDEN, REPORT, Artifact, write_artifact, write_json
from regraft.modalities.text import Text
from regraft.options import JSON
from regraft.serving.predictor import Predictor
from regraft.serving.runtime import Runtime
from regraft.tasks.classification import Classification
from regraft.tasks.task import Task
from regraft.training.options import MachineOptions
from regraft.types import Batch, FloatArray, Ledger

WORDS = 60
LENGTH = 48


def make_text() -> Text:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from regraft.modalities.text import TextOptions

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Text(tokenizer, TextOptions(max_length=LENGTH))


def make_task(labels: tuple = ("eggs", "ham", "spam")) -> Classification:
    task = Classification(Classification.Options())
    task.learn([*labels, *labels], Ledger())
    return task


def make_rows(n: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{w}" for w in rng.integers(0, WORDS, size=rng.integers(1, longest))) for _ in range(n)]


class NumpyRuntime(Runtime):
    """Mean of word vectors: what the torch-free core will be like; remembers the batches it was given."""

    package, extra = "numpy", "runtime"

    def __init__(self, classes: int = 3) -> None:
        self.table = np.random.default_rng(7).normal(size=(WORDS + 4, classes)).astype(np.float32)
        self.batches: list[Batch] = []

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        return cls()

    def outputs(self, batch: Batch) -> FloatArray:
        self.batches.append(batch)
        vectors = self.table[batch.inputs["input_ids"]] * batch.mask_BT[..., None]
        return vectors.sum(axis=1) / batch.mask_BT.sum(axis=1, keepdims=True).astype(np.float32)

    def environment(self) -> dict[str, JSON]:
        return {"library": "numpy"}


def make_predictor(labels: tuple = ("eggs", "ham", "spam")) -> Predictor:
    return Predictor(make_text(), make_task(labels), NumpyRuntime(len(labels)), column="text")


def make_net(folder: Path, task: Classification):
    """Return a tiny BERT with a head over it."""
    import torch
    from transformers import BertConfig, BertModel

    from regraft.models.backbones import Backbone
    from regraft.models.net import Headed

    config = BertConfig(
        vocab_size=WORDS + 4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertModel(config).save_pretrained(folder)
        net = Headed(
            Backbone.load(folder, {"architecture": "bert", "pooling": "mean", "pooling_reason": "test", "width": 32}),
            task.head(32, 0.1, 1),
        )
        with torch.no_grad():
            for weight in net.head.parameters():
                weight.normal_()
    return net


def make_artifact(out: Path, scratch: Path) -> tuple[Artifact, Predictor]:
    """Write an artifact of a tiny BERT; returns it with the predictor over the network as it was in memory."""
    from regraft.models.net import save_net, weights_digest
    from regraft.serving.runtime_torch import TorchRuntime

    text, task = make_text(), make_task()
    net = make_net(scratch, task)
    predictor = Predictor(text, task, TorchRuntime(net, MachineOptions(threads=1)), column="text")
    rows = make_rows(16, seed=9)

    def fill(folder: Path) -> ManifestBody:
        save_net(net, folder)
        text.save(folder / "backbone")
        write_json(folder / GOLDEN, golden.record(predictor, rows).to_json())
        write_json(folder / REPORT, {"verdict": "better", "n": 16})
        return ManifestBody(
            task=TaskEntry(name=task.name, state=task.state()),
            inputs=(InputEntry(column="text", modality=text.name, spec=text.spec()),),
            target=TargetEntry(column="label"),
            base={"name": "tiny"},
            network=NetworkEntry(backbone=net.backbone.spec(), head=HeadEntry(width=32, dropout=0.1)),
            weights_digest=weights_digest(net),
        )

    return write_artifact(out, fill), predictor
