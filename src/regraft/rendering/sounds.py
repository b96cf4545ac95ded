"""Recordings as wave and spectrogram over the same seconds."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.modalities import recordings
from regraft.modalities.spectra import Frames, decibel, power_spectrum
from regraft.rendering.renderer import Box, Piece, Renderer, sparks
from regraft.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

_LIMITS = recordings.Limits(seconds=86_400.0, channels=1024, silence=True)
_FRAME_S, _COLUMNS, _POINTS = 0.025, 600, 1200
_SMALL, _LINE = 6.5, 0.5
_KEPT_RATE, _KEPT_SECONDS, _KEPT_POINTS, _WAVE_HEAD = 8_000, 5.0, 160, 44


class SoundRenderer(Renderer):
    """Show recordings."""

    width_in = 3.4
    height_in = 1.75

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw the wave above the spectrogram, in decibels below its loudest place."""
        sound = recordings.read(raw, _LIMITS)
        left, bottom, width, height = box
        inner = left + 0.11 * width, bottom + 0.17 * height, 0.87 * width, height
        wave = figure.add_axes((inner[0], bottom + 0.76 * height, inner[2], 0.22 * height))
        low_P, high_P = _envelope(sound.wave_S)
        seconds_P = np.linspace(0.0, sound.seconds, len(low_P))
        wave.fill_between(seconds_P, low_P, high_P, color="#30506e", linewidth=_LINE)
        wave.set_xlim(0, sound.seconds)
        wave.set_axis_off()
        spectrum = figure.add_axes((inner[0], inner[1], inner[2], 0.56 * height))
        length = max(16, round(_FRAME_S * sound.rate))
        hop = max(1, length // 2, len(sound.wave_S) // _COLUMNS)
        power_TF = power_spectrum(sound.wave_S, Frames(length=length, hop=hop, fft=length, continued="constant"))
        extent = (0.0, sound.seconds, 0.0, sound.rate / 2000)
        spectrum.imshow(
            decibel(power_TF).T, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest"
        )
        spectrum.tick_params(labelsize=_SMALL, length=2, pad=1.5)
        spectrum.locator_params(axis="y", nbins=4)
        spectrum.locator_params(axis="x", nbins=6)
        spectrum.set_xlabel("s", fontsize=_SMALL, labelpad=0.5)
        spectrum.set_ylabel("kHz", fontsize=_SMALL, labelpad=1.5)

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return the beginning of a recording, as many seconds as there is room for, and how loud it is over that time."""
        sound = recordings.read(raw, _LIMITS)
        rate = min(sound.rate, _KEPT_RATE)
        seconds = min(sound.seconds, _KEPT_SECONDS, (most_bytes * 3 // 4 - _WAVE_HEAD) / (2 * rate))
        beginning = recordings.Sound(sound.wave_S[: max(1, round(seconds * sound.rate))], sound.rate)
        wave_S = recordings.resampled(beginning, rate)
        content = base64.b64encode(recordings.wav_bytes(wave_S, rate)).decode()
        low_P, high_P = _envelope(beginning.wave_S, _KEPT_POINTS)
        lines = [[round(float(value), 3) for value in part] for part in (low_P, high_P)]
        return [
            {
                "sound": f"data:audio/wav;base64,{content}",
                "seconds": round(beginning.seconds, 2),
                "of": round(sound.seconds, 2),
            },
            {"lines": lines, "channels": 2, "steps": len(beginning.wave_S)},
        ]

    def terminal(self, raw: Any, columns: int) -> Text:
        """Return the loudness as a line of blocks."""
        from rich.text import Text

        sound = recordings.read(raw, _LIMITS)
        width = min(columns - 8, 60)
        parts = np.array_split(np.abs(sound.wave_S), max(1, min(width, len(sound.wave_S))))
        return Text(f"{sparks([float(part.mean()) for part in parts], width)} {sound.seconds:.1f} s")


def _envelope(wave_S: FloatArray, points: int = _POINTS) -> tuple[FloatArray, FloatArray]:
    """Return the smallest and the largest sample of each of at most so many parts."""
    starts = np.unique(np.linspace(0, len(wave_S), points, endpoint=False).astype(int))
    return np.minimum.reduceat(wave_S, starts), np.maximum.reduceat(wave_S, starts)
