"""Spectra against the hub's numpy code, scipy and closed forms."""

import numpy as np
import pytest
from scipy.fft import dct
from scipy.signal.windows import hann as scipy_hann

from regraft.modalities.spectra import (
    Bank,
    Frames,
    cepstra,
    decibel,
    hann,
    mel_filters,
    mel_spectrum,
    power_spectrum,
    to_hertz,
    to_mel,
)

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(5000)


def test_a_tone_gives_one_line():
    k = 10
    tone = np.cos(2 * np.pi * k / 400 * np.arange(4000))
    power = power_spectrum(tone, Frames(centred=False))
    assert power.shape == (23, 201)
    # A Hann window spreads a tone over three lines with 1/2, 1/4 and 1/4 of its amplitude: N/2 * 1/2 in the middle.
    np.testing.assert_allclose(np.sqrt(power[:, k]), 100.0, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(power[:, k + 1]), 50.0, rtol=1e-6)
    assert power[:, k + 3 :].max() < 1e-6


@pytest.mark.parametrize("periodic", [True, False])
def test_windows_are_those_of_scipy(periodic):
    np.testing.assert_allclose(hann(400, periodic=periodic), scipy_hann(400, sym=not periodic), atol=1e-15)


@pytest.mark.parametrize("scale", ["slaney", "kaldi", "htk"])
def test_mel_scales_there_and_back_and_as_the_hub(scale):
    from transformers.audio_utils import hertz_to_mel

    hertz = np.asarray([0.0, 20.0, 999.0, 1000.0, 4321.0, 8000.0])
    np.testing.assert_allclose(to_mel(hertz, scale), hertz_to_mel(hertz.copy(), scale), rtol=1e-12)
    np.testing.assert_allclose(to_hertz(to_mel(hertz, scale), scale), hertz, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")  # narrow kaldi filters between two lines
@pytest.mark.parametrize(
    ("bank", "hub"),
    [
        (Bank(bins=80, rate=16000, fft=400), {"norm": "slaney", "mel_scale": "slaney"}),
        (Bank(bins=40, rate=8000, fft=200, area=False, scale="htk"), {"norm": None, "mel_scale": "htk"}),
        (
            Bank(bins=128, rate=16000, fft=512, low=20, scale="kaldi", area=False, in_mels=True),
            {"norm": None, "mel_scale": "kaldi", "triangularize_in_mel_space": True},
        ),
    ],
)
def test_filters_are_those_of_the_hub(bank, hub):
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(bank.fft // 2 + 1, bank.bins, bank.low, bank.rate / 2, bank.rate, **hub)
    np.testing.assert_allclose(mel_filters(bank), expected, atol=1e-12)


@pytest.mark.parametrize("centred", [True, False])
def test_power_is_that_of_the_hub(centred):
    from transformers.audio_utils import spectrogram, window_function

    expected = spectrogram(NOISE, window_function(400, "hann"), 400, 160, 512, power=2.0, center=centred, pad_mode="constant")
    got = power_spectrum(NOISE, Frames(fft=512, centred=centred, continued="constant"))
    np.testing.assert_allclose(got, expected.T, rtol=1e-6, atol=1e-6)
    assert len(got) == Frames(fft=512, centred=centred).count(len(NOISE))


def test_long_waves_are_computed_in_parts_with_the_same_result(monkeypatch):
    whole = power_spectrum(NOISE, Frames())
    monkeypatch.setattr("regraft.modalities.spectra._FRAMES_AT_ONCE", 7)
    np.testing.assert_array_equal(power_spectrum(NOISE, Frames()), whole)


def test_cepstra_are_the_cosine_transform_of_scipy():
    log_mel = decibel(mel_spectrum(NOISE, Frames(), Bank(bins=40, rate=16000, fft=400)))
    np.testing.assert_allclose(cepstra(log_mel, 13), dct(log_mel, type=2, norm="ortho", axis=1)[:, :13], atol=1e-9)


def test_decibels_are_those_of_the_hub():
    from transformers.audio_utils import power_to_db

    power = RNG.random((7, 5)) ** 20
    np.testing.assert_allclose(decibel(power), power_to_db(power, db_range=80.0), atol=1e-9)
    assert decibel(np.zeros((0, 3))).shape == (0, 3)


def test_waves_too_short_for_a_frame():
    assert power_spectrum(np.ones(399), Frames(centred=False)).shape == (0, 201)
    assert power_spectrum(np.ones(1), Frames()).shape == (1, 201)
    assert np.isfinite(power_spectrum(np.ones(150), Frames())).all()


def test_as_librosa_where_it_is_installed():
    librosa = pytest.importorskip("librosa")
    wave = NOISE.astype(np.float32) / 10
    frames, bank = Frames(continued="constant"), Bank(bins=40, rate=16000, fft=400)
    mel = librosa.feature.melspectrogram(y=wave, sr=16000, n_fft=400, hop_length=160, n_mels=40).T
    np.testing.assert_allclose(mel_spectrum(wave, frames, bank), mel, rtol=1e-4)
    mfcc = librosa.feature.mfcc(y=wave, sr=16000, n_fft=400, hop_length=160, n_mels=40, n_mfcc=13).T
    np.testing.assert_allclose(cepstra(decibel(mel_spectrum(wave, frames, bank)), 13), mfcc, atol=1e-2)
