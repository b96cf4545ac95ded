"""Where a training step goes: MiniLM, 32 short texts, one thread; as padded training does it, and as it is done here.

    python bench/step_profile.py

Before: every position of the padded batch, the whole token table, torch's dropout. After: real positions only, the rows of the
table in use, dropout from 16 random bits a number. Both with attention through torch and fused AdamW. Processor time of each
kind of operation by torch's profiler, the mean of a few steps.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections import Counter
from contextlib import ExitStack

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from measure import report
from regraft.fitting import base_of
from regraft.models.backbones import Shapes
from regraft.models.dropout import fast_dropouts
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.view import view
from regraft.training.compact import compacted

STEPS, ROWS = 4, 32
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention kernel, softmax": ("flash_attention", "_softmax", "masked_fill", "attention_math"),
    "dropout": ("bernoulli", "random_", "dropout", "aten::ge_", "_to_copy"),
    "optimiser and clipping": ("_fused_adamw_", "linalg_vector_norm", "_foreach"),
    "activation": ("gelu",),
    "norms": ("layer_norm",),
    "token table": ("embedding", "index_put", "fill_", "zero_"),
}


def batches(seed: int = 0) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Return batches of short texts: lengths lognormal with median 22 and sigma 0.6, cut at 128."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(STEPS):
        lengths = np.clip(np.exp(rng.normal(np.log(22), 0.6, ROWS)).astype(int), 3, 128)
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = torch.from_numpy(rng.integers(1000, 7000, mask.shape) * mask)
        made.append(({"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}, torch.from_numpy(mask)))
    return made


def steps(net: Headed, optimizer: torch.optim.Optimizer, given: list[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
    """Train on each batch once."""
    for inputs, mask in given:
        torch.nn.functional.cross_entropy(net(inputs, mask), torch.arange(len(mask)) % 2).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def profiled(net: Headed, given: list[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> dict[str, float]:
    """Return milliseconds of processor time a step by kind of operation, and in all."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    steps(net, optimizer, given)
    began = time.process_time()
    steps(net, optimizer, given)
    total = (time.process_time() - began) / STEPS * 1000
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        steps(net, optimizer, given)
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        kind = next((name for name, marks in KINDS.items() if any(mark in event.key for mark in marks)), "everything else")
        spent[kind] += event.self_cpu_time_total / 1000 / STEPS
    return {**{kind: spent[kind] for kind in (*KINDS, "everything else")}, "a step without the profiler": total}


def main() -> None:
    """Profile both ways and write the table."""
    torch.set_num_threads(1)
    given, base = batches(), base_of("minilm")
    base.fetch()
    backbone = base.backbone(base.modality({}, lambda: iter([])), 0)
    net = Headed(backbone, LinearHead(backbone.width, 2, 0.1, torch.Generator().manual_seed(0)))
    backbone.shapes = Shapes("padded")
    before = profiled(net, given)
    backbone.shapes = Shapes("packed")
    with ExitStack() as stack:
        used = np.unique(np.concatenate([inputs["input_ids"].numpy().ravel() for inputs, _ in given]))
        compact = stack.enter_context(compacted(net, {name for name, _ in net.named_parameters()}, used))
        after = profiled(view(compact.net, fast_dropouts(compact.net)), given)
    ratio = sum(mask.numel() for _, mask in given) / sum(int(mask.sum()) for _, mask in given)
    lines = [f"{'ms of processor time a step':28}{'before':>9}{'after':>9}   (padding ratio {ratio:.2f})"]
    lines += [f"{kind:28}{before[kind]:9.0f}{after[kind]:9.0f}" for kind in before]
    report("step_profile", {"padding_ratio": ratio, "before_ms": before, "after_ms": after}, "\n".join(lines))


if __name__ == "__main__":
    main()
