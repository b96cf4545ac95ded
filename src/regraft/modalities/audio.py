"""Sound as a wave or as frames of its spectrum, by the preprocessing that the base was trained with. No torch, no transformers.

What the base prescribes stands in its `preprocessor_config.json`, which is read here and written back. A row holds its
recording only: what fills a window up is added by the network that needs it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.errors import BaseError, OptionsError, Problem
from regraft.modalities import recordings
from regraft.modalities.modality import Modality
from regraft.modalities.sound_features import CHUNK_KEY, FRONTS, TYPE_KEY, Front, front_of
from regraft.modalities.voice_activity import RATE, VOICE_FILE, VoiceActivity
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

PREPROCESSOR_FILE = "preprocessor_config.json"
_LIMIT_BYTES = 4 * 2**20
_MOST_SECONDS, _MOST_CHANNELS = 86_400.0, 1024
_SMALL_RATE, _WAV_HEADER_BYTES = 8000, 44


@options
class AudioOptions:
    """How recordings become arrays. What is not given is what the base was trained with."""

    features: Literal["wave", "log-mel", "mfcc"] | None = None
    """What a network without a past hears: the wave, log-mel frames (the default), or cepstral coefficients."""

    rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    """Samples a second that recordings are brought to; only for networks without a past, others have theirs."""

    bins: Annotated[int, Field(ge=2, le=1024)] | None = None
    """Mel bins of a frame; only for networks without a past."""

    coefficients: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Cepstral coefficients of a frame; only for networks without a past."""

    normalise: bool | None = None
    """Whether each recording is brought to zero mean and unit variance (waves), or the scaling of the base is done (frames)."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How much of a recording is used, from its beginning; what is longer is cut and counted."""

    chunk_s: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds that the network takes at once, longer recordings in several chunks; shorter ones than the base's are faster."""

    overlap_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that one chunk shares with the next."""

    channels: Literal["mix", "refuse"] = "mix"
    """What happens to recordings with several channels: their mean is taken, or they are refused."""

    max_channels: Annotated[int, Field(ge=1, le=1024)] = 8
    """Recordings with more channels are refused."""

    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Longer recordings are refused before they are decoded."""

    silence: Literal["refuse", "keep"] = "refuse"
    """What happens to recordings that are zero from beginning to end."""

    keep: Literal["all", "speech"] = "all"
    """What of a recording is used: all of it, or only where a detector hears somebody speak."""


class Audio(Modality):
    """Turn recordings into waves or frames.

    A raw value is the bytes of a WAV, FLAC, Ogg or MP3 file (in base64 too), samples with their rate, or the hub's structure of
    either. Paths are opened only where they stand in the user's own data.
    Spans are samples of the recording as it was given, before its rate was changed.

    Args:
        options: How.
        config: Content of the base's `preprocessor_config.json`; nothing for a network without a past.
        voice: Finds speech, where only speech is kept.

    Example:
        >>> tone = np.sin(np.arange(8000) * 0.2).astype(np.float32)
        >>> row = Audio(AudioOptions(features="wave", rate=8000)).encode([(tone, 8000)])[0]
        >>> row.inputs["input_values"].shape, row.spans_T2[-1].tolist()
        ((8000,), [7999, 8000])
    """

    Options: ClassVar[type[Any]] = AudioOptions
    name: ClassVar[str] = "audio"
    libraries: tuple[str, ...] = ("numpy", "soundfile", "soxr")
    unit: ClassVar[str] = "frames"
    chunk_rows: int = 64
    looks: bool = True

    def __init__(
        self, options: AudioOptions, config: Mapping[str, JSON] | None = None, voice: VoiceActivity | None = None
    ) -> None:
        self._take(options, _front(options, config), voice)

    def _take(self, options: AudioOptions, front: Front, voice: VoiceActivity | None) -> None:
        self.options = options
        self.front = front
        self.voice = voice if options.keep == "speech" else None
        if options.keep == "speech" and voice is None:
            fix = "leave 'keep' out, or take a base that brings a detector"
            raise OptionsError(Problem(what="nothing is there that finds speech", where="audio.keep", got="speech", fix=fix))
        self._limits = recordings.Limits(
            seconds=options.max_seconds,
            channels=options.max_channels,
            mix=options.channels == "mix",
            silence=options.silence == "keep",
        )
        self._overlap = round(options.overlap_s * self.front.rate)
        if self.front.window is not None and 2 * self._overlap > self.front.window:
            raise OptionsError(
                Problem(
                    what="chunks overlap by more than half",
                    where="overlap_s",
                    got=f"{options.overlap_s:g} of {self.front.window / self.front.rate:g} seconds",
                    fix="give overlap_s a smaller value",
                )
            )

    @property
    def padding(self) -> Mapping[str, float]:
        """Input name -> the value that fills positions after the end of a row."""
        return {self.front.input: self.front.pad}

    @property
    def longest(self) -> int | None:
        """Most positions that a recording can have."""
        return self.front.count(self._most, self._overlap)

    @property
    def window(self) -> int | None:
        """Positions that a network takes at once; nothing where it takes any number."""
        return self.front.block

    @property
    def width(self) -> int:
        """Numbers of a position: mel bins or coefficients, 1 for a wave."""
        return int(getattr(self.front, "width", getattr(self.front, "bins", 1)))

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""
        said = recordings.problem(raw, self._limits)
        if not said and self.voice is not None and not len(self._kept(recordings.read(raw, self._limits))):
            said = "no speech is found in the recording (keep: all takes it)"
        return said

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode recordings that have no `problem`, in order.

        Args:
            raws: The recordings.
            spans: Whether the samples that each position stands for are wanted; without, all spans are (0, 0).
        """
        return [self._encode(recordings.read(raw, self._limits), spans) for raw in raws]

    @classmethod
    def located(cls, raw: Any, folder: Path | None) -> Any:
        """Return a raw recording of the user's own data with a path in it made absolute."""
        if isinstance(raw, Mapping) and not raw.get("bytes") and isinstance(raw.get("path"), str):
            return {**raw, "path": recordings.locate(raw["path"], folder)}
        return recordings.locate(raw, folder) if recordings.is_path(raw) else raw

    @classmethod
    def opened(cls, raw: Any) -> Any:
        """Return the bytes of a recording that lies in a file, and anything else as it is."""
        if isinstance(raw, Mapping) and raw.get("array") is None:
            found, path = raw.get("bytes"), raw.get("path")
            return found if found or not isinstance(path, str) else recordings.read_file(Path(path))
        return recordings.read_file(Path(raw)) if recordings.is_path(raw) else raw

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a recording can never be read, or an empty string; what options may allow is left to `problem`."""
        return recordings.problem(raw, recordings.Limits(seconds=_MOST_SECONDS, channels=_MOST_CHANNELS, silence=True))

    def as_json(self, raw: Any) -> JSON:
        """Return a recording as text: its bytes in base64."""
        return recordings.as_text(raw)

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a recording as text, its loudest part alone at 8 kHz where its bytes are more than this."""
        text = recordings.as_text(raw)
        if len(text) <= limit_bytes * 4 // 3 + 32:
            return text
        wave_S = recordings.resampled(recordings.read(raw, self._limits), _SMALL_RATE)
        kept = max(1, (limit_bytes - _WAV_HEADER_BYTES) // 2)
        loud_S = np.concatenate([[0.0], np.cumsum(np.square(wave_S, dtype=np.float64))])
        start = int(np.argmax(loud_S[kept:] - loud_S[:-kept])) if len(wave_S) > kept else 0
        return recordings.as_text(recordings.wav_bytes(wave_S[start : start + kept], _SMALL_RATE))

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {"options": to_json(self.options), "padding_side": "right"}

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, as any tool of the hub reads it."""
        text = json.dumps(self.front.to_json(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")
        if self.voice is not None:
            self.voice.save(folder / VOICE_FILE)

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before."""
        made = cls.__new__(cls)
        asked = build(AudioOptions, spec["options"], owner="audio")
        voice = VoiceActivity.load(folder / VOICE_FILE) if asked.keep == "speech" else None
        made._take(asked, front_of(read_preprocessor(folder)), voice)
        return made

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether a column with these values looks like recordings."""
        return bool(values) and all(recordings.is_recording(value) for value in values)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as recordings: one tone a number, the higher the larger, each in its own band, with some noise."""
        rng = np.random.default_rng(seed)
        rate, made = 8000, []
        signal_NS = np.asarray(signal_NS, dtype=np.float64)
        edges = np.geomspace(300.0, 3400.0, signal_NS.shape[1] + 1)
        for numbers_S in signal_NS:
            seconds_T = np.arange(int(rng.integers(1600, 3200))) / rate
            pitch_S = edges[:-1] * (0.9 * edges[1:] / edges[:-1]) ** np.clip(numbers_S, 0.0, 1.0)
            phase_S = rng.uniform(0, 2 * math.pi, len(pitch_S))
            tones_T = np.sin(2 * math.pi * seconds_T[:, None] * pitch_S + phase_S).mean(axis=1)
            noisy_T = 0.6 * tones_T + 0.01 * rng.standard_normal(len(seconds_T))
            made.append(recordings.wav_bytes(noisy_T, rate))
        return made

    @property
    def _most(self) -> int:
        """Samples of a recording that are used, at most."""
        return max(1, round(self.options.seconds * self.front.rate))

    def _kept(self, sound: recordings.Sound) -> Array:
        """Return the stretches of a recording that are used, in samples of it (N, 2)."""
        if self.voice is None:
            return np.asarray([[0, len(sound.wave_S)]])
        found_N2 = self.voice.speech(recordings.resampled(sound, RATE)) * (sound.rate / RATE)
        return np.minimum(np.round(found_N2).astype(np.int64), len(sound.wave_S))

    def _encode(self, given: recordings.Sound, spans: bool) -> Encoded:
        kept_N2 = self._kept(given)
        whole = len(kept_N2) == 0 or self.voice is None
        sound = given if whole else recordings.Sound(np.concatenate([given.wave_S[a:b] for a, b in kept_N2]), given.rate)
        wave_S = recordings.resampled(sound, self.front.rate)
        if not len(wave_S):  # a few samples at a high rate are less than one at a low rate
            wave_S = sound.wave_S[:1]
        used_S = wave_S[: self._most]
        heard = self.front.hear(used_S, self._overlap)
        positions = len(heard.features)
        dropped = max(0, self.front.count(len(wave_S), self._overlap) - positions) if len(used_S) < len(wave_S) else 0
        if not spans:
            return Encoded({self.front.input: heard.features}, np.broadcast_to(np.int64(0), (positions, 2)), dropped)
        spans_T2 = _original(heard.spans_T2, sound, self.front.rate)
        spans_T2 = spans_T2 if whole else _before(spans_T2, kept_N2)
        return Encoded(inputs={self.front.input: heard.features}, spans_T2=spans_T2, dropped=dropped)


def _before(spans_T2: Array, kept_N2: Array) -> Array:
    """Return spans in what was kept as spans in what it was taken out of."""
    steps_S = np.concatenate([np.arange(start, end) for start, end in kept_N2])
    real_T = spans_T2[:, 1] > spans_T2[:, 0]
    moved_T2 = np.zeros_like(spans_T2)
    moved_T2[real_T, 0] = steps_S[spans_T2[real_T, 0]]
    moved_T2[real_T, 1] = steps_S[spans_T2[real_T, 1] - 1] + 1
    return moved_T2


def read_preprocessor(folder: Path) -> dict[str, JSON]:
    """Return the content of a folder's `preprocessor_config.json`.

    Raises:
        BaseError: It is missing, too large, or not a JSON object.
    """
    path = folder / PREPROCESSOR_FILE
    fix = "fetch or save the whole folder again"
    if not path.is_file():
        raise BaseError(Problem(what="the preprocessing of the base is missing", where=str(path), fix=fix))
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, at most {_LIMIT_BYTES} are taken")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a JSON object is expected, got {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        what = "the preprocessing of the base cannot be read"
        raise BaseError(Problem(what=what, where=str(path), got=str(error)[:200], fix=fix)) from None
    return content


def _front(options: AudioOptions, config: Mapping[str, JSON] | None) -> Front:
    """Return what the network hears: what the base prescribes, with what may be changed laid over it."""
    free = {"features": options.features, "rate": options.rate, "bins": options.bins, "coefficients": options.coefficients}
    given = [name for name, value in free.items() if value is not None]
    if config is None:
        config = {TYPE_KEY: FRONTS[options.features or "log-mel"].kind}
        keys = {"rate": "sampling_rate", "bins": "num_mel_bins", "coefficients": "num_coefficients"}
        config |= {keys[name]: free[name] for name in given if name in keys}
    elif given:
        problems = []
        for name in given:
            fix = f"leave '{name}' out; it is for networks without a past"
            what = "the base hears only what it was trained with"
            problems.append(Problem(what=what, where=f"audio.{name}", got=str(free[name]), fix=fix))
        raise OptionsError(problems)
    laid = {"do_normalize": options.normalise, CHUNK_KEY: options.chunk_s}
    return front_of({**config, **{key: value for key, value in laid.items() if value is not None}})


def _original(spans_T2: Array, sound: recordings.Sound, rate: int) -> Array:
    """Return spans in samples of the recording as it was given."""
    if sound.rate == rate:
        return spans_T2
    exact_T2 = spans_T2 * (sound.rate / rate)
    original_T2 = np.stack([np.floor(exact_T2[:, 0]), np.ceil(exact_T2[:, 1])], axis=1).astype(np.int64)
    return np.minimum(original_T2, len(sound.wave_S))
