"""Regraft on pictures: files of pictures in, predictions out, through the only door there is."""

from __future__ import annotations

from typing import Any

from ours_predict import _STATE, export, prepare
from speak import Watch, read_pictures, serve

PACKAGES = ("regraft", "torch", "transformers", "onnxruntime", "pillow", "numpy")


def base(*, to: str, side: int) -> dict[str, Any]:
    """Write a small residual network of the hub's, with random weights, as a base; the hub's pipeline makes
    three channels of grey pictures, so it takes three.
    """
    import torch
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(to)
    shape = {"height": side, "width": side}
    ViTImageProcessorPil(size=shape, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(to)
    return {}


def make(*, base: str, train: str, out: str) -> dict[str, Any]:
    """Fit the artifact that everybody answers with: once over the training rows, enough to be of an opinion."""
    import regraft

    artifact = regraft.fit(
        train,
        image="image",
        target="label",
        out=out,
        base={"name": base, "pooling": "mean"},
        tuning="full",
        train={"epochs": 1, "learning_rate": 1e-3},
        machine={"threads": 1},
    )
    return {"labels": list(artifact.manifest.task.state["labels"])}


def predict(*, file: str, answers_to: str, way: str = "", batch_size: int = 32) -> dict[str, Any]:
    """Answer every picture of a file."""
    import numpy as np

    pictures, _ = read_pictures(file)
    watch = Watch()
    with watch("predict"):
        predictions = _STATE["predictors"][way].predict(pictures, batch_size=batch_size)
    np.save(answers_to, np.array([list(one.probabilities.values()) for one in predictions]))
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, base=base, make=make, export=export, prepare=prepare, round=predict)
