"""PEFT's LoRA on the hub's encoder, in a loop written by hand: nothing but forward, backward, clipping and fused AdamW."""

from __future__ import annotations

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
    adapters_only,
    drawn,
    rows_of,
    shares,
    without_dropout,
)
from speak import Watch, peak_memory_mb, serve

PACKAGES = ("torch", "transformers", "peft", "numpy")


def steps(*, base: str, rows: str, targets: str, seed: int) -> dict[str, Any]:
    """Put adapters on the base and train one pass over the batches.

    Args:
        base: Folder of the base.
        rows: File of batches.
        targets: Which layers have adapters.
        seed: Draws adapters and head.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    body = AutoModel.from_pretrained(base, add_pooling_layer=False, attn_implementation="sdpa")
    without_dropout(body)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS[targets]))
    model = get_peft_model(body, config)
    head = torch.nn.Linear(body.config.hidden_size, CLASSES)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_A." in name:
                path = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
                weight.copy_(drawn(tuple(weight.shape), path, seed))
        head.weight.copy_(drawn(tuple(head.weight.shape), "head", seed))
        head.bias.zero_()
    model.train()
    ids, labels = rows_of(rows)
    decayed = [*(weight for weight in model.parameters() if weight.requires_grad), head.weight]
    weights = [*decayed, head.bias]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shares(len(ids)))
    losses, watch = [], Watch()
    with watch("train"):
        for ids_BT, labels_B in zip(ids, labels, strict=True):
            tokens = torch.from_numpy(ids_BT)
            # All rows are of one length: there is no padding that a mask would have to hide.
            hidden = model(input_ids=tokens).last_hidden_state
            loss = torch.nn.functional.cross_entropy(head(hidden.mean(dim=1)), torch.from_numpy(labels_B))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP, foreach=True)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    learnt = {
        name.removeprefix("base_model.model.").replace(".default", ""): w
        for name, w in model.named_parameters()
        if w.requires_grad
    }
    return watch.answer(losses=losses, learnt=adapters_only({**learnt, "head.weight": head.weight}), peak_mb=peak_memory_mb())


def prepare() -> dict[str, Any]:
    """Import what a round needs, so that no round pays for it."""
    import peft  # noqa: F401
    import transformers
    import transformers.models.bert.modeling_bert

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return {}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, round=steps)
