"""A vocabulary learnt from the training rows, for bases that have none; the same rows give the same bytes.

Byte-level pairs (Sennrich et al. 2016, arXiv:1508.07909, over bytes as in GPT-2): every text can be written with it, nothing is
unknown, and learning it is deterministic (learning word pieces is not: its first pieces are numbered in hash order).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from regraft.errors import DataError, Problem
from regraft.options import JSON

PAD, START, END = "<pad>", "<s>", "</s>"
PAD_ID = 0
_SAMPLE_CHARACTERS = 8_000_000
_TEXT_CHARACTERS = 20_000


def learn_vocabulary(raws: Callable[[], Iterator[Sequence[Any]]], size: int, *, lowercase: bool) -> Tokenizer:
    """Learn byte-level pairs from texts, streamed.

    At most about 8 million characters are looked at: rows at equal distances over all of them, so that sorted data do no harm.

    Args:
        raws: Gives the texts again from the start, in chunks.
        size: Largest number of tokens, the 256 bytes and 3 special tokens included.
        lowercase: Whether capital letters are folded away.

    Raises:
        DataError: There is no text at all.
    """
    characters = sum(min(len(text), _TEXT_CHARACTERS) for chunk in raws() for text in chunk)
    if not characters:
        raise DataError(Problem(what="there is no text to learn a vocabulary from", fix="give training rows with text"))
    every = -(-characters // _SAMPLE_CHARACTERS)
    parts = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(parts)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sampled(raws(), every), trainer=trainer)
    names = [(START, tokenizer.token_to_id(START)), (END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=names)
    return tokenizer


def learn_unknown(tokenizer: Tokenizer, raws: Callable[[], Iterator[Sequence[Any]]]) -> Tokenizer:
    """Return a tokenizer of words that has tokens of its own for words of the training rows that it did not know.

    So a base that was trained on one language can tell the words of another apart. A word is what the tokenizer cuts out and
    takes for unknown (a Chinese character, for that of BERT); it is taken in if it stands in two rows at least.

    Args:
        tokenizer: With one token for whatever it does not know (WordPiece, WordLevel); returned as it is where it has none.
        raws: Gives the texts again from the start, in chunks.
    """
    said = json.loads(tokenizer.to_str())
    model = said["model"]
    unknown = tokenizer.token_to_id(model.get("unk_token") or "")
    if unknown is None or not isinstance(model.get("vocab"), dict):
        return tokenizer
    counts: Counter[str] = Counter()
    for chunk in raws():
        texts = [text[:_TEXT_CHARACTERS] for text in chunk]
        for text, found in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            spans = (found.offsets[place] for place, token in enumerate(found.ids) if token == unknown)
            pieces = (text[start:end] for start, end in spans)
            normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
            counts.update({word for piece in pieces for word in normal(piece).split()})
    first = tokenizer.get_vocab_size(with_added_tokens=True)
    words = sorted(word for word, rows in counts.items() if rows > 1 and word not in model["vocab"])
    model["vocab"] |= {word: first + place for place, word in enumerate(words)}
    return Tokenizer.from_str(json.dumps(said))


def companions(max_length: int) -> dict[str, JSON]:
    """Return the JSON file that lets any tool of the hub open such a tokenizer."""
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "pad_token": PAD,
            "bos_token": START,
            "eos_token": END,
        }
    }


def _sampled(chunks: Iterator[Sequence[Any]], every: int) -> Iterator[list[str]]:
    number = 0
    for chunk in chunks:
        yield [text[:_TEXT_CHARACTERS] for place, text in enumerate(chunk, start=number) if place % every == 0]
        number += len(chunk)
