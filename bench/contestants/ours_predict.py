"""Regraft's predictor on any of its runtimes: texts in, predictions out, through the only door there is."""

from __future__ import annotations

from typing import Any

from speak import Watch, read_rows, serve

PACKAGES = ("regraft", "torch", "transformers", "tokenizers", "numpy")
_STATE: dict[str, Any] = {"predictors": {}}


def make(
    *, base: str, train: str, few: str, out: str, max_length: int, tuning: str = "head", epochs: int = 10
) -> dict[str, Any]:
    """Fit the artifact that everybody answers with: on the first vector, learnt well enough to be of an opinion."""
    import regraft

    artifact = regraft.fit(
        train,
        target="label",
        text="text",
        out=out,
        base={"name": base, "pooling": "cls"},
        modality={"name": "text", "max_length": max_length},
        tuning=tuning,
        test=few,
        data={"valid_share": 0.0},
        train={"epochs": epochs},
        machine={"threads": 1},
    )
    return {"labels": list(artifact.manifest.task.state["labels"])}


def export(*, artifact: str, to: str, format: str | dict[str, Any], rows: str | None = None) -> dict[str, Any]:
    """Make the artifact into another form."""
    import regraft

    made = regraft.export(artifact, format=format, out=to, rows=rows, machine={"threads": 1})
    return {"runtimes": list(made.manifest.network.runtimes)}


def prepare(*, artifact: str, way: str = "", runtime: str = "auto") -> dict[str, Any]:
    """Open an artifact with a runtime, to be asked for by the name of a way; says which library computes it."""
    from regraft.serving.predictor import Predictor

    _STATE["predictors"][way] = Predictor.load(artifact, threads=1, runtime=runtime)
    return {"library": _STATE["predictors"][way].environment()["library"]}


def predict(*, file: str, answers_to: str, way: str = "", batch_size: int = 32) -> dict[str, Any]:
    """Answer every row of a file."""
    import numpy as np

    texts, _ = read_rows(file)
    watch = Watch()
    with watch("predict"):
        predictions = _STATE["predictors"][way].predict(texts, batch_size=batch_size)
    np.save(answers_to, np.array([list(one.probabilities.values()) for one in predictions]))
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, make=make, export=export, prepare=prepare, round=predict)
