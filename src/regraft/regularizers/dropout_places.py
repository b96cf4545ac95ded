"""Where a backbone drops numbers: modules for dropout, and rates that modules keep as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from regraft.models.dropout import FastDropout
from regraft.models.net import Headed
from regraft.models.view import view, with_children

EMBEDDINGS, ATTENTION, LAYERS = "embeddings", "attention", "layers"
# What the hub's attention modules call the map of their queries, and their rates where these are plain numbers.
_QUERIES = ("query", "q_proj", "q_lin", "q", "qkv", "Wqkv", "query_proj", "query_key_value", "c_attn", "in_proj", "attn_q")
_OF_ATTENTION = ("attention_dropout", "dropout", "dropout_prob", "attention_probs_dropout_prob", "attn_dropout")
_OF_LAYERS = ("dropout", "activation_dropout", "hidden_dropout", "resid_pdrop")
_BEHIND = ("resid", "output", "out_", "proj")  # in the name of a dropout of an attention module that is not that of its weights


@dataclass(frozen=True)
class Place:
    """One rate.

    Args:
        path: Of the module, in the network.
        attribute: Of the rate where the module keeps it as a plain number; empty where the module is a dropout itself.
    """

    path: str
    attribute: str = ""


def places(net: Headed) -> dict[str, list[Place]]:
    """Return the rates of a network by part, the embeddings' first.

    Args:
        net: The network.
    """
    backbone: Any = net.backbone
    found: dict[str, list[Place]] = {EMBEDDINGS: [], ATTENTION: [], LAYERS: []}
    first = tuple(f"backbone.{path}" for path in backbone.blocks.embeddings)
    layers = tuple(f"backbone.{path}." for path in backbone.blocks.layers)
    modules = dict(net.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        inside = bool(layers) and f"{path}.".startswith(layers)
        if type(module) in {nn.Dropout, FastDropout}:
            owner, _, name = path.rpartition(".")
            if any(path == one or path.startswith(f"{one}.") for one in first):
                found[EMBEDDINGS].append(Place(path))
            elif inside:
                of_weights = _attends(modules[owner]) and not any(part in name for part in _BEHIND)
                found[ATTENTION if of_weights else LAYERS].append(Place(path))
        elif inside:
            names = _OF_ATTENTION if _attends(module) else _OF_LAYERS
            own = [name for name in names if isinstance(vars(module).get(name), float)]
            found[ATTENTION if _attends(module) else LAYERS] += [Place(path, name) for name in own]
    return found


def with_rates(net: Headed, rates: Mapping[str, float]) -> Headed:
    """Return a view of a network with other rates; it shares all weights under the same names.

    Args:
        net: The network; not changed.
        rates: Part -> rate.
    """
    changed: dict[str, dict[str, float]] = {}
    modules: dict[str, nn.Module] = {}
    for part, there in places(net).items():
        for place in there:
            if part not in rates:
                continue
            if place.attribute:
                changed.setdefault(place.path, {})[place.attribute] = rates[part]
            else:
                old = net.get_submodule(place.path)
                modules[place.path] = FastDropout(rates[part]).train(old.training)
    made = net
    for path, values in changed.items():  # one after the other: a module may lie inside another
        owner = made.get_submodule(path)
        twin = with_children(owner, owner._modules)
        twin.__dict__.update(values)
        made = view(made, {path: twin})
    return view(made, modules) if modules else made


def _attends(module: nn.Module) -> bool:
    return any(isinstance(getattr(module, name, None), nn.Module) for name in _QUERIES)
