"""What is read as a recording, what is refused, and the text of every refusal."""

import base64
import io
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from regraft.errors import MissingExtraError
from regraft.modalities import recordings
from regraft.modalities.recordings import Limits, RecordingError, Sound, problem, read, resampled, wav_bytes

TONE = (0.5 * np.sin(np.arange(4000) * 0.3)).astype(np.float32)
ANY = Limits()


def encoded(samples, rate=8000, kind="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 2e-2),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.1),
    ],
)
def test_formats_give_the_samples_at_full_scale_one(kind, subtype, tolerance):
    sound = read(encoded(TONE, kind=kind, subtype=subtype), ANY)
    assert sound.rate == 8000
    assert sound.wave_S.dtype == np.float32
    np.testing.assert_allclose(sound.wave_S, TONE, atol=tolerance)


def test_mp3_is_read_where_the_library_does():
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile reads no MP3")
    sound = read(encoded(TONE, 16000, "MP3", "MPEG_LAYER_III"), ANY)
    assert sound.rate == 16000
    assert abs(sound.seconds - 0.25) < 0.15


def test_all_kinds_of_raw_values_say_the_same(tmp_path):
    content = encoded(TONE, subtype="FLOAT")
    path = tmp_path / "tone.wav"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    raws = [path, text, f"data:audio/wav;base64,{text}", content, bytearray(content), {"bytes": content, "path": None}]
    raws += [(TONE, 8000), (TONE[:, None], np.int64(8000)), {"array": TONE, "sampling_rate": 8000, "path": "x"}]
    raws += [{"array": np.stack([TONE, TONE]), "sampling_rate": 8000.0}]
    for raw in raws:
        sound = read(raw, ANY)
        assert sound.rate == 8000
        np.testing.assert_array_equal(sound.wave_S, TONE)


def test_whole_numbers_are_scaled_by_their_type():
    for dtype, half in [(np.int16, 2**15), (np.int32, 2**31), (np.int8, 2**7)]:
        whole = np.asarray([-half, 0, half // 2]).astype(dtype)
        np.testing.assert_array_equal(read((whole, 8000), ANY).wave_S, [-1.0, 0.0, 0.5])
    np.testing.assert_array_equal(read((np.asarray([0, 128, 192], np.uint8), 8000), ANY).wave_S, [-1.0, 0.0, 0.5])


def test_seven_channels_are_mixed_or_refused():
    many = np.stack([TONE * k for k in range(7)], axis=1) / 10
    np.testing.assert_allclose(read(encoded(many, subtype="FLOAT"), ANY).wave_S, TONE * 0.3, atol=1e-6)
    said = problem(encoded(many), Limits(mix=False))
    assert said == "the recording has 7 channels, and one is asked for (channels: refuse)"
    assert problem(encoded(many), Limits(channels=2)) == "the recording has 7 channels, at most 2 are taken (max_channels)"
    assert problem((many, 8000), Limits(channels=2)) == "the recording has 7 channels, at most 2 are taken (max_channels)"


NOT_OPENED = "a path or an address is not opened here: send the recording itself, its bytes in base64"


def nan_at(position):
    broken = TONE.copy()
    broken[position] = np.nan
    return broken


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "there is no recording"),
        ("", "there is no recording: 0 bytes"),
        (b"", "there is no recording: 0 bytes"),
        (3.5, "a recording is expected (path, bytes, or samples with their rate), got float (3.5)"),
        ("https://host/a", NOT_OPENED),
        ("secret.wav", NOT_OPENED),
        ({"bytes": None, "path": "/etc/secret.wav"}, NOT_OPENED),
        ("hello", "the text is not a recording in base64"),
        (Path("nowhere.wav"), "there is no file nowhere.wav"),
        (encoded(TONE[:0]), "the recording has 0 seconds"),
        ((TONE[:0], 8000), "the recording has 0 seconds"),
        ((nan_at(7), 8000), "sample 7 is not a number (NaN or infinite)"),
        (encoded(nan_at(3), subtype="FLOAT"), "sample 3 is not a number (NaN or infinite)"),
        ((TONE * 0, 8000), "the recording is silent from beginning to end (silence: keep takes it)"),
        ((TONE, "8000"), "samples need their rate, a whole number a second, got '8000'"),
        ((TONE, True), "samples need their rate, a whole number a second, got True"),
        ((TONE, 0), "a rate of 0 samples a second is not possible"),
        ((np.ones((2, 2, 2)), 8000), "samples have the shape (samples,) or (samples, channels), got (2, 2, 2)"),
        ((np.asarray(["a"]), 8000), "samples are numbers, got <U1"),
        (encoded(TONE, kind="AIFF"), "the format AIFF is not taken; give one of WAV, WAVEX, FLAC, OGG, MP3"),
    ],
)
def test_refusals(raw, said):
    assert problem(raw, ANY) == said


def test_what_cannot_be_decoded(tmp_path):
    assert problem(b"not a recording at all", ANY).startswith("the recording cannot be decoded: ")
    content = encoded(TONE)
    assert problem(content[:30], ANY).startswith("the recording ")
    flac = encoded(TONE, kind="FLAC")
    assert problem(flac[:60], ANY).startswith("the recording ")
    assert problem(tmp_path, ANY) == f"there is no file {tmp_path}"


def test_a_header_is_believed_before_anything_is_decoded(monkeypatch):
    content = encoded(np.zeros(80_000, np.float32) + 0.1)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    assert problem(content, Limits(seconds=9.5)) == "the recording has 10 seconds, at most 9.5 are taken (max_seconds)"
    monkeypatch.setattr(recordings, "_LIMIT_VALUES", 1000)
    assert problem(content, ANY) == "the recording has 80000 samples, at most 1000 are taken"


def test_silence_is_kept_where_asked():
    assert problem((TONE * 0, 8000), Limits(silence=True)) == ""


def test_files_beyond_the_limit_are_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(TONE))
    monkeypatch.setattr(recordings, "LIMIT_BYTES", 100)
    assert problem(path, ANY) == f"the file has {path.stat().st_size} bytes, at most 100 are taken"


def test_resampling_keeps_a_tone():
    rate = 44_100
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    wave_S = resampled(Sound(tone, rate), 16_000)
    assert len(wave_S) == 16_000
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(wave_S[500:-500], expected[500:-500], atol=2e-3)
    assert resampled(Sound(tone, rate), rate) is tone


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(recordings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        read(encoded(TONE), ANY)
    assert (
        str(caught.value) == "sound cannot be read\n  got: soundfile, soxr not installed\n  to do: pip install 'regraft[audio]'"
    )


def test_wav_bytes_are_a_wav_file():
    with wave.open(io.BytesIO(wav_bytes(np.asarray([0.0, 1.5, -1.0]), 8000))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(3), "<i2"), [0, 32767, -32767])


def test_what_looks_like_a_recording():
    yes = ["a/b.WAV", encoded(TONE), encoded(TONE, kind="FLAC"), (TONE, 8000), {"array": TONE, "sampling_rate": 1}]
    yes += [{"bytes": encoded(TONE), "path": None}, {"bytes": None, "path": "x.ogg"}]
    no = ["a.png", b"\x89PNG", "hello", 1, None, {"bytes": None, "path": None}, (1, 2), {"a": 1}, b""]
    assert all(recordings.is_recording(raw) for raw in yes)
    assert not any(recordings.is_recording(raw) for raw in no)


def test_paths_of_the_users_own_data_are_found_and_contained(tmp_path, monkeypatch):
    inside, outside = tmp_path / "data" / "a.wav", tmp_path / "b.wav"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(encoded(TONE))
    assert recordings.locate("a.wav", inside.parent) == str(inside)
    assert recordings.locate(str(outside), inside.parent) == str(outside)
    with pytest.raises(ValueError, match="the path of the recording leads out of the folder of the data: "):
        recordings.locate("../b.wav", inside.parent)
    with pytest.raises(ValueError, match=r"there is no file 'c\.wav' in "):
        recordings.locate("c.wav", inside.parent)
    assert recordings.read_file(inside) == encoded(TONE)
    with pytest.raises(ValueError, match="the file of the recording cannot be read: "):
        recordings.read_file(tmp_path / "none.wav")
    monkeypatch.setattr(recordings, "LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match="bytes, at most 100 are taken"):
        recordings.read_file(inside)


def test_recordings_as_text_say_the_same(tmp_path):
    content = encoded(TONE, subtype="FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for raw in (content, path, {"bytes": content, "path": "a.wav"}):
        np.testing.assert_array_equal(read(recordings.as_text(raw), ANY).wave_S, TONE)
    np.testing.assert_allclose(read(recordings.as_text((TONE, 8000)), ANY).wave_S, TONE, atol=1e-4)
    assert recordings.as_text("data:;base64,AA==") == "data:;base64,AA=="


def test_an_error_of_reading_is_a_value_error():
    with pytest.raises(RecordingError, match="there is no recording"):
        read(None, ANY)
