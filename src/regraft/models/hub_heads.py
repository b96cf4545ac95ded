"""How the hub's own class for classifying sequences makes logits of vectors, one line a family. Torch-free.

`AutoModelForSequenceClassification` is one class a family, and no two do the same between the body and the last linear map:
BERT a dense layer that came with the pretrained body, RoBERTa a new one, GPT-2 none at all but no bias either. A network whose
pooling is that part (`regraft.models.pooling_hub`) can be written as that class without a rounding error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from regraft.options import JSON


@dataclass(frozen=True, kw_only=True)
class HubHead:
    """What stands between the body and the logits in the hub's class of a family. Paths are those of that class.

    Args:
        body: Path of the body.
        linear: Path of the last linear map.
        dense: Path of the dense layer before it; empty where there is none.
        norm: Path of the norm after the dense layer's activation; empty where there is none.
        activation: What follows the dense layer, as the hub names it, or the key of the configuration that says so.
        taken: Name of the pooling that gives the vector which enters, or the key of the configuration that says so.
        by_filler: Whether it is the last vector of a row, found by looking for the token that fills a batch.
        bias: Whether the last linear map has a bias.
    """

    body: str
    linear: str = "classifier"
    dense: str = ""
    norm: str = ""
    activation: str = "tanh"
    taken: str = "cls"
    by_filler: bool = False
    bias: bool = True

    def vector(self, config: Mapping[str, JSON]) -> str:
        """Return the name of the pooling that gives the vector which enters."""
        return str(config.get(self.taken, self.taken))

    def function(self, config: Mapping[str, JSON]) -> str:
        """Return the hub's name of the function after the dense layer."""
        return str(config.get(self.activation, self.activation))

    def pretrained_dense(self) -> str:
        """Return the path that the dense layer has inside the body, or nothing where it does not come with the body."""
        inside = f"{self.body}."
        return self.dense.removeprefix(inside) if self.dense.startswith(inside) else ""


def _roberta(body: str, activation: str = "tanh") -> HubHead:
    return HubHead(body=body, linear="classifier.out_proj", dense="classifier.dense", activation=activation)


def _deberta() -> HubHead:
    return HubHead(body="deberta", dense="pooler.dense", activation="pooler_hidden_act")


def _decoder(body: str = "model") -> HubHead:
    return HubHead(body=body, linear="score", taken="last", by_filler=True, bias=False)


# T5 is not among them: its class runs the decoder too, which an encoder does not have.
HUB_HEADS: Mapping[str, HubHead] = {
    "bert": HubHead(body="bert", dense="bert.pooler.dense"),
    "albert": HubHead(body="albert", dense="albert.pooler"),
    "roberta": _roberta("roberta"),
    "xlm-roberta": _roberta("roberta"),
    "camembert": _roberta("roberta"),
    "mpnet": _roberta("mpnet"),
    "electra": _roberta("electra", "gelu"),
    "distilbert": HubHead(body="distilbert", dense="pre_classifier", activation="relu"),
    "deberta": _deberta(),
    "deberta-v2": _deberta(),
    "modernbert": HubHead(
        body="model", dense="head.dense", norm="head.norm", activation="classifier_activation", taken="classifier_pooling"
    ),
    "gpt2": _decoder("transformer"),
    "gpt_neox": _decoder("gpt_neox"),
    "llama": _decoder(),
    "mistral": _decoder(),
    "qwen2": _decoder(),
    "qwen3": _decoder(),
    "gemma": _decoder(),
}
