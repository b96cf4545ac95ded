"""The hub's `pipeline("text-classification")` in fp32, and the export of the same model to ONNX.

Its documentation says to measure batch sizes, and says nothing of sorting texts by length; `tune` measures both.
"""

from __future__ import annotations

import time
from typing import Any

from speak import Watch, read_rows, serve

PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "numpy")
_STATE: dict[str, Any] = {}


def prepare(*, artifact: str, labels: list[str], max_length: int) -> dict[str, Any]:
    """Open the pipeline."""
    import torch
    import transformers
    from classifier import open_classifier

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = open_classifier(artifact, labels)
    _STATE["model"], _STATE["labels"] = model, labels
    _STATE["pipe"] = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=-1)
    _STATE["max_length"] = max_length
    return {}


def answers(texts: list[str], batch_size: int, in_order: bool) -> list[list[float]]:
    """Return the probabilities of every text, in the order in which the texts came."""
    order = list(range(len(texts))) if not in_order else sorted(range(len(texts)), key=lambda index: len(texts[index]))
    pipe, labels = _STATE["pipe"], _STATE["labels"]
    found: list[list[float]] = [[] for _ in texts]
    said = pipe([texts[i] for i in order], batch_size=batch_size, top_k=None, truncation=True, max_length=_STATE["max_length"])
    for position, answer in zip(order, said, strict=True):
        scores = {one["label"]: one["score"] for one in answer}
        found[position] = [scores[label] for label in labels]
    return found


def tune(*, file: str, batch_sizes: list[int]) -> dict[str, Any]:
    """Return the fastest batch size, as the texts come and sorted, and the processor seconds of each way tried."""
    texts, _ = read_rows(file)
    answers(texts[:8], 8, False)
    found: dict[str, Any] = {"tried": {}}
    for in_order in (False, True):
        took: dict[int, float] = {}
        for batch_size in batch_sizes[1:] if in_order else batch_sizes:
            began = time.process_time()
            answers(texts, batch_size, in_order)
            took[batch_size] = round(time.process_time() - began, 3)
        way = "sorted" if in_order else "as they come"
        found["tried"] |= {f"batch {size}, {way}": seconds for size, seconds in took.items()}
        best = min(took, key=took.__getitem__)
        found[way] = {"best": {"batch_size": best, "in_order": in_order}, "name": f"batch {best}, {way}"}
    return found


def predict(*, file: str, batch_size: int, in_order: bool, answers_to: str) -> dict[str, Any]:
    """Answer every row of a file: texts in, probabilities out."""
    import numpy as np

    texts, _ = read_rows(file)
    watch = Watch()
    with watch("predict"):
        found = answers(texts, batch_size, in_order)
    np.save(answers_to, np.asarray(found))
    return watch.answer()


def export(*, to: str) -> dict[str, Any]:
    """Write the model as ONNX with any number of rows and positions, fp32."""
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    ids = torch.randint(1000, 2000, (3, 17))
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    axes = {0: torch.export.Dim("rows", min=1, max=4096), 1: torch.export.Dim("positions", min=2, max=512)}
    torch.onnx.export(
        Logits(_STATE["model"]).eval(),
        (),
        to,
        kwargs={"input_ids": ids, "attention_mask": mask},
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamo=True,
        opset_version=20,
        external_data=False,
        optimize=True,
    )
    return {}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=predict, export=export)
