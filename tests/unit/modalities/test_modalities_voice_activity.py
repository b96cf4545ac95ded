"""The voice activity detector against torch on random weights, against the published graph, and its rules by hand."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.errors import BaseError, OptionsError
from regraft.modalities.audio import Audio, AudioOptions
from regraft.modalities.recordings import Limits, read
from regraft.modalities.voice_activity import _SHAPES, VOICE_FILE, Speech, VoiceActivity, stretches
from sounds_real import recordings_of

RNG = np.random.default_rng(1)


def random_weights():
    return {name: (RNG.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in _SHAPES.items()}


def by_torch(weights, wave):
    """The published network, one window after the other."""
    w = {name: torch.from_numpy(values) for name, values in weights.items()}
    cell = torch.nn.LSTMCell(128, 128)
    cell.load_state_dict({name.removeprefix("lstm_cell."): w[name] for name in w if name.startswith("lstm_cell.")})
    wave = torch.nn.functional.pad(torch.from_numpy(wave), (64, -len(wave) % 512))
    state, said = None, []
    for i in range(64, len(wave), 512):
        x = torch.nn.functional.pad(wave[None, None, i - 64 : i + 512], (0, 64), mode="reflect")
        x = torch.nn.functional.conv1d(x, w["stft_conv.weight"], stride=128)
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for number, stride in enumerate((1, 2, 2, 1), start=1):
            x = torch.conv1d(x, w[f"conv{number}.weight"], w[f"conv{number}.bias"], stride=stride, padding=1).relu()
        state = cell(x[:, :, 0], state)
        out = torch.conv1d(state[0].relu()[:, :, None], w["final_conv.weight"], w["final_conv.bias"]).sigmoid()
        said.append(float(out))
    return said


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 511, 512, 513, 5000])
def test_it_is_the_published_network(samples, monkeypatch):
    weights = random_weights()
    wave = RNG.standard_normal(samples).astype(np.float32)
    found = VoiceActivity(weights).probabilities(wave)
    np.testing.assert_allclose(found, by_torch(weights, wave), atol=1e-5)
    monkeypatch.setattr("regraft.modalities.voice_activity._WINDOWS_AT_ONCE", 3)
    np.testing.assert_allclose(VoiceActivity(weights).probabilities(wave), found, atol=1e-6)
    assert VoiceActivity(weights).probabilities(wave[:0]).shape == (0,)


def test_rules_by_hand():
    quiet, loud = [0.1] * 10, [0.9] * 10
    rules = Speech(margin_s=0.0)
    samples = 30 * 512
    assert stretches(np.asarray(quiet + loud + quiet), samples, rules).tolist() == [[5120, 10240]]
    assert stretches(np.asarray(quiet + loud + quiet), samples, Speech(margin_s=0.01)).tolist() == [[4960, 10400]]
    assert stretches(np.asarray(quiet + [0.9] * 5 + quiet), 25 * 512, rules).tolist() == []  # 160 ms are too short
    assert stretches(np.asarray(loud + [0.1] * 3 + loud), 23 * 512, rules).tolist() == [[0, 23 * 512]]  # a short pause
    assert stretches(np.asarray(loud + [0.4] * 10 + loud), 30 * 512, rules).tolist() == [[0, 30 * 512]]  # not low enough
    apart = stretches(np.asarray(loud + [0.1] * 5 + loud), 25 * 512, Speech(margin_s=0.1))
    assert apart.tolist() == [[0, 6400], [6400, 12800]]  # what lies between is shared
    assert stretches(np.asarray([]), 0, rules).shape == (0, 2)


def test_it_is_saved_and_loaded(tmp_path):
    voice = VoiceActivity(random_weights())
    path = tmp_path / VOICE_FILE
    voice.save(path)
    wave = RNG.standard_normal(2000).astype(np.float32)
    np.testing.assert_array_equal(VoiceActivity.load(path).probabilities(wave), voice.probabilities(wave))
    path.write_bytes(b"nothing")
    with pytest.raises(BaseError, match="the voice activity detector cannot be read"):
        VoiceActivity.load(path)
    with pytest.raises(BaseError, match="cannot be read"):
        VoiceActivity.load(tmp_path / "none")


def test_other_weights_are_refused():
    weights = random_weights()
    del weights["conv2.bias"]
    weights["conv1.bias"] = np.zeros(3)
    with pytest.raises(BaseError) as caught:
        VoiceActivity(weights)
    assert str(caught.value) == (
        "the weights are not those of the voice activity detector\n  got: conv1.bias, conv2.bias\n  to do: fetch them again"
    )


class Half(VoiceActivity):
    """Hears speech in the second half of everything."""

    def speech(self, wave_S, rules=None):
        return np.asarray([[len(wave_S) // 2, len(wave_S)]])


class Deaf(VoiceActivity):
    """Hears no speech."""

    def speech(self, wave_S, rules=None):
        return np.zeros((0, 2), dtype=np.int64)


def test_only_speech_is_kept_and_spans_lead_to_the_recording(tmp_path):
    config = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    wave = RNG.standard_normal(1600).astype(np.float32)
    audio = Audio(AudioOptions(keep="speech"), config, Half(random_weights()))
    row = audio.encode([(wave, 16000)])[0]
    np.testing.assert_array_equal(row.inputs["input_values"], wave[800:])
    assert row.spans_T2[[0, -1]].tolist() == [[800, 801], [1599, 1600]]
    slow = audio.encode([(wave, 8000)])[0]
    assert slow.spans_T2[[0, -1]].tolist() == [[800, 801], [1599, 1600]]
    audio.save(tmp_path)
    again = Audio.load(tmp_path, audio.spec())
    np.testing.assert_array_equal(again.voice.probabilities(wave), audio.voice.probabilities(wave))
    said = Audio(AudioOptions(keep="speech"), config, Deaf(random_weights())).problem((wave, 16000))
    assert said == "no speech is found in the recording (keep: all takes it)"
    with pytest.raises(OptionsError, match="nothing is there that finds speech"):
        Audio(AudioOptions(keep="speech"), config)


def graph_weights(path):
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    names = {
        f"conv{n}.{kind}": f"model.encoder.{n - 1}.reparam_conv.{kind}" for n in range(1, 5) for kind in ("weight", "bias")
    }
    names |= {f"lstm_cell.{k}": f"model.decoder.rnn.{k}" for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    names |= {f"final_conv.{kind}": f"model.decoder.decoder.2.{kind}" for kind in ("weight", "bias")}
    names["stft_conv.weight"] = "model.stft.forward_basis_buffer"
    return {ours: found[theirs] for ours, theirs in names.items()}


@pytest.mark.large
def test_it_is_the_published_graph_on_real_recordings(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    folder = os.environ.get("REGRAFT_WHEELS", "")
    wheels = sorted(Path(folder).expanduser().glob("silero_vad-6.2.3-*.whl")) if folder else []
    if not wheels:
        pytest.skip("no silero-vad wheel in the folder named by REGRAFT_WHEELS: pip download --no-deps silero-vad==6.2.3")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(tmp_path)
    data = tmp_path / "silero_vad" / "data"
    # The package's graphs hold other (newer) weights than its safetensors file: the network is held against them with theirs.
    voice = VoiceActivity(graph_weights(data / "silero_vad_16k_op15.onnx"))
    shipped = VoiceActivity.load(data / "silero_vad_16k.safetensors")
    session = ort.InferenceSession(str(data / "silero_vad.onnx"))
    clips = sorted(recordings_of("pocketsphinx-testdata").items())[:4]
    for _, raw in clips:
        wave = read(raw, Limits()).wave_S
        padded = np.pad(wave, (64, -len(wave) % 512))
        state, said = np.zeros((2, 1, 128), np.float32), []
        for i in range(64, len(padded), 512):
            feeds = {"input": padded[None, i - 64 : i + 512], "state": state, "sr": np.asarray(16000, np.int64)}
            out, state = session.run(None, feeds)
            said.append(float(out[0, 0]))
        np.testing.assert_allclose(voice.probabilities(wave), said, atol=1e-4)
        both = [sum(end - start for start, end in each.speech(wave)) for each in (voice, shipped)]
        assert both[0] > 0
        assert abs(both[0] - both[1]) < 0.25 * both[0]
