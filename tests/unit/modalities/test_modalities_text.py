"""Text: what cannot be encoded, spans, limits, padding, what looks like free text, examples."""

import datetime
import subprocess
import sys
import uuid

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from regraft.errors import BaseError, OptionsError
from regraft.modalities import MODALITIES
from regraft.modalities.modality import padded
from regraft.modalities.text import Text, TextOptions, read_companions, read_tokenizer

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "good", "day", "to", "you", "a"]


def tokenizer(around=True):
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer = normalizers.Replace("☃", "")
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return made


def text(around=True, **options):
    return Text(tokenizer(around), TextOptions(**options))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("fine", ""),
        ("漢", ""),
        (None, "there is no text"),
        (3, "text is expected, got int (3)"),
        (b"bytes", "text is expected, got bytes (b'bytes')"),
        (["a"], "text is expected, got list (['a'])"),
        ("", "the text is empty"),
        (" \t\n\u3000", "the text is empty"),
        ("ab\ud800c", "the text holds half a character (a lone surrogate) at position 2"),
    ],
)
def test_problems(raw, problem):
    assert text().problem(raw) == problem


def test_spans_lead_back_to_the_characters():
    raw = "good  day,\nto you"
    row = text().encode([raw])[0]
    pieces = [raw[start:end] for start, end in row.spans_T2]
    assert pieces == ["", "good", "day", ",", "to", "you", ""]
    assert row.inputs["input_ids"].tolist() == [1, 4, 5, 3, 6, 7, 2]
    assert row.dropped == 0


@pytest.mark.parametrize(
    ("side", "ids", "pieces"), [("right", [1, 4, 5, 2], ["good", "day"]), ("left", [1, 6, 7, 2], ["to", "you"])]
)
def test_a_long_text_keeps_its_special_tokens_and_the_loss_is_counted(side, ids, pieces):
    raw = "good day to you"
    row = text(max_length=4, truncation_side=side).encode([raw])[0]
    assert row.inputs["input_ids"].tolist() == ids
    assert [raw[start:end] for start, end in row.spans_T2[1:-1]] == pieces
    assert row.dropped == 2


@pytest.mark.parametrize(
    ("side", "ids", "pieces"), [("right", [1, 4, 5, 2], ["good", "day"]), ("left", [1, 6, 7, 2], ["to", "you"])]
)
def test_characters_beyond_the_cap_are_dropped_unseen_and_counted(side, ids, pieces):
    raw = "good day to you" if side == "right" else "good day  to you"
    cap = 8 if side == "right" else 6
    row = text(max_chars=cap, truncation_side=side).encode([raw])[0]
    assert row.inputs["input_ids"].tolist() == ids
    assert [raw[start:end] for start, end in row.spans_T2[1:-1]] == pieces
    assert row.dropped == len(raw) - cap


def test_a_text_of_which_nothing_is_left_is_one_filler():
    row = text(around=False).encode(["☃"])[0]
    assert (row.length, row.inputs["input_ids"].tolist(), row.spans_T2.tolist()) == (1, [0], [[0, 0]])
    assert text().encode(["☃"])[0].inputs["input_ids"].tolist() == [1, 2]


def test_no_room_for_the_text_is_an_error():
    made = tokenizer()
    made.post_processor = processors.TemplateProcessing(single="<s> <s> <s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    with pytest.raises(OptionsError) as caught:
        Text(made, TextOptions(max_length=4))
    assert str(caught.value) == (
        "no room is left for the text\n  where: max_length\n  got: 4\n"
        "  expected: more than the 4 special tokens around every text\n  to do: give max_length a larger value"
    )


def test_the_tokenizers_own_cuts_and_fills_are_not_used():
    made = tokenizer()
    made.enable_truncation(3)
    made.enable_padding(length=50)
    row = Text(made, TextOptions()).encode(["good day to you"])[0]
    assert row.inputs["input_ids"].tolist() == [1, 4, 5, 6, 7, 2]
    assert made.truncation["max_length"] == 3  # the caller's object is left as it was


def test_order_and_portions_do_not_matter(monkeypatch):
    raws = [" ".join(WORDS[4 + i % 5] for i in range(n)) for n in (3, 40, 1, 7, 25)]
    expected = [text().encode([raw])[0].inputs["input_ids"].tolist() for raw in raws]
    monkeypatch.setattr("regraft.modalities.text._CHARACTERS_AT_ONCE", 10)
    assert [row.inputs["input_ids"].tolist() for row in text().encode(raws)] == expected
    assert text().encode([]) == []


def test_collate_pads_on_the_right_and_masks_what_is_not_there():
    made = Text(tokenizer(), TextOptions(), inputs=("input_ids", "token_type_ids"), pad_id=7)
    inputs, mask = made.collate(made.encode(["good", "good day"]))
    assert inputs["input_ids"].tolist() == [[1, 4, 2, 7], [1, 4, 5, 2]]
    assert inputs["token_type_ids"].tolist() == [[0] * 4] * 2
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert mask.dtype == bool
    assert inputs["input_ids"].dtype == np.int64


def test_padded_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, size=9)
    flat = {"n": np.arange(lengths.sum(), dtype=np.int32), "x": rng.random((lengths.sum(), 2, 3)).astype(np.float32)}
    starts = np.cumsum(lengths) - lengths
    rows = rng.permutation(9)
    inputs, mask = padded(flat, starts[rows], lengths[rows], {"n": -1, "x": 0.5})
    for place, row in enumerate(rows):
        own = slice(starts[row], starts[row] + lengths[row])
        for name, filler in (("n", -1), ("x", 0.5)):
            np.testing.assert_array_equal(inputs[name][place, : lengths[row]], flat[name][own])
            assert (inputs[name][place, lengths[row] :] == filler).all()
        assert mask[place].tolist() == [position < lengths[row] for position in range(lengths.max())]
    assert inputs["n"].dtype == np.int64
    assert inputs["x"].dtype == np.float32


def test_padded_can_take_rows_of_nothing():
    inputs, mask = padded({"n": np.zeros(0, np.int32)}, np.zeros(2, int), np.zeros(2, int), {"n": 5})
    assert inputs["n"].tolist() == [[5], [5]]
    assert not mask.any()


def test_a_folder_without_a_tokenizer_or_with_a_damaged_one(tmp_path):
    with pytest.raises(BaseError, match=r"the tokenizer is missing\n  where: .*tokenizer\.json\n  to do: fetch or save"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BaseError, match="the tokenizer cannot be read"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BaseError, match="a tokenizer file is not JSON"):
        read_companions(tmp_path)


def test_preparing_text_needs_neither_torch_nor_transformers(tmp_path):
    made = text()
    made.save(tmp_path)
    code = (
        "import sys, json, pathlib\nfrom regraft.modalities import MODALITIES\n"
        "text = MODALITIES.get('text').load(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "print(text.collate(text.encode(['good day']))[0]['input_ids'].tolist(), {'torch', 'transformers'} & set(sys.modules))"
    )
    import json

    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(made.spec())]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[[1, 4, 5, 2]] set()"


REVIEWS = [
    "I like this dress very much",
    "Too small, sent it back!",
    "ok",
    "Colour is not what the picture says, sadly",
    "great",
]
YES = {
    "reviews": REVIEWS,
    "mails": [f"Subject: hello {i}\n\nDear friend, please find attached {i} things" for i in range(20)],
    "chinese": [
        "这个产品非常好我很喜欢下次还会再来购买的谢谢",
        "质量太差了完全不值这个价格以后不会再来了",
        "物流很快包装也很好总体来说还是比较满意的",
    ],
    "a few repeated": [*REVIEWS, *REVIEWS[:2]],
    "numbers inside": ["Win 1000000 dollars now!!! call 0800 123 456", "your code is 1234, do not share it with anyone"],
}
NO = {
    "labels": ["spam", "ham"] * 20,
    "sentences as labels": ["not spam at all", "very clearly spam"] * 20,
    "codes": [f"A-{i:05d}" for i in range(30)],
    "uuids": [str(uuid.UUID(int=i)) for i in range(30)],
    "dates": [(datetime.date(2024, 1, 1) + datetime.timedelta(i)).isoformat() for i in range(30)],
    "times": [f"2024-01-05 10:{i:02d}:00" for i in range(30)],
    "long dates": [f"{i + 1} January 2024" for i in range(28)],
    "addresses": [f"https://example.com/page/{i}?q=some+words" for i in range(30)],
    "mail addresses": [f"somebody.{i}@example.com" for i in range(30)],
    "paths": [f"/home/some body/files/{i}.txt" for i in range(30)],
    "numbers as text": [f"{i}.{i} 17 22 19" for i in range(30)],
    "numbers": list(range(30)),
    "names": ["John Smith", "Jane Doe", "Ann Lee", "Bo Li"],
    "long words": [f"internationalisation{i:c}" for i in range(97, 120)],
    "mixed": ["some text that is long enough", 3, 4, 5],
    "nothing": [],
    "blank": ["", " "],
}


@pytest.mark.parametrize("name", YES)
def test_free_text_is_recognised(name):
    assert MODALITIES.get("text").recognises(YES[name])


@pytest.mark.parametrize("name", NO)
def test_codes_names_dates_addresses_and_numbers_are_not_text(name):
    assert not Text.recognises(NO[name])


def test_examples_carry_their_numbers():
    signal = np.random.default_rng(0).random((400, 7))
    texts = Text.example(signal, 1)
    assert texts == Text.example(signal, 1)
    assert texts != Text.example(signal, 2)
    assert Text.recognises(texts)
    assert not any(text().problem(raw) for raw in texts)
    assert len({len(raw.split()) for raw in texts}) > 4
    words = sorted({word for raw in texts for word in raw.split()})
    counts = np.array([[raw.split().count(word) for word in words] for raw in texts], dtype=float)
    design = np.c_[counts, np.ones(len(texts))]
    for axis in range(7):
        weights, *_ = np.linalg.lstsq(design[:300], signal[:300, axis], rcond=None)
        assert np.abs(design[300:] @ weights - signal[300:, axis]).mean() < 0.05  # an eighth is as fine as words can say it


def test_examples_take_the_ends_of_the_scale():
    low, high = Text.example(np.array([[0.0], [1.0]]), 0)
    assert low.split().count("terrible") == 2
    assert high.split().count("wonderful") == 2
