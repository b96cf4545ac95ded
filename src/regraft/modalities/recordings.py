"""Recordings as samples: files, bytes, the hub's structures; read safely, mixed to one channel, brought to one rate.

A header is read before anything is decoded, only formats on a list are taken, and seconds x rate x channels is bounded: what
lies beyond is refused, never decoded.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.file_kinds import KINDS
from regraft.errors import MissingExtraError, Problem
from regraft.types import Array, FloatArray

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
"""Containers that are opened, as libsndfile names them; headerless files and everything else are refused."""

LIMIT_BYTES = 2**28
SUFFIXES = KINDS["audio"]
_ADDRESS = "data:"
_LONGEST_PATH = 4096
_LIMIT_VALUES = 2**29  # 2 GB of samples, whatever the other limits allow
_RATES = (1, 768_000)
_PACKAGES = ("soundfile", "soxr")


class RecordingError(ValueError):
    """A recording that cannot be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused.

    Args:
        seconds: Longest recording.
        channels: Most channels.
        mix: Whether several channels are mixed to one; otherwise they are refused.
        silence: Whether a recording of nothing but zeros is taken.
    """

    seconds: float = 3600.0
    channels: int = 8
    mix: bool = True
    silence: bool = False


@dataclass(frozen=True)
class Sound:
    """Mono samples.

    Args:
        wave_S: Samples, float32, full scale is 1.
        rate: Samples a second.
    """

    wave_S: FloatArray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.wave_S) / self.rate


@dataclass(frozen=True)
class Header:
    """What a recording says of itself before it is decoded."""

    frames: int
    rate: int
    channels: int
    format: str = ""


def read(raw: object, limits: Limits) -> Sound:
    """Return a recording as mono samples at its own rate.

    Args:
        raw: The bytes of a file, the same in base64 or as a `data:` address, (samples, rate) with samples (S,) or
            (S, channels), the hub's structures {"path", "bytes"} and {"array", "sampling_rate"} (array as (S,) or
            (channels, S)), or (in Python alone) a `Path`. Text that is a path is never opened here.
        limits: What is refused.

    Raises:
        RecordingError: It cannot be used; the text says why.
        MissingExtraError: The packages that read sound are not installed.
    """
    source = _source(raw)
    if isinstance(source, tuple):
        samples, rate = source
    else:
        samples, rate = _decoded(source, limits)
    return Sound(_mixed(samples, Header(len(samples), rate, samples.shape[1]), limits), rate)


def problem(raw: object, limits: Limits) -> str:
    """Return why a recording cannot be used, or an empty string. Files are decoded: only then is it known."""
    try:
        read(raw, limits)
    except RecordingError as error:
        return str(error)
    return ""


def is_recording(raw: object) -> bool:
    """Return whether a value looks like a recording: a path with the ending of one, bytes that begin like one, a structure."""
    if isinstance(raw, Mapping):
        return ("array" in raw and "sampling_rate" in raw) or is_recording(raw.get("bytes") or raw.get("path"))
    if isinstance(raw, str | Path):
        return is_path(str(raw)) or (isinstance(raw, str) and raw.startswith("data:audio/"))
    if isinstance(raw, bytes | bytearray | memoryview):
        start = bytes(raw[:12])
        wave = start[:4] == b"RIFF" and start[8:12] == b"WAVE"
        return wave or start.startswith((b"fLaC", b"OggS", b"ID3")) or (start[:1] == b"\xff" and start[1:2] in b"\xfb\xf3\xf2")
    return isinstance(raw, tuple) and len(raw) == 2 and isinstance(raw[0], np.ndarray) and isinstance(raw[1], int)


def is_path(raw: object) -> bool:
    """Return whether a text is the path of a recording and not a recording in base64."""
    return isinstance(raw, str) and len(raw) < _LONGEST_PATH and Path(raw).suffix.lower() in SUFFIXES


def locate(path: str, folder: Path | None) -> str:
    """Return the absolute path of a recording that data name.

    Args:
        path: As the data hold it.
        folder: Where the data lie; None for data in memory, whose paths start where Python runs.

    Raises:
        ValueError: There is no such file, or a relative path leads out of the folder.
    """
    given = Path(path).expanduser()
    root = (folder or Path()).resolve()
    found = (given if given.is_absolute() else root / given).resolve()
    if not given.is_absolute() and not found.is_relative_to(root):
        raise RecordingError(f"the path of the recording leads out of the folder of the data: {path}")
    if not found.is_file():
        raise RecordingError(f"there is no file '{path}'" + ("" if given.is_absolute() else f" in {root}"))
    return str(found)


def read_file(path: Path) -> bytes:
    """Return the bytes of a recording's file.

    Raises:
        ValueError: It cannot be read, or is too large.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise RecordingError(f"the file has {size} bytes, at most {LIMIT_BYTES} are taken")
        return path.read_bytes()
    except OSError as error:
        raise RecordingError(f"the file of the recording cannot be read: {error.strerror or error}") from None


def as_text(raw: object) -> str:
    """Return a recording as a `data:` address, which is text and JSON; samples as a WAV file."""
    if isinstance(raw, str):
        return raw
    source = _source(raw)
    if isinstance(source, tuple):
        samples, rate = source
        source = wav_bytes(samples.mean(axis=1), rate)
    content = read_file(source) if isinstance(source, Path) else source
    return f"{_ADDRESS};base64,{base64.b64encode(content).decode()}"


def resampled(sound: Sound, rate: int) -> FloatArray:
    """Return the samples at another rate (soxr, high quality), float32."""
    if sound.rate == rate:
        return sound.wave_S
    soxr = _package("soxr")
    wave_S: FloatArray = soxr.resample(sound.wave_S, sound.rate, rate, quality="HQ")
    return np.asarray(wave_S, dtype=np.float32)


def wav_bytes(wave_S: FloatArray, rate: int) -> bytes:
    """Return mono samples as the bytes of a 16-bit WAV file; values beyond full scale are clipped."""
    import wave

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(np.clip(wave_S, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _package(name: str) -> Any:
    missing = [each for each in _PACKAGES if importlib.util.find_spec(each) is None]
    if missing:
        fix = "pip install 'regraft[audio]'"
        raise MissingExtraError(Problem(what="sound cannot be read", got=f"{', '.join(missing)} not installed", fix=fix))
    return importlib.import_module(name)


def _source(raw: object) -> Path | bytes | tuple[FloatArray, int]:
    if isinstance(raw, Mapping):
        if raw.get("array") is not None:
            array = np.asarray(raw["array"])
            return _samples(array.T if array.ndim == 2 else array, raw.get("sampling_rate"))
        inside = raw.get("bytes")
        raw = raw.get("path") if inside is None else inside
    if isinstance(raw, str):
        return _from_text(raw)
    if isinstance(raw, Path):
        return raw
    if isinstance(raw, bytes | bytearray | memoryview):
        return bytes(raw)
    if isinstance(raw, tuple) and len(raw) == 2:
        return _samples(np.asarray(raw[0]), raw[1])
    if raw is None:
        raise RecordingError("there is no recording")
    shown = str(raw)[:40]
    raise RecordingError(
        f"a recording is expected (path, bytes, or samples with their rate), got {type(raw).__name__} ({shown})"
    )


def _from_text(text: str) -> bytes:
    if is_path(text) or "://" in text[:40]:
        raise RecordingError("a path or an address is not opened here: send the recording itself, its bytes in base64")
    body = text.partition(",")[2] if text.startswith(_ADDRESS) else text
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RecordingError("the text is not a recording in base64") from None


def _samples(array: Array, rate: object) -> tuple[FloatArray, int]:
    """Check samples that were handed over as numbers; whole numbers are scaled by the range of their type."""
    whole = isinstance(rate, float) and rate.is_integer()
    if isinstance(rate, bool) or not (isinstance(rate, int | np.integer) or whole):
        raise RecordingError(f"samples need their rate, a whole number a second, got {rate!r}")
    if array.ndim not in {1, 2}:
        raise RecordingError(f"samples have the shape (samples,) or (samples, channels), got {array.shape}")
    if np.issubdtype(array.dtype, np.integer):
        signed = np.issubdtype(array.dtype, np.signedinteger)
        half = 2.0 ** (8 * array.dtype.itemsize - 1)
        array = (array.astype(np.float64) - (0.0 if signed else half)) / half
    elif not np.issubdtype(array.dtype, np.floating):
        raise RecordingError(f"samples are numbers, got {array.dtype}")
    return array.astype(np.float32).reshape(len(array), 1 if array.ndim == 1 else array.shape[1]), int(rate)  # type: ignore[call-overload]


def _decoded(source: Path | bytes, limits: Limits) -> tuple[FloatArray, int]:
    """Read the header, refuse what is too much, decode the rest."""
    soundfile = _package("soundfile")
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(source, Path):
        if not source.is_file():
            raise RecordingError(f"there is no file {source}")
        if source.stat().st_size > LIMIT_BYTES:
            raise RecordingError(f"the file has {source.stat().st_size} bytes, at most {LIMIT_BYTES} are taken")
    elif not source:
        raise RecordingError("there is no recording: 0 bytes")
    try:
        with soundfile.SoundFile(opened) as file:
            header = Header(int(file.frames), int(file.samplerate), int(file.channels), str(file.format))
            _check_header(header, limits)
            samples = file.read(header.frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise RecordingError(f"the recording cannot be decoded: {error.error_string}") from None
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"the recording cannot be decoded: {error}") from None
    return samples, header.rate


def _check_header(header: Header, limits: Limits) -> None:
    if header.format and header.format not in FORMATS:
        raise RecordingError(f"the format {header.format} is not taken; give one of {', '.join(FORMATS)}")
    if not _RATES[0] <= header.rate <= _RATES[1]:
        raise RecordingError(f"a rate of {header.rate} samples a second is not possible")
    if header.channels > limits.channels:
        raise RecordingError(
            f"the recording has {header.channels} channels, at most {limits.channels} are taken (max_channels)"
        )
    if header.channels > 1 and not limits.mix:
        raise RecordingError(f"the recording has {header.channels} channels, and one is asked for (channels: refuse)")
    if header.frames > limits.seconds * header.rate:
        shown = f"{header.frames / header.rate:.0f} seconds" if header.frames < 2**62 else "an unknown length"
        raise RecordingError(f"the recording has {shown}, at most {limits.seconds:g} are taken (max_seconds)")
    if header.frames * header.channels > _LIMIT_VALUES:
        raise RecordingError(f"the recording has {header.frames * header.channels} samples, at most {_LIMIT_VALUES} are taken")


def _mixed(samples_SC: FloatArray, header: Header, limits: Limits) -> FloatArray:
    _check_header(header, limits)
    if not samples_SC.size:
        raise RecordingError("the recording has 0 seconds")
    if not np.isfinite(samples_SC).all():
        where = int(np.argmin(np.isfinite(samples_SC).all(axis=1)))
        raise RecordingError(f"sample {where} is not a number (NaN or infinite)")
    wave_S = samples_SC[:, 0] if samples_SC.shape[1] == 1 else samples_SC.mean(axis=1, dtype=np.float64).astype(np.float32)
    if not limits.silence and not wave_S.any():
        raise RecordingError("the recording is silent from beginning to end (silence: keep takes it)")
    return np.ascontiguousarray(wave_S, dtype=np.float32)
