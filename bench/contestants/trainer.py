"""The hub's Trainer, set as its documentation advises: dynamic padding, fused AdamW, nothing but training in the loop.

No workers in the data loader: on one core they only add processes. No logging, saving or evaluation.
"""

from __future__ import annotations

import tempfile
from typing import Any

from speak import Watch, peak_memory_mb, read_rows, serve

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def fit(
    *,
    base: str,
    train: str,
    judged: str | None,
    max_length: int,
    learnt_layers: int | None,
    arguments: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Load, tokenise, train; then say how right the network is on rows it has not seen.

    Args:
        base: Folder of the base.
        train: File of rows.
        judged: File of rows to be judged on.
        max_length: Longest text in tokens.
        learnt_layers: Layers at the top that learn beside pooler and classifier; everything learns if not given.
        arguments: More of `TrainingArguments`.
        seed: Of weights, order and dropout.
    """
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        with watch("open and read"):
            set_seed(seed)
            texts, labels = read_rows(train)
            names = sorted(set(labels))
            tokenizer = AutoTokenizer.from_pretrained(base)
        with watch("tokenise"):
            rows = tokenizer(texts, truncation=True, max_length=max_length)
            data = Dataset.from_dict({**rows, "labels": [names.index(label) for label in labels]})
        with watch("open the network"):
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
            freeze(model, learnt_layers)
        with watch("train"):
            given = TrainingArguments(
                output_dir=folder,
                use_cpu=True,
                optim="adamw_torch_fused",
                lr_scheduler_type="linear",
                warmup_steps=0.1,
                weight_decay=0.01,
                max_grad_norm=1.0,
                logging_strategy="no",
                save_strategy="no",
                eval_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_num_workers=0,
                dataloader_pin_memory=False,
                seed=seed,
                **arguments,
            )
            Trainer(
                model=model,
                args=given,
                train_dataset=data,
                data_collator=DataCollatorWithPadding(tokenizer),
                processing_class=tokenizer,
            ).train()
        facts: dict[str, Any] = {"peak_mb": peak_memory_mb()}
        if judged is not None:
            facts["accuracy"] = accuracy(model, tokenizer, names, judged, max_length)
    return watch.answer(**facts)


def freeze(model: Any, learnt_layers: int | None) -> None:
    """Let only the top layers learn. The pooler is not in the body: it is new to the task, and learning makes it better."""
    if learnt_layers is None:
        return
    body = model.base_model
    layers = body.encoder.layer
    for part in (body.embeddings, *layers[: len(layers) - learnt_layers]):
        part.requires_grad_(False)


def accuracy(model: Any, tokenizer: Any, names: list[str], judged: str, max_length: int) -> float:
    import torch

    texts, labels = read_rows(judged)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    right = 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            batch = tokenizer(
                [texts[i] for i in chosen], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            answers = model(**batch).logits.argmax(1).tolist()
            right += sum(names[answer] == labels[i] for answer, i in zip(answers, chosen, strict=True))
    return right / len(labels)


def prepare() -> dict[str, Any]:
    """Import what a fit needs, so that no round pays for it."""
    import datasets  # noqa: F401
    import torch
    import transformers
    import transformers.models.bert.modeling_bert
    from transformers import AutoModelForSequenceClassification, Trainer  # noqa: F401

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return {}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, round=fit)
