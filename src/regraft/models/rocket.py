"""The base `rocket`: random convolutions over series, of which only what stands above learns. Torch-free until built.

ROCKET (Dempster, Petitjean and Webb 2020, arXiv:1910.13051, section 3): many kernels of random length, weights, bias, dilation
and padding go over a series, and of each two numbers are kept: the share of places where it is above zero, and its maximum.

    series (B, T, C) -> K kernels -> share above zero and maximum over real places -> standardised (B, 1, 2 K)

Deviations from the paper: rows may have different lengths. Dilations are drawn for the median length of the training rows; a
kernel without padding that spans more than a row reads it as if it had padding. The two numbers are standardised by mean and
deviation over some training rows, kept within bounds, and shrunk so that vectors have a length of about one whatever K is: a
head is trained on them by steps, not in closed form.

Shapes: B rows, T steps, C channels, K kernels, k kernels of one dilation, L = 11 places of the longest kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from regraft.modalities import measurements
from regraft.modalities.series import VALUES, Series, SeriesOptions, learnt
from regraft.models.architectures import Architecture
from regraft.models.untrained import Untrained
from regraft.options import JSON, build, options
from regraft.types import FloatArray

if TYPE_CHECKING:
    import torch

    from regraft.modalities.modality import Modality
    from regraft.models.backbones import Backbone

_KIND = "regraft-rocket"
_LENGTHS = (7, 9, 11)
_LONGEST = max(_LENGTHS)
_SAMPLE = 256
_ROWS_AT_ONCE = 16
_BOUND = 4.0  # deviations; of what training rows hardly vary in, another row may be thousands away
_LEAST = 1e-6


@options
class RocketOptions:
    """How many kernels."""

    kernels: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Random kernels; each gives two numbers. The paper takes 10,000."""

    pooling: ClassVar[str] = "mean"
    """A row is one vector already."""


class RocketBase(Untrained):
    """Random convolutional kernels, frozen.

    Example:
        >>> rows = [[0.0, 1.0, 0.0, -1.0] * 5, [1.0, 2.0, 3.0, 4.0] * 4]
        >>> base = RocketBase("rocket", RocketOptions(kernels=50))
        >>> series = base.modality({}, lambda: iter([rows]))
        >>> backbone = base.backbone(series, seed=0)
        >>> backbone.width, sum(weight.numel() for weight in backbone.parameters())
        (100, 0)
    """

    Options: ClassVar[type[Any]] = RocketOptions
    modality_name = "series"
    model_type: ClassVar[str] = _KIND
    what: ClassVar[str] = "ROCKET: random convolutions over series, frozen; only what stands above learns"
    reads_type = Series
    families: ClassVar[Mapping[str, Architecture]] = {
        _KIND: Architecture(
            ("kernels",),
            "layers",
            inputs=(VALUES,),
            reads="series",
            own_mask=True,
            unused=(),
            stacked=False,
            model=f"{__name__}:network",
        )
    }

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._seen: list[Any] = []

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing with the channels and the scale of the training rows, and keep some of these.

        Raises:
            DataError: There is no row, or rows have different numbers of channels.
        """
        wanted = build(SeriesOptions, options, owner=Series.name)
        state = learnt(wanted, raws())
        self._seen = spread((raw for chunk in raws() for raw in chunk), _SAMPLE)
        return Series(wanted, state)

    def config(self, modality: Series) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        lengths = [min(len(measurements.read(raw).values_TK), modality.longest) for raw in self._seen]
        return {
            "model_type": _KIND,
            "num_channels": modality.channels,
            "hidden_size": 2 * self.options.kernels,
            "typical_length": int(np.median(lengths)) if lengths else _LONGEST,
        }

    def backbone(self, modality: Modality, seed: int) -> Backbone:
        """Return kernels drawn from `seed`, what they give standardised over the training rows that `modality` kept."""
        made = super().backbone(modality, seed)
        if self._seen:
            _standardise(made.body, modality, self._seen)
        return made


def spread(values: Iterator[Any], most: int) -> list[Any]:
    """Return values from all over an iterator of unknown length: every first, second, fourth, ... one.

    Args:
        values: In any order, also sorted.
        most: Number of values that are never exceeded; at least half as many are kept where there are so many.

    Example:
        >>> spread(iter(range(10)), 4)
        [0, 4, 8]
    """
    kept: list[Any] = []
    gap = 1
    for place, value in enumerate(values):
        if place % gap == 0:
            kept.append(value)
        if len(kept) > most:
            kept, gap = kept[::2], 2 * gap
    return kept


def drawn(kernels: int, channels: int, steps: int, rng: np.random.Generator) -> list[tuple[int, FloatArray, FloatArray, Any]]:
    """Return random kernels, those of one dilation together (Dempster et al. 2020, arXiv:1910.13051, section 3.1).

    The length is 7, 9 or 11; weights are from N(0, 1), of each channel less their mean; the bias from U(-1, 1); the dilation
    2^u, rounded down, u from U(0, log2((steps - 1) / (length - 1))); every second kernel has padding, by chance. Of several
    channels a kernel reads 2^v, rounded down, v from U(0, log2(min(channels, length) + 1)), as the authors' code has it.

    Args:
        kernels: How many.
        channels: Of the series.
        steps: Of the series; of a shorter one than a kernel the dilation is 1.
        rng: Draws them.

    Returns:
        For each dilation, rising: it, the weights (k, C, 11), shorter kernels with zeros at both ends, the biases (k,), and how
        many places at either end of a row are left out (k,), 0 with padding.
    """
    groups: dict[int, list[tuple[FloatArray, float, int]]] = {}
    for _ in range(kernels):
        length = int(rng.choice(_LENGTHS))
        read = min(channels, int(2 ** rng.uniform(0, math.log2(min(channels, length) + 1))))
        weights_CL = np.zeros((channels, _LONGEST))
        own = rng.standard_normal((read, length))
        margin = (_LONGEST - length) // 2
        chosen = rng.choice(channels, read, replace=False)
        weights_CL[chosen, margin : margin + length] = own - own.mean(axis=1, keepdims=True)
        bias = float(rng.uniform(-1, 1))
        widest = max(0.0, math.log2(max(1, steps - 1) / (length - 1)))
        dilation = int(2 ** rng.uniform(0, widest))
        padded = bool(rng.integers(2))
        groups.setdefault(dilation, []).append((weights_CL, bias, 0 if padded else dilation * (length // 2)))
    found = []
    for dilation, group in sorted(groups.items()):
        weights, biases, margins = zip(*group, strict=True)
        found.append((dilation, np.stack(weights), np.array(biases), np.array(margins)))
    return found


def shares_and_maxima(
    values_BCT: torch.Tensor,
    mask_BT: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dilation: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for kernels of one dilation the share of places above zero (B, k) and the maximum (B, k), over places that count.

    A place counts that is real and, without padding, whose kernel lies within the row; in a row that is too short for that,
    every real one (Dempster et al. 2020, arXiv:1910.13051, section 3.2).

    Args:
        values_BCT: Series, zeros where they are padding.
        mask_BT: True where a step is real.
        weights: Weights (k, C, 11), biases (k,), and places left out at either end (k,).
        dilation: Steps between what a kernel reads.
    """
    import torch
    from torch.nn import functional

    weights_kCL, bias_k, margin_k = weights
    padding = dilation * (weights_kCL.shape[2] // 2)
    out_BkT = functional.conv1d(values_BCT, weights_kCL, bias_k, padding=padding, dilation=dilation)
    steps_BT = mask_BT.long().cumsum(dim=1) - 1
    length_B11 = mask_BT.long().sum(dim=1)[:, None, None]
    margin_1k1 = margin_k[None, :, None]
    margin_Bk1 = torch.where(length_B11 > 2 * margin_1k1, margin_1k1, torch.zeros_like(margin_1k1))
    place_B1T = steps_BT.unsqueeze(1)
    counts_BkT = mask_BT.unsqueeze(1) & (place_B1T >= margin_Bk1) & (place_B1T < length_B11 - margin_Bk1)
    share_Bk = ((out_BkT > 0) & counts_BkT).to(out_BkT.dtype).sum(dim=2) / counts_BkT.sum(dim=2).clamp(min=1)
    lowest = torch.finfo(out_BkT.dtype).min
    maximum_Bk = out_BkT.masked_fill(~counts_BkT, lowest).amax(dim=2)
    # A row of padding alone has no maximum.
    return share_Bk, maximum_Bk.masked_fill(~counts_BkT.any(dim=2), 0.0)


def _standardise(body: Any, modality: Modality, raws: Sequence[Any]) -> None:
    """Have a body give numbers of mean 0 and deviation 1 over some rows."""
    import torch

    found = []
    with torch.no_grad():
        for start in range(0, len(raws), _ROWS_AT_ONCE):
            inputs, mask_BT = modality.collate(modality.encode(raws[start : start + _ROWS_AT_ONCE], spans=False))
            found.append(body.plain(torch.from_numpy(inputs[VALUES]), torch.from_numpy(mask_BT)).double())
    x_ND = torch.cat(found)
    deviation_D = x_ND.std(dim=0, correction=0)
    body.mean.copy_(x_ND.mean(dim=0))
    # What never varies tells nothing: it stays at zero.
    body.scale.copy_(torch.where(deviation_D > _LEAST, 1.0 / deviation_D.clamp(min=_LEAST), 0.0))


@functools.cache
def network() -> Any:
    """Return the class of the network, and make it known to the hub's `AutoConfig` and `AutoModel`."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput

    class RocketConfig(PreTrainedConfig):  # type: ignore[misc]
        model_type = _KIND
        num_channels: int = 1
        hidden_size: int = 4000
        typical_length: int = _LONGEST
        dilations: tuple[tuple[int, int], ...] = ()  # each with the number of its kernels; drawn if empty

    class Kernels(nn.Module):
        weights: torch.Tensor
        bias: torch.Tensor
        margin: torch.Tensor

        def __init__(self, count: int, channels: int, dilation: int) -> None:
            super().__init__()
            self.dilation = dilation
            self.register_buffer("weights", torch.zeros(count, channels, _LONGEST))
            self.register_buffer("bias", torch.zeros(count))
            self.register_buffer("margin", torch.zeros(count, dtype=torch.int64))

        def forward(self, values_BCT: torch.Tensor, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return shares_and_maxima(values_BCT, mask_BT, (self.weights, self.bias, self.margin), self.dilation)

    class RocketModel(PreTrainedModel):  # type: ignore[misc]
        config_class = RocketConfig
        base_model_prefix = "model"
        main_input_name = VALUES

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            channels, found = config.num_channels, []
            if not config.dilations:
                rng = np.random.default_rng(int(torch.randint(2**62, ())))  # of the seed, by torch's generator
                found = drawn(config.hidden_size // 2, channels, config.typical_length, rng)
                config.dilations = [[dilation, len(weights)] for dilation, weights, _, _ in found]
            self.kernels = nn.ModuleList(Kernels(count, channels, dilation) for dilation, count in config.dilations)
            for group, (_, *values) in zip(self.kernels, found, strict=False):
                for kept, value in zip(group.buffers(), values, strict=True):
                    kept.copy_(torch.from_numpy(value))
            self.layers = nn.ModuleList()
            self.register_buffer("mean", torch.zeros(config.hidden_size))
            self.register_buffer("scale", torch.ones(config.hidden_size))
            self.post_init()

        def forward(
            self, values: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool = True, **_: Any
        ) -> Any:
            mask_BT = values.new_ones(values.shape[:2]).bool() if attention_mask is None else attention_mask.bool()
            x_BD = ((self.plain(values, mask_BT) - self.mean) * self.scale).clamp(-_BOUND, _BOUND)
            x_B1D = (x_BD * self.config.hidden_size**-0.5).unsqueeze(1)
            return BaseModelOutput(last_hidden_state=x_B1D) if return_dict else (x_B1D,)

        def plain(self, values: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
            values_BCT = values.masked_fill(~mask_BT.unsqueeze(-1), 0.0).transpose(1, 2)
            parts = [group(values_BCT, mask_BT) for group in self.kernels]
            return torch.cat([share for share, _ in parts] + [maximum for _, maximum in parts], dim=1)

        @property
        def dtype(self) -> torch.dtype:
            """The type of its numbers; the hub asks the first weight that learns, and there is none."""
            kind: torch.dtype = self.scale.dtype
            return kind

        def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
            return mask_BT.any(dim=1, keepdim=True)

        def _init_weights(self, module: nn.Module) -> None:
            """Kernels are drawn when they are made."""

    AutoConfig.register(_KIND, RocketConfig, exist_ok=True)
    AutoModel.register(RocketConfig, RocketModel, exist_ok=True)
    return RocketModel
