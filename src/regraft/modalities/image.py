"""Pictures as pixels, by the steps that the base was trained with. numpy and Pillow, no torch.

A picture is one position of a row: (1, height, width, channels), in bytes, which is what is kept. `ready` makes of them what a
network takes, (B, C, H, W) in float32, by looking each byte up in a table. The steps are those of the hub's image processors
(resize, crop in the middle, rescale, subtract the mean, divide by the deviation), and the state is their file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.errors import BaseError, Problem
from regraft.modalities import pictures
from regraft.modalities.image_steps import Steps, steps_of
from regraft.modalities.modality import Modality
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PROCESSOR_FILE = "preprocessor_config.json"
PIXELS = "pixel_values"
_SIDE = 32
_SMALL = {1: 88, 3: 48}  # sides of a picture whose bytes are fewer than 10,000
_LOOKED_AT = 100
_NO_SPAN_12 = np.zeros((1, 2), dtype=np.int32)


@options
class ImageOptions:
    """How pictures become pixels; what is not given is as the base prescribes it."""

    size: Annotated[int | None, Field(ge=4, le=4096, json_schema_extra={"flag": "--image-size"})] = None
    """Height and width in pixels that the network is given."""

    resize: Literal["stretch", "crop"] | None = None
    """Whether a picture of another shape is stretched, or scaled to its shorter side and cropped in the middle."""

    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for red, green, blue."""

    mean: list[float] | None = None
    """What is subtracted from each channel, whose values are 0 to 1."""

    std: list[float] | None = None
    """What each channel is then divided by."""

    shift: Annotated[int, Field(ge=0, le=1024)] = 0
    """Most pixels by which a training picture is moved along each axis, drawn anew each time it is seen; its edge is
    continued."""

    flip: bool = False
    """Whether a training picture is mirrored, left to right, every second time it is seen."""


class Image(Modality):
    """Turn pictures into pixels.

    Args:
        processor: Steps, as the hub's `preprocessor_config.json` says them.
        options: What is wanted otherwise.
        channels: Channels that the network takes, where the options do not say.

    Example:
        >>> image = Image({"size": {"height": 2, "width": 2}}, ImageOptions(), channels=1)
        >>> row = image.encode([np.zeros((4, 4), np.uint8)])[0]
        >>> row.inputs["pixel_values"].shape, image.collate([row])[0]["pixel_values"].shape
        ((1, 2, 2, 1), (1, 1, 2, 2))
    """

    Options: ClassVar[type[Any]] = ImageOptions
    name: ClassVar[str] = "image"
    libraries: tuple[str, ...] = ("numpy", "pillow")
    chunk_rows: int = 64
    looks: bool = True

    def __init__(self, processor: Mapping[str, JSON], options: ImageOptions, *, channels: int = 3) -> None:
        self.options = options
        self.channels = options.channels or channels
        self.steps: Steps = steps_of(_laid_over(processor, options, self.channels), self.channels)

    @property
    def padding(self) -> Mapping[str, float]:
        """A picture is one position; nothing is ever filled."""
        return {PIXELS: 0}

    @property
    def longest(self) -> int:
        """A picture is one position."""
        return 1

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""
        return pictures.unreadable(raw)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode pictures that have no `problem`, in order; a picture covers itself, (0, 1)."""
        span_12 = np.array([[0, int(spans)]], dtype=np.int32)
        return [Encoded(inputs={PIXELS: self._pixels(raw)[None]}, spans_T2=span_12) for raw in raws]

    def attempt(self, raws: Sequence[Any]) -> list[Encoded | str]:
        """Encode pictures, each decoded once; in the place of one that cannot be stands why.

        A grey picture has one channel (1, H, W, 1) until `pad`, even where the network takes three.
        """
        return list(map(self._attempt, raws))

    def _attempt(self, raw: Any) -> Encoded | str:
        try:
            return Encoded({PIXELS: self._decoded(raw)[None]}, _NO_SPAN_12)
        except ValueError as error:
            return str(error)

    def pad(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Lay pictures side by side (B, 1, H, W, C), of one channel where all are grey; nothing is ever filled."""
        found = [row.inputs[PIXELS] for row in encoded]
        if len({picture.shape for picture in found}) > 1:
            found = [self._widened(picture) for picture in found]
        return {PIXELS: np.stack(found)}, np.ones((len(found), 1), dtype=np.bool_)

    def ready(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return bytes (B, 1, H, W, C or 1) as numbers (B, C, H, W), float32."""
        bytes_BHWC = inputs[PIXELS][:, 0]
        # The channels of a pixel lie side by side, as convolutions on a processor read them fastest.
        values_BHWC = np.empty((*bytes_BHWC.shape[:3], self.channels), dtype=np.float32)
        if bytes_BHWC.shape[3] == 1 and self._alike:
            values_BHWC[...] = self.steps.table_C256[0][bytes_BHWC]
        else:
            given = np.broadcast_to(bytes_BHWC, values_BHWC.shape)
            for channel, table in enumerate(self.steps.table_C256):
                values_BHWC[..., channel] = table[given[..., channel]]
        return {PIXELS: values_BHWC.transpose(0, 3, 1, 2)}

    @functools.cached_property
    def _alike(self) -> bool:
        """Whether a byte becomes the same number in every channel."""
        return bool((self.steps.table_C256 == self.steps.table_C256[0]).all())

    @property
    def draws(self) -> int:
        """Down, right, mirrored; nothing where pictures are seen as they are."""
        return 3 if self.options.shift or self.options.flip else 0

    def varied(self, inputs: dict[str, Array], draws_BK: FloatArray) -> dict[str, Array]:
        """Return pictures (B, 1, H, W, C) moved and mirrored."""
        bytes_BHWC = inputs[PIXELS][:, 0]
        rows, height, width, _ = bytes_BHWC.shape
        shift: int = self.options.shift
        down_B, right_B = (np.floor(draws_BK[:, axis] * (2 * shift + 1)).astype(np.int64) - shift for axis in (0, 1))
        across_BW = np.clip(np.arange(width) - right_B[:, None], 0, width - 1)
        if self.options.flip:
            across_BW = np.where(draws_BK[:, 2, None] < 0.5, across_BW[:, ::-1], across_BW)
        along_BH = np.clip(np.arange(height) - down_B[:, None], 0, height - 1)
        moved = bytes_BHWC[np.arange(rows)[:, None, None], along_BH[:, :, None], across_BW[:, None, :]]
        return {PIXELS: moved[:, None]}

    def _pixels(self, raw: Any) -> Array:
        return self._widened(self._decoded(raw))

    def _decoded(self, raw: Any) -> Array:
        """Return a picture (H, W, C), or (H, W, 1) where it is grey."""
        return pictures.values(self.steps.shaped(pictures.pixels(raw, self.channels, narrow=True)))

    def _widened(self, found: Array) -> Array:
        """Return a picture (..., H, W, 1 or C) with as many channels as the network takes."""
        if found.shape[-1] == self.channels:
            return found
        repeated = np.empty((*found.shape[:-1], self.channels), np.uint8)
        repeated[...] = found
        return repeated

    @classmethod
    def located(cls, raw: Any, folder: Path | None) -> Any:
        """Return a raw picture of the user's own data with a path in it made absolute."""
        if isinstance(raw, Mapping) and not raw.get("bytes") and isinstance(raw.get("path"), str):
            return {**raw, "path": pictures.locate(raw["path"], folder)}
        return pictures.locate(raw, folder) if pictures.is_path(raw) else raw

    @classmethod
    def opened(cls, raw: Any) -> Any:
        """Return the bytes of a picture that lies in a file, and anything else as it is."""
        if isinstance(raw, Mapping):
            found = raw.get("bytes")
            path = raw.get("path")
            return found if found or not isinstance(path, str) else pictures.read_file(Path(path))
        return pictures.read_file(Path(raw)) if pictures.is_path(raw) else raw

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a picture cannot be decoded, or an empty string."""
        return pictures.unreadable(raw)

    def as_json(self, raw: Any) -> JSON:
        """Return a picture as text: its bytes in base64."""
        return pictures.as_text(raw)

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a picture as text, scaled down where its bytes are more than this."""
        text = pictures.as_text(raw)
        if len(text) <= limit_bytes * 4 // 3 + 32:
            return text
        picture = pictures.pixels(raw, self.channels)
        picture.thumbnail((_SMALL[self.channels],) * 2)
        return pictures.as_text(pictures.png(picture))

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {"options": to_json(self.options), "channels": self.channels}

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, as any tool of the hub reads it."""
        (folder / PROCESSOR_FILE).write_text(json.dumps(self.steps.processor, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from the `save`d file and `spec`; encodes the same bytes as before."""
        wanted = build(ImageOptions, spec["options"], owner=cls.name)
        return cls(read_processor(folder), wanted, channels=int(spec["channels"]))

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether values look like pictures: bytes that begin like one, the hub's structs, paths, arrays."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and sum(map(_looks_like_one, seen)) >= 0.9 * len(seen)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as PNG files: one bar of a brightness for each, under some noise."""
        rng = np.random.default_rng(seed)
        signal_NS = np.clip(np.asarray(signal_NS, dtype=float), 0.0, 1.0)
        bars = np.repeat(signal_NS, -(-_SIDE // signal_NS.shape[1]), axis=1)[:, :_SIDE]
        rows = []
        for bar in bars:
            noise = rng.integers(-8, 9, size=(_SIDE, _SIDE, 3))
            values = np.clip(20 + 215 * bar[None, :, None] + noise, 0, 255).astype(np.uint8)
            rows.append(pictures.png(pictures.open_picture(values)))
        return rows


def _laid_over(processor: Mapping[str, JSON], options: ImageOptions, channels: int) -> dict[str, JSON]:
    """Return the steps of a base with what the user wants otherwise."""
    made = dict(processor)
    known = steps_of(processor, channels)
    if options.size is not None or options.resize is not None:
        side = {"height": options.size or known.height, "width": options.size or known.width}
        crops = options.resize == "crop" if options.resize else known.crops
        # Scaled to the whole, then nothing is cut: a base that crops keeps the share that it leaves out.
        made |= {"do_resize": True, "do_center_crop": crops, "crop_size": side, "crop_pct": None}
        made["size"] = {"shortest_edge": max(min(side.values()), round(min(side.values()) * known.share))} if crops else side
    for key, values in (("image_mean", options.mean), ("image_std", options.std)):
        if values is not None:
            made |= {key: list(values), "do_normalize": True}
    return made


def read_processor(folder: Path) -> dict[str, JSON]:
    """Return how a folder says that pictures are prepared.

    Raises:
        BaseError: It does not say, or not in JSON.
    """
    path = folder / PROCESSOR_FILE
    fix = "save the image processor into the same folder: AutoImageProcessor.from_pretrained(MODEL).save_pretrained(FOLDER)"
    if not path.is_file():
        raise BaseError(Problem(what="the folder does not say how pictures are prepared", where=str(path), fix=fix))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseError(Problem(what="a file is not JSON", where=str(path), got=str(error)[:200], fix=fix)) from error
    return dict(content) if isinstance(content, dict) else {}


def _looks_like_one(value: object) -> bool:
    if isinstance(value, str):
        return pictures.is_path(value) or value.startswith("data:image/")
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys()
    return not pictures.unreadable(value)


__all__ = ["PIXELS", "PROCESSOR_FILE", "Image", "ImageOptions", "Picture", "read_processor"]
