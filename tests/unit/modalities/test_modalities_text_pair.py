"""Pairs of texts against the hub's own tokenizer: ids, segments, what is cut, and which text a position is of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from regraft.data import SAMPLES
from regraft.errors import DataError, OptionsError
from regraft.modalities.text import Text, TextOptions
from regraft.modalities.text_pair import PairSurvey, TextPair, TextPairOptions, longest_first
from regraft.models import BASES

COLUMNS = ["question", "passage"]
WORDS = ["<unk>", "<pad>", "[CLS]", "[SEP]", *(f"w{number}" for number in range(20))]
TEMPLATES = {
    "bert": {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"},
    "roberta": {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] [SEP] $B [SEP]"},
    "t5": {"single": "$A [SEP]", "pair": "$A [SEP] $B [SEP]"},
    "gpt": {"single": "$A", "pair": "$A $B"},
}


def tokenizer(template="bert"):
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(**TEMPLATES[template], special_tokens=specials)
    return made


def pair(template="bert", **options):
    text = Text(tokenizer(template), TextOptions(), inputs=("input_ids", "token_type_ids"), pad_id=1)
    return TextPair(text, TextPairOptions(columns=COLUMNS, **options))


def words(rng, count):
    return " ".join(f"w{number}" for number in rng.integers(0, 20, count))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("longest", [8, 9, 16])
def test_ids_segments_and_cuts_are_those_of_the_hub(template, side, longest):
    rng = np.random.default_rng(longest)
    lengths = [(one, two) for one in (1, 2, 3, 5, 8, 13, 30) for two in (1, 2, 4, 7, 13, 29)]
    raws = [{"question": words(rng, one), "passage": words(rng, two)} for one, two in lengths]
    hub = PreTrainedTokenizerFast(tokenizer_object=tokenizer(template), pad_token="<pad>", truncation_side=side)
    modality = pair(template, max_length=longest, truncation_side=side)
    for raw, row, bare in zip(raws, modality.encode(raws), modality.encode(raws, spans=False), strict=True):
        asked = {
            "truncation": "longest_first",
            "max_length": longest,
            "return_offsets_mapping": True,
            "return_token_type_ids": True,
        }
        expected = hub(raw["question"], raw["passage"], **asked)
        assert row.inputs["input_ids"].tolist() == expected["input_ids"]
        assert row.inputs["token_type_ids"].tolist() == expected["token_type_ids"]
        assert row.column_T.tolist() == [-1 if place is None else place for place in expected.sequence_ids()]
        assert row.spans_T2.tolist() == [list(span) for span in expected["offset_mapping"]]
        whole = len(hub(raw["question"], raw["passage"])["input_ids"])
        assert row.dropped == whole - row.length
        assert np.array_equal(bare.inputs["input_ids"], row.inputs["input_ids"])
        assert np.array_equal(bare.column_T, row.column_T)
        assert not bare.spans_T2.any()


def test_spans_lead_back_to_the_text_they_are_of():
    raw = {"question": "w1 w22 w3", "passage": "w4  w5"}
    (row,) = pair().encode([raw])
    texts = [raw[name] for name in COLUMNS]
    found = [texts[place][start:end] for place, (start, end) in zip(row.column_T, row.spans_T2, strict=True) if place >= 0]
    assert found == ["w1", "w22", "w3", "w4", "w5"]


def test_characters_beyond_the_limit_are_counted_and_spans_count_from_the_start():
    modality = pair(max_chars=5, truncation_side="left", max_length=64)
    (row,) = modality.encode([{"question": "w9 w1 w2", "passage": "w3"}])
    assert row.dropped == 3
    assert [span for span, place in zip(row.spans_T2.tolist(), row.column_T, strict=True) if place == 0] == [[3, 5], [6, 8]]


@pytest.mark.parametrize(
    ("first", "second", "room", "kept"),
    [(3, 10, 8, (3, 5)), (10, 3, 8, (5, 3)), (10, 10, 9, (4, 5)), (6, 5, 9, (5, 4)), (20, 20, 0, (0, 0)), (9, 1, 3, (2, 1))],
)
def test_the_longer_text_is_cut_first(first, second, room, kept):
    assert longest_first(first, second, room) == kept


def test_save_and_load_give_the_same_pairs(tmp_path):
    modality = pair(max_length=9)
    modality.save(tmp_path)
    again = TextPair.load(tmp_path, json.loads(json.dumps(modality.spec())))
    raws = TextPair.example(np.random.default_rng(0).random((5, 2)), 0)
    raws = [dict(zip(COLUMNS, raw.values(), strict=True)) for raw in raws]
    for one, two in zip(modality.encode(raws), again.encode(raws), strict=True):
        assert np.array_equal(one.inputs["input_ids"], two.inputs["input_ids"])
        assert np.array_equal(one.column_T, two.column_T)
    assert again.columns == tuple(COLUMNS)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("w1", "a row of the columns 'question' and 'passage' is expected, got str"),
        ({"question": "w1", "passage": None}, "column 'passage': there is no text"),
        (
            {"question": 3, "passage": " "},
            "column 'question': text is expected, got int (3); column 'passage': the text is empty",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_column(raw, said):
    assert pair().problem(raw) == said
    survey = PairSurvey()
    survey.add({name: ["a"] for name in COLUMNS})
    if isinstance(raw, dict):
        assert survey.finish(True).sight.unreadable(raw) == said


def test_a_pair_stands_in_two_columns():
    survey = PairSurvey()
    survey.add({"a": ["x"], "b": ["y"], "c": ["z"]})
    with pytest.raises(DataError) as caught:
        survey.finish(False)
    (problem,) = caught.value.problems
    assert problem.what == "a pair of texts stands in two columns"
    assert problem.got == "'a', 'b', 'c'"
    assert problem.fix == "name two columns: --text-pair FIRST,SECOND"


def test_there_must_be_room_for_both():
    with pytest.raises(OptionsError) as caught:
        pair(max_length=4)
    assert caught.value.problems[0].expected == "at least 5: 3 special tokens stand around every pair"


@pytest.mark.base
@pytest.mark.parametrize("longest", [24, 128])
def test_real_pairs_are_what_the_hub_makes_of_them(longest):
    base = BASES.get("minilm")("minilm", BASES.get("minilm").Options())
    if not base.card().fetched:
        pytest.skip("the base 'minilm' is not fetched: regraft bases minilm --fetch")
    from regraft.data.options import DataOptions
    from regraft.data.rows import open_rows

    assert "spam" in SAMPLES
    texts = next(open_rows("spam", DataOptions()).chunks(40)).rows.column("text").to_pylist()
    raws = [{"question": one, "passage": two} for one, two in zip(texts[:20], texts[20:], strict=True)]
    kind = TextPair
    modality = base.prepared(kind, {"columns": COLUMNS, "max_length": longest}, lambda: iter([raws]))
    backbone = base.backbone(modality, 0).eval()
    hub, model = AutoTokenizer.from_pretrained(str(base.folder())), AutoModel.from_pretrained(str(base.folder())).eval()
    encoded = modality.encode(raws)
    inputs, mask = modality.collate(encoded)
    asked = {"truncation": "longest_first", "max_length": longest, "padding": True, "return_tensors": "pt"}
    theirs = hub([raw["question"] for raw in raws], [raw["passage"] for raw in raws], **asked)
    assert inputs["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert inputs["token_type_ids"].tolist() == theirs["token_type_ids"].tolist()
    assert mask.astype(int).tolist() == theirs["attention_mask"].tolist()
    assert sum(row.dropped for row in encoded) > 0
    with torch.no_grad():
        features = backbone({name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(mask))
        expected = model(**theirs).last_hidden_state
    real = torch.from_numpy(mask)
    torch.testing.assert_close(features.sequence_BTD[real], expected[real], atol=1e-6, rtol=1e-5)
