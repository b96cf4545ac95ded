"""Regraft's LoRA in Regraft's own loop, on batches that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adapted_steps import (
    ALPHA,
    CLASSES,
    CLIP,
    DECAY,
    RANK,
    RATE,
    TARGETS,
    WARMUP,
    adapters_only,
    drawn,
    rows_of,
    without_dropout,
)
from small_steps import Toy, ToyOptions
from speak import Watch, peak_memory_mb, serve

PACKAGES = ("regraft", "torch", "transformers", "numpy")


def steps(*, base: str, rows: str, targets: str, seed: int) -> dict[str, Any]:
    """Put adapters on the base and train one pass over the batches.

    Args:
        base: Folder of the base.
        rows: File of batches.
        targets: Which layers have adapters.
        seed: Draws adapters and head.
    """
    from regraft.models.backbones import Backbone, PoolingChoice, open_body
    from regraft.models.heads import LinearHead
    from regraft.models.net import Headed
    from regraft.options import build
    from regraft.training.events import StepEvent
    from regraft.training.loop import train
    from regraft.training.options import ComputeOptions, TrainOptions
    from regraft.training.savings import savings_of
    from regraft.tuning.lora import Lora, LoraOptions
    from regraft.types import Batch

    backbone = Backbone(open_body(Path(base)), PoolingChoice("mean", ""))
    without_dropout(backbone)
    net = Headed(backbone, LinearHead(backbone.width, CLASSES, 0.0, torch.Generator().manual_seed(0)))
    ids, labels = rows_of(rows)
    zeros, every = (ids[0] * 0, ids[0] >= 0)
    made = [
        Batch(inputs={"input_ids": ids_BT, "token_type_ids": zeros}, mask_BT=every, targets=labels_B)
        for ids_BT, labels_B in zip(ids, labels, strict=True)
    ]
    tuning = Lora(LoraOptions(rank=RANK, alpha=float(ALPHA), targets=TARGETS[targets]))
    tuning.prepare(net, iter(made), seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".lora_A." in name:
                path = name.removeprefix("backbone.body.").partition(".lora_A.")[0]
                weight.copy_(drawn(tuple(weight.shape), path, seed))
        head = net.head.linear
        head.weight.copy_(drawn(tuple(head.weight.shape), "head", seed))
        head.bias.zero_()
    rates = {"learning_rate": RATE, "head_learning_rate": RATE, "weight_decay": DECAY, "warmup_share": WARMUP}
    wanted = build(TrainOptions, {"epochs": 1, "batch_size": len(ids[0]), "clip_norm": CLIP, **rates})
    saving, _ = savings_of(build(ComputeOptions, {}), net, tuning.trainable(net), Path(rows).parent)  # as a fit does
    losses, watch = [], Watch()
    with watch("train"):
        events = train(saving, Toy(ToyOptions()).attach(made, None, None), tuning, wanted, seed=seed)
        losses += [event.loss for event in events if isinstance(event, StepEvent)]
    names = tuning.trainable(net) - {"head.linear.weight", "head.linear.bias"}
    learnt = {name.removeprefix("backbone.body."): net.get_parameter(name) for name in names}
    return watch.answer(losses=losses, learnt=adapters_only({**learnt, "head.weight": head.weight}), peak_mb=peak_memory_mb())


def prepare() -> dict[str, Any]:
    """Import what a round needs, so that no round pays for it."""
    import transformers.models.bert.modeling_bert  # noqa: F401

    import regraft.models.net  # noqa: F401

    torch.set_num_threads(1)
    return {}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, round=steps)
