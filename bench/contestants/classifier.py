"""An artifact of ours as the hub's own classifier: the same weights in a model that any tool of the hub takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn


class FirstPosition(nn.Module):
    """Stand where the hub's model has a pooler: our head reads the first vector itself, which is less work for the peer."""

    def forward(self, sequence_BTD: Any) -> Any:
        """Return the first vector of each row (B, D)."""
        return sequence_BTD[:, 0]


def open_classifier(artifact: str, labels: list[str]) -> tuple[Any, Any]:
    """Return model and tokenizer of an artifact that was fitted with the pooling `cls`.

    Args:
        artifact: Its folder.
        labels: Names of the labels in the order of the head's outputs.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(artifact)
    names = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "backbone", id2label=names, label2id={name: number for number, name in names.items()}
    )
    head = load_file(folder / "weights.safetensors")
    model.classifier.load_state_dict({"weight": head["head.linear.weight"], "bias": head["head.linear.bias"]})
    model.base_model.pooler = FirstPosition()
    return model.eval(), AutoTokenizer.from_pretrained(folder / "backbone")
