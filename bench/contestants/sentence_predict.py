"""sentence-transformers' `encode` on its torch, ONNX and OpenVINO back ends, with our head on top, in fp32.

`encode` sorts by length itself. The graphs are exported by its own tools when they are opened. `tune` finds the fastest back
end and batch size, as its documentation advises; what opens with the pins of its environment takes part, and the rest is named.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

from speak import Watch, read_rows, serve

PACKAGES = ("sentence-transformers", "torch", "transformers", "tokenizers", "numpy")
_NEEDS = {"torch": (), "onnx": ("optimum.onnxruntime", "onnxruntime"), "openvino": ("optimum.intel", "openvino")}
_STATE: dict[str, Any] = {"models": {}}


def _model_arguments(backend: str) -> dict[str, Any]:
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return {"provider": "CPUExecutionProvider", "export": True, "session_options": options}
    if backend == "openvino":
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        return {"export": True, "ov_config": {**hints, "PERFORMANCE_HINT": "LATENCY"}}
    return {}


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def prepare(*, artifact: str, max_length: int) -> dict[str, Any]:
    """Open every back end that is installed; returns their names and those that are not."""
    import torch
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    torch.set_num_threads(1)
    folder = Path(artifact)
    head = load_file(folder / "weights.safetensors")
    _STATE["head"] = head["head.linear.weight"], head["head.linear.bias"]
    missing = []
    for backend, needs in _NEEDS.items():
        if not all(_there(module) for module in needs):
            missing.append(backend)
            continue
        body = Transformer(
            str(folder / "backbone"), backend=backend, model_kwargs=_model_arguments(backend), max_seq_length=max_length
        )
        pooling = Pooling(_STATE["head"][0].shape[1], pooling_mode="cls")
        _STATE["models"][backend] = SentenceTransformer(modules=[body, pooling], device="cpu")
    return {"backends": list(_STATE["models"]), "missing": missing}


def answers(texts: list[str], backend: str, batch_size: int) -> Any:
    """Return the probabilities (N, C) of every text."""
    import numpy as np

    features = _STATE["models"][backend].encode(texts, batch_size=batch_size, show_progress_bar=False)
    weight, bias = _STATE["head"]
    logits = features @ weight.T + bias
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def tune(*, file: str, batch_sizes: list[int]) -> dict[str, Any]:
    """Return the fastest back end with its batch size and the processor seconds of each."""
    texts, _ = read_rows(file)
    took: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {}
    for backend in _STATE["models"]:
        answers(texts[:32], backend, 8)
        for batch_size in batch_sizes:
            name = f"{backend}, batch {batch_size}"
            began = time.process_time()
            answers(texts, backend, batch_size)
            took[name], ways[name] = round(time.process_time() - began, 3), {"backend": backend, "batch_size": batch_size}
    best = min(took, key=took.__getitem__)
    return {"best": ways[best], "name": best, "tried": took}


def predict(*, file: str, backend: str, batch_size: int, answers_to: str) -> dict[str, Any]:
    """Answer every row of a file: texts in, probabilities out."""
    import numpy as np

    texts, _ = read_rows(file)
    watch = Watch()
    with watch("predict"):
        found = answers(texts, backend, batch_size)
    np.save(answers_to, found)
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=predict)
