"""Pictures by the hub's `pipeline("image-classification")`, and by ONNX Runtime and OpenVINO with the steps written by hand.

The network of all is the hub's own classifier with the weights of our artifact; the graph is made of it here, with torch's own
exporter. `tune` finds the batch sizes, and the faster of the two graph runtimes.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import graph
import numpy as np
from speak import Watch, read_pictures, serve

PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "pillow", "numpy")
_STATE: dict[str, Any] = {}
PIPELINE = "pipeline"


def open_classifier(artifact: str, labels: list[str]) -> tuple[Any, Any]:
    """Return network and image processor of an artifact that was fitted with the pooling `mean`, here the hub's own."""
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = Path(artifact)
    names = dict(enumerate(labels))
    model = AutoModelForImageClassification.from_pretrained(
        folder / "backbone", id2label=names, label2id={name: number for number, name in names.items()}
    )
    head = load_file(folder / "weights.safetensors")
    model.classifier[-1].load_state_dict({"weight": head["head.linear.weight"], "bias": head["head.linear.bias"]})
    return model.eval(), AutoImageProcessor.from_pretrained(folder / "backbone", use_fast=False)


def prepare(*, artifact: str, labels: list[str], model: str, side: int) -> dict[str, Any]:
    """Open the pipeline, and its network as a graph in both runtimes."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _STATE["labels"] = labels
    network, processor = open_classifier(artifact, labels)
    pipe = transformers.pipeline("image-classification", model=network, image_processor=processor, device=-1)
    _STATE["pipe"] = pipe

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = pipe.model

        def forward(self, pixel_values: Any) -> Any:
            return self.network(pixel_values=pixel_values).logits

    rows = torch.export.Dim("rows", min=1, max=4096)
    torch.onnx.export(
        Logits().eval(),
        (torch.zeros(2, 3, side, side),),
        model,
        dynamic_shapes={"pixel_values": {0: rows}},
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamo=True,
        opset_version=20,
        external_data=False,
        optimize=True,
    )
    _STATE["engines"] = {name: open_(model) for name, open_ in graph.ENGINES.items()}
    return {}


def by_pipeline(pictures: list[bytes], batch_size: int) -> Any:
    """Return the probabilities (N, C) of every picture."""
    from PIL import Image

    pipe, labels = _STATE["pipe"], _STATE["labels"]
    said = pipe([Image.open(io.BytesIO(one)) for one in pictures], batch_size=batch_size, top_k=len(labels))
    return np.array([[{one["label"]: one["score"] for one in answer}[label] for label in labels] for answer in said])


def by_hand(pictures: list[bytes], engine: str, batch_size: int) -> Any:
    """Return the probabilities (N, C) of every picture."""
    from PIL import Image

    run = _STATE["engines"][engine]
    found = []
    for start in range(0, len(pictures), batch_size):
        pixels = [np.asarray(Image.open(io.BytesIO(one))) for one in pictures[start : start + batch_size]]
        values = (np.stack(pixels)[:, None].astype(np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)
        logits = run(np.repeat(values, 3, axis=1))
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(grown / grown.sum(axis=1, keepdims=True))
    return np.concatenate(found)


def answers(pictures: list[bytes], engine: str, batch_size: int) -> Any:
    """Return the probabilities (N, C) of every picture."""
    return by_pipeline(pictures, batch_size) if engine == PIPELINE else by_hand(pictures, engine, batch_size)


def tune(*, file: str, batch_sizes: list[int]) -> dict[str, Any]:
    """Return the pipeline's best batch size, and the faster graph runtime with its own; the processor seconds of each."""
    pictures, _ = read_pictures(file)
    took: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {}
    for engine in (PIPELINE, *graph.ENGINES):
        answers(pictures[:8], engine, 8)
        for batch_size in batch_sizes:
            name = f"{engine}, batch {batch_size}"
            began = time.process_time()
            answers(pictures, engine, batch_size)
            took[name], ways[name] = round(time.process_time() - began, 3), {"engine": engine, "batch_size": batch_size}
    kinds = {"pipeline": [name for name in took if name.startswith(PIPELINE)]}
    kinds["graph"] = [name for name in took if name not in kinds["pipeline"]]
    chosen = {kind: min(names, key=took.__getitem__) for kind, names in kinds.items()}
    return {kind: {"best": ways[name], "name": name} for kind, name in chosen.items()} | {"tried": took}


def predict(*, file: str, engine: str, batch_size: int, answers_to: str) -> dict[str, Any]:
    """Answer every picture of a file: bytes of PNG files in, probabilities out."""
    pictures, _ = read_pictures(file)
    watch = Watch()
    with watch("predict"):
        found = answers(pictures, engine, batch_size)
    np.save(answers_to, found)
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=predict)
