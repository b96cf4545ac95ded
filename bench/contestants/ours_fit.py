"""Regraft: the stages of `regraft.fit` up to the trained network, and memory and matrix products of this machine.

The ladder of baselines, judging and saving are no part of a peer's work and stay outside the clock.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from speak import Watch, peak_memory_mb, read_rows, serve

PACKAGES = ("regraft", "torch", "transformers", "tokenizers", "numpy")


def fit(
    *,
    base: str,
    train: str,
    few: str,
    judged: str | None,
    options: dict[str, Any],
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Fit, then say how right the network is on rows it has not seen.

    Args:
        base: Name of the base.
        train: File of rows.
        few: File of a few rows, because the verb insists on rows to test.
        judged: File of rows to be judged on.
        options: More of `FitOptions`.
        precision: Type of the factors of matrix products.
        seed: Of the head, order and dropout.
    """
    from regraft import fitting
    from regraft.options import build
    from regraft.training.events import NoteEvent, StepEvent
    from regraft.training.stages import Stages
    from regraft.training.threads import with_threads
    from regraft.verbs import FitOptions

    watch, notes, steps = Watch(), [], []

    def listen(event: Any) -> None:
        if isinstance(event, NoteEvent):
            notes.append(event.text)
        elif isinstance(event, StepEvent):
            steps.append(event)

    with tempfile.TemporaryDirectory() as cache:
        asked = {"base": base, "text": "text", "target": "label", "out": "unused", "test": few, "seed": seed, **options}
        asked["data"] = {"valid_share": 0.0}
        # What a round computes, the next must not find.
        asked["machine"] = {"threads": 1, "precision": precision, "cache": {"folder": cache}}
        with watch("open and read"), with_threads(1):
            wanted, stages = build(FitOptions, asked), Stages(listen)
            opened, wanted = fitting.open_base(wanted, stages)
            dataset = fitting.read(train, wanted, stages)
        with watch("tokenise"), with_threads(1):
            plan = fitting.plan(train, dataset, opened, wanted, stages)
        with watch("open the network"), with_threads(1):
            net = fitting.network(plan, stages)
        with watch("train"), with_threads(1), fitting.learner(net, plan, stages) as learner:
            fitting.train(net, learner, plan, stages)
        facts: dict[str, Any] = {
            "steps": len(steps),
            "notes": notes,
            "peak_mb": peak_memory_mb(),
            "loss": steps[-1].loss if steps else None,
        }
        if judged is not None:
            facts["accuracy"] = accuracy(fitting.predictor(net, plan), judged)
        dataset.close()
    return watch.answer(**facts)


def accuracy(predictor: Any, judged: str) -> float:
    texts, labels = read_rows(judged)
    answers = predictor.predict(texts)
    return sum(answer.value == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


def prepare() -> dict[str, Any]:
    """Import what a fit needs, so that no round pays for it."""
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    import regraft.models.net
    import regraft.serving.runtime_torch  # noqa: F401

    torch.set_num_threads(1)
    return {}


def peak(seconds: float = 1.0) -> dict[str, Any]:
    """Return the best GFLOP/s of matrix products of this machine with one thread, by dtype."""
    import torch

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        size = 1024
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        best, began = float("inf"), time.perf_counter()
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
        found[name] = round(2 * size**3 / best / 1e9, 1)
    return {"gflops": found}


if __name__ == "__main__":
    from regraft.models.unasked import keep_out

    keep_out()  # as the command does
    serve(PACKAGES, prepare=prepare, round=fit, peak=peak)
