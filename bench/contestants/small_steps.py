"""Steps of about 10 ms: Regraft's loop, or a loop written by hand that does the same updates and nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from speak import Watch, serve
from torch import nn

from regraft.models.net import Headed
from regraft.objectives.objective import Objective
from regraft.options import build, options
from regraft.tasks.task import Loss
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions
from regraft.types import Batch, Features

PACKAGES = ("regraft", "torch", "numpy")
RATE, DECAY, CLIP, WARMUP, ROWS, CLASSES = 1e-3, 0.01, 1.0, 0.1, 96, 8


class Body(nn.Module):
    """Three square layers over one position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(width, width), nn.GELU())))
        self.pooling = nn.Identity()

    def forward(self, inputs: Any, mask_BT: torch.Tensor) -> Features:
        """Return features whose pooled vector is the only position."""
        sequence_BTD = self.layers(inputs["values"])
        return Features(sequence_BTD=sequence_BTD, mask_BT=mask_BT, pooled_BD=sequence_BTD[:, 0])


class Head(nn.Module):
    """One linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, CLASSES)

    def forward(self, features: Features) -> torch.Tensor:
        """Return the output (B, classes)."""
        output: torch.Tensor = self.linear(features.pooled_BD)
        return output


@options
class ToyOptions:
    """The toy objective has nothing to choose."""


class Toy(Objective):
    """Cross-entropy over batches that are there already, so that nothing but the loop and the network takes time."""

    Options = ToyOptions

    def attach(self, rows: Any, targets: Any, task: Any) -> Toy:
        """Take the batches."""
        self.made: list[Batch] = rows
        return self

    def batches(self, epoch: int, batch_size: int, micro_batch_size: int, rng: np.random.Generator, first: int = 0) -> Any:
        """Yield each batch as it is."""
        for batch in self.made:
            yield [batch]

    def rows_per_epoch(self) -> int:
        """Return the number of rows."""
        return ROWS * len(self.made)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches."""
        return len(self.made)

    def loss(self, net: Headed, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the summed cross-entropy and the number of rows."""
        output = net(*net.tensors(batch))
        total = nn.functional.cross_entropy(output, torch.from_numpy(batch.targets), reduction="sum")
        return Loss(total, torch.tensor(float(batch.size))), {}


def start(width: int, steps: int, seed: int) -> tuple[Headed, list[Batch]]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((steps, ROWS, 1, width)).astype(np.float32)
    targets = rng.integers(0, CLASSES, size=(steps, ROWS))
    mask = np.ones((ROWS, 1), dtype=bool)
    made = [Batch(inputs={"values": x}, mask_BT=mask, targets=y) for x, y in zip(values, targets, strict=True)]
    return Headed(Body(width), Head(width)).train(), made


def run_ours(net: Headed, made: list[Batch]) -> None:
    wanted = build(
        TrainOptions,
        {
            "epochs": 1,
            "batch_size": ROWS,
            "learning_rate": RATE,
            "head_learning_rate": RATE,
            "weight_decay": DECAY,
            "warmup_share": WARMUP,
            "clip_norm": CLIP,
        },
    )
    for _ in train(net, Toy(ToyOptions()).attach(made, None, None), Full(FullOptions()), wanted, seed=0):
        pass


def run_by_hand(net: Headed, made: list[Batch]) -> None:
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim < 2]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    steps, warmup = len(made), int(len(made) * WARMUP)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / (warmup + 1) if step < warmup else 1 - (step - warmup) / max(1, steps - warmup)
    )
    for batch in made:
        optimizer.zero_grad()
        inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        output = net(inputs, torch.from_numpy(batch.mask_BT))
        nn.functional.cross_entropy(output, torch.from_numpy(batch.targets)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        schedule.step()


def steps(*, ours: bool, width: int, count: int, seed: int, weights_to: str) -> dict[str, Any]:
    """Do so many updates and keep the weights that come out."""
    torch.set_num_threads(1)
    net, made = start(width, count, seed)
    watch = Watch()
    with watch("train"):
        (run_ours if ours else run_by_hand)(net, made)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy()
    np.save(weights_to, flat)
    return watch.answer(digest=hashlib.sha256(flat.tobytes()).hexdigest())


if __name__ == "__main__":
    serve(PACKAGES, round=steps)
