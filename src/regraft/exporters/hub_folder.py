"""What a folder for the hub's tools holds beside a network: a tokenizer that any of them opens, held against ours.

`AutoTokenizer` rebuilds many tokenizers from their vocabulary, by the rules of the class that a folder names, and rules differ
from version to version. Here the folder names the class that takes `tokenizer.json` as it is, and what it makes of rows is
compared with what the artifact's own preprocessing makes of them, token by token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.artifact.store import GOLDEN
from regraft.errors import ArtifactError, Problem
from regraft.exporters.exporter import Source
from regraft.modalities.text import TOKENIZER_FILE, Text, read_companions
from regraft.models.folder_check import CONFIG_FILE
from regraft.models.safety import read_json
from regraft.options import JSON

TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_NAMED = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
_SHOWN = 5
_EXAMPLES = 24
_ODD_TEXTS = ("Naïve CAFÉ, über straße!", "x", "a b  c\td\ne", "0123456789 3.14 — …", "the quick brown fox " * 400)


def tokenizer_problems(source: Source) -> list[Problem]:
    """Return why the preprocessing of an artifact cannot be given to the hub's tools."""
    text = source.modality
    if not isinstance(text, Text) or text.columns:
        what = "the hub's tools for sentences read one text"
        fix = "make another form of it, such as regraft export ARTIFACT --format onnx"
        return [Problem(what=what, got=f"an artifact that reads {type(text).__name__}", expected="text", fix=fix)]
    content, files = _tokenizer_of(source)
    if _filler(text, content, files) is None:
        what = "the tokenizer has no special token that can fill the rows of a batch"
        expected = "a pad token, or another special token that no text ends with"
        fix = "fit it again with a base whose tokenizer names a pad_token"
        return [Problem(what=what, expected=expected, fix=fix)]
    return []


def filler(source: Source) -> tuple[int, str]:
    """Return number and spelling of the token that fills a batch in the hub's tools.

    Raises:
        RuntimeError: `tokenizer_problems` was not asked before.
    """
    content, files = _tokenizer_of(source)
    found = _filler(_text(source), content, files)
    if found is None:
        raise RuntimeError("the tokenizer has no token that can fill a batch")
    return found


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write the tokenizer so that any tool of the hub makes of a text what the artifact makes of it."""
    text = _text(source)
    content, files = _tokenizer_of(source)
    pad = filler(source)[1]
    added = {entry["content"] for entry in content["added_tokens"]}
    # A name for a token that is not among the added ones would add it, and then texts that spell it are read otherwise.
    named = {key: token for key, token in _named(files).items() if token in added}
    text.save(folder)
    (folder / _SPECIAL_TOKENS_MAP).unlink(missing_ok=True)
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(text.options.max_length),
        "model_input_names": [*text.inputs, "attention_mask"],
        "truncation_side": text.options.truncation_side,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **named,
        "pad_token": pad,
    }
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer_faults(source: Source, folder: Path) -> list[Problem]:
    """Return where the hub's tokenizer of a folder makes something else of a row than the artifact does."""
    from transformers import AutoTokenizer

    from regraft.models.backbones import quietly

    text, where = _text(source), str(folder / TOKENIZER_FILE)
    rows = [raw for raw in _rows(source) if not text.problem(raw)]
    try:
        with quietly():
            opened = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            found: Mapping[str, Any] = opened(rows, truncation=True)
    except Exception as error:  # noqa: BLE001 - each tokenizer fails in its own way
        got = f"{type(error).__name__}: {error}"[:300]
        return [Problem(what="the hub's tokenizer cannot be opened", where=where, got=got, fix=_REPORT)]
    for row, ours in enumerate(text.encode(rows, spans=False)):
        for name, array_T in ours.inputs.items():
            theirs = np.asarray(found[name][row]) if name in found else None
            if theirs is None or not np.array_equal(theirs, array_T):
                what = "the hub's tokenizer makes other tokens of a row than the artifact does"
                at = f"{where}, {name} of {json.dumps(rows[row], ensure_ascii=False)[:100]}"
                got = "nothing" if theirs is None else str(theirs[:12].tolist())
                return [Problem(what=what, where=at, got=got, expected=str(array_T[:12].tolist()), fix=_REPORT)]
    number, pad = filler(source)
    if (opened.pad_token_id, opened.padding_side) != (number, "right") or opened.model_max_length != text.options.max_length:
        got = f"pad token {opened.pad_token_id} on the {opened.padding_side}, at most {opened.model_max_length} tokens"
        expected = f"pad token {number} ({pad}) on the right, at most {text.options.max_length} tokens"
        what = "the hub's tokenizer fills or cuts rows otherwise than the artifact does"
        return [Problem(what=what, where=where, got=got, expected=expected, fix=_REPORT)]
    return []


_REPORT = "nothing was written; export in another format (regraft list exporters), or report this with the tokenizer's base"


def tensor_faults(expected: Mapping[str, Any], paths: Sequence[Path]) -> list[Problem]:
    """Return the tensors of safetensors files that are not bit for bit the expected ones.

    Args:
        expected: Name -> tensor on the CPU.
        paths: One file, or the shards of one.
    """
    import torch
    from safetensors import safe_open

    left, problems = dict(expected), []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - an open file, not a mapping
                want, got = left.pop(name, None), file.get_tensor(name)
                same = want is not None and want.dtype == got.dtype and want.shape == got.shape
                if not same or not torch.equal(_bits(want), _bits(got)):
                    problems.append(_weight(name, path, "other numbers" if same else "a tensor of another kind"))
    # A tensor under two names is written once.
    there = {tensor.data_ptr() for name, tensor in expected.items() if name not in left}
    problems += [_weight(name, paths[0], "nothing") for name, tensor in left.items() if tensor.data_ptr() not in there]
    return problems[:_SHOWN]


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _weight(name: str, path: Path, got: str) -> Problem:
    what = f"the weight '{name}' in the export is not the source's"
    return Problem(what=what, where=str(path), got=got, expected="the same bits", fix=_REPORT)


def config_faults(source: Source, folder: Path, may_differ: Iterable[str]) -> list[Problem]:
    """Return the keys of a folder's config.json that are not those of the source's body.

    Args:
        source: With the hub's folder of its body.
        folder: Of the export.
        may_differ: Keys that the format has values of its own for.
    """
    from regraft.models.net import BACKBONE_FOLDER

    were = read_json(source.artifact.path / BACKBONE_FOLDER / CONFIG_FILE)
    now = read_json(folder / CONFIG_FILE)
    odd = [key for key in sorted(were.keys() | now.keys()) if were.get(key) != now.get(key) and key not in set(may_differ)]
    return [
        Problem(
            what=f"'{key}' in the configuration of the export is not the source's",
            where=str(folder / CONFIG_FILE),
            got=json.dumps(now.get(key))[:100],
            expected=json.dumps(were.get(key))[:100],
            fix=_REPORT,
        )
        for key in odd[:_SHOWN]
    ]


def _text(source: Source) -> Text:
    if not isinstance(source.modality, Text):
        raise RuntimeError(f"{type(source.modality).__name__} has no tokenizer")
    return source.modality


def _tokenizer_of(source: Source) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Return the tokenizer of an artifact as JSON, and its companion files."""
    folder = source.artifact.path / source.manifest.inputs[0].folder
    return read_json(folder / TOKENIZER_FILE, ArtifactError), read_companions(folder)


def _named(files: Mapping[str, JSON]) -> dict[str, str]:
    """Return the special tokens that a tokenizer's companion files name: role -> spelling."""
    found: dict[str, str] = {}
    for name in (_SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        said = files.get(name, {})
        for role in _NAMED:
            token = said.get(role)
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str):
                found[role] = token
    return found


def _filler(text: Text, content: Mapping[str, JSON], files: Mapping[str, JSON]) -> tuple[int, str] | None:
    """Return a token that can fill a batch: the one the tokenizer names, else another special one that no row ends with.

    Classes that read a row's last token find it by looking for the filler, so that a row must not end with it.
    """
    special = {entry["content"]: int(entry["id"]) for entry in content["added_tokens"] if entry.get("special")}
    numbers = {**_vocabulary(content), **special}
    ends = {int(row.inputs["input_ids"][-1]) for row in text.encode(_examples(text), spans=False)}
    roles = _named(files)
    wanted = [roles.get("pad_token"), *(token for token, number in special.items() if number == text.pad_id)]
    wanted += [roles.get(role) for role in ("eos_token", "bos_token", "unk_token", "mask_token")]
    for token in (*filter(None, wanted), *special):
        if token in numbers and numbers[token] not in ends:
            return numbers[token], token
    return None


def _vocabulary(content: Mapping[str, JSON]) -> dict[str, int]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    return {piece[0]: number for number, piece in enumerate(vocabulary)}


def _examples(text: Text) -> list[str]:
    signal_NS = np.random.default_rng(0).random((_EXAMPLES, 4))
    return [raw for raw in (*text.example(signal_NS, 0), *_ODD_TEXTS) if not text.problem(raw)]


def _rows(source: Source) -> Iterator[str]:
    """Yield golden rows, made-up ones, and odd ones."""
    if GOLDEN in source.manifest.files:
        yield from (row["input"] for row in source.artifact.json(GOLDEN)["rows"])
    yield from _examples(_text(source))
