"""A learnt prefix: in every layer, keys and values in front of those of the text; the text attends to both.

Li and Liang 2021, arXiv:2101.00190, equation 3, without their second network in between; for encoders Liu et al. 2021,
arXiv:2110.07602. The prefix begins as keys and values of tokens drawn from the vocabulary (Li and Liang, section 7.4).

It has positions of its own in front of every text, as a prompt has (`regraft.models.prompt`): so embeddings, packing, padding
and masks treat it like any others, and the text stands behind it. What a layer's keys and values would be there is replaced by
the prefix; what the body computes there beside reaches nothing. PEFT keeps keys as they are after the rotation that a family
may give them by their position, and so does this file; what enters the rotation is turned back.

Where one layer gives queries, keys and values (GPT-2), it holds the prefix of both.

Shapes: P positions of the prefix, O outputs of a key or value layer, L layers, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from regraft.errors import ArtifactError, Problem, UsageError
from regraft.models.adapters import BESIDE, adapting, plain_layer, sizes
from regraft.models.backbones import Backbone
from regraft.models.blocks import is_linear
from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed, check_tensors
from regraft.models.packing import run_padded
from regraft.models.peft_folder import ADAPTER_WEIGHTS, adapter_config, read_adapter, write_adapter
from regraft.models.prompt import PromptedBackbone, check_place, token_tables
from regraft.models.transform import ADDED, Transform
from regraft.models.view import view
from regraft.options import JSON, Field, to_json
from regraft.typed import UNFIT, made_exactly, record
from regraft.types import Batch

_STREAM = (
    0x8EBC6AF09C88C6E3  # heads, poolings, adapters and prompts are drawn from the same seed and must not repeat these numbers
)
_PREFIX, _COS, _SIN, _KEPT = "prefix", "prefix_cos", "prefix_sin", "prompt_embeddings"
_BROKEN = "restore the artifact from its source, or fit it again"
_PLACES: ContextVar[torch.Tensor | None] = ContextVar("_PLACES", default=None)


@record
class PrefixPlan:
    """How long the prefix is.

    Args:
        tokens: P.
    """

    tokens: Annotated[int, Field(ge=1)]


class PrefixedBackbone(PromptedBackbone):
    """A backbone that puts its prefix in front of the keys and values of every row; made of another one by `Prefix`."""

    def sequence(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a position (B, T, D) of the text alone.

        Args:
            inputs: What the architecture takes, without the prefix.
            mask_BT: True where an input position is real.
        """
        with _forgetting():
            return super().sequence(inputs, mask_BT)


class Prefix(Transform):
    """A learnt prefix of keys and values in every layer, kept as a PEFT folder."""

    folder = "adapter"
    foldable = False

    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Put a prefix in front of the keys and values of every layer.

        Args:
            net: The network.
            options: `regraft.tuning.prefix.PrefixOptions`.
            batches: Not looked at.
            seed: Draws the tokens whose keys and values the prefix begins as.

        Raises:
            OptionsError: The pooling reads all layers, or there is no room for a prefix and the longest text.
        """
        check_place(net.backbone, options.tokens, "prefix")
        plan = PrefixPlan(tokens=options.tokens)
        self.install(net, to_json(plan))
        _begin(net, torch.Generator().manual_seed((seed + _STREAM) % 2**63))
        return dict(to_json(plan))

    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Make the backbone one with a prefix; the prefix is zero."""
        wanted, backbone = _read(plan), net.backbone
        if type(backbone) is not Backbone or not backbone.architecture.keys_values or _odd(backbone):
            what, expected = "the network has no place for a prefix", "layers whose keys and values come from linear layers"
            raise ArtifactError(Problem(what=what, got=type(backbone).__name__, expected=expected, fix=_BROKEN))
        turn, together = _rotation(backbone.body, wanted.tokens), _together(backbone)
        for place, layer in enumerate(_layers(backbone).values()):
            turned = bool(turn) and place % 2 == 0
            adapting(layer, "Prefixed", _behind if together else _turned if turned else _prefixed, (_PREFIX,))
            width = sizes(layer)[1] * 2 // 3 if together else sizes(layer)[1]
            layer.register_parameter(_PREFIX, nn.Parameter(layer.weight.new_zeros((wanted.tokens, width))))
            for name, values_PE in zip((_COS, _SIN), turn if turned else (), strict=False):
                layer.register_buffer(name, values_PE, persistent=False)
            setattr(layer, BESIDE, (_COS, _SIN) if turned else ())
        for table in token_tables(backbone).values():
            adapting(table, "Prefixed", _looked_up, ())
        backbone.__class__ = PrefixedBackbone
        backbone.__dict__["prompt_tokens"] = wanted.tokens

    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write the prefix as PEFT does, for the body in the artifact's own folder of the hub."""
        config, layers = net.backbone.body.config, list(_layers(net.backbone).values())
        width, numbers = (
            sizes(layers[0])[1] // (3 if _together(net.backbone) else 1),
            sum(layer.prefix.shape[1] for layer in layers),
        )
        settings: dict[str, JSON] = {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": _read(plan).tokens,
            "token_dim": width,
            "num_transformer_submodules": 1,
            "num_attention_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            "num_layers": numbers // (2 * width),
            "encoder_hidden_size": width,
            "prefix_projection": False,
        }
        more: dict[str, JSON] = {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": None}
        made = adapter_config(settings, (), more)
        made.pop("target_modules")
        write_adapter(folder, made, _tensors(net), prefix="")

    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read the prefix."""
        expected, found, layers = _tensors(net), read_adapter(folder), list(_layers(net.backbone).values())
        check_tensors(expected, found, folder / ADAPTER_WEIGHTS)
        with torch.no_grad():
            for layer, part_PO in zip(layers, found[_KEPT].chunk(len(layers), dim=1), strict=True):
                layer.prefix.copy_(part_PO)

    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Refuse.

        Raises:
            UsageError: Always: no weights compute what keys and values of their own do.
        """
        what = "a prefix cannot be merged: it stands beside the weights, as keys and values in front of every text"
        fix = "use the artifact as it is, or fit adapters that can be merged: --tuning lora"
        raise UsageError(Problem(what=what, got="an artifact fitted with a prefix", fix=fix))

    def original(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return the backbone without its prefix."""
        backbone: Any = net.backbone
        edited = {**_layers(backbone), **token_tables(backbone)}
        made = view(backbone, {path: plain_layer(module, {}) for path, module in edited.items()})
        made.__class__ = Backbone
        made.__dict__.pop("prompt_tokens")
        return {"backbone": made}


def _layers(backbone: Any) -> dict[str, Any]:
    """Return what gives keys and values, by path in the backbone: in each layer first the keys, or one for both."""
    paths = [f"{path}.{end}" for path in backbone.blocks.layers for end in backbone.architecture.keys_values]
    return {path: backbone.get_submodule(path) for path in paths}


def _together(backbone: Any) -> bool:
    """Return whether one linear layer gives queries, keys and values, a third of its outputs each, in this order."""
    return len(backbone.architecture.keys_values) == 1


def _odd(backbone: Any) -> bool:
    table = backbone.body.get_input_embeddings()
    edited = any(hasattr(module, ADDED) for module in (table, *_layers(backbone).values()))
    return edited or not all(map(is_linear, _layers(backbone).values()))


def _rotation(body: Any, tokens: int) -> tuple[torch.Tensor, ...]:
    """Return cosine and sine (P, E) by which keys are turned at the first positions, for turning back; nothing without."""
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None:
        return ()
    weight = body.get_input_embeddings().weight
    with torch.no_grad():
        cos, sin = rotary(weight.detach()[:1].unsqueeze(0).float(), torch.arange(tokens, device=weight.device)[None])
    squared = float(getattr(rotary, "attention_scaling", 1.0)) ** 2  # stands in both
    return cos[0] / squared, sin[0] / squared


def _begin(net: Headed, generator: torch.Generator) -> None:
    """Write into the prefix the keys and values that tokens drawn from the vocabulary have as a text of their own."""
    backbone: Any = net.backbone
    table, device, tokens = backbone.body.get_input_embeddings(), net.device, backbone.prompt_tokens
    drawn_1P = torch.randint(table.num_embeddings, (1, tokens), generator=generator).to(device)
    inputs = {name: torch.zeros_like(drawn_1P) for name in backbone.architecture.inputs} | {"input_ids": drawn_1P}
    seen: dict[int, torch.Tensor] = {}
    layers = list(_layers(backbone).values())
    handles = [
        layer.register_forward_hook(lambda module, _given, out: seen.update({id(module): out.detach()[0]})) for layer in layers
    ]
    try:
        with without_gradients(net):
            run_padded(backbone.body, backbone.architecture, inputs, torch.ones_like(drawn_1P, dtype=torch.bool))
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for layer in layers:
            found_PO = seen[id(layer)][:, -layer.prefix.shape[1] :]
            layer.prefix.copy_(_ahead(layer, found_PO) if _COS in layer._buffers else found_PO)


def _halves(layer: Any, values_PO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same numbers head by head (P, heads, E), and with the halves of each head exchanged, one of them negative."""
    heads = values_PO.view(len(values_PO), -1, layer.prefix_cos.shape[-1])
    first, second = heads.chunk(2, dim=-1)
    return heads, torch.cat([-second, first], dim=-1)


def _ahead(layer: Any, keys_PO: torch.Tensor) -> torch.Tensor:
    """Return keys turned as the family turns them, the inverse of `_back`."""
    heads, turned = _halves(layer, keys_PO)
    cos, sin = layer.prefix_cos.unsqueeze(1), layer.prefix_sin.unsqueeze(1)
    made: torch.Tensor = (heads * cos + turned * sin) / (cos.square() + sin.square())
    return made.reshape(keys_PO.shape)


def _back(layer: Any, keys_PO: torch.Tensor) -> torch.Tensor:
    """Return keys that the family turns into these."""
    heads, turned = _halves(layer, keys_PO)
    made: torch.Tensor = heads * layer.prefix_cos.unsqueeze(1) - turned * layer.prefix_sin.unsqueeze(1)
    return made.reshape(keys_PO.shape)


@contextmanager
def _forgetting() -> Iterator[None]:
    token = _PLACES.set(None)
    try:
        yield
    finally:
        _PLACES.reset(token)


def _looked_up(cls: Any, table: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the vectors of tokens, of numbers behind the last token any; and remember which those are, for the layers."""
    _PLACES.set(ids - table.num_embeddings)
    found: torch.Tensor = cls.forward(table, ids.masked_fill(ids >= table.num_embeddings, 0))
    return found


def _prefixed(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    return _instead(cls.forward(layer, x), layer.prefix)


def _behind(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return queries as they are, and keys and values behind them, with those of the prefix."""
    out: torch.Tensor = cls.forward(layer, x)
    width = layer.prefix.shape[1]
    return torch.cat([out[..., :-width], _instead(out[..., -width:], layer.prefix)], dim=-1)


def _turned(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    return _instead(cls.forward(layer, x), _back(layer, layer.prefix))


def _instead(out: torch.Tensor, prefix_PO: torch.Tensor) -> torch.Tensor:
    places = _PLACES.get()
    if places is None:
        return out
    found = F.embedding(places.clamp(min=0), prefix_PO.to(out.dtype))
    return torch.where((places >= 0).unsqueeze(-1), found, out)


def _read(plan: Mapping[str, JSON]) -> PrefixPlan:
    made = made_exactly(PrefixPlan, dict(plan))
    if not isinstance(made, PrefixPlan) or made is UNFIT:
        raise ArtifactError(Problem(what="the plan of the prefix cannot be read", got=str(dict(plan))[:200], fix=_BROKEN))
    return made


def _tensors(net: Headed) -> dict[str, torch.Tensor]:
    """Return the prefix as PEFT keeps it (P, 2 L O)."""
    return {_KEPT: torch.cat([layer.prefix.detach().cpu() for layer in _layers(net.backbone).values()], dim=1)}


__all__ = ["Prefix", "PrefixPlan", "PrefixedBackbone"]
