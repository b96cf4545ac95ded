"""Audio as a modality: equal to the hub's extractors on real recordings, chunks, spans, what is saved, what is refused."""

import json

import numpy as np
import pytest

from regraft.errors import BaseError, OptionsError
from regraft.modalities.audio import Audio, AudioOptions, read_preprocessor
from regraft.modalities.recordings import Limits, read, resampled, wav_bytes
from regraft.modalities.sound_features import FRONTS, front_of
from sounds_real import recordings_of

RNG = np.random.default_rng(3)
WHISPER = {"feature_extractor_type": "WhisperFeatureExtractor"}
WAVE = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
AST = {"feature_extractor_type": "ASTFeatureExtractor"}
SPEAKER = {"feature_extractor_type": "RegraftSpeakerMelExtractor"}

BOTH = pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.large)], ids=["synthetic", "real"])


def noise(seconds, rate=16000):
    samples = np.arange(round(seconds * rate))
    return (0.3 * np.sin(samples * 0.05) + 0.05 * RNG.standard_normal(len(samples))).astype(np.float32)


def clips(real):
    """Return waves at 16 kHz: synthetic ones of odd lengths, or 24 real recordings."""
    if not real:
        return [noise(s) for s in (0.0101, 0.5, 1.2345, 3)]
    found = [content for _, content in sorted(recordings_of("pocketsphinx-testdata").items())]
    found += [content for name, content in sorted(recordings_of("asterisk-core-sounds-en").items()) if "/digits/" in name][:14]
    assert len(found) >= 20
    return [resampled(read(content, Limits(silence=True)), 16000) for content in found]


def heard(config, wave, **options):
    row = Audio(AudioOptions(**options), config).encode([(wave, 16000)])[0]
    (values,) = row.inputs.values()
    return values


def filled(frames, block):
    """Fill a window up as the network does it."""
    floor = max(frames.max() - 2.0, -1.5)
    return np.concatenate([frames, np.full((block - len(frames), frames.shape[1]), floor, np.float32)])


@BOTH
def test_waves_are_those_of_the_hub(real):
    from transformers import Wav2Vec2FeatureExtractor

    for wave in clips(real):
        for normalise in (True, False):
            hub = Wav2Vec2FeatureExtractor(do_normalize=normalise)(wave, sampling_rate=16000)["input_values"][0]
            np.testing.assert_array_equal(heard({**WAVE, "do_normalize": normalise}, wave), hub)


@BOTH
def test_whisper_frames_are_those_of_the_hub(real):
    from transformers import WhisperFeatureExtractor

    bins = 80 if real else 128
    extractor = WhisperFeatureExtractor(feature_size=bins)
    for wave in clips(real):
        full = np.pad(wave, (0, 480_000 - len(wave)))[None]
        hub = extractor._np_extract_fbank_features(full, "cpu")[0].T
        got = filled(heard({**WHISPER, "feature_size": bins}, wave), 3000)
        np.testing.assert_allclose(got, hub, atol=2e-6)
    by_torch = extractor(wave, sampling_rate=16000, return_tensors="np")["input_features"][0].T
    np.testing.assert_allclose(got, by_torch, atol=1e-3)


def test_a_full_window_of_whisper_is_mirrored_at_its_end():
    from transformers import WhisperFeatureExtractor

    wave = noise(30)
    hub = WhisperFeatureExtractor()._np_extract_fbank_features(wave[None], "cpu")[0].T
    np.testing.assert_allclose(heard(WHISPER, wave), hub, atol=2e-6)
    np.testing.assert_allclose(heard(WHISPER, noise(29.995)).shape, hub.shape)


@BOTH
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")  # narrow kaldi filters between two lines
def test_ast_frames_are_those_of_the_hub(real):
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor()
    waves = [wave for wave in clips(real) if len(wave) >= 400] + ([] if real else [noise(12)])
    for wave in waves:
        hub = extractor(wave, sampling_rate=16000)["input_values"][0]
        got = heard(AST, wave)[:1024]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, hub, atol=2e-6)
    assert heard(AST, noise(0.01)).shape == (1024, 128)


@BOTH
def test_speaker_frames_are_the_mel_power_of_each_partial_utterance(real):
    """Written out by hand from the published preprocessing: louder, mel power, slices of 160 frames every 77."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(201, 40, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    for wave in clips(real):
        loud = np.sqrt(np.mean((wave.astype(np.float64) * 32767) ** 2)) / 32767
        louder = wave * max(1.0, 10 ** (-30 / 20) / loud)
        frames = int(np.ceil((len(wave) + 1) / 160))
        slices = [slice(i, i + 160) for i in range(0, max(1, frames - 160 + 77 + 1), 77)]
        if (len(wave) - slices[-1].start * 160) / (160 * 160) < 0.75 and len(slices) > 1:
            slices = slices[:-1]
        needed = slices[-1].stop * 160
        padded = np.pad(louder, (0, max(0, needed - len(louder))))
        mel = spectrogram(
            padded, window_function(400, "hann"), 400, 160, power=2.0, mel_filters=filters, pad_mode="constant", mel_floor=0.0
        ).T
        expected = np.concatenate([mel[each] for each in slices])
        np.testing.assert_allclose(heard(SPEAKER, wave), expected, rtol=1e-4, atol=1e-7)


def test_chunks_of_whisper_lie_end_to_end_and_are_those_of_each_window():
    wave = noise(7.3)
    row = Audio(AudioOptions(chunk_s=3, overlap_s=0.5), WHISPER).encode([(wave, 16000)])[0]
    frames = row.inputs["input_features"]
    starts = [0, 40_000, 80_000]
    assert row.length == len(frames) == 300 + 300 + 230 + 2
    for number, start in enumerate(starts):
        alone = heard(WHISPER, wave[start : start + 48_000], chunk_s=3)
        np.testing.assert_array_equal(frames[300 * number : 300 * (number + 1)], alone)
        assert row.spans_T2[300 * number].tolist() == [start, start + 160]
    assert row.spans_T2[-3].tolist() == [116_640, 116_800]
    assert row.spans_T2[-2:].tolist() == [[0, 0], [0, 0]]  # frames beyond the end that still touch it


def test_chunks_of_waves_repeat_what_they_share():
    wave = noise(2.5)
    row = Audio(AudioOptions(chunk_s=1, overlap_s=0.25), {**WAVE, "do_normalize": False}).encode([(wave, 16000)])[0]
    starts = row.spans_T2[:, 0]
    np.testing.assert_array_equal(row.inputs["input_values"], wave[starts])
    assert starts[[0, 16_000, 32_000]].tolist() == [0, 12_000, 24_000]
    assert starts[-1] == len(wave) - 1


def test_spans_are_samples_of_the_recording_as_given():
    wave = noise(1, rate=8000)
    row = Audio(AudioOptions(), WHISPER).encode([(wave, 8000)])[0]
    assert row.spans_T2[:2].tolist() == [[0, 80], [80, 160]]
    assert row.spans_T2.max() == 8000
    blind = Audio(AudioOptions(), WHISPER).encode([(wave, 8000)], spans=False)[0]
    assert blind.length == row.length
    assert not blind.spans_T2.any()


def test_what_is_too_long_is_cut_and_counted():
    audio = Audio(AudioOptions(seconds=2), WHISPER)
    short, long = audio.encode([(noise(1), 16000), (noise(5), 16000)])
    assert (short.length, short.dropped) == (102, 0)
    assert (long.length, long.dropped) == (202, 300)
    assert audio.longest == 202
    np.testing.assert_array_equal(long.inputs["input_features"].shape, (202, 80))
    wave = Audio(AudioOptions(seconds=1.5), WAVE).encode([(noise(2), 16000)])[0]
    assert (wave.length, wave.dropped) == (24_000, 8_000)


def test_rows_are_padded_to_the_longest():
    audio = Audio(AudioOptions(features="log-mel", bins=16, rate=8000))
    inputs, mask = audio.collate(audio.encode([(noise(0.5), 8000), (noise(0.25), 8000)]))
    assert inputs["input_features"].shape == (2, 101, 16)
    assert mask.sum(axis=1).tolist() == [101, 51]
    assert audio.width == 16
    assert not inputs["input_features"][1, 51:].any()


@pytest.mark.parametrize("features", ["log-mel", "mfcc", "wave"])
def test_networks_without_a_past_hear_what_is_asked_for(features):
    audio = Audio(AudioOptions(features=features, rate=8000))
    values = audio.encode([(noise(0.5), 8000)])[0].inputs[audio.front.input]
    assert values.dtype == np.float32
    assert abs(float(values.mean())) < 1e-4
    assert abs(float(values.std()) - 1) < 1e-2
    raw = Audio(AudioOptions(features=features, rate=8000, normalise=False)).encode([(noise(0.5), 8000)])[0]
    assert abs(float(raw.inputs[audio.front.input].std()) - 1) > 0.1


@pytest.mark.parametrize("config", [WHISPER, WAVE, AST, SPEAKER, None], ids=str)
def test_saved_and_loaded_it_encodes_the_same_bytes(config, tmp_path):
    audio = Audio(AudioOptions(chunk_s=2, overlap_s=0.5, seconds=9) if config in (WHISPER, WAVE) else AudioOptions(), config)
    audio.save(tmp_path)
    again = Audio.load(tmp_path, json.loads(json.dumps(audio.spec())))
    wave = [(noise(4.2), 16000)]
    (one,), (two,) = audio.encode(wave), again.encode(wave)
    np.testing.assert_array_equal(one.inputs[audio.front.input], two.inputs[again.front.input])
    assert again.spec() == audio.spec()
    assert again.padding == audio.padding


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")  # narrow kaldi filters between two lines
@pytest.mark.parametrize("config", [WHISPER, WAVE, AST], ids=str)
def test_the_saved_folder_is_an_ordinary_one(config, tmp_path):
    from transformers import AutoFeatureExtractor

    Audio(AudioOptions(), {**config, "of_its_own": 1}).save(tmp_path)
    found = AutoFeatureExtractor.from_pretrained(str(tmp_path))
    assert type(found).__name__ == config["feature_extractor_type"]
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["of_its_own"] == 1


def test_features_learnt_by_a_network_without_a_past_survive_saving(tmp_path):
    audio = Audio(AudioOptions(features="mfcc", rate=8000, bins=30, coefficients=12))
    audio.save(tmp_path)
    with pytest.raises(OptionsError):
        Audio(audio.options, read_preprocessor(tmp_path))
    again = Audio.load(tmp_path, audio.spec())
    assert again.width == 12
    assert again.front.rate == 8000


def test_a_base_hears_only_what_it_was_trained_with():
    with pytest.raises(OptionsError) as caught:
        Audio(AudioOptions(rate=8000), WHISPER)
    assert str(caught.value) == (
        "the base hears only what it was trained with\n  where: audio.rate\n  got: 8000\n"
        "  to do: leave 'rate' out; it is for networks without a past"
    )


def test_impossible_preprocessings_are_refused(tmp_path):
    with pytest.raises(BaseError, match="the preprocessing of the base is missing"):
        read_preprocessor(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    for text, said in [("{", "cannot be read"), ("[]", "a JSON object is expected, got list")]:
        path.write_text(text)
        with pytest.raises(BaseError, match=said):
            read_preprocessor(tmp_path)
    with pytest.raises(BaseError) as caught:
        front_of({"feature_extractor_type": "WhisperFeatureExtracto"})
    assert "got: feature_extractor_type = 'WhisperFeatureExtracto'" in str(caught.value)
    assert "did you mean 'WhisperFeatureExtractor'" in str(caught.value)
    for key, value in [("hop_length", 0), ("n_fft", "400"), ("sampling_rate", float("nan")), ("feature_size", True)]:
        with pytest.raises(BaseError, match=f"an impossible '{key}'"):
            front_of({**WHISPER, key: value})
    with pytest.raises(BaseError, match="not so many cepstral coefficients"):
        Audio(AudioOptions(features="mfcc", bins=10, coefficients=20))
    with pytest.raises(OptionsError, match="chunks overlap by more than half"):
        Audio(AudioOptions(chunk_s=2, overlap_s=1.5), WHISPER)


def test_tiny_recordings_at_a_high_rate_still_give_a_position():
    for config in (WHISPER, WAVE, AST, SPEAKER, None):
        row = Audio(AudioOptions(), config).encode([(np.ones(1, np.float32), 48_000)])[0]
        assert row.length >= 1
        assert np.isfinite(next(iter(row.inputs.values()))).all()


def test_every_extractor_has_one_name():
    assert len({front.kind for front in FRONTS.values()}) == len(FRONTS)


def test_examples_can_be_learnt_back():
    signal = np.random.default_rng(0).random((120, 2))
    audio = Audio(AudioOptions(rate=8000))
    raws = audio.example(signal, seed=1)
    assert audio.recognises(raws)
    assert not any(audio.problem(raw) for raw in raws)
    means = np.stack([row.inputs["input_features"].mean(axis=0) for row in audio.encode(raws)])
    features = np.concatenate([means, means**2, np.ones((120, 1))], axis=1)
    weights = np.linalg.solve(features[:80].T @ features[:80] + 1e-2 * np.eye(129), features[:80].T @ signal[:80])
    error = features[80:] @ weights - signal[80:]
    assert 1 - (error**2).mean() / signal[80:].var() > 0.7
    assert raws == audio.example(signal, seed=1)


def test_paths_are_opened_in_the_users_own_data_alone(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(noise(0.5), 16000))
    for raw in ("a.wav", {"bytes": None, "path": "a.wav"}):
        located = Audio.located(raw, tmp_path)
        assert Audio.opened(located) == path.read_bytes()
        assert "is not opened here" in Audio(AudioOptions(), WAVE).problem(located)
    content = path.read_bytes()
    for raw in (content, {"bytes": content, "path": "a.wav"}):
        assert Audio.opened(Audio.located(raw, tmp_path)) == content
    assert Audio.unreadable(content) == ""
    assert Audio.unreadable(b"") == "there is no recording: 0 bytes"
    found, wrong = Audio(AudioOptions(), WAVE).brought(["a.wav", None, "b.wav"], tmp_path)
    assert found[0] == content
    assert wrong[2].startswith("there is no file 'b.wav' in ")


def test_what_goes_into_golden_rows_is_small_and_can_be_answered():
    audio = Audio(AudioOptions(), WHISPER)
    quiet_then_loud = np.concatenate([np.zeros(32_000, np.float32), noise(1)])
    text = audio.shortened((quiet_then_loud, 16000), 10_000)
    assert len(text) < 14_000
    assert not audio.problem(text)
    assert read(text, Limits()).rate == 8000
    small = wav_bytes(noise(0.1), 16000)
    assert read(audio.shortened(small, 10_000), Limits()).rate == 16000
    assert audio.as_json(small).startswith("data:;base64,")


def test_it_recognises_recordings_only():
    assert Audio.recognises(["a.wav", "b.flac"])
    assert Audio.recognises([wav_bytes(np.ones(5), 8000)])
    assert not Audio.recognises([])
    assert not Audio.recognises(["a.wav", "hello"])
