"""What the comparisons of fitting share: where they start from, and what each side is asked for in a round.

Both sides alike: batches of 32, fused AdamW, 10 % warm-up and a linear fall, decay 0.01, clipping at norm 1, dropout 0.1, at
most 128 tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import Gate, same_accuracy
from harness import Contestant, Rounds, Turn
from rows import MAX_LENGTH, Texts

BASE = "minilm"
BATCH = 32
_FIRST_SEED = 100  # warm-ups count down from -1, seeds are not negative


def open_base() -> Path:
    """Return the folder of the base, fetched if it is not there."""
    from regraft.fitting import base_of
    from regraft.models.folder import FolderBase

    base = base_of(BASE)
    base.fetch()
    if not isinstance(base, FolderBase):
        raise TypeError(f"{BASE} is not a folder")
    return base.folder()


def our_turn(
    contestant: Contestant, texts: Texts, rate: float, *, epochs: int, tuning: Any, precision: str, base: str = BASE
) -> Turn:
    """Return what we do in a round.

    Args:
        contestant: `ours_fit.py`.
        texts: The rows.
        rate: Peak learning rate of every weight that learns.
        epochs: How often every row is seen.
        tuning: Which weights learn.
        precision: Type of the factors of matrix products.
        base: Name or folder of the base.
    """
    train = {"epochs": epochs, "batch_size": BATCH, "learning_rate": rate, "head_learning_rate": rate, "dropout": 0.1}
    options = {"modality": {"name": "text", "max_length": MAX_LENGTH}, "tuning": tuning, "train": train}
    asked = {"base": base, "train": str(texts.train), "few": str(texts.few), "judged": str(texts.judged)}
    return lambda number: contestant.round(**asked, options=options, precision=precision, seed=number + _FIRST_SEED)


def trainer_turn(
    contestant: Contestant, texts: Texts, rate: float, *, epochs: int, base: Path, learnt_layers: int | None, **more: Any
) -> Turn:
    """Return what the hub's Trainer does in a round.

    Args:
        contestant: `trainer.py`.
        texts: The rows.
        rate: Peak learning rate.
        epochs: How often every row is seen.
        base: Folder of the base.
        learnt_layers: Layers at the top that learn beside pooler and classifier; everything learns if not given.
        **more: More of its `TrainingArguments`.
    """
    arguments = {"num_train_epochs": epochs, "per_device_train_batch_size": BATCH, "learning_rate": rate, **more}
    asked = {"base": str(base), "train": str(texts.train), "judged": str(texts.judged), "max_length": MAX_LENGTH}
    given: Mapping[str, Any] = {**asked, "learnt_layers": learnt_layers, "arguments": arguments}
    return lambda number: contestant.round(**given, seed=number + _FIRST_SEED)


def accuracy_gate(rounds: Rounds, ours: str, peer: str, texts: Texts) -> Gate:
    """Compare mean accuracies over the rounds; every round is judged on the same rows, so these count once."""
    mean, peer_mean = (statistics.mean(round_.facts["accuracy"] for round_ in rounds[name]) for name in (ours, peer))
    return same_accuracy(mean, peer_mean, n=texts.judged_rows, majority=texts.majority)


__all__ = ["BASE", "BATCH", "accuracy_gate", "open_base", "our_turn", "trainer_turn"]
