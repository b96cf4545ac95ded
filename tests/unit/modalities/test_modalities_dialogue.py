"""Dialogues against the text modality on the joined text: ids, spans, what is cut; recognition; what is said of bad rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import regraft
from regraft.errors import DataError, OptionsError
from regraft.modalities import MODALITIES
from regraft.modalities.dialogue import Dialogue, DialogueOptions, joined
from regraft.modalities.text import Text, TextOptions
from regraft.options import build

WORDS = ["<unk>", "<pad>", "[CLS]", "[SEP]", ":", "user", "assistant", *(f"w{number}" for number in range(20))]
RNG = np.random.default_rng(0)


def tokenizer():
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def says(role, words):
    return {"role": role, "content": " ".join(f"w{number}" for number in RNG.integers(0, 20, words))}


RAWS = [[says(("user", "assistant")[turn % 2], 1 + 3 * turn) for turn in range(turns)] for turns in (1, 2, 3, 6)]


def both(**options):
    inputs = {"inputs": ("input_ids", "token_type_ids"), "pad_id": 1}
    text = Text(tokenizer(), TextOptions(truncation_side="left", **options), **inputs)
    return Dialogue.around(Text(tokenizer(), TextOptions(**options), **inputs), []), text


@pytest.mark.parametrize("options", [{}, {"max_length": 12}, {"max_chars": 30}], ids=str)
def test_a_dialogue_is_encoded_as_its_joined_text(options):
    dialogue, text = both(**options)
    assert joined(RAWS[1]) == f"user: {RAWS[1][0]['content']}\nassistant: {RAWS[1][1]['content']}"
    for raws in (RAWS, [json.dumps(raw) for raw in RAWS]):
        for one, two in zip(dialogue.encode(raws), text.encode([joined(raw) for raw in RAWS]), strict=True):
            assert {key: value.tolist() for key, value in one.inputs.items()} == {k: v.tolist() for k, v in two.inputs.items()}
            assert one.spans_T2.tolist() == two.spans_T2.tolist()
            assert one.dropped == two.dropped
    assert dialogue.inner(RAWS, []) == [joined(raw) for raw in RAWS]


def test_the_oldest_messages_are_cut_first_and_counted():
    dialogue, _ = both(max_length=10)
    raw = [says("user", 30), says("assistant", 2), says("user", 2)]
    (row,) = dialogue.encode([raw])
    words = [WORDS[number] for number in row.inputs["input_ids"]]
    newest = f"assistant : {raw[1]['content']} user : {raw[2]['content']}".split()
    assert words == ["[CLS]", *newest, "[SEP]"]
    assert row.dropped == 32
    with pytest.raises(OptionsError, match="truncation_side"):
        build(DialogueOptions, {"truncation_side": "right"}, owner="dialogue")


def test_other_keys_are_not_read():
    dialogue, _ = both()
    noted = [{**message, "name": "Ann", "at": 17} for message in RAWS[2]]
    assert (
        dialogue.encode([noted])[0].inputs["input_ids"].tolist() == dialogue.encode([RAWS[2]])[0].inputs["input_ids"].tolist()
    )
    assert dialogue.as_json(noted) == RAWS[2]
    assert dialogue.as_json(json.dumps(noted)) == RAWS[2]


def test_dialogues_are_recognised_and_nothing_else_is():
    assert Dialogue.recognises(RAWS)
    assert Dialogue.recognises([json.dumps(raw) for raw in RAWS])
    signal = np.random.default_rng(1).random((40, 2))
    for name in MODALITIES:
        values = MODALITIES.get(name).example(signal, 0)
        assert Dialogue.recognises(values) == (name == "dialogue")
    for strange in ([], ["[1, 2]"], [[{"role": "user"}]], [{"role": "user", "content": "x"}], ["[{}]"], [[]], [17]):
        assert not Dialogue.recognises(strange)
    first = [next(n for n in MODALITIES if MODALITIES.get(n).recognises(v)) for v in (RAWS, [json.dumps(raw) for raw in RAWS])]
    assert first == ["dialogue", "dialogue"], "no other modality is asked before it and takes such a column"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "there is no dialogue"),
        ("hello", "the text is no dialogue in JSON"),
        ("[" * 100_000, "the text is no dialogue in JSON"),
        ('{"role": "user"}', "a list of messages is expected"),
        (17, "a list of messages is expected"),
        ([], "the dialogue has no messages"),
        (["hi"], 'message 1 of 1: an object with "role" and "content" is expected, got str (hi)'),
        ([RAWS[0][0], {"role": "user"}], "message 2 of 2: \"content\" is missing, got 'role'"),
        ([{"content": "x"}], 'message 1 of 1: "role" is missing'),
        ([{"role": "user", "content": None}], 'message 1 of 1: "content" is expected to be a text, got NoneType (None)'),
        ([{"role": " ", "content": "x"}], 'message 1 of 1: "role" is empty'),
        ([{"role": "user", "content": " "}], "every message of the dialogue is empty"),
        ([{"role": "user", "content": "a\ud800"}], 'message 1 of 1: "content": the text holds half a character'),
    ],
)
def test_what_is_no_dialogue_is_said_with_its_message(raw, said):
    dialogue, _ = both()
    assert dialogue.problem(raw).startswith(said)
    with pytest.raises(DataError) as caught:
        dialogue.encode([raw])
    assert caught.value.problems[0].expected.startswith('[{"role"')


def test_a_long_dialogue_is_shortened_from_its_beginning():
    dialogue, _ = both()
    raw = [says("user", 50), says("assistant", 5), says("user", 5)]
    assert dialogue.shortened(raw, 10_000) == raw
    assert dialogue.shortened(raw, 150) == raw[1:]
    (only,) = dialogue.shortened([says("user", 500)], 200)
    assert 0 < len(only["content"]) < 200
    assert dialogue.problem([only]) == ""


def rows(count, seed):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        colour = ("red", "blue")[number % 2]
        talk = [{"role": "user", "content": "which colour is it " + "and so on " * int(rng.integers(0, 4))}]
        talk += [{"role": "assistant", "content": f"it is {colour} I think"}, {"role": "user", "content": "thank you"}]
        if number == 7:
            talk.insert(0, {"role": "user", "content": "hello there " * 60})
        made.append({"talk": json.dumps(talk), "size": float(rng.random()), "label": colour})
    return made


PARTS = {"talk": {"name": "mlp", "width": 16, "vocabulary_size": 300}}
ASKED = {
    "target": "label",
    "train": {"epochs": 12, "learning_rate": 0.01, "head_learning_rate": 0.01},
    "judge": {"resamples": 200},
    "machine": {"threads": 1, "cache": {"disk_mb": 0}},
}


def test_the_line_from_rows_with_dialogues_to_answers(tmp_path):
    data = tmp_path / "talks.jsonl"
    bad = {"talk": '[{"role": "user", "text": "x"}]', "size": 0.1, "label": "red"}
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows(160, 0), bad]))
    base = {"name": "mlp", "width": 16, "layers": 1, "vocabulary_size": 300}
    modality = {"name": "dialogue", "max_length": 40}
    artifact = regraft.fit(data, base=base, modality=modality, out=tmp_path / "m", **ASKED)
    (entry,) = artifact.manifest.inputs
    assert entry.modality == "dialogue"
    report = artifact.report.to_json()
    assert report["metrics"]["accuracy"]["value"] > 0.9
    assert report["ledger"]["truncated tokens"]["count"] > 0
    (unread,) = report["ledger"]["unreadable rows"]["examples"]
    assert unread.startswith("talks.jsonl, row 161: message 1 of 1: \"content\" is missing, got 'role', 'text'")
    talk = rows(2, 1)[1]["talk"]
    found = regraft.predict(artifact, [talk, json.loads(talk), {"talk": json.loads(talk)}, [{"role": "user"}]])
    assert [each.value for each in found[:3]] == ["blue"] * 3
    assert found[3].error.startswith('message 1 of 1: "content" is missing')


def test_a_column_of_dialogues_beside_numbers_is_found_by_itself(tmp_path):
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(120, 0)))
    artifact = regraft.fit(data, base={"name": "fusion", "parts": PARTS}, fusion=["talk", "size"], out=tmp_path / "m", **ASKED)
    assert any("'talk' is read as dialogue" in note for note in artifact.report.to_json()["notes"])
    found = regraft.predict(artifact, [{key: row[key] for key in ("talk", "size")} for row in rows(2, 1)])
    assert [each.value for each in found] == ["red", "blue"]
