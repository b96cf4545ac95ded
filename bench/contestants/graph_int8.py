"""ONNX Runtime with its own dynamic quantisation to 8 bits: rows sorted by length, batches padded to their longest row.

`tune` measures what its documentation offers for processors like this one (weights by tensor, or by column with one bit less,
both after its own pre-processing) at several batch sizes, and keeps the fastest that loses no more than is allowed; if all lose
more, the fastest.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import graph
import numpy as np
from speak import read_rows, serve

PACKAGES = ("onnxruntime", "onnx", "tokenizers", "numpy")
KINDS: dict[str, dict[str, Any]] = {"by tensor": {}, "by column, 7 bits": {"per_channel": True, "reduce_range": True}}


def prepare(*, model: str, tokenizer: str, max_length: int) -> dict[str, Any]:
    """Quantise the model in each way and open the results, and the model as it is."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from tokenizers import Tokenizer

    graph._STATE["tokenizer"] = Tokenizer.from_file(tokenizer)
    graph._STATE["tokenizer"].no_padding()
    graph._STATE["tokenizer"].enable_truncation(max_length)
    bare, prepared = (str(Path(model).with_suffix(f".{stage}.onnx")) for stage in ("bare", "prepared"))
    proto = onnx.load(model)
    proto.graph.ClearField("value_info")  # shapes that the exporter left; pre-processing finds its own and refuses others
    onnx.save(proto, bare)
    quant_pre_process(bare, prepared, skip_symbolic_shape=True)
    engines = {"as it is": graph.onnxruntime_engine(model)}
    for kind, options in KINDS.items():
        written = str(Path(model).with_suffix(f".{kind.split()[1]}.onnx"))
        quantize_dynamic(prepared, written, weight_type=QuantType.QInt8, **options)
        engines[kind] = graph.onnxruntime_engine(written)
    graph._STATE["engines"] = engines
    return {}


def tune(*, file: str, batch_sizes: list[int], least_agreement: float) -> dict[str, Any]:
    """Return the fastest way with its batch size, the processor seconds of each, and in how many answers each agrees."""
    texts, _ = read_rows(file)
    right = graph.answers(texts, "as it is", 8).argmax(1)
    took: dict[str, float] = {}
    agrees: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {}
    for engine in KINDS:
        graph.answers(texts[:32], engine, 8)
        for batch_size in batch_sizes:
            name = f"{engine}, batch {batch_size}"
            began = time.process_time()
            found = graph.answers(texts, engine, batch_size)
            took[name], ways[name] = round(time.process_time() - began, 3), {"engine": engine, "batch_size": batch_size}
            agrees[name] = float(np.mean(found.argmax(1) == right))
    allowed = [name for name in took if agrees[name] >= least_agreement] or list(took)
    best = min(allowed, key=took.__getitem__)
    return {"best": ways[best], "name": best, "tried": took, "agrees": agrees}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=graph.predict)
