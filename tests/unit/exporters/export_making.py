"""Tiny networks of every kind, with preprocessing and a task, as exporters are handed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.artifact.manifest import HeadEntry, InputEntry, Manifest, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
from regraft.artifact.store import Artifact
from regraft.artifact.verify import file_entries
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.modalities.text import Text, TextOptions
from regraft.serving.runtime import Runtime
from regraft.tasks.classification import Classification
from regraft.training.options import MachineOptions
from regraft.types import Batch, Ledger

LABELS = ("eggs", "ham", "spam")
WORDS = 60
LONGEST = 48
SCRATCH = ("transformer", "lstm", "gru", "cnn", "mlp")
# One of each kind: the others (XLM-RoBERTa, CamemBERT, mT5) share the code of one of these.
FAMILIES = (
    *("bert", "roberta", "distilbert", "modernbert", "electra", "deberta", "deberta-v2", "mpnet", "albert", "t5", "umt5"),
    *("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma"),
)
ONE = MachineOptions(threads=1)


def make_text(inputs: tuple[str, ...]) -> Text:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Text(tokenizer, TextOptions(max_length=LONGEST), inputs=inputs)


def make_task() -> Classification:
    task = Classification(Classification.Options())
    task.learn([*LABELS, *LABELS], Ledger())
    return task


def _body(name: str) -> Any:
    """Return an opened body: of one of our own bases, or of a family of the hub; no weight at a neutral start."""
    from tiny_families import FAMILIES, tiny_model

    from regraft.models.architectures import ARCHITECTURES
    from regraft.models.backbones import Body, detach_unused, make_config
    from regraft.models.scratch_networks import AutoModel

    if name in FAMILIES:
        model, kind = tiny_model(name), name
    else:
        from regraft.models import BASES
        from regraft.options import build

        cls = BASES.get(name)
        sizes = {"width": 16, "layers": 2} | ({"positions": 64} if name == "transformer" else {})
        base, kind = cls(name, build(cls.Options, sizes)), cls.model_type
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = AutoModel.from_config(make_config(base.sizes(WORDS + 4), name)).eval()
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(0.1 * torch.randn_like(weight))
    detach_unused(model, keep=False)
    return Body(model, ARCHITECTURES[kind])


def make_source(name: str = "transformer", pooling: str = "mean", folder: Path | None = None) -> Source:
    """Return a network of a base or family with a head, its preprocessing and its task."""
    from regraft.models.backbones import Backbone, PoolingChoice
    from regraft.models.net import Headed

    task = make_task()
    backbone = Backbone(_body(name), PoolingChoice(pooling, "test"))
    net = Headed(backbone, task.head(backbone.width, 0.1, 1)).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for weight in (*net.head.parameters(), *net.backbone.pooling.parameters()):
            weight.normal_()
    text = make_text(net.backbone.architecture.inputs)
    body = _manifest_body(net, text, task, NetworkEntry(backbone=net.backbone.spec(), head=HeadEntry(width=net.backbone.width)))
    artifact = Artifact(folder or Path("nowhere"), Manifest.of(body, {}))
    return Source(artifact=artifact, modality=text, task=task, net=net, name="out")


def _manifest_body(net: Any, text: Text, task: Classification, network: NetworkEntry) -> ManifestBody:
    return ManifestBody(
        task=TaskEntry(name=task.name, state=task.state()),
        inputs=(InputEntry(column="text", modality=text.name, spec=text.spec(), folder="preprocessing"),),
        target=TargetEntry(column="label"),
        base={"name": "tiny"},
        network=network,
        weights_digest="",
    )


def manifest_of(source: Source, written: Written, folder: Path) -> Manifest:
    """Return the manifest of what an exporter wrote into a folder."""
    old = source.manifest.network
    network = NetworkEntry(
        backbone=old.backbone, head=old.head, form=written.form, runtimes=written.runtimes, facts=dict(written.facts)
    )
    return Manifest.of(_manifest_body(source.network(), source.modality, source.task, network), file_entries(folder))


def make_rows(n: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{w}" for w in rng.integers(0, WORDS, size=rng.integers(1, longest))) for _ in range(n)]


def batch_of(source: Source, rows: list[str]) -> Batch:
    inputs, mask_BT = source.modality.collate(source.modality.encode(rows, spans=False))
    return Batch(inputs=inputs, mask_BT=mask_BT)


ROWS = [*make_rows(20, seed=3), "w1"]


def opened_export(exporter: Exporter, runtime: type[Runtime], source: Source, folder: Path) -> Runtime:
    """Write an export, look for faults, and open it with a runtime as the predictor does."""
    folder.mkdir(exist_ok=True)
    assert exporter.problems(source) == []
    written = exporter.write(source, folder)
    assert [str(problem) for problem in exporter.faults(source, folder)] == []
    return runtime.load(folder, manifest_of(source, written, folder), source.task, ONE)


def check(source: Source, runtime: Runtime, atol: float = 1e-5) -> None:
    """Hold a runtime against the network it was made from, on ordinary rows and on rows of the extreme lengths."""
    from regraft.exporters.graph import answers_of, trial_batches

    for batch in (batch_of(source, ROWS), *(batch for _, batch in trial_batches(source.modality))):
        got = runtime.outputs(batch)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, answers_of(source.network(), batch), atol=atol, rtol=1e-5)


def check_export(exporter: Exporter, runtime: type[Runtime], source: Source, folder: Path, atol: float = 1e-5) -> None:
    """Hold an export against its source, and see that the source is as it was before."""
    before = {name: tensor.clone() for name, tensor in source.network().state_dict().items()}
    check(source, opened_export(exporter, runtime, source, folder), atol)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.network().state_dict().items())
