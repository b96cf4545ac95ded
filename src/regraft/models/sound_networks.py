"""Encoders of sound: the hub's own, taught to take rows of any length, and the GE2E speaker encoder.

A row is a wave or frames of its spectrum, with a mask. Where a network takes windows of one length, rows are cut into windows
and filled up here, inside the network, so that every export does the same. Each network says which of the positions that it
makes are real: `own_mask`.

Shapes: B rows, T input positions, W windows of a row, L positions of a window, M mel bins, D width.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    ASTModel,
    AutoConfig,
    AutoModel,
    HubertModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Model,
    WavLMModel,
    WhisperPreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

WINDOW = "window_positions"
"""Key of the configuration: input positions that a network takes at once, where not what its family takes."""

_SPAN = 2.0  # of Whisper's log-mel after scaling: 8 decades / 4
_LOWEST = -1.5  # (log10(1e-10) + 4) / 4


def windows(values: torch.Tensor, length: int) -> torch.Tensor:
    """Cut rows into windows of one length, the last one filled up with zeros (B, T, ...) -> (B, W, L, ...).

    Args:
        values: Rows (B, T, ...).
        length: Positions of a window L.
    """
    more = -values.shape[1] % length
    shape = (values.shape[0], more, *values.shape[2:])
    filled = torch.cat([values, values.new_zeros(shape)], dim=1)
    return filled.reshape(values.shape[0], -1, length, *values.shape[2:])


def joined(found_NTD: torch.Tensor, rows: int) -> torch.Tensor:
    """Lay what was made of windows end to end again (B * W, T', ...) -> (B, W * T', ...).

    Args:
        found_NTD: What was made of windows.
        rows: The shape's, not `len`: a graph that is captured would hold the number of rows fast.
    """
    return found_NTD.reshape(rows, -1, *found_NTD.shape[2:])


class WhisperSound(WhisperPreTrainedModel):  # type: ignore[misc]
    """Whisper's encoder (Radford et al. 2022, arXiv:2212.04356) over one or several windows of log-mel frames.

    Windows may be shorter than those of the training, 30 seconds: then the first part of the table of places is used.

    Args:
        config: Of the hub.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.post_init()

    @property
    def window(self) -> int:
        """Frames that are taken at once."""
        return int(getattr(self.config, WINDOW, None) or 2 * self.config.max_source_positions)

    def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return which positions that come out are real (B, T'): those of which the first of two frames is."""
        return windows(mask_BT, self.window)[:, :, ::2].flatten(1)

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return one vector for every two frames (B, T', D).

        Args:
            input_features: Log-mel frames (B, T, M), only those that touch the recording.
            attention_mask: 1 where a frame is real (B, T).
        """
        encoder = self.encoder
        mask_BWL = windows(attention_mask.bool(), self.window)
        frames_BWLM = windows(input_features, self.window)
        x = _silence_after(frames_BWLM, mask_BWL).flatten(0, 1).transpose(1, 2)
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(x)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        x = F.dropout(x, p=encoder.dropout, training=self.training)
        for layer in encoder.layers:
            found = layer(x, None)
            x = found[0] if isinstance(found, tuple) else found
        x = encoder.layer_norm(x)
        return BaseModelOutput(last_hidden_state=joined(x, input_features.shape[0]))


def _silence_after(frames_BWLM: torch.Tensor, mask_BWL: torch.Tensor) -> torch.Tensor:
    """Fill windows up with what Whisper's extractor makes of silence: its largest value less 8 decades, or 1e-10."""
    outside = ~mask_BWL.unsqueeze(-1)
    largest = frames_BWLM.masked_fill(outside, _LOWEST).amax(dim=(2, 3), keepdim=True)
    return torch.where(outside, (largest - _SPAN).clamp(min=_LOWEST), frames_BWLM)


class _OfHub:
    """Open the hub's own class, so that the names in older files are understood, and go on as this one."""

    hub: ClassVar[Any]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Return what the hub's class returns, the network as this class."""
        found = cls.hub.from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        model.__class__ = cls
        return found


class _Waves(_OfHub):
    """What wav2vec 2.0, HuBERT and WavLM share: convolutions over the wave, a projection, a transformer."""

    config: Any
    feature_extractor: Any
    feature_projection: Any
    encoder: Any
    _get_feat_extract_output_lengths: Any

    @property
    def window(self) -> int | None:
        """Samples that are taken at once; nothing where a row is taken whole."""
        return getattr(self.config, WINDOW, None)

    def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return which positions that come out are real (B, T')."""
        mask_BWL = self._cut(mask_BT)
        mask_NL = mask_BWL.flatten(0, 1)
        own_NT = self._mask(mask_NL) & mask_NL.any(dim=1, keepdim=True)
        return joined(own_NT, mask_BT.shape[0])

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return one vector for every 20 ms (B, T', D).

        Args:
            input_values: Samples (B, T).
            attention_mask: 1 where a sample is real (B, T).
        """
        mask_BWL = self._cut(attention_mask.bool())
        wave_NL = (self._cut(input_values) * mask_BWL).flatten(0, 1)
        mask_NL = mask_BWL.flatten(0, 1)
        heard_NTD = self._front(wave_NL.unsqueeze(1), mask_NL).transpose(1, 2)
        projected = self.feature_projection(heard_NTD)
        hidden_NTD = projected[0] if isinstance(projected, tuple) else projected
        found_NTD = self.encoder(hidden_NTD, attention_mask=self._mask(mask_NL)).last_hidden_state
        return BaseModelOutput(last_hidden_state=joined(found_NTD, input_values.shape[0]))

    def _cut(self, values_BT: torch.Tensor) -> torch.Tensor:
        """Cut rows into windows (B, W, L), each long enough for the convolutions."""
        least = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            least = (least - 1) * stride + kernel
        cut_BWL = windows(values_BT, self.window) if self.window else values_BT.unsqueeze(1)
        return F.pad(cut_BWL, (0, max(0, least - cut_BWL.shape[2])))

    def _mask(self, mask_NL: torch.Tensor) -> torch.Tensor:
        """Return which positions of each window come out real (N, T'), at least one: attention needs something to look at."""
        made = self._get_feat_extract_output_lengths(mask_NL.shape[1])
        steps_1T = torch.arange(made, device=mask_NL.device).unsqueeze(0)
        lengths_N = self._get_feat_extract_output_lengths(mask_NL.sum(dim=1)).clamp(min=1)
        real_NT: torch.Tensor = steps_1T < lengths_N.unsqueeze(1)
        return real_NT

    def _front(self, x_N1L: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
        """Run the convolutions; a norm over time sees real positions only, so that padding changes nothing."""
        first, *others = self.feature_extractor.conv_layers
        x: torch.Tensor = first.conv(x_N1L)
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            samples_N = mask_NL.sum(dim=1)
            kernel, stride = self.config.conv_kernel[0], self.config.conv_stride[0]
            lengths_N = (torch.div(samples_N - kernel, stride, rounding_mode="floor") + 1).clamp(min=1)
            real_N1T = torch.arange(x.shape[2], device=x.device)[None, None, :] < lengths_N[:, None, None]
            x = first.activation(_norm_over_time(x, real_N1T, norm))
        else:
            if norm is not None:
                x = norm(x.transpose(1, 2)).transpose(1, 2)
            x = first.activation(x)
        for layer in others:
            x = layer(x)
        return x


def _norm_over_time(x_NCT: torch.Tensor, real_N1T: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """Bring each channel to zero mean and unit variance over its real positions (group norm with a group for each channel)."""
    count_N11 = real_N1T.sum(dim=2, keepdim=True).to(x_NCT.dtype)
    mean_NC1 = (x_NCT * real_N1T).sum(dim=2, keepdim=True) / count_N11
    moved_NCT = (x_NCT - mean_NC1) * real_N1T
    variance_NC1 = moved_NCT.square().sum(dim=2, keepdim=True) / count_N11
    scaled_NCT = moved_NCT * torch.rsqrt(variance_NC1 + norm.eps)
    return (scaled_NCT * norm.weight[None, :, None] + norm.bias[None, :, None]) * real_N1T


class Wav2Vec2Sound(_Waves, Wav2Vec2Model):  # type: ignore[misc]
    """wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477)."""

    hub = Wav2Vec2Model


class HubertSound(_Waves, HubertModel):  # type: ignore[misc]
    """HuBERT (Hsu et al. 2021, arXiv:2106.07447)."""

    hub = HubertModel


class WavLMSound(_Waves, WavLMModel):  # type: ignore[misc]
    """WavLM (Chen et al. 2021, arXiv:2110.13900)."""

    hub = WavLMModel


class AstSound(_OfHub, ASTModel):  # type: ignore[misc]
    """The audio spectrogram transformer (Gong et al. 2021, arXiv:2104.01778) over one or several full windows."""

    hub = ASTModel

    def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return which positions that come out are real (B, T'): all of a window that there is."""
        there_BW = windows(mask_BT, self.config.max_length)[:, :, 0]
        return there_BW.repeat_interleave(self.embeddings.position_embeddings.shape[1], dim=1)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return one vector a patch (B, T', D), two more for the tokens in front of them.

        Args:
            input_values: Scaled log-mel frames (B, T, M), full windows.
            attention_mask: 1 where a frame is real (B, T).
        """
        cut_BWLM = windows(input_values, self.config.max_length)
        found_NTD = super().forward(input_values=cut_BWLM.flatten(0, 1), return_dict=True).last_hidden_state
        return BaseModelOutput(last_hidden_state=joined(found_NTD, input_values.shape[0]))


class SpeakerConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of the GE2E speaker encoder."""

    model_type = "regraft-speaker"

    num_mel_bins: int = 40
    recurrent_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 3
    window_positions: int = 160


class SpeakerEncoder(PreTrainedModel):  # type: ignore[misc]
    """Who speaks: recurrent layers over mel frames of partial utterances, one unit vector for each (arXiv:1710.10467).

    Args:
        config: The sizes.
    """

    config_class = SpeakerConfig
    base_model_prefix = "model"
    main_input_name = "input_features"

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__(config)
        sizes = [config.num_mel_bins, *[config.recurrent_size] * config.num_hidden_layers]
        self.layers = nn.ModuleList(nn.LSTM(before, after, batch_first=True) for before, after in itertools.pairwise(sizes))
        self.projection = nn.Linear(config.recurrent_size, config.hidden_size)
        self.post_init()

    def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return which partial utterances are real (B, W)."""
        return windows(mask_BT, self.config.window_positions)[:, :, 0]

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return one unit vector for each partial utterance (B, W, D).

        Args:
            input_features: Mel frames (B, T, M), full partial utterances end to end.
            attention_mask: 1 where a frame is real (B, T).
        """
        cut_BWLM = windows(input_features, self.config.window_positions)
        x_NLD = cut_BWLM.flatten(0, 1)
        for layer in self.layers:
            x_NLD, _state = layer(x_NLD)
        vector_ND = F.relu(self.projection(x_NLD[:, -1]))
        unit_ND = vector_ND / vector_ND.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return BaseModelOutput(last_hidden_state=unit_ND.reshape(*cut_BWLM.shape[:2], -1))

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as each module drew them when it was made."""


AutoConfig.register(SpeakerConfig.model_type, SpeakerConfig, exist_ok=True)
AutoModel.register(SpeakerConfig, SpeakerEncoder, exist_ok=True)
