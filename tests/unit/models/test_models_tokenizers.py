"""Text as tokens against the hub's own tokenizers of each family: the same tokens and cuts, exact counts of what was lost."""

import numpy as np
import pytest
from tiny_families import TOKENIZERS, write_tokenizer
from transformers import AutoTokenizer

from regraft.modalities.text import Text, TextOptions, read_companions, read_tokenizer

ODD = [
    "hello world",
    "😀 emoji 👩‍👩‍👧 漢字 テスト",
    "a\x00b nul",
    "\x00",
    "É café naïve e\u0301",
    "word " * 500,
    "x" * 500,
    "漢" * 300,
    "\u200b\u00ad",
    "ﬁ ŒÜ",
    "\ufffd bad",
    "مرحبا بالعالم",
    "<s> [SEP] </s> <pad> [PAD] literal",
    " lead  double  trail ",
    "tab\tnew\nline\r\n",
    "The quick brown fox jumps over the lazy dog. " * 3,
]


@pytest.fixture(scope="module", params=[*TOKENIZERS, pytest.param("minilm", marks=pytest.mark.base)])
def folder(request, tmp_path_factory):
    if request.param == "minilm":
        return request.getfixturevalue("minilm").folder()
    made = tmp_path_factory.mktemp(request.param)
    write_tokenizer(made, request.param)
    return made


@pytest.fixture(scope="module")
def theirs(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**9  # else it warns about texts that are longer
    return tokenizer


def ours(folder, **options):
    return Text(read_tokenizer(folder), TextOptions(**options), inputs=("input_ids", "token_type_ids"))


@pytest.mark.parametrize("max_length", [5, 8, 64, 4000])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_cuts_and_losses_equal_the_hubs(folder, theirs, max_length, side):
    theirs.truncation_side = side
    cut = theirs(ODD, truncation=True, max_length=max_length, return_offsets_mapping=True, return_token_type_ids=True)
    full = theirs(ODD)["input_ids"]
    rows = ours(folder, max_length=max_length, truncation_side=side).encode(ODD)
    for number, (text, row) in enumerate(zip(ODD, rows, strict=True)):
        if not cut["input_ids"][number]:
            assert row.length == 1  # nothing at all is left of this text: one filler stands for it
            continue
        assert row.inputs["input_ids"].tolist() == cut["input_ids"][number], text[:40]
        assert row.inputs["token_type_ids"].tolist() == cut["token_type_ids"][number], text[:40]
        assert row.spans_T2.tolist() == [list(span) for span in cut["offset_mapping"][number]], text[:40]
        assert row.dropped == len(full[number]) - len(cut["input_ids"][number])
    assert sum(row.dropped for row in rows) > 0 or max_length == 4000


def test_without_spans_the_tokens_are_the_same(folder):
    text = ours(folder, max_length=16)
    for with_spans, without in zip(text.encode(ODD), text.encode(ODD, spans=False), strict=True):
        assert with_spans.dropped == without.dropped
        assert without.spans_T2.shape == with_spans.spans_T2.shape
        assert not without.spans_T2.any()
        for name, array in with_spans.inputs.items():
            assert array.dtype == without.inputs[name].dtype == np.int32
            np.testing.assert_array_equal(array, without.inputs[name])


def test_saved_and_loaded_it_gives_and_writes_the_same_bytes(folder, tmp_path):
    first = Text(read_tokenizer(folder), TextOptions(max_length=9), pad_id=1, files=read_companions(folder))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first.save(tmp_path / "a")
    second = Text.load(tmp_path / "a", first.spec())
    second.save(tmp_path / "b")
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert written[0] == written[1]
    assert second.spec() == first.spec()
    for one, other in zip(first.encode(ODD), second.encode(ODD), strict=True):
        assert one.inputs["input_ids"].tobytes() == other.inputs["input_ids"].tobytes()
    saved = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert saved(ODD[:3])["input_ids"] == AutoTokenizer.from_pretrained(folder)(ODD[:3])["input_ids"]
