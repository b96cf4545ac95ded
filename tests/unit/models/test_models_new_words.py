"""Words that a base's tokenizer does not know: they get tokens and vectors of their own, and nothing else changes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from regraft.models.folder import _taken_in
from regraft.models.vocabulary import learn_unknown

ROWS = ["cat 猫猫", "dog 狗", "猫 cat", "狗 dogs Ünï", "once 鱼", "[UNK] ünï"]


def pieces() -> Tokenizer:
    """A tokenizer as BERT's: lower case without accents, every Chinese character a word, word pieces."""
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "cat", "dog", "##s"))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    return made


def test_words_that_stand_in_two_rows_get_tokens_and_known_ones_keep_theirs():
    made, before = learn_unknown(pieces(), lambda: iter([ROWS[:3], ROWS[3:]])), pieces()
    assert made.encode("猫 狗 鱼 dogs").tokens == ["猫", "狗", "[UNK]", "dog", "##s"]
    assert before.encode("猫 狗").tokens == ["[UNK]", "[UNK]"]
    known = before.get_vocab()
    assert {word: number for word, number in made.get_vocab().items() if word in known} == known
    assert sorted(set(made.get_vocab()) - set(known)) == ["uni", "狗", "猫"]
    assert sorted(made.get_vocab().values()) == list(range(8))
    again = learn_unknown(pieces(), lambda: iter([ROWS[:3], ROWS[3:]]))
    assert made.to_str() == again.to_str()
    assert json.loads(made.to_str())["model"]["type"] == "WordPiece"


def test_a_tokenizer_that_knows_everything_stays_as_it_is():
    whole = Tokenizer(models.BPE())
    assert learn_unknown(whole, lambda: iter([ROWS])) is whole


def test_the_network_gets_vectors_around_the_mean_and_keeps_the_others():
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=5, initializer_range=0.02
    )
    made = [transformers.BertModel(config) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    before = made[0].get_input_embeddings().weight.detach().clone()
    torch.manual_seed(1)
    assert _taken_in(made[0], 305, seed=3) == (
        "300 words of the training rows that the base did not know have vectors of their own, untrained",
    )
    torch.manual_seed(2)
    _taken_in(made[1], 305, seed=3)
    table, same = (model.get_input_embeddings().weight.detach() for model in made)
    assert torch.equal(table, same)
    assert torch.equal(table[:5], before)
    assert made[0].config.vocab_size == len(table) == 305
    spread = table[5:] - before.mean(dim=0)
    assert float(spread.std()) == pytest.approx(0.02, rel=0.1)
    assert _taken_in(made[0], 300, seed=3) == ()
