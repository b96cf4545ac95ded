"""Whisper as CTranslate2 ships it -> an ordinary folder of the hub. Numpy only.

CTranslate2 lays query, key and value of self-attention (key and value of cross-attention) into one matrix, and gives the key a
bias of zeros that Whisper does not have.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from regraft.errors import BaseError, Problem
from regraft.models.ct2_file import Ct2File, read_ct2
from regraft.models.safety import read_json
from regraft.options import JSON
from regraft.types import Array

_SPECIFICATION = "WhisperSpec"
_ENGLISH_VOCABULARY = 51864  # of the models for English only; the others know one token a language more
_SETTINGS = ("activation", "alibi", "alignment_heads", "alignment_layer", "num_heads", "pre_norm", "scale_embeddings")
_OTHER_SETTINGS = ("start_from_zero_embedding",)
_END, _START, _NO_TIMES = 50256, 50257, 50362


def convert_whisper(unpacked: Path, folder: Path) -> None:
    """Write `config.json`, `model.safetensors`, `preprocessor_config.json`, `generation_config.json` and `tokenizer.json`.

    Args:
        unpacked: Folder with `model.bin`, `config.json` and `tokenizer.json` of CTranslate2.
        folder: An empty folder.

    Raises:
        BaseError: The weights are damaged, or not those of an English Whisper.
    """
    from safetensors.numpy import save_file

    source = unpacked / "model.bin"
    found = read_ct2(source)
    if found.specification != _SPECIFICATION:
        got = f"{found.specification}, revision {found.revision}"
        raise BaseError(Problem(what="the weights are not those of Whisper", where=str(source), got=got))
    state = hub_state(found, str(source))
    config = hub_config(found, state, str(source))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    said = read_json(unpacked / "config.json")
    suppressed = {"suppress_tokens": said.get("suppress_ids", []), "begin_suppress_tokens": said.get("suppress_ids_begin", [])}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {**_generation(config), **suppressed})
    _write(folder / "preprocessor_config.json", _preprocessing(config))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizerFast", "pad_token": "<|endoftext|>"})
    shutil.copyfile(unpacked / "tokenizer.json", folder / "tokenizer.json")


def hub_state(found: Ct2File, where: str) -> dict[str, Array]:
    """Return the weights under the names that `WhisperForConditionalGeneration` has for them.

    Args:
        found: What `model.bin` holds.
        where: What to call it in messages.

    Raises:
        BaseError: A weight is missing or left over, or a key has a bias.
    """
    left = dict(found.variables)
    state: dict[str, Array] = {}
    try:
        for side in ("encoder", "decoder"):
            for setting in (*_SETTINGS, *_OTHER_SETTINGS):
                left.pop(f"{side}/{setting}", None)
            state |= _side(left, side)
        state["proj_out.weight"] = left.pop("decoder/projection/weight")
    except KeyError as error:
        problem = Problem(what="a weight of Whisper is missing", where=where, got=f"no {error}", fix="fetch the file again")
        raise BaseError(problem) from None
    if left:
        got = ", ".join(sorted(left)[:5])
        raise BaseError(Problem(what=f"{len(left)} weights are not known here", where=where, got=got))
    if not np.array_equal(state.pop("proj_out.weight"), state["model.decoder.embed_tokens.weight"]):
        raise BaseError(Problem(what="the output matrix of Whisper is not its table of tokens", where=where))
    return {name: np.ascontiguousarray(values) for name, values in state.items()}


def hub_config(found: Ct2File, state: dict[str, Array], where: str) -> dict[str, JSON]:
    """Return the content of `config.json`, all sizes read off the weights."""
    vocabulary, width = state["model.decoder.embed_tokens.weight"].shape
    if vocabulary != _ENGLISH_VOCABULARY:
        expected = f"{_ENGLISH_VOCABULARY}, a model for English only"
        raise BaseError(Problem(what="the vocabulary is another", where=where, got=str(vocabulary), expected=expected))
    sides: dict[str, JSON] = {}
    for side in ("encoder", "decoder"):
        names = {name.split(".")[3] for name in state if name.startswith(f"model.{side}.layers.")}
        sides |= {
            f"{side}_layers": len(names),
            f"{side}_attention_heads": int(found.variables[f"{side}/num_heads"]),
            f"{side}_ffn_dim": len(state[f"model.{side}.layers.0.fc1.bias"]),
        }
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": width,
        **sides,
        "num_hidden_layers": sides["encoder_layers"],
        "vocab_size": vocabulary,
        "num_mel_bins": state["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": len(state["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(state["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _END),
        "decoder_start_token_id": _START,
        "dtype": str(state["model.encoder.conv1.weight"].dtype),
    }


def _side(left: dict[str, Array], side: str) -> dict[str, Array]:
    """Take the weights of encoder or decoder out of what is left."""
    target = f"model.{side}"
    state = {f"{target}.embed_positions.weight": left.pop(f"{side}/position_encodings/encodings")}
    state |= _pair(left, f"{side}/layer_norm", f"{target}.layer_norm")
    decodes = f"{side}/embeddings/weight" in left
    if decodes:
        state[f"{target}.embed_tokens.weight"] = left.pop(f"{side}/embeddings/weight")
    else:
        for name in ("conv1", "conv2"):
            state |= _pair(left, f"{side}/{name}", f"{target}.{name}")
    number = 0
    while f"{side}/layer_{number}/ffn/linear_0/weight" in left:
        ours, theirs = f"{target}.layers.{number}", f"{side}/layer_{number}"
        state |= _attention(left, f"{theirs}/self_attention", f"{ours}.self_attn", own=True)
        state |= _pair(left, f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        if decodes:
            state |= _attention(left, f"{theirs}/attention", f"{ours}.encoder_attn", own=False)
            state |= _pair(left, f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
        state |= _pair(left, f"{theirs}/ffn/linear_0", f"{ours}.fc1")
        state |= _pair(left, f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        state |= _pair(left, f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
        number += 1
    return state


def _pair(left: dict[str, Array], theirs: str, ours: str) -> dict[str, Array]:
    weight, bias = ("gamma", "beta") if f"{theirs}/gamma" in left else ("weight", "bias")
    return {f"{ours}.weight": left.pop(f"{theirs}/{weight}"), f"{ours}.bias": left.pop(f"{theirs}/{bias}")}


def _attention(left: dict[str, Array], theirs: str, ours: str, *, own: bool) -> dict[str, Array]:
    """Split what is fused: query, key and value in one matrix (`own`), or the query alone and key with value."""
    weights = [left.pop(f"{theirs}/linear_{number}/weight") for number in range(2 if own else 3)]
    biases = [left.pop(f"{theirs}/linear_{number}/bias") for number in range(2 if own else 3)]
    parts = np.split(weights[0], 3) if own else [weights[0], *np.split(weights[1], 2)]
    shifts = np.split(biases[0], 3) if own else [biases[0], *np.split(biases[1], 2)]
    if shifts[1].any():
        raise BaseError(Problem(what="a key of Whisper's attention has a bias", where=theirs, expected="zeros"))
    state = {f"{ours}.{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
    state |= {f"{ours}.q_proj.bias": shifts[0], f"{ours}.v_proj.bias": shifts[2]}
    return {**state, f"{ours}.out_proj.weight": weights[-1], f"{ours}.out_proj.bias": biases[-1]}


def _generation(config: dict[str, JSON]) -> dict[str, JSON]:
    tokens = {key: value for key, value in config.items() if key.endswith("_token_id")}
    return {
        **tokens,
        "is_multilingual": False,
        "max_length": config["max_target_positions"],
        "no_timestamps_token_id": _NO_TIMES,
    }


def _preprocessing(config: dict[str, JSON]) -> dict[str, JSON]:
    sizes = {"feature_size": config["num_mel_bins"], "chunk_length": 30, "n_samples": 480_000, "nb_max_frames": 3000}
    rest = {"hop_length": 160, "n_fft": 400, "sampling_rate": 16000, "padding_side": "right", "padding_value": 0.0}
    return {"feature_extractor_type": "WhisperFeatureExtractor", "return_attention_mask": False, **sizes, **rest}


def _write(path: Path, content: dict[str, JSON]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
