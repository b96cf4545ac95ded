"""What networks hear: the wave itself, or frames of its spectrum, exactly as each family's own extractor makes them.

A front is built from the content of a `preprocessor_config.json` and gives it back: the saved folder is an ordinary one.

Shapes: S samples, T positions, M mel bins.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from regraft.errors import BaseError, Problem, did_you_mean
from regraft.modalities.spectra import Bank, Frames, cepstra, decibel, mel_spectrum
from regraft.options import JSON
from regraft.types import Array, FloatArray

TYPE_KEY = "feature_extractor_type"
CHUNK_KEY = "chunk_length"
FULL_SCALE = 32767.0


@dataclass(frozen=True)
class Heard:
    """A wave as a network hears it.

    Args:
        features: (T,) or (T, M), float32.
        spans_T2: Samples of the wave that each position stands for; (0, 0) for what fills up.
    """

    features: Array
    spans_T2: Array


class Front(ABC):
    """Turn a wave at its rate into positions.

    Args:
        config: Content of `preprocessor_config.json`; kept, and given back with what was changed.
    """

    kind: ClassVar[str]
    """How the hub (or Regraft, where the hub has none) names the extractor."""
    input: ClassVar[str]
    hop: int = 1
    """Samples from one position to the next."""
    pad: float = 0.0
    window: int | None = None
    """Samples that a network takes at once; nothing where it takes any length."""
    block: int | None = None
    """Positions of one window; nothing where there is none."""

    def __init__(self, config: Mapping[str, JSON]) -> None:
        self.config = dict(config)
        self.rate = int(self._number("sampling_rate", 16000, low=1))

    @abstractmethod
    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return a wave as positions.

        Args:
            wave_S: Samples at `rate`, at least one.
            overlap: Samples that one window shares with the next.
        """

    @abstractmethod
    def count(self, samples: int, overlap: int) -> int:
        """Return how many positions a wave of so many samples gives."""

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        return {**self.config, TYPE_KEY: self.kind, "sampling_rate": self.rate}

    def _number(self, key: str, usual: float, *, low: float = -math.inf) -> float:
        value = self.config.get(key, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < low:
            expected = f"a number of at least {low:g}" if math.isfinite(low) else "a number"
            raise BaseError(
                Problem(
                    what=f"the preprocessing of the base has an impossible '{key}'",
                    where="preprocessor_config.json",
                    got=repr(value)[:60],
                    expected=expected,
                    fix="fetch or save the folder again",
                )
            )
        return value

    def _windows(self, samples: int, overlap: int) -> Iterator[tuple[int, int]]:
        """Yield where windows begin and end; the last one may be shorter, and none lies inside its forerunner."""
        if self.window is None or samples <= self.window:
            yield 0, samples
            return
        start = 0
        while True:
            yield start, min(samples, start + self.window)
            if start + self.window >= samples:
                return
            start += self.window - overlap


class Wave(Front):
    """The samples themselves, perhaps with zero mean and unit variance (Baevski et al. 2020, arXiv:2006.11477)."""

    kind = "Wav2Vec2FeatureExtractor"
    input = "input_values"

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__(config)
        self.normalise = bool(config.get("do_normalize", True))
        self.pad = float(self._number("padding_value", 0.0))
        if config.get(CHUNK_KEY) is not None:
            self.window = self.block = int(self._number(CHUNK_KEY, 0, low=1)) * self.rate

    def count(self, samples: int, overlap: int) -> int:
        """Return the number of samples, those that lie in two windows counted twice."""
        return sum(end - start for start, end in self._windows(samples, overlap))

    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return the samples; normalised as (x - mean) / sqrt(variance + 1e-7) where the base was trained so."""
        if self.normalise:
            wave_S = (wave_S - wave_S.mean()) / np.sqrt(wave_S.var() + 1e-7)
        windows = list(self._windows(len(wave_S), overlap))
        steps_T = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in windows])
        heard_T = wave_S if len(windows) == 1 else wave_S[steps_T]
        return Heard(heard_T.astype(np.float32, copy=False), np.stack([steps_T, steps_T + 1], axis=1))

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        return {"feature_size": 1, "return_attention_mask": False, **super().to_json(), "do_normalize": self.normalise}


class WhisperMel(Front):
    """Log-mel frames of Whisper (Radford et al. 2022, arXiv:2212.04356, section 2.2).

    Only frames that touch the recording are kept. Those after it, up to the end of the window, all have one value, which the
    network finds again: `(max(largest - 8, -10) + 4) / 4` in the units of the base 10 logarithm before scaling, that is
    `max(largest - 2, -1.5)` after it.
    """

    kind = "WhisperFeatureExtractor"
    input = "input_features"

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__(config)
        self.hop = int(self._number("hop_length", 160, low=1))
        fft = int(self._number("n_fft", 400, low=2))
        self.bins = int(self._number("feature_size", 80, low=1))
        self.window = int(self._number(CHUNK_KEY, 30, low=1)) * self.rate
        self.block = self.window // self.hop
        self.frames = Frames(length=fft, hop=self.hop, fft=fft)
        self.bank = Bank(bins=self.bins, rate=self.rate, fft=fft, high=8000.0)

    def count(self, samples: int, overlap: int) -> int:
        """Return the number of frames that touch the recording, over all windows."""
        return sum(self._touched(end - start) for start, end in self._windows(samples, overlap))

    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return log-mel frames of each window, end to end; every window but the last is full."""
        parts, spans = [], []
        for start, end in self._windows(len(wave_S), overlap):
            part_TM = self._log_mel(wave_S[start:end])
            parts.append(part_TM)
            spans.append(_cells(len(part_TM), self.hop, end - start, start))
        return Heard(np.concatenate(parts), np.concatenate(spans))

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        window = self.window or 0
        facts: dict[str, JSON] = {"feature_size": self.bins, "hop_length": self.hop, "n_fft": self.frames.fft}
        facts |= {CHUNK_KEY: window // self.rate, "n_samples": window, "nb_max_frames": self.block}
        return {"padding_side": "right", "padding_value": 0.0, **super().to_json(), **facts}

    def _touched(self, samples: int) -> int:
        return min(self.block or 0, math.ceil((samples + self.frames.length // 2) / self.hop))

    def _log_mel(self, wave_S: FloatArray) -> Array:
        kept, window = self._touched(len(wave_S)), self.window or 0
        filled = min(window, kept * self.hop + 2 * self.frames.length)
        wave_S = np.pad(wave_S, (0, filled - len(wave_S)))
        log_TM = np.log10(np.maximum(1e-10, mel_spectrum(wave_S, self.frames, self.bank)[:kept])).astype(np.float32)
        log_TM = np.maximum(log_TM, log_TM.max() - 8.0)
        return np.asarray((log_TM + 4.0) / 4.0, dtype=np.float32)


class AstMel(Front):
    """Kaldi's filter bank as the audio spectrogram transformer takes it (Gong et al. 2021, arXiv:2104.01778).

    Every window is filled up to its full number of frames with zeros before scaling: the network has no mask.
    """

    kind = "ASTFeatureExtractor"
    input = "input_values"

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__(config)
        self.hop = 160
        self.bins = int(self._number("num_mel_bins", 128, low=1))
        self.block = int(self._number("max_length", 1024, low=1))
        self.normalise = bool(config.get("do_normalize", True))
        self.mean, self.std = self._number("mean", -4.2677393), self._number("std", 4.5689974)
        self.frames = Frames(fft=512, periodic=False, centred=False, preemphasis=0.97, level=True)
        self.window = self.frames.length + (self.block - 1) * self.hop
        high = float(self.rate // 2)
        self.bank = Bank(bins=self.bins, rate=self.rate, fft=512, low=20.0, high=high, scale="kaldi", area=False, in_mels=True)

    def count(self, samples: int, overlap: int) -> int:
        """Return the number of frames, those that fill up included."""
        return (self.block or 0) * sum(1 for _ in self._windows(samples, overlap))

    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return scaled log-mel frames, a full block for each window."""
        parts, spans = [], []
        for start, end in self._windows(len(wave_S), overlap):
            part_SN = np.pad(wave_S[start:end], (0, max(0, self.frames.length - (end - start))))
            power_TM = mel_spectrum(part_SN, self.frames, self.bank)[: self.block]
            log_TM = np.log(np.maximum(1.192092955078125e-07, power_TM)).astype(np.float32)
            fill = (self.block or 0) - len(log_TM)
            parts.append(np.pad(log_TM, ((0, fill), (0, 0))))
            cells_T2 = _cells(len(log_TM), self.hop, end - start, start)
            spans.append(np.pad(cells_T2, ((0, fill), (0, 0))))
        block_TM = np.concatenate(parts)
        scaled_TM = (block_TM - self.mean) / (self.std * 2) if self.normalise else block_TM
        return Heard(scaled_TM.astype(np.float32), np.concatenate(spans))

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        facts: dict[str, JSON] = {"num_mel_bins": self.bins, "max_length": self.block, "do_normalize": self.normalise}
        facts |= {"mean": self.mean, "std": self.std}
        return {"feature_size": 1, "padding_value": 0.0, **super().to_json(), **facts}


class LogMel(Front):
    """Log-mel frames in decibels, for networks without a past: one mean and one spread taken off the whole recording."""

    kind = "RegraftLogMelExtractor"
    input = "input_features"
    _bins = 64

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__(config)
        self.hop = int(self._number("hop_length", round(0.01 * self.rate), low=1))
        fft = int(self._number("n_fft", round(0.025 * self.rate), low=2))
        self.bins = int(self._number("num_mel_bins", self._bins, low=1))
        self.normalise = bool(config.get("do_normalize", True))
        self.frames = Frames(length=fft, hop=self.hop, fft=fft, continued="constant")
        self.bank = Bank(bins=self.bins, rate=self.rate, fft=fft)

    @property
    def width(self) -> int:
        """Numbers of a position."""
        return self.bins

    def count(self, samples: int, overlap: int) -> int:
        """Return the number of frames."""
        return self.frames.count(samples)

    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return frames over the whole recording."""
        values_TM = self._values(mel_spectrum(wave_S, self.frames, self.bank))
        if self.normalise:
            values_TM = (values_TM - values_TM.mean()) / (values_TM.std() + 1e-5)
        return Heard(values_TM.astype(np.float32), _cells(len(values_TM), self.hop, len(wave_S)))

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        facts: dict[str, JSON] = {"num_mel_bins": self.bins, "hop_length": self.hop, "n_fft": self.frames.fft}
        return {**super().to_json(), **facts, "do_normalize": self.normalise}

    def _values(self, power_TM: FloatArray) -> FloatArray:
        return decibel(power_TM)


class Mfcc(LogMel):
    """Mel-frequency cepstral coefficients of log-mel frames, as librosa computes them."""

    kind = "RegraftMfccExtractor"
    _bins = 40

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__(config)
        self.coefficients = int(self._number("num_coefficients", 20, low=1))
        if self.coefficients > self.bins:
            got, expected = f"{self.coefficients} coefficients of {self.bins} bins", "at most as many as bins"
            raise BaseError(Problem(what="there are not so many cepstral coefficients", got=got, expected=expected))

    @property
    def width(self) -> int:
        """Numbers of a position."""
        return self.coefficients

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        return {**super().to_json(), "num_coefficients": self.coefficients}

    def _values(self, power_TM: FloatArray) -> FloatArray:
        return np.asarray(cepstra(decibel(power_TM), self.coefficients))


class SpeakerMel(LogMel):
    """Mel power of partial utterances, as the GE2E speaker encoder takes them (Wan et al. 2018, arXiv:1710.10467).

    Quiet recordings are made louder first (to -30 dB of full scale). A partial utterance has 160 frames and begins 77 after the
    one before it; a last one of which less than three quarters lie in the recording is left out. Rows hold them end to end.
    """

    kind = "RegraftSpeakerMelExtractor"
    _bins = 40

    def __init__(self, config: Mapping[str, JSON]) -> None:
        super().__init__({"do_normalize": False, **config})
        self.block = int(self._number("partial_frames", 160, low=1))
        self.step = int(self._number("partial_step", 77, low=1))
        self.coverage = self._number("partial_coverage", 0.75, low=0.0)
        self.loudness_db = self._number("loudness_db", -30.0)

    def count(self, samples: int, overlap: int) -> int:
        """Return the number of frames of all partial utterances."""
        return (self.block or 0) * len(self._starts(samples))

    def hear(self, wave_S: FloatArray, overlap: int) -> Heard:
        """Return the mel power of each partial utterance, end to end."""
        starts, block = self._starts(len(wave_S)), self.block or 0
        loud_S = self._louder(wave_S)
        needed = (starts[-1] + block) * self.hop
        power_TM = mel_spectrum(np.pad(loud_S, (0, max(0, needed - len(loud_S)))), self.frames, self.bank)
        cells_T2 = _cells(len(power_TM), self.hop, len(wave_S))
        index_T = np.concatenate([np.arange(start, start + block) for start in starts])
        return Heard(power_TM[index_T].astype(np.float32), cells_T2[index_T])

    def to_json(self) -> dict[str, JSON]:
        """Return the content of `preprocessor_config.json`."""
        facts: dict[str, JSON] = {"partial_frames": self.block, "partial_step": self.step}
        facts |= {"partial_coverage": self.coverage, "loudness_db": self.loudness_db}
        return {**super().to_json(), **facts}

    def _starts(self, samples: int) -> list[int]:
        block = self.block or 0
        frames = math.ceil((samples + 1) / self.hop)
        starts = list(range(0, max(1, frames - block + self.step + 1), self.step))
        covered = (samples - starts[-1] * self.hop) / (block * self.hop)
        return starts[:-1] if covered < self.coverage and len(starts) > 1 else starts

    def _louder(self, wave_S: FloatArray) -> FloatArray:
        level = float(np.sqrt(np.mean((np.asarray(wave_S, dtype=np.float64) * FULL_SCALE) ** 2)))
        if level == 0.0:
            return wave_S
        change_db = self.loudness_db - 20 * math.log10(level / FULL_SCALE)
        return wave_S if change_db < 0 else np.asarray(wave_S * 10 ** (change_db / 20))


FRONTS: Mapping[str, type[Front]] = {
    "wave": Wave,
    "whisper": WhisperMel,
    "ast": AstMel,
    "log-mel": LogMel,
    "mfcc": Mfcc,
    "speaker-mel": SpeakerMel,
}
"""Name -> what a network hears."""


def front_of(config: Mapping[str, JSON], where: str = "preprocessor_config.json") -> Front:
    """Return the front that a base's own `preprocessor_config.json` describes.

    Args:
        config: Its content.
        where: What to call it in messages.

    Raises:
        BaseError: It names an extractor that is not known here, or holds impossible numbers.
    """
    kinds = {front.kind: front for front in FRONTS.values()}
    kind = config.get(TYPE_KEY)
    if kind not in kinds:
        what = "the preprocessing of the base is not one for sound that is known here"
        got, fix = f"{TYPE_KEY} = {kind!r}"[:120], did_you_mean(str(kind), sorted(kinds))
        raise BaseError(Problem(what=what, where=where, got=got, fix=fix))
    return kinds[str(kind)](config)


def _cells(positions: int, hop: int, samples: int, first: int = 0) -> Array:
    """Return the samples [t hop, (t + 1) hop) that each position stands for, within a window; (0, 0) beyond its end.

    Args:
        positions: How many.
        hop: Samples from one to the next.
        samples: Of the window.
        first: Sample of the recording with which the window begins.
    """
    starts_T = np.arange(positions, dtype=np.int64) * hop
    cells_T2 = first + np.stack([starts_T, np.minimum(starts_T + hop, samples)], axis=1)
    cells_T2[starts_T >= samples] = 0
    return cells_T2
