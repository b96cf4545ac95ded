"""The families of encoders that Regraft knows, one line each: which class to build, what it takes, where it can be cut.

Torch-free: a base can say what it is before anything heavy is imported. Paths of modules are relative to the hub's model.
A base that brings a network of its own brings the line with it (`Base.families`).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from regraft.errors import BaseError, MissingExtraError, Problem, did_you_mean
from regraft.options import JSON

_IDS = ("input_ids",)
_IDS_TYPES = ("input_ids", "token_type_ids")
PIXELS = "pixel_values"
"""Name of the input that takes pictures."""
ENTRIES = frozenset({"input_ids", "token_type_ids", "ids"})
"""Names of inputs that are numbers of entries in a table (tokens, categories), of which there is no average."""
_PIXELS = (PIXELS,)
_T5_WORDS = ("shared", "encoder.embed_tokens")  # one table under two names
_AUTO = "transformers:AutoModel"
_PACKS = "regraft.models.packing:through_registry"
_SOUNDS = "regraft.models.sound_networks"
_OUR_SOUNDS = "regraft.models.scratch_sound_networks"
_WHISPER_FRONT = ("encoder.conv1", "encoder.conv2", "encoder.embed_positions")
_WAVE_FRONT = ("feature_extractor", "feature_projection", "encoder.pos_conv_embed")
_OURS = "regraft.models.scratch_networks:AutoModel"
_OUR_PICTURES = "regraft.models.scratch_picture_networks:AutoModel"
_OUR_SERIES = "regraft.models.scratch_series_networks:AutoModel"
_VALUES = ("values",)


@dataclass(frozen=True)
class Architecture:
    """How one family is built, fed and cut.

    Args:
        embeddings: Modules that run before the first layer (dropout there too), and what all layers share.
        layers: The list of layers.
        final: Modules that run after the last layer.
        pooling: Registered name of the pooling that suits the family when the base itself does not say.
        model: "module:class" whose `from_pretrained` and `from_config` give the encoder, or "module:function" that gives such a
            class: then its module can be imported without torch.
        inputs: What it takes beside the mask.
        causal: Whether a position sees only those before it.
        position_offset: Positions that a text may not use (RoBERTa counts from the padding token's number + 1).
        packing: "module:function" that makes a body take all rows end to end; empty where it cannot be made to.
        reads: Registered name of the modality whose rows it takes.
        masked: Whether it takes the mask of its input positions and gives one vector for each of them. A body that is not makes
            of the one position of a row (a picture) as many of its own as it likes (the cells of a map, patches).
        own_mask: Whether it takes the mask and says itself which of the positions that it makes are real (`body.own_mask`).
        width: Key of the configuration that says how wide the vectors are (of several widths the last counts), or what works it
            out of the configuration.
        unused: Modules that come with the body and play no part in the vectors of positions.
        norm: The one of them that is a norm over pooled vectors.
        stacked: Whether each layer runs once, and all that enters layers and comes out at the end are vectors of one width at
            the same positions: then they can be summed.
        keys_values: Ends of the paths, in each layer, of the linear layers that give its keys and values as attention takes
            them, but for a rotation that all layers share (`body.rotary_emb`); one where it gives queries too, in front of
            them, a third of its outputs each; nothing where there are no such layers.
    """

    embeddings: tuple[str, ...]
    layers: str
    final: tuple[str, ...] = ()
    pooling: str = "mean"
    model: str = _AUTO
    inputs: tuple[str, ...] = _IDS
    causal: bool = False
    position_offset: int = 0
    packing: str = ""
    reads: str = "text"
    masked: bool = True
    own_mask: bool = False
    width: str | Callable[[Any], int] = "hidden_size"
    unused: tuple[str, ...] = ("pooler",)
    norm: str = ""
    stacked: bool = True
    keys_values: tuple[str, ...] = ()


def _pictures(embeddings: str | tuple[str, ...], layers: str, final: tuple[str, ...] = (), **more: Any) -> Architecture:
    """Return the line of a family that takes one picture a row and nothing else."""
    before = (embeddings,) if isinstance(embeddings, str) else embeddings
    # Most make smaller and wider maps from layer to layer.
    return Architecture(before, layers, final, inputs=_PIXELS, reads="image", masked=False, **{"stacked": False, **more})


def _convnext() -> Architecture:
    stages, norm = "encoder.stages", "layernorm"
    return _pictures("embeddings", stages, pooling="mean-norm", width="hidden_sizes", unused=(norm,), norm=norm)


def _vit(layers: str = "layers", pooling: str = "cls", *, stacked: bool = True) -> Architecture:
    return _pictures("embeddings", layers, ("layernorm",), pooling=pooling, stacked=stacked)


def _divisible(value: float, by: int, least: int) -> int:
    """Return the nearest multiple that is not below nine tenths of a value (Sandler et al. 2018, arXiv:1801.04381, code)."""
    near = max(least, int(value + by / 2) // by * by)
    return near + by if near < 0.9 * value else near


def _mobilenet_v1_width(config: Any) -> int:
    return max(int(1024 * config.depth_multiplier), int(config.min_depth))


def _mobilenet_v2_width(config: Any) -> int:
    if config.finegrained_output and config.depth_multiplier < 1.0:
        return 1280
    return _divisible(round(1280 * config.depth_multiplier), config.depth_divisible_by, config.min_depth)


def _sounds(
    name: str, layers: str, final: tuple[str, ...], *, front: tuple[str, ...], module: str = _SOUNDS, stacked: bool = True
) -> Architecture:
    """Return the line of a family that takes waves or frames and makes fewer positions of them."""
    inputs, model = ("input_features", "input_values"), f"{module}:{name}"
    return Architecture(front, layers, final, model=model, inputs=inputs, reads="audio", own_mask=True, stacked=stacked)


def _windows(name: str, embeddings: tuple[str, ...], layers: str) -> Architecture:
    """Return the line of a family that takes one window of series a row."""
    model = f"regraft.models.series_networks:{name}"
    return Architecture(
        embeddings, layers, inputs=_VALUES, reads="series", masked=False, width="d_model", unused=(), model=model
    )


def _bert(inputs: tuple[str, ...] = _IDS, offset: int = 0, extra: tuple[str, ...] = (), packing: str = _PACKS) -> Architecture:
    embeddings = ("embeddings", *extra)
    return Architecture(embeddings, "encoder.layer", pooling="cls", inputs=inputs, position_offset=offset, packing=packing)


def _plain_bert(*, offset: int = 0, inputs: tuple[str, ...] = _IDS, extra: tuple[str, ...] = ()) -> Architecture:
    return dataclasses.replace(_bert(inputs, offset, extra), keys_values=("attention.self.key", "attention.self.value"))


def _decoder(keys_values: tuple[str, ...] = ("self_attn.k_proj", "self_attn.v_proj")) -> Architecture:
    made = Architecture(("embed_tokens",), "layers", ("norm",), pooling="last", causal=True, packing=_PACKS)
    return dataclasses.replace(made, keys_values=keys_values)


def _t5(name: str) -> Architecture:
    return Architecture(_T5_WORDS, "encoder.block", ("encoder.final_layer_norm",), model=f"transformers:{name}")


def _scratch() -> Architecture:
    return Architecture(("embeddings", "dropout"), "layers", ("norm",), model=_OURS)


class _Families(Mapping[str, Architecture]):
    """The lines of the table, and behind them those that registered bases bring.

    Args:
        table: Name of the architecture -> its line.
    """

    def __init__(self, table: Mapping[str, Architecture]) -> None:
        self._table = table

    def __getitem__(self, kind: str) -> Architecture:
        return self._table[kind] if kind in self._table else _brought()[kind]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._table, **_brought()})

    def __len__(self) -> int:
        return len({**self._table, **_brought()})


def _brought() -> dict[str, Architecture]:
    """Return the lines that registered bases bring; one that cannot be imported here brings none."""
    from regraft.models import BASES

    found: dict[str, Architecture] = {}
    for name in BASES:
        try:
            found |= BASES.get(name).families
        except MissingExtraError:
            continue
    return found


# The relative-position tables of DeBERTa and MPNet are shared by all layers: they count as embeddings, because freezing the
# lower layers without them would still let those layers change. The same holds for DeBERTa-v2's convolution beside its first
# layer.
_TABLE: Mapping[str, Architecture] = {
    "bert": _plain_bert(inputs=_IDS_TYPES),
    "roberta": _plain_bert(offset=2),
    "xlm-roberta": _plain_bert(offset=2),
    "camembert": _plain_bert(offset=2),
    "distilbert": Architecture(("embeddings",), "transformer.layer", pooling="cls", packing=_PACKS),
    "modernbert": Architecture(("embeddings",), "layers", ("final_norm",), pooling="cls", packing=_PACKS),
    "electra": _plain_bert(inputs=_IDS_TYPES, extra=("embeddings_project",)),
    "deberta": _bert(extra=("encoder.rel_embeddings",), packing=""),
    "deberta-v2": _bert(extra=("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"), packing=""),
    "mpnet": _bert(offset=2, extra=("encoder.relative_attention_bias",), packing="regraft.models.packing_mpnet:packed_mpnet"),
    "albert": Architecture(
        ("embeddings", "encoder.embedding_hidden_mapping_in"),
        "encoder.albert_layer_groups",
        pooling="cls",
        inputs=_IDS_TYPES,
        packing=_PACKS,
        stacked=False,
    ),
    "t5": _t5("T5EncoderModel"),
    "mt5": _t5("MT5EncoderModel"),
    "umt5": _t5("UMT5EncoderModel"),
    "gpt2": Architecture(
        ("wte", "wpe", "drop"), "h", ("ln_f",), pooling="last", causal=True, packing=_PACKS, keys_values=("attn.c_attn",)
    ),
    "gpt_neox": Architecture(
        ("embed_in", "emb_dropout"), "layers", ("final_layer_norm",), pooling="last", causal=True, packing=_PACKS
    ),
    "llama": _decoder(),
    "mistral": _decoder(),
    "qwen2": _decoder(),
    "qwen3": _decoder(keys_values=()),  # keys go through a norm
    "gemma": _decoder(),
    "regraft-lstm": _scratch(),
    "regraft-gru": _scratch(),
    "regraft-cnn": _scratch(),
    "regraft-mlp": _scratch(),
    "resnet": _pictures("embedder", "encoder.stages", width="hidden_sizes"),
    "whisper": _sounds("WhisperSound", "encoder.layers", ("encoder.layer_norm",), front=_WHISPER_FRONT),
    "wav2vec2": _sounds("Wav2Vec2Sound", "encoder.layers", ("encoder.layer_norm",), front=_WAVE_FRONT),
    "hubert": _sounds("HubertSound", "encoder.layers", ("encoder.layer_norm",), front=_WAVE_FRONT),
    "wavlm": _sounds("WavLMSound", "encoder.layers", ("encoder.layer_norm",), front=_WAVE_FRONT),
    "audio-spectrogram-transformer": _sounds("AstSound", "layers", ("layernorm",), front=("embeddings",)),
    "regraft-speaker": _sounds("SpeakerEncoder", "layers", ("projection",), front=(), stacked=False),
    "regraft-sound-conv": _sounds("AutoModel", "layers", ("norm",), front=("stem",), module=_OUR_SOUNDS),
    "convnext": _convnext(),
    "convnextv2": _convnext(),
    "vit": _vit(),
    "deit": _vit(),
    "dinov2": _vit("encoder.layer"),
    "beit": _pictures("embeddings", "layers", pooling="mean", stacked=True),
    "swin": _vit("encoder.layers", "mean", stacked=False),
    "efficientnet": _pictures("embeddings", "encoder.blocks", ("encoder.top_conv", "encoder.top_bn"), width="hidden_dim"),
    "mobilenet_v1": _pictures("conv_stem", "layer", width=_mobilenet_v1_width),
    "mobilenet_v2": _pictures("conv_stem", "layer", ("conv_1x1",), width=_mobilenet_v2_width),
    "clip_vision_model": _pictures(
        ("embeddings", "pre_layrnorm"),
        "encoder.layers",
        pooling="cls-norm",
        unused=("post_layernorm",),
        norm="post_layernorm",
        stacked=True,
    ),
    "siglip_vision_model": _pictures("embeddings", "encoder.layers", ("post_layernorm",), unused=("head",), stacked=True),
    "regraft-efficientnet-lite": _pictures(
        "stem", "blocks", ("head",), unused=("classifier",), model="regraft.models.efficientnet_lite:AutoModel"
    ),
    "patchtst": _windows("PatchTSTModel", ("encoder.embedder", "encoder.positional_encoder"), "encoder.layers"),
    "patchtsmixer": _windows(
        "PatchTSMixerModel", ("encoder.patcher", "encoder.positional_encoder"), "encoder.mlp_mixer_encoder.mixers"
    ),
    "regraft-series": Architecture(
        ("embeddings",), "layers", ("norm",), inputs=_VALUES, reads="series", unused=(), model=_OUR_SERIES
    ),
    "regraft-table": Architecture(
        ("embeddings",),
        "layers",
        ("norm",),
        pooling="cls",
        inputs=("values", "ids"),
        reads="table",
        masked=False,
        unused=(),
        model="regraft.models.scratch_table_networks:AutoModel",
    ),
    "regraft-conv": _pictures("stem", "layers", width="hidden_sizes", model=_OUR_PICTURES),
}

ARCHITECTURES: Mapping[str, Architecture] = _Families(_TABLE)


def network_of(architecture: Architecture) -> Any:
    """Return the class that gives the encoder, after importing what it needs; what is ours is then known to the hub's library.

    Args:
        architecture: The line of the family.
    """
    module, _, name = architecture.model.partition(":")
    found = getattr(importlib.import_module(module), name)
    return found if isinstance(found, type) else found()


def architecture_of(config: Mapping[str, JSON], where: str) -> Architecture:
    """Return the line of the table for a configuration.

    Args:
        config: Content of config.json.
        where: What to call it in messages.

    Raises:
        BaseError: It names no architecture, or one that Regraft cannot cut.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        problem = Problem(
            what="the configuration does not say what architecture it is for",
            where=where,
            got=f"model_type = {kind!r}",
            expected="model_type, for example 'bert'",
            fix="give a folder saved with save_pretrained",
        )
        raise BaseError(problem)
    if kind not in ARCHITECTURES:
        what = f"the architecture '{kind}' cannot be used as an encoder here"
        raise BaseError(Problem(what=what, where=where, fix=did_you_mean(kind, sorted(ARCHITECTURES))))
    return ARCHITECTURES[kind]


def width_of(config: Any) -> int:
    """Return how wide the vectors of a body are.

    Args:
        config: The hub's configuration object of a known architecture.
    """
    width = ARCHITECTURES[config.model_type].width
    said = width(config) if callable(width) else getattr(config, width)
    return int(said[-1] if isinstance(said, list | tuple) else said)


def position_limit(config: Mapping[str, JSON], architecture: Architecture) -> int | None:
    """Return the longest text in tokens that a base can place, or nothing where it has no limit of its own."""
    for key in ("max_position_embeddings", "n_positions"):
        value = config.get(key)
        if isinstance(value, int) and value > architecture.position_offset:
            return value - architecture.position_offset
    return None
