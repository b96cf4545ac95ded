"""Which token fills a batch in the hub's tools, and what a tokenizer is said to be beside its `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from regraft.exporters.hub_folder import filler, tensor_faults, tokenizer_problems, write_tokenizer
from regraft.modalities.text import Text, TextOptions, read_companions

WORDS = ["[PAD]", "[UNK]", "[END]", "[SPARE]", "the", "quick", "brown", "fox", "jumps"]


def source(folder: Path, added: list[str], ends: bool = True, told: dict[str, Any] | None = None, pad_id: int = 0) -> Any:
    """What an exporter is given of an artifact, as far as tokenizers go."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(added)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(told or {}))
    text = Text(tokenizer, TextOptions(max_length=12), pad_id=pad_id, files=read_companions(folder))
    text.save(folder)
    return SimpleNamespace(
        modality=text, artifact=SimpleNamespace(path=folder), manifest=SimpleNamespace(inputs=[SimpleNamespace(folder=".")])
    )


@pytest.mark.parametrize(
    ("added", "told", "pad_id", "expected"),
    [
        (["[PAD]", "[END]"], {"pad_token": "[PAD]"}, 0, (0, "[PAD]")),
        (["[PAD]", "[END]"], {"pad_token": {"content": "[PAD]"}}, 0, (0, "[PAD]")),
        (["[PAD]", "[END]"], {}, 0, (0, "[PAD]")),  # what the artifact itself fills with
        ([], {"pad_token": "[PAD]"}, 0, (0, "[PAD]")),  # a word that is not an added token, but is named
        (["[END]", "[SPARE]"], {"pad_token": "[END]", "unk_token": "[SPARE]"}, 2, (3, "[SPARE]")),  # every row ends with [END]
        (["[UNK]", "[SPARE]"], {"eos_token": "[SPARE]", "unk_token": "[UNK]"}, 8, (3, "[SPARE]")),
    ],
)
def test_the_filler_is_a_special_token_that_no_row_ends_with(added, told, pad_id, expected, tmp_path):
    given = source(tmp_path / "t", added, told=told, pad_id=pad_id)
    assert filler(given) == expected
    assert tokenizer_problems(given) == []


def test_without_such_a_token_the_reason_and_what_to_do_are_told(tmp_path):
    (problem,) = tokenizer_problems(source(tmp_path / "t", ["[END]"], told={"pad_token": "[END]"}, pad_id=2))
    assert str(problem) == (
        "the tokenizer has no special token that can fill the rows of a batch\n"
        "  expected: a pad token, or another special token that no text ends with\n"
        "  to do: fit it again with a base whose tokenizer names a pad_token"
    )


def test_what_is_not_text_is_refused():
    (problem,) = tokenizer_problems(SimpleNamespace(modality=object()))  # type: ignore[arg-type]
    assert "an artifact that reads object" in str(problem)


def test_only_added_tokens_are_named_so_that_none_is_added(tmp_path):
    told = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]", "do_lower_case": True, "add_bos_token": True}
    given = source(tmp_path / "t", ["[PAD]", "[END]"], told=told)
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(given, out)
    assert sorted(path.name for path in out.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert json.loads((out / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 12,
        "model_input_names": ["input_ids", "attention_mask"],
        "truncation_side": "right",
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "pad_token": "[PAD]",
        "eos_token": "[END]",
    }


def test_every_tensor_must_be_there_bit_for_bit(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    tied = torch.arange(4.0)
    expected = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2, 3), "tied": tied, "tied again": tied}
    written = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2, 3), "tied": tied.clone()}
    save_file(written, path)
    assert tensor_faults(expected, [path]) == []
    for name, other, said in (
        ("a", torch.tensor([-0.0, 1.0]), "other numbers"),  # equal as numbers, not as bits
        ("b", torch.ones(3, 2), "a tensor of another kind"),
        ("b", torch.ones(2, 3, dtype=torch.float64), "a tensor of another kind"),
        ("c", torch.ones(1), "a tensor of another kind"),
    ):
        save_file({**written, name: other}, path)
        (problem,) = tensor_faults(expected, [path])
        assert problem.what == f"the weight '{name}' in the export is not the source's"
        assert problem.got == said
    save_file({"a": written["a"], "tied": written["tied"]}, path)
    assert [problem.got for problem in tensor_faults(expected, [path])] == ["nothing"]
