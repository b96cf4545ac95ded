"""Spectra of sound in numpy: windows, mel filters, log-mel, cepstra. What speech networks were trained on, to the last digits.

Shapes: S samples, T frames, F frequencies, M mel bins, K cepstral coefficients.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from regraft.types import Array, FloatArray

Scale = Literal["slaney", "kaldi", "htk"]
_FRAMES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Frames:
    """How a wave is cut into frames before its spectrum is taken.

    Args:
        length: Samples of a frame.
        hop: Samples from one frame to the next.
        fft: Samples of the Fourier transform; a frame is filled up with zeros.
        periodic: Whether the Hann window is one period of its cosine (as for spectral analysis), not symmetric.
        centred: Whether frame t lies around sample t * hop, the wave continued beyond its ends; otherwise it begins there.
        continued: How it is continued: mirrored, or with zeros.
        preemphasis: Share of the sample before that is taken off each (Kaldi); 0 for none.
        level: Whether the mean of each frame is taken off.
    """

    length: int = 400
    hop: int = 160
    fft: int = 400
    periodic: bool = True
    centred: bool = True
    continued: Literal["reflect", "constant"] = "reflect"
    preemphasis: float = 0.0
    level: bool = False

    def count(self, samples: int) -> int:
        """Return how many frames a wave of so many samples gives."""
        whole = samples + 2 * (self.length // 2) if self.centred else samples
        return max(0, 1 + (whole - self.length) // self.hop)


def power_spectrum(wave_S: FloatArray, frames: Frames) -> FloatArray:
    """Return the squared magnitudes of the short-time Fourier transform (T, F), float64.

    Args:
        wave_S: Samples, mono.
        frames: How they are cut. A wave shorter than half a frame cannot be mirrored: it is continued with zeros.
    """
    half = frames.length // 2
    wave_S = np.asarray(wave_S, dtype=np.float64)
    if frames.centred:
        mode: Literal["reflect", "constant"] = frames.continued if len(wave_S) > half else "constant"
        wave_S = np.pad(wave_S, half, mode=mode)
    count = max(0, 1 + (len(wave_S) - frames.length) // frames.hop)
    spectrum_TF = np.empty((count, frames.fft // 2 + 1), dtype=np.float64)
    if not count:
        return spectrum_TF
    cut_TL = np.lib.stride_tricks.sliding_window_view(wave_S, frames.length)[:: frames.hop]
    window_L = hann(frames.length, periodic=frames.periodic)
    for start in range(0, count, _FRAMES_AT_ONCE):
        part_TL = _prepared(cut_TL[start : start + _FRAMES_AT_ONCE], frames) * window_L
        # Single precision between transform and magnitude, as the hub's extractors keep it.
        found_TF = np.fft.rfft(part_TL, frames.fft).astype(np.complex64)
        spectrum_TF[start : start + len(found_TF)] = np.abs(found_TF).astype(np.float64) ** 2
    return spectrum_TF


def _prepared(cut_TL: FloatArray, frames: Frames) -> FloatArray:
    if frames.level:
        cut_TL = cut_TL - cut_TL.mean(axis=1, keepdims=True)
    if frames.preemphasis:
        before_TL = np.concatenate([cut_TL[:, :1], cut_TL[:, :-1]], axis=1)
        cut_TL = cut_TL - frames.preemphasis * before_TL
    return cut_TL


@functools.lru_cache(maxsize=32)
def hann(length: int, *, periodic: bool) -> FloatArray:
    """Return the Hann window 0.5 - 0.5 cos(2 pi n / N), with N = length where periodic, length - 1 where symmetric."""
    window: FloatArray = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(length) / (length if periodic else length - 1))
    return window


def to_mel(hertz: FloatArray, scale: Scale) -> FloatArray:
    """Return frequencies on a mel scale.

    Slaney (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above. HTK: 2595 log10(1 + f / 700). Kaldi: the same
    as 1127 ln(1 + f / 700).
    """
    hertz = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))
    if scale == "kaldi":
        return np.asarray(1127.0 * np.log(1.0 + hertz / 700.0))
    above = 15.0 + np.log(np.maximum(hertz, 1000.0) / 1000.0) * (27.0 / math.log(6.4))
    return np.where(hertz >= 1000.0, above, 3.0 * hertz / 200.0)


def to_hertz(mels: FloatArray, scale: Scale) -> FloatArray:
    """Return the frequencies in Hz of values on a mel scale; the inverse of `to_mel`."""
    mels = np.asarray(mels, dtype=np.float64)
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    if scale == "kaldi":
        return np.asarray(700.0 * (np.exp(mels / 1127.0) - 1.0))
    above = 1000.0 * np.exp((math.log(6.4) / 27.0) * (np.maximum(mels, 15.0) - 15.0))
    return np.where(mels >= 15.0, above, 200.0 * mels / 3.0)


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Overlapping triangles on a mel scale.

    Args:
        bins: Number of triangles.
        rate: Samples a second of the wave.
        fft: Samples of the Fourier transform.
        low: Lowest frequency in Hz.
        high: Highest frequency in Hz; half the rate if not given.
        scale: Which mel scale.
        area: Whether each triangle is scaled to the same area (Slaney), not the same height.
        in_mels: Whether the sides are straight on the mel scale (Kaldi), not in Hz.
    """

    bins: int
    rate: int
    fft: int
    low: float = 0.0
    high: float | None = None
    scale: Scale = "slaney"
    area: bool = True
    in_mels: bool = False


@functools.lru_cache(maxsize=32)
def mel_filters(bank: Bank) -> FloatArray:
    """Return the weights of frequencies in mel bins (F, M), float64."""
    high = bank.rate / 2 if bank.high is None else bank.high
    low_high = to_mel(np.asarray([bank.low, high]), bank.scale)
    corners_M2 = np.linspace(low_high[0], low_high[1], bank.bins + 2)
    hertz_M2 = to_hertz(corners_M2, bank.scale)
    steps_F = np.arange(bank.fft // 2 + 1) * (bank.rate / bank.fft)
    if bank.in_mels:
        steps_F, edges_M2 = to_mel(steps_F, bank.scale), corners_M2
    else:
        edges_M2 = hertz_M2
    rising_FM = (steps_F[:, None] - edges_M2[None, :-2]) / np.diff(edges_M2)[:-1]
    falling_FM = (edges_M2[None, 2:] - steps_F[:, None]) / np.diff(edges_M2)[1:]
    weights_FM: FloatArray = np.maximum(0.0, np.minimum(rising_FM, falling_FM))
    if bank.area:
        weights_FM = weights_FM * (2.0 / (hertz_M2[2:] - hertz_M2[:-2]))
    return weights_FM


def mel_spectrum(wave_S: FloatArray, frames: Frames, bank: Bank) -> FloatArray:
    """Return the power in each mel bin of each frame (T, M), float64."""
    return np.asarray(power_spectrum(wave_S, frames) @ mel_filters(bank))


def decibel(power: FloatArray, *, floor: float = 1e-10, span_db: float | None = 80.0) -> FloatArray:
    """Return power in decibels, 10 log10(max(power, floor)), nothing more than `span_db` below its largest value."""
    values = 10.0 * np.log10(np.maximum(floor, power))
    return values if span_db is None or not values.size else np.maximum(values, values.max() - span_db)


@functools.lru_cache(maxsize=32)
def cosine_matrix(size: int, kept: int) -> FloatArray:
    """Return the first columns of the orthonormal discrete cosine transform of type II (size, kept)."""
    n_M, k_K = np.arange(size)[:, None], np.arange(kept)[None, :]
    matrix_MK = math.sqrt(2.0 / size) * np.cos(math.pi * (2 * n_M + 1) * k_K / (2 * size))
    matrix_MK[:, 0] /= math.sqrt(2.0)
    return matrix_MK


def cepstra(log_mel_TM: FloatArray, kept: int) -> Array:
    """Return mel-frequency cepstral coefficients (T, K): the cosine transform of log-mel frames (Davis, Mermelstein 1980)."""
    return np.asarray(log_mel_TM @ cosine_matrix(log_mel_TM.shape[1], kept))
