"""Tiny networks whose lower part is frozen, rows for them, and a whole training of what lies above."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from tiny_net import Numbers

from regraft.modalities.encoded import EncodedRows
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.forward import outputs
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.scratch_networks import LstmConfig, LstmModel
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import Pick
from regraft.regularizers.regularized import regularized
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training.cache import CacheOptions
from regraft.training.frozen import Setting, learner
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.tuning.head import Head, HeadOptions
from regraft.tuning.parts import Decided
from regraft.tuning.top_k import TopK, TopKOptions
from regraft.types import Ledger

WORDS = 60
LONGEST = 16
TUNINGS = {"head": Head(HeadOptions()), "top-1": TopK(TopKOptions(layers=1)), "top-2": TopK(TopKOptions(layers=2))}


def frozen_net(kind: str = "bert", dropout: float = 0.0, shapes: Shapes | None = None, pooling: str = "mean") -> Headed:
    """Three layers and a head; biases and norms are not at their neutral start."""
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "pad_token_id": 0, "hidden_dropout_prob": dropout}
    attention = {"num_attention_heads": 2, "intermediate_size": 24, "attention_probs_dropout_prob": dropout}
    t5 = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2, "dropout_rate": dropout}
    makers = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**sizes, **attention)),
        "regraft-lstm": lambda: LstmModel(LstmConfig(**sizes)),
        "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(**t5)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = makers[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.pooler = None
    backbone = Backbone(Body(model.eval(), ARCHITECTURES[kind]), PoolingChoice(pooling, ""))
    backbone.shapes = shapes or Shapes()
    return Headed(backbone, LinearHead(backbone.width, 2, dropout, torch.Generator().manual_seed(0)))


def number_rows(count: int = 40, seed: int = 0, longest: int = LONGEST) -> tuple[list[list[int]], np.ndarray]:
    """Rows of 1 to `longest` numbers, all different, and targets that follow from them."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    half = WORDS // 2
    lengths = rng.integers(1, longest + 1, count)
    return [(rng.integers(2, half - 1, n) + half * t).tolist() for n, t in zip(lengths, targets, strict=True)], targets


@dataclass
class Work:
    """One training as a fit does it: what is frozen computed once and kept, what lies above it trained.

    Args:
        folder: Of the cache.
        tuning: Key of `TUNINGS`.
    """

    folder: Path
    tuning: str = "top-1"
    train: list = field(default_factory=lambda: number_rows()[0])
    valid: list = field(default_factory=lambda: number_rows(14, 1)[0])
    steps: int = 50
    preprocessing: str = "p"
    threads: int = 1
    validate: bool = False
    notes: list[str] = field(default_factory=list)
    missing: int = 0

    def setting(self, **cache) -> Setting:
        options = CacheOptions(**{"memory_mb": 100, "disk_mb": 100, "folder": str(self.folder), **cache})
        facts = {"preprocessing": self.preprocessing, "about": "tiny", "threads": self.threads, "note": self.notes.append}
        return Setting(cache=options, **facts)

    def rows(self) -> dict[str, EncodedRows]:
        return {name: EncodedRows(Numbers(), [raws]) for name, raws in (("train", self.train), ("valid", self.valid))}

    def learner(self, net: Headed, **cache):
        rows = self.rows()
        trainable = TUNINGS[self.tuning].trainable(net)
        return learner(net, trainable, {"pooled"}, rows, self.setting(**cache), self.count(len(self.train) + len(self.valid)))

    def count(self, total: int):
        """Count the rows that are computed: progress goes from those that are there to all."""
        seen: list[int] = []

        def progress(done: int) -> None:
            if not seen:
                self.missing = total
            seen.append(done)

        return progress

    def run(self, net: Headed, **cache) -> dict[str, torch.Tensor]:
        """Return all weights after training a copy of a network."""
        net = copy.deepcopy(net)
        task = Classification(ClassificationOptions())
        targets = np.arange(len(self.train)) % 2
        task.learn(["a" if t else "b" for t in targets], Ledger())
        # A large epsilon makes AdamW nearly plain descent. With the usual one, a weight whose true gradient is zero (a key's
        # bias) moves by rounding divided by rounding, and so do others by a little.
        options = TrainOptions(
            epochs=100,
            max_steps=self.steps,
            batch_size=8,
            validation={"every": 7},
            learning_rate=0.02,
            head_learning_rate=0.02,
            optimizer=Pick("adamw", {"epsilon": 0.1}),
        )
        with self.learner(net, **cache) as part:
            made = regularized(Supervised(SupervisedOptions()), (), TUNINGS[self.tuning].follows())
            objective = made.attach(part.rows["train"], targets, task)

            def judge() -> dict[str, float]:
                logits = torch.from_numpy(outputs(part.net, part.rows["valid"], 5))
                wanted = torch.arange(len(self.valid)) % 2
                return {"loss": float(torch.nn.functional.cross_entropy(logits, wanted))}

            validation = Validation(run=judge, metric="loss", higher_is_better=False) if self.validate else None
            for _ in train(part.net, objective, Decided(part.trainable), options, validation=validation, seed=3):
                pass
        return {name: value.detach().clone() for name, value in net.state_dict().items()}

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.ragged"))


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
