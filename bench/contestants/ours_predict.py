"""Regraft's predictor with its torch runtime: texts in, predictions out, through the only door there is."""

from __future__ import annotations

from typing import Any

from speak import Watch, read_rows, serve

PACKAGES = ("regraft", "torch", "transformers", "tokenizers", "numpy")
_STATE: dict[str, Any] = {}


def make(*, base: str, train: str, few: str, out: str, max_length: int) -> dict[str, Any]:
    """Fit the artifact that everybody answers with: a head on the first vector, learnt well enough to be of an opinion."""
    import regraft

    artifact = regraft.fit(
        train,
        target="label",
        text="text",
        out=out,
        base={"name": base, "pooling": "cls"},
        modality={"name": "text", "max_length": max_length},
        tuning="head",
        test=few,
        data={"valid_share": 0.0},
        train={"epochs": 10},
        machine={"threads": 1},
    )
    return {"labels": list(artifact.manifest.task.state["labels"])}


def prepare(*, artifact: str) -> dict[str, Any]:
    """Open the artifact."""
    from regraft.serving.predictor import Predictor

    _STATE["predictor"] = Predictor.load(artifact, threads=1)
    return {}


def predict(*, file: str, answers_to: str, batch_size: int = 32) -> dict[str, Any]:
    """Answer every row of a file."""
    import numpy as np

    texts, _ = read_rows(file)
    watch = Watch()
    with watch("predict"):
        predictions = _STATE["predictor"].predict(texts, batch_size=batch_size)
    np.save(answers_to, np.array([list(one.probabilities.values()) for one in predictions]))
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, make=make, prepare=prepare, round=predict)
