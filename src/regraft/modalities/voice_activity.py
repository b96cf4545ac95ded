"""Where somebody speaks: the Silero voice activity detector, version 6, at 16 kHz, in numpy.

The network looks at 32 ms after the other, each with the last 4 ms before it: magnitudes of a short Fourier transform (as a
convolution), four convolutions, an LSTM cell that remembers, one probability (https://github.com/snakers4/silero-vad, MIT).

Shapes: S samples, W windows, T frames of a window, F frequencies, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from regraft.errors import BaseError, Problem
from regraft.types import Array, FloatArray

RATE = 16000
VOICE_FILE = "voice-activity.safetensors"
_WINDOW, _CONTEXT, _MIRRORED, _FFT, _STEP = 512, 64, 64, 256, 128
_SHAPES = {
    "stft_conv.weight": (258, 1, 256),
    **{f"conv{n}.weight": shape for n, shape in enumerate([(128, 129, 3), (64, 128, 3), (64, 64, 3), (128, 64, 3)], start=1)},
    **{f"conv{n}.bias": (width,) for n, width in enumerate([128, 64, 64, 128], start=1)},
    **{f"lstm_cell.weight_{kind}": (512, 128) for kind in ("ih", "hh")},
    **{f"lstm_cell.bias_{kind}": (512,) for kind in ("ih", "hh")},
    "final_conv.weight": (1, 128, 1),
    "final_conv.bias": (1,),
}
_STRIDES = (1, 2, 2, 1)
_WINDOWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Speech:
    """When probabilities become speech.

    Args:
        threshold: Speech begins at this probability, and ends 0.15 below it.
        least_s: Shorter stretches of speech are dropped.
        silence_s: Speech goes on over shorter pauses.
        margin_s: Kept before and after each stretch.
    """

    threshold: float = 0.5
    least_s: float = 0.25
    silence_s: float = 0.1
    margin_s: float = 0.03


class VoiceActivity:
    """Say where a recording at 16 kHz holds speech.

    Args:
        weights: Of the published network, by their names in its safetensors file.

    Raises:
        BaseError: A weight is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        got = {name: tuple(values.shape) for name, values in weights.items()}
        if got != _SHAPES:
            wrong = sorted(name for name in {*got, *_SHAPES} if got.get(name) != _SHAPES.get(name))
            what, fix = "the weights are not those of the voice activity detector", "fetch them again"
            raise BaseError(Problem(what=what, got=", ".join(wrong[:5]), fix=fix))
        self.weights = {name: np.asarray(values, dtype=np.float32) for name, values in weights.items()}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the detector whose weights lie in a safetensors file.

        Raises:
            BaseError: It is missing or damaged, or holds something else.
        """
        from safetensors.numpy import load_file

        try:
            return cls(load_file(path))
        except BaseError:
            raise
        except Exception as error:  # the reader's own errors have no common class
            what, fix = "the voice activity detector cannot be read", "fetch or save the folder again"
            raise BaseError(Problem(what=what, where=str(path), got=str(error)[:200], fix=fix)) from error

    def save(self, path: Path) -> None:
        """Write the weights as a safetensors file."""
        from safetensors.numpy import save_file

        save_file(self.weights, path)

    def probabilities(self, wave_S: FloatArray) -> FloatArray:
        """Return the probability of speech in each 32 ms (W,).

        Args:
            wave_S: Samples at 16 kHz; the last window is filled up with zeros.
        """
        wave_S = np.asarray(wave_S, dtype=np.float32)
        if not len(wave_S):
            return np.zeros(0, dtype=np.float32)
        filled_S = np.pad(wave_S, (_CONTEXT, -len(wave_S) % _WINDOW))
        looked_at = np.lib.stride_tricks.sliding_window_view(filled_S, _WINDOW + _CONTEXT)[::_WINDOW]
        parts = [self._heard(looked_at[i : i + _WINDOWS_AT_ONCE]) for i in range(0, len(looked_at), _WINDOWS_AT_ONCE)]
        return self._remembered(np.concatenate(parts))

    def speech(self, wave_S: FloatArray, rules: Speech | None = None) -> Array:
        """Return the stretches of a recording that hold speech, in samples (N, 2), in order and apart.

        Args:
            wave_S: Samples at 16 kHz.
            rules: When probabilities become speech.
        """
        return stretches(self.probabilities(wave_S), len(wave_S), rules or Speech())

    def _heard(self, looked_at_WS: FloatArray) -> FloatArray:
        """Return what the convolutions make of each window (W, D)."""
        mirrored_WS = np.pad(looked_at_WS, ((0, 0), (0, _MIRRORED)), mode="reflect")
        cut_WTL = np.lib.stride_tricks.sliding_window_view(mirrored_WS, _FFT, axis=1)[:, ::_STEP]
        both_WTF = cut_WTL @ self.weights["stft_conv.weight"][:, 0].T
        half = both_WTF.shape[2] // 2
        x_WTF = np.sqrt(both_WTF[..., :half] ** 2 + both_WTF[..., half:] ** 2)
        for number, stride in enumerate(_STRIDES, start=1):
            x_WTF = np.maximum(0.0, self._convolved(x_WTF, f"conv{number}", stride))
        return x_WTF[:, 0]

    def _convolved(self, x_WTF: FloatArray, name: str, stride: int) -> FloatArray:
        padded_WTF = np.pad(x_WTF, ((0, 0), (1, 1), (0, 0)))
        cut_WTFK = np.lib.stride_tricks.sliding_window_view(padded_WTF, 3, axis=1)[:, ::stride]
        found: FloatArray = np.einsum("wtfk,dfk->wtd", cut_WTFK, self.weights[f"{name}.weight"], optimize=True)
        return found + self.weights[f"{name}.bias"]

    def _remembered(self, heard_WD: FloatArray) -> FloatArray:
        """Run the LSTM cell over the windows; gates in the order input, forget, cell, output."""
        given_WG = heard_WD @ self.weights["lstm_cell.weight_ih"].T
        given_WG = given_WG + self.weights["lstm_cell.bias_ih"] + self.weights["lstm_cell.bias_hh"]
        carry_DG = np.ascontiguousarray(self.weights["lstm_cell.weight_hh"].T)
        width = heard_WD.shape[1]
        hidden_D, cell_D = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
        said_WD = np.empty_like(heard_WD)
        for number, given_G in enumerate(given_WG):
            gates_G = given_G + hidden_D @ carry_DG
            into, forget, out = (_sigmoid(gates_G[i * width : (i + 1) * width]) for i in (0, 1, 3))
            cell_D = forget * cell_D + into * np.tanh(gates_G[2 * width : 3 * width])
            hidden_D = out * np.tanh(cell_D)
            said_WD[number] = hidden_D
        last_W = np.maximum(0.0, said_WD) @ self.weights["final_conv.weight"][0, :, 0] + self.weights["final_conv.bias"]
        return np.asarray(_sigmoid(last_W), dtype=np.float32)


def stretches(probabilities_W: FloatArray, samples: int, rules: Speech) -> Array:
    """Return the stretches of speech in samples (N, 2), in order and apart.

    Args:
        probabilities_W: Of speech in each window.
        samples: Of the recording.
        rules: When probabilities become speech.
    """
    found: list[list[int]] = []
    start, quiet = -1, -1
    for number, probability in enumerate(probabilities_W.tolist()):
        place = number * _WINDOW
        if probability >= rules.threshold:
            start, quiet = (place if start < 0 else start), -1
        elif start >= 0 and probability < rules.threshold - 0.15:
            quiet = place if quiet < 0 else quiet
            if place - quiet >= rules.silence_s * RATE:
                found.append([start, quiet])
                start, quiet = -1, -1
    if start >= 0:
        found.append([start, samples])
    long = [stretch for stretch in found if stretch[1] - stretch[0] > rules.least_s * RATE]
    return _with_margins(long, samples, round(rules.margin_s * RATE))


def _with_margins(found: list[list[int]], samples: int, margin: int) -> Array:
    """Widen stretches; what lies between two that would meet is shared."""
    made: list[list[int]] = []
    for start, end in found:
        wide = [max(0, start - margin), min(samples, end + margin)]
        if made and wide[0] < made[-1][1]:
            made[-1][1] = wide[0] = (made[-1][1] + wide[0]) // 2
        made.append(wide)
    return np.asarray(made, dtype=np.int64).reshape(-1, 2)


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))
