"""ONNX Runtime and OpenVINO in fp32: rows sorted by length, batches padded to their longest row, shapes left open.

`tune` finds the faster of the two and its batch size. Tokenising is counted, as it is for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from speak import Watch, read_rows, serve

PACKAGES = ("onnxruntime", "openvino", "tokenizers", "numpy")
Engine = Callable[..., Any]
_STATE: dict[str, Any] = {}


def onnxruntime_engine(model: str) -> Engine:
    """Open a model with ONNX Runtime, all graph optimisations on; its inputs are given in its own order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda *inputs: session.run(["logits"], dict(zip(names, inputs, strict=True)))[0]


def openvino_engine(model: str) -> Engine:
    """Open a model with OpenVINO; without the precision hint it would compute in bf16 on this kind of processor."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda *inputs: next(iter(request.infer(list(inputs)).values())).copy()


ENGINES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}


def prepare(*, model: str, tokenizer: str, max_length: int) -> dict[str, Any]:
    """Open both engines."""
    from tokenizers import Tokenizer

    _STATE["tokenizer"] = Tokenizer.from_file(tokenizer)
    _STATE["tokenizer"].no_padding()
    _STATE["tokenizer"].enable_truncation(max_length)
    _STATE["engines"] = {name: open_(model) for name, open_ in ENGINES.items()}
    return {}


def answers(texts: list[str], engine: str, batch_size: int) -> Any:
    """Return the probabilities (N, C) of every text."""
    run = _STATE["engines"][engine]
    encoded = _STATE["tokenizer"].encode_batch(texts)
    lengths = np.array([len(row.ids) for row in encoded])
    order = np.argsort(lengths, kind="stable")
    found: Any = None
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = np.zeros((len(chosen), lengths[chosen].max()), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(chosen):
            ids[row, : lengths[index]] = encoded[index].ids
            mask[row, : lengths[index]] = 1
        logits = run(ids, mask)
        found = np.empty((len(texts), logits.shape[1])) if found is None else found
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[chosen] = grown / grown.sum(axis=1, keepdims=True)
    return found


def tune(*, file: str, batch_sizes: list[int]) -> dict[str, Any]:
    """Return the fastest engine with its batch size and the processor seconds of each."""
    texts, _ = read_rows(file)
    took: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {}
    for engine in ENGINES:
        answers(texts[:32], engine, 8)
        for batch_size in batch_sizes:
            name = f"{engine}, batch {batch_size}"
            began = time.process_time()
            answers(texts, engine, batch_size)
            took[name], ways[name] = round(time.process_time() - began, 3), {"engine": engine, "batch_size": batch_size}
    best = min(took, key=took.__getitem__)
    return {"best": ways[best], "name": best, "tried": took}


def predict(*, file: str, engine: str, batch_size: int, answers_to: str) -> dict[str, Any]:
    """Answer every row of a file: texts in, probabilities out."""
    texts, _ = read_rows(file)
    watch = Watch()
    with watch("predict"):
        found = answers(texts, engine, batch_size)
    np.save(answers_to, found)
    return watch.answer()


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=predict)
