"""Digests of rows and of preprocessings: the same for the same, different for everything else."""

import datetime
import decimal
import hashlib
import itertools
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.modalities import digests as module
from regraft.modalities.digests import modality_digest, row_digests
from regraft.modalities.text import Text, TextOptions

VALUES = [
    "", "a", "b", "ab", "1", "\ud800", "é", "e\u0301", b"", b"a", b"1", None, True, False, 0, 1, -1, 2**80, 0.0, -0.0, 1.0, 1.5,
    float("inf"), [], [1], [1, 2], [[1], 2], [1, [2]], ["ab"], ["a", "b"], (), (1,), ("a", "b"), {}, {"a": 1}, {"a": 1, "b": 2},
    {"b": 2, "a": 1}, {"a": {"b": 1}}, {"a": [1]}, ["1:ai1"], np.float32(1), np.float64(1), np.int32(1), np.int64(1), np.bool_(True),
    np.array(1), np.array([1]), np.array([[1]]), np.array([1, 2]), np.array([1, 2], np.int32), np.array([1, 2], np.float32),
    np.array([1, 2], ">i4"), np.zeros((2, 0)), np.zeros((0, 2)), np.array(["a", None], object), np.array([("a", 1)], "U1,i4"),
    datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    decimal.Decimal("1"), decimal.Decimal("1.0"), 1j,
]  # fmt: skip


def test_different_values_have_different_digests_and_the_same_the_same():
    found = row_digests(VALUES)
    assert found.shape == (len(VALUES), 16)
    assert found.dtype == np.uint8
    assert len({row.tobytes() for row in found}) == len(VALUES)
    np.testing.assert_array_equal(found, row_digests(VALUES))
    for (i, one), (j, other) in itertools.combinations(enumerate(VALUES), 2):
        assert module.tagged(one) != module.tagged(other), (i, j)


def test_the_digest_of_a_text_is_blake2b_of_its_bytes_and_a_mark():
    text = "Grüße, 你好"
    expected = hashlib.blake2b(b"s" + text.encode(), digest_size=16).digest()
    assert row_digests([text])[0].tobytes() == expected
    assert row_digests([]).shape == (0, 16)


def test_arrays_count_by_their_values_and_not_by_how_they_lie_in_memory():
    array = np.arange(12).reshape(3, 4)
    one, two, three = row_digests([array.T, np.ascontiguousarray(array.T), array])
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


def test_a_value_of_an_unknown_type_is_never_found_again():
    value = object()
    one, two = row_digests([value, value])
    assert (one != two).any()


WORDS = {"?": 0, "good": 1, "day": 2}


def text(words=WORDS, inputs=("input_ids",), pad_id=0, files=None, **options):
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Text(tokenizer, TextOptions(**options), inputs=inputs, pad_id=pad_id, files=files)


def test_every_change_of_the_preprocessing_changes_its_digest():
    variants = [
        text(),
        text(max_length=64),
        text(truncation_side="left"),
        text(max_chars=50),
        text(inputs=("input_ids", "token_type_ids")),
        text(pad_id=1),
        text({"?": 0, "good": 2, "day": 1}),
        text({**WORDS, "to": 3}),
        text(files={"tokenizer_config.json": {"a": 1}}),
        text(files={"tokenizer_config.json": {"a": 2}}),
        text(files={"special_tokens_map.json": {"a": 1}}),
    ]
    found = [modality_digest(variant) for variant in variants]
    assert len(set(found)) == len(variants)
    assert all(len(digest) == 64 for digest in found)
    assert found == [modality_digest(variant) for variant in variants]


def test_every_option_of_text_is_among_the_changes():
    changed = {"max_length": 64, "truncation_side": "left", "max_chars": 50}
    in_the_tokenizer = {"new_words"}  # what it leads to are other words, a change of its own above
    assert set(TextOptions.__dataclass_fields__) == set(changed) | in_the_tokenizer


def test_a_saved_and_loaded_preprocessing_is_the_same_one(tmp_path):
    modality = text(files={"tokenizer_config.json": {"a": 1}})
    modality.save(tmp_path)
    again = Text.load(tmp_path, json.loads(json.dumps(modality.spec())))
    assert modality_digest(again) == modality_digest(modality)


@pytest.mark.parametrize("name", ["version", "__version__"])
def test_another_version_of_what_encodes_is_another_preprocessing(monkeypatch, name):
    before = modality_digest(text())
    if name == "version":
        monkeypatch.setattr(module.metadata, "version", lambda package: "99")
    else:
        monkeypatch.setattr(module, "__version__", "99")
    assert modality_digest(text()) != before
