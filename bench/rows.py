"""Texts with labels in three length mixes, and how much padding each of them costs.

`lognormal`: median 22 tokens, sigma 0.6, cut at 128. `uniform`: every text 32 tokens long, where leaving padding out gains
nothing. `real`: the shipped sample of e-mails, cut at 128 tokens. The words of the first two are whole words of the
tokenizer's own vocabulary; each label has words of its own that occur more often, so that there is something to learn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MIXES = ("lognormal", "uniform", "real")
MAX_LENGTH = 128
_MEDIAN, _SIGMA, _UNIFORM = 22, 0.6, 32
_SPECIAL = 2  # [CLS] and [SEP]
_TOPIC_WORDS, _OWN, _OTHER = 40, 0.16, 0.04

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Rows of one mix, in files of JSON lines and measured in tokens.

    Args:
        mix: Its name.
        train: File of the rows to learn from.
        judged: File of the rows to be judged on.
        few: File of one row of each label, for tools that insist on rows to test.
        lengths: Tokens of each training row, cut, special tokens included.
        judged_rows: Rows to be judged on.
        majority: Share of the commonest label among them.
    """

    mix: str
    train: Path
    judged: Path
    few: Path
    lengths: tuple[int, ...]
    judged_rows: int
    majority: float

    @property
    def tokens(self) -> int:
        """Real tokens of the training rows."""
        return sum(self.lengths)


def write_texts(mix: str, train: int, judged: int, tokenizer_file: Path, folder: Path, seed: int = 0) -> Texts:
    """Draw rows of a mix and write them.

    Args:
        mix: One of `MIXES`.
        train: Rows to learn from; `real` has at most 2,000 in all.
        judged: Rows to be judged on.
        tokenizer_file: The base's tokenizer.json.
        folder: Where to write.
        seed: Draws them.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    rows = real(seed) if mix == "real" else synthetic(mix, train + judged, whole_words(tokenizer.get_vocab()), seed)
    judged = min(judged, len(rows) // 3) if mix == "real" else judged
    parts = {"judged": rows[:judged], "train": rows[judged : judged + train]}
    parts["few"] = [next(row for row in rows if row["label"] == label) for label in sorted({row["label"] for row in rows})]
    files = {name: folder / f"{mix}-{len(part)}-{name}.jsonl" for name, part in parts.items()}
    for name, part in parts.items():
        files[name].write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    labels = [row["label"] for row in parts["judged"]]
    return Texts(
        mix=mix,
        **files,
        lengths=tuple(len(found.ids) for found in tokenizer.encode_batch([row["text"] for row in parts["train"]])),
        judged_rows=len(labels),
        majority=max(labels.count(label) for label in set(labels)) / len(labels),
    )


def whole_words(vocabulary: dict[str, int]) -> list[str]:
    """Return the words of a vocabulary that are one token each, in an order that does not depend on the machine."""
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [word for word in ordered if word.isascii() and word.isalpha() and len(word) > 3]


def synthetic(mix: str, count: int, words: Sequence[str], seed: int) -> list[Row]:
    """Return rows whose label shows in the words: a word is one of the label's own with chance 0.16, of the other's 0.04."""
    rng = random.Random(seed)
    chosen = rng.sample(list(words), 2 * _TOPIC_WORDS + 2000)
    topics = {"bird": chosen[:_TOPIC_WORDS], "fish": chosen[_TOPIC_WORDS : 2 * _TOPIC_WORDS]}
    background = chosen[2 * _TOPIC_WORDS :]
    rows = []
    for number in range(count):
        label, other = ("bird", "fish") if number % 2 else ("fish", "bird")
        length = _UNIFORM if mix == "uniform" else round(rng.lognormvariate(np.log(_MEDIAN), _SIGMA))
        text = []
        for _ in range(min(max(length, _SPECIAL + 1), MAX_LENGTH) - _SPECIAL):
            draw = rng.random()
            text.append(rng.choice(topics[label] if draw < _OWN else topics[other] if draw < _OWN + _OTHER else background))
        rows.append({"text": " ".join(text), "label": label})
    rng.shuffle(rows)
    return rows


def real(seed: int) -> list[Row]:
    """Return the shipped e-mails in an order drawn by the seed."""
    from pyarrow import parquet

    from regraft.data import SAMPLES

    table: list[dict[str, Any]] = parquet.read_table(SAMPLES.get("spam"), columns=["text", "label"]).to_pylist()
    random.Random(seed).shuffle(table)
    return table


def padding_ratio(lengths: Sequence[int], batch_size: int, seed: int = 0) -> float:
    """Return padded tokens / real tokens of batches in random order, each padded to its longest row."""
    order = np.random.default_rng(seed).permutation(np.asarray(lengths))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return float(sum(len(batch) * batch.max() for batch in batches) / order.sum())


__all__ = ["MAX_LENGTH", "MIXES", "Texts", "padding_ratio", "write_texts"]
