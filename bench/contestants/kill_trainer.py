"""The hub's Trainer, killed with SIGKILL at random moments and resumed, compared with one that nobody killed.

    python bench/contestants/kill_trainer.py --points N --seed S        in the environment of the peer; one JSON line at the end

The fits are as those of tests/integration/kill_points.py: a tiny BERT, batches of 16, three epochs, a checkpoint every five
updates, evaluation every seven; with augmentation (tokens masked by chance in the collator) and without, accumulation 1 and 4,
worker processes 0 and 2. Resuming is the one that its documentation shows:
`trainer.train(resume_from_checkpoint=True)` where a checkpoint is there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROWS, WORDS, LONGEST = 240, 200, 18
SETTINGS = {
    f"augmentation {'on' if augmented else 'off'}, accumulation {steps}, workers {workers}": (augmented, steps, workers)
    for augmented, steps, workers in itertools.product((True, False), (1, 4), (0, 2))
}


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    """Return rows of token numbers, most of them from the half that the label names."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        label = rng.randrange(2)
        length = rng.randint(3, LONGEST)
        found.append({"input_ids": [rng.randrange(5, WORDS // 2) + label * WORDS // 2 for _ in range(length)], "labels": label})
    return found


def fit(folder: Path, augmented: bool, accumulation: int, workers: int) -> None:
    """Train in this process; the digest of the final weights is written beside the checkpoints."""
    import torch
    import transformers
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    transformers.logging.set_verbosity_error()
    transformers.set_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    net = BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=32, num_labels=2))

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for place, row in enumerate(batch):
            ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask = (ids != 0).long()
        if augmented:
            ids = torch.where(torch.rand(ids.shape) < 0.1, torch.full_like(ids, 3), ids) * mask
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in batch])}

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=16 // accumulation,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
        save_strategy="steps",
        save_steps=5,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=7,
        learning_rate=1e-3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(net, arguments, data_collator=collate, train_dataset=rows(1, ROWS), eval_dataset=rows(2, 40))
    trainer.train(resume_from_checkpoint=True if any(folder.glob("checkpoint-*")) else None)
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def in_child(folder: Path, setting: tuple[bool, int, int], kill_after: float | None = None) -> tuple[int, float]:
    """Train in a forked child of its own process group; returns its exit code, negative for a signal, and its seconds."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            fit(folder, *setting)
            code = 0
        except BaseException as error:  # noqa: BLE001 - said by the child, counted by the parent
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # its workers
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def main() -> None:
    """Kill, resume, compare."""
    import torch
    import transformers  # noqa: F401 - children share it
    from transformers import BertForSequenceClassification, Trainer  # noqa: F401

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, names = random.Random(asked.seed), list(SETTINGS)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    with tempfile.TemporaryDirectory() as top:
        whole: dict[str, tuple[str, float]] = {}
        for number in range(asked.points):
            name = names[number % len(names)]
            if name not in whole:
                out = Path(top) / f"whole-{len(whole)}"
                out.mkdir()
                code, seconds = in_child(out, SETTINGS[name])
                if code:
                    sys.exit(f"{name}: training that nobody interrupts ends with {code}")
                whole[name] = (out / "digest").read_text(), seconds
            out = Path(top) / f"point-{number}"
            out.mkdir()
            digest, seconds = whole[name]
            code, _ = in_child(out, SETTINGS[name], rng.uniform(0.05, 1.0) * seconds)
            if code == 0:
                outcome = "same"
            else:
                code, _ = in_child(out, SETTINGS[name])
                found = (out / "digest").read_text() if code == 0 else ""
                outcome = "same" if found == digest else "differs" if code == 0 else "does not resume"
            counts[name][outcome] += 1
            sys.stderr.write(f"{number + 1:4d} {outcome}  {name}\n")
            shutil.rmtree(out)
    print(json.dumps({"points": asked.points, "outcomes": {name: dict(count) for name, count in counts.items()}}))


if __name__ == "__main__":
    main()
