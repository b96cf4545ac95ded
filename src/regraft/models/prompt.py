"""A learnt prompt: vectors in front of every text that no tokens stand for; the body computes them with the text.

Lester et al. 2021, arXiv:2104.08691. The prompt begins as vectors of tokens drawn from the vocabulary (their section 3.2). Its
positions have numbers behind the last token, which the table of token vectors looks up in the prompt: so embeddings, packing
and padding treat them like any others. What the body gives for them is left out of the features.

Shapes: B rows, T positions, P positions of the prompt, D width of a token vector, V tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from regraft.errors import ArtifactError, OptionsError, Problem, UsageError
from regraft.models.adapters import adapting, plain_layer
from regraft.models.backbones import Backbone
from regraft.models.net import Headed, check_tensors
from regraft.models.peft_folder import ADAPTER_WEIGHTS, adapter_config, read_adapter, write_adapter
from regraft.models.transform import ADDED, Transform
from regraft.models.view import view
from regraft.options import JSON, Field, to_json
from regraft.typed import UNFIT, made_exactly, record
from regraft.types import Batch

_STREAM = 0xE7037ED1A0B428DB  # heads, poolings and adapters are drawn from the same seed and must not repeat these numbers
_PROMPT, _KEPT = "prompt", "prompt_embeddings"
_IDS, _TYPES = "input_ids", "token_type_ids"


@record
class PromptPlan:
    """How long the prompt is.

    Args:
        tokens: P.
    """

    tokens: Annotated[int, Field(ge=1)]


class PromptedBackbone(Backbone):
    """A backbone that puts its prompt in front of every row; made of another one by `Prompt`.

    Attributes:
        prompt_tokens: P.
    """

    prompt_tokens: int

    def sequence(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a position (B, T, D) of the text alone.

        Args:
            inputs: What the architecture takes, without the prompt.
            mask_BT: True where an input position is real.
        """
        count, rows, shapes = self.prompt_tokens, len(mask_BT), self.shapes
        ids_BT = inputs[_IDS]
        first = self.body.get_input_embeddings().num_embeddings
        virtual_P = torch.arange(first, first + count, device=ids_BT.device, dtype=ids_BT.dtype)
        longer = {**inputs, _IDS: torch.cat([virtual_P.expand(rows, -1), ids_BT], dim=1)}
        if _TYPES in inputs:
            longer[_TYPES] = torch.cat([inputs[_TYPES].new_zeros((rows, count)), inputs[_TYPES]], dim=1)
        mask = torch.cat([mask_BT.new_ones((rows, count)), mask_BT], dim=1)
        if shapes.length is None:
            return super().sequence(longer, mask)[:, count:]
        self.shapes = dataclasses.replace(shapes, length=shapes.length + count)
        try:
            return super().sequence(longer, mask)[:, count:]
        finally:
            self.shapes = shapes


class Prompt(Transform):
    """A learnt prompt in front of every text, kept as a PEFT folder."""

    folder = "adapter"
    foldable = False

    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Put a prompt in front of every text.

        Args:
            net: The network.
            options: `regraft.tuning.prompt.PromptOptions`.
            batches: Not looked at.
            seed: Draws the tokens whose vectors the prompt begins as.

        Raises:
            OptionsError: The pooling reads all layers, or there is no room for a prompt and the longest text.
        """
        backbone = net.backbone
        check_place(backbone, options.tokens, "prompt")
        plan = PromptPlan(tokens=options.tokens)
        self.install(net, to_json(plan))
        table = backbone.body.get_input_embeddings()
        drawn = torch.Generator().manual_seed((seed + _STREAM) % 2**63)
        with torch.no_grad():
            chosen_P = torch.randint(table.num_embeddings, (options.tokens,), generator=drawn)
            table.prompt.copy_(table.weight[chosen_P.to(table.weight.device)])
        return dict(to_json(plan))

    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Make the backbone one with a prompt; the prompt is zero."""
        wanted, backbone = _read(plan), net.backbone
        table = backbone.body.get_input_embeddings()
        if type(backbone) is not Backbone or not isinstance(table, nn.Embedding) or hasattr(table, ADDED):
            what, fix = "the network has no place for a prompt", "restore the artifact from its source, or fit it again"
            raise ArtifactError(Problem(what=what, got=type(table).__name__, expected="a table of token vectors", fix=fix))
        prompt_PD = nn.Parameter(table.weight.new_zeros((wanted.tokens, table.embedding_dim)))
        for each in token_tables(backbone).values():
            adapting(each, "Prompted", _looked_up, (_PROMPT,))
            each.register_parameter(_PROMPT, prompt_PD)
        backbone.__class__ = PromptedBackbone
        backbone.__dict__["prompt_tokens"] = wanted.tokens

    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write the prompt as PEFT does, for the body in the artifact's own folder of the hub."""
        body = net.backbone.body
        settings: dict[str, JSON] = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": _read(plan).tokens,
            "token_dim": body.get_input_embeddings().embedding_dim,
            "num_transformer_submodules": 1,
            "num_attention_heads": getattr(body.config, "num_attention_heads", 1),
            "num_layers": getattr(body.config, "num_hidden_layers", 1),
            "prompt_tuning_init": "RANDOM",
        }
        config = adapter_config(settings, (), {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": None})
        config.pop("target_modules")
        write_adapter(folder, config, _tensors(net), prefix="")

    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read the prompt."""
        expected, found = _tensors(net), read_adapter(folder)
        check_tensors(expected, found, folder / ADAPTER_WEIGHTS)
        with torch.no_grad():
            net.backbone.body.get_input_embeddings().prompt.copy_(found[_KEPT])

    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Refuse.

        Raises:
            UsageError: Always: no weights compute what positions of their own do.
        """
        what = "a prompt cannot be merged: it stands beside the weights, as positions in front of every text"
        fix = "use the artifact as it is, or fit adapters that can be merged: --tuning lora"
        raise UsageError(Problem(what=what, got="an artifact fitted with a prompt", fix=fix))

    def original(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return the backbone without its prompt."""
        backbone: Any = net.backbone
        made = view(backbone, {path: plain_layer(table, {}) for path, table in token_tables(backbone).items()})
        made.__class__ = Backbone
        made.__dict__.pop("prompt_tokens")
        return {"backbone": made}


def token_tables(backbone: Any) -> dict[str, Any]:
    """Return the tables of token vectors by path: one, or two that share their weights (T5), of which one is called."""
    weight = backbone.body.get_input_embeddings().weight
    everywhere = backbone.named_modules(remove_duplicate=False)
    return {path: module for path, module in everywhere if module._parameters.get("weight") is weight}


def _read(plan: Mapping[str, JSON]) -> PromptPlan:
    made = made_exactly(PromptPlan, dict(plan))
    if not isinstance(made, PromptPlan) or made is UNFIT:
        what, fix = "the plan of the prompt cannot be read", "restore the artifact from its source, or fit it again"
        raise ArtifactError(Problem(what=what, got=str(dict(plan))[:200], fix=fix))
    return made


def _tensors(net: Headed) -> dict[str, torch.Tensor]:
    return {_KEPT: net.backbone.body.get_input_embeddings().prompt.detach().cpu()}


def check_place(backbone: Backbone, tokens: int, kind: str) -> None:
    """Refuse a base that has no positions to give away.

    Args:
        backbone: Of the base.
        tokens: How many positions stand in front of every text.
        kind: What stands there, as people call it.

    Raises:
        OptionsError: The pooling reads all layers, or there is no room for so many and the longest text.
    """
    problems = [*_pooling_problems(backbone, kind), *_room_problems(backbone, tokens, kind)]
    if problems:
        raise OptionsError(problems)


def _pooling_problems(backbone: Backbone, kind: str) -> list[Problem]:
    if not backbone.pooling.over_layers:
        return []
    what = f"the pooling '{backbone.pooling_name}' takes the mean over all positions of every layer, a {kind}'s included"
    fix = "choose another pooling (--set base.pooling=mean) or another tuning"
    return [Problem(what=what, where="tuning", got=f"a {kind}", fix=fix)]


def _room_problems(backbone: Backbone, tokens: int, kind: str) -> list[Problem]:
    limit = getattr(backbone.body.config, "max_position_embeddings", None)
    if limit is None or (longest := backbone.shapes.length) is None:
        return []
    room = int(limit) - backbone.architecture.position_offset
    if longest + tokens <= room:
        return []
    what = f"the base has no room for a {kind} and the longest text"
    fix = f"set modality.max_length to {max(1, room - tokens)} or less, or make the {kind} shorter"
    got, expected = f"{tokens} + {longest} positions", f"at most {room} together"
    return [Problem(what=what, where="tuning.tokens", got=got, expected=expected, fix=fix)]


def _looked_up(cls: Any, table: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the vectors of tokens, and of numbers behind the last token those of the prompt."""
    virtual = ids >= table.num_embeddings
    known: torch.Tensor = cls.forward(table, ids.masked_fill(virtual, 0))
    prompt = F.embedding((ids - table.num_embeddings).clamp(min=0), table.prompt)
    return torch.where(virtual.unsqueeze(-1), prompt, known)
