"""The steps of the hub's image processors: which there are in a `preprocessor_config.json`, and what they do to a picture.

    picture (any size) -> resize -> crop in the middle -> bytes        shaped
    bytes -> x rescale_factor (- 1) -> - mean, / std (-> / std)        table_C256: one number for each byte of each channel

Equal to the hub's processors of the PIL back end, which compute in the same order and in the same types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import BaseError, Problem
from regraft.options import JSON
from regraft.types import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

_TYPE = "image_processor_type"
_ENDINGS = ("ImageProcessor", "FeatureExtractor", "Fast", "Pil")
_WHOLE = 384  # from this size on ConvNeXT pictures are stretched and not cropped
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_BILINEAR, _BICUBIC = 2, 3
_SCALED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "do_center_crop": False}


def _square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


_PLAIN: Mapping[str, JSON] = {**_SCALED, **_HALF, "resample": _BILINEAR, "size": _square(224)}


def _cropping(size: int, crop: int, resample: int, colours: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "size": {"shortest_edge": size},
        "crop_size": _square(crop),
        "do_center_crop": True,
        "resample": resample,
        **colours,
    }


# What a processor does where its file does not say. A size that is one number means a square, but the shorter side in families
# that scale to it.
_FAMILIES: Mapping[str, Mapping[str, JSON]] = {
    "ViT": {"size": _square(224), "resample": _BILINEAR, **_HALF},
    "DeiT": {"size": _square(256), "crop_size": _square(224), "do_center_crop": True, "resample": _BICUBIC, **_HALF},
    "Beit": {"size": _square(256), "crop_size": _square(224), "do_center_crop": True, "resample": _BICUBIC, **_HALF},
    "Siglip": {"size": _square(224), "resample": _BICUBIC, **_HALF},
    "CLIP": _cropping(224, 224, _BICUBIC, _CLIP),
    "Bit": _cropping(224, 224, _BICUBIC, _CLIP),
    "MobileNetV1": _cropping(256, 224, _BILINEAR, _HALF),
    "MobileNetV2": _cropping(256, 224, _BILINEAR, _HALF),
    "ConvNext": {"size": {"shortest_edge": _WHOLE}, "crop_pct": 224 / 256, "resample": _BICUBIC, **_HALF},
    "EfficientNet": {
        "size": _square(346),
        "crop_size": _square(289),
        "resample": _BICUBIC,
        "include_top": True,
        "rescale_offset": False,
        **_HALF,
    },
}


@dataclass(frozen=True)
class Steps:
    """What is done to a picture.

    Args:
        processor: The steps as the hub writes them, complete.
        height: Of what comes out.
        width: Of what comes out.
        edge: Length that the shorter side is scaled to; None where a picture is stretched, or not scaled.
        stretched: (height, width) that it is stretched to, if it is.
        resample: Filter, by Pillow's number.
        crops: Whether the middle is cut out.
        table_C256: For each channel the number that a byte becomes (C, 256), float32.
    """

    processor: Mapping[str, JSON]
    height: int
    width: int
    edge: int | None
    stretched: tuple[int, int] | None
    resample: int
    crops: bool
    table_C256: FloatArray

    @property
    def share(self) -> float:
        """How much longer the shorter side is before cropping than after it; 1 where nothing is cropped."""
        before = self.edge or min(self.stretched or (self.height, self.width))
        return before / min(self.height, self.width) if self.crops else 1.0

    def shaped(self, picture: Image) -> Image:
        """Return a picture in the height and width that the network takes."""
        if self.edge is not None:
            width, height = picture.size
            short, long = min(width, height), max(width, height)
            scaled = int(self.edge * long / short)
            picture = _resized(picture, (self.edge, scaled) if width <= height else (scaled, self.edge), self.resample)
        elif self.stretched is not None:
            picture = _resized(picture, self.stretched[::-1], self.resample)
        return self._cropped(picture) if self.crops else picture

    def _cropped(self, picture: Image) -> Image:
        from PIL import Image as Pillow

        width, height = picture.size
        left, top = (width - self.width) // 2, (height - self.height) // 2
        if left >= 0 and top >= 0:
            return picture.crop((left, top, left + self.width, top + self.height))
        # Too small: black around it, the odd line first, as the hub does it.
        wide, high = max(width, self.width), max(height, self.height)
        whole = Pillow.new(picture.mode, (wide, high))
        before_x, before_y = math.ceil((wide - width) / 2), math.ceil((high - height) / 2)
        whole.paste(picture, (before_x, before_y))
        left, top = left + before_x, top + before_y
        return whole.crop((left, top, left + self.width, top + self.height))


def _resized(picture: Image, size: tuple[int, int], resample: int) -> Image:
    if picture.size == size:
        return picture
    from PIL.Image import Resampling

    return picture.resize(size, resample=Resampling(resample))


def steps_of(processor: Mapping[str, JSON], channels: int) -> Steps:
    """Return what a processor's file says is done.

    Args:
        processor: Its content.
        channels: Channels of the pictures.

    Raises:
        BaseError: It says something that is not known here, or pictures would come out in different sizes.
    """
    family = _family(processor)
    complete: dict[str, Any] = {**_PLAIN, **_FAMILIES.get(family, {}), **{k: v for k, v in processor.items() if v is not None}}
    try:
        size = _sides(complete.get("size"), "shortest_edge" in _FAMILIES.get(family, {}).get("size", {}))
        crop = _sides(complete.get("crop_size"), False)
        edge, stretched, crops = _geometry(complete, size, crop)
        height, width = (crop["height"], crop["width"]) if crops and "height" in crop else (stretched or (edge, edge))
        if "crop_pct" in complete and edge is not None and not complete["do_center_crop"]:
            height = width = size["shortest_edge"]
        table = _table(complete, channels)
        wrong = not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1
        if wrong or not np.isfinite(table).all() or complete["resample"] not in range(6):
            raise ValueError("it does not say one size for all pictures, or its numbers are impossible")
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        fix = "say it with options: --set modality.size=224 --set modality.resize=crop"
        raise BaseError(Problem(what="how pictures are prepared is not known here", got=said[:300], fix=fix)) from error
    complete |= {"size": size, **({"crop_size": crop} if crop else {})}
    return Steps(complete, height or 0, width or 0, edge, stretched, int(complete["resample"]), crops, table)


def _geometry(
    complete: Mapping[str, Any], size: Mapping[str, int], crop: Mapping[str, int]
) -> tuple[int | None, tuple[int, int] | None, bool]:
    """Return the length of the shorter side, or what is stretched to, and whether the middle is cut out."""
    edge, stretched, crops = size.get("shortest_edge"), None, bool(complete["do_center_crop"])
    if edge is not None and "crop_pct" in complete and not crops:
        if edge < _WHOLE:
            return int(edge / complete["crop_pct"]), None, True
        return None, (edge, edge), False
    if edge is None:
        stretched = (size["height"], size["width"])
    if not complete["do_resize"]:
        edge = stretched = None
    if (crops and not crop) or (not crops and stretched is None):
        raise ValueError("pictures of different shapes would come out in different sizes")
    return edge, stretched, crops


def _family(processor: Mapping[str, JSON]) -> str:
    name = str(processor.get(_TYPE) or processor.get("feature_extractor_type") or "")
    for ending in reversed(_ENDINGS):
        name = name.removesuffix(ending)
    return {"ConvNeXT": "ConvNext"}.get(name, name)


def _sides(said: Any, shortest: bool) -> dict[str, int]:
    """Return a size in the hub's newer spelling."""
    if said is None:
        return {}
    if isinstance(said, int):
        return {"shortest_edge": said} if shortest else _square(said)
    known = {str(key): int(value) for key, value in dict(said).items()}
    if strangers := known.keys() - {"height", "width", "shortest_edge"}:
        raise ValueError(f"a size in terms of {', '.join(sorted(strangers))}")
    return known


def _table(complete: Mapping[str, Any], channels: int) -> FloatArray:
    """Return the number that each byte becomes in each channel, computed as the hub does: (C, 256), float32."""
    values: Any
    bytes_C256 = np.tile(np.arange(256), (channels, 1))
    if not complete["do_rescale"]:
        values = bytes_C256.astype(np.float32)
    else:
        values = (bytes_C256.astype(np.float64) * complete["rescale_factor"]).astype(np.float32)
        if complete.get("rescale_offset"):
            values -= 1
    mean, std = (_by_channel(complete[key], channels) for key in ("image_mean", "image_std"))
    if complete["do_normalize"]:
        values = (values - mean.astype(values.dtype)) / std.astype(values.dtype)
    if complete.get("include_top"):
        values = values / std.astype(values.dtype)
    return np.ascontiguousarray(values, dtype=np.float32)


def _by_channel(said: Any, channels: int) -> FloatArray:
    """Return one number a channel (C, 1); of three numbers for a grey picture the mean counts."""
    values = np.atleast_1d(np.asarray(said, dtype=np.float64))
    if len(values) != channels:
        if len(values) != 1 and channels != 1:
            raise ValueError(f"{len(values)} numbers for {channels} channels")
        values = np.full(channels, values.mean())
    return values[:, None]
