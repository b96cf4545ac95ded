"""What all adapters of linear layers share: which layers, how a layer becomes an adapted one, how they are kept.

A layer stays the module that it was: its own weights keep their names, and whoever calls it (padded, packed, above a cut) calls
the adapter with it. A kind of adapter says what it adds to a layer, what the layer then computes, and what PEFT calls that.

Shapes: I inputs, O outputs of a layer.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from regraft.errors import ArtifactError, OptionsError, Problem, did_you_mean
from regraft.models.blocks import is_linear
from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed, check_tensors
from regraft.models.peft_folder import ADAPTER_WEIGHTS, adapter_config, read_adapter, write_adapter
from regraft.models.transform import ADDED, Transform
from regraft.models.view import with_children
from regraft.options import JSON, to_json
from regraft.typed import UNFIT, made_exactly
from regraft.types import Batch

PLAIN = "without_adapters"
"""Attribute of the class of an adapted layer: the class that it was of."""

WHOLE = "with_whole_weights"
"""Attribute of the class of a layer that keeps its weight in another form: the class that it was of."""

_BROKEN = "restore the artifact from its source, or fit it again"
Placed = Callable[[str], str]


class LayerAdapters(Transform):
    """Adapters of linear layers, kept as a PEFT folder."""

    folder = "adapter"
    Plan: ClassVar[type[Any]]
    """A record; its field `layers` holds the paths of the adapted layers in the hub's model, in their order there."""

    kept: ClassVar[tuple[str, ...]]
    """What PEFT calls the tensors of a layer, each the end of a path."""

    @abstractmethod
    def planned(self, net: Headed, options: Any, there: Sequence[str]) -> Any:
        """Return the plan for what was asked for.

        Args:
            net: The network.
            options: Of the tuning.
            there: Paths of the linear layers that could have adapters.

        Raises:
            OptionsError: A layer that was named is not there, or there are not so many layers.
        """

    @abstractmethod
    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Make a layer an adapted one, in place: whatever holds it holds the adapted one; what it adds is neutral."""

    def begin(self, layer: Any, path: str, plan: Any, generator: torch.Generator) -> None:
        """Give what was added to a layer the numbers that learning starts from; the layer goes on to compute what it did."""

    @abstractmethod
    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return PEFT's configuration of this kind of adapter, without what all kinds have.

        Args:
            net: The network.
            plan: Of it.
            placed: From the path of a layer in the hub's model to its path in the model that PEFT wraps.
        """

    @abstractmethod
    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return what PEFT would keep of a layer: the end of a path -> tensor."""

    @abstractmethod
    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write into a layer what `tensors_of` gave."""

    @abstractmethod
    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return the weights, by name, with which the plain layer computes the same; none where they are the layer's own."""

    def read(self, plan: Mapping[str, JSON]) -> Any:
        """Return a plan as a record.

        Raises:
            ArtifactError: It is something else.
        """
        made = made_exactly(self.Plan, dict(plan))
        if made is UNFIT:
            raise ArtifactError(Problem(what="the plan of the adapters cannot be read", got=str(dict(plan))[:200], fix=_BROKEN))
        return made

    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Put adapters on the linear layers that were asked for; the network answers as before.

        Args:
            net: The network.
            options: Of the tuning.
            batches: One goes through the network, to see which layers are called.
            seed: Draws what is drawn.

        Raises:
            OptionsError: A layer that was named is not there, or there are not so many layers.
        """
        plan = self.planned(net, options, linear_layers(net, batches))
        self.install(net, to_json(plan))
        generator = torch.Generator().manual_seed((seed + _STREAM) % 2**63)
        with torch.no_grad():
            for path, layer in adapted_layers(net, plan):
                self.begin(layer, path, plan, generator)
        return dict(to_json(plan))

    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Make the layers of a plan adapted ones, what they add being neutral."""
        wanted = self.read(plan)
        modules = dict(net.backbone.body.named_modules(remove_duplicate=False))
        odd = [path for path in wanted.layers if not is_linear(modules.get(path)) or hasattr(modules[path], PLAIN)]
        if odd:
            what, expected = "the network has no such layers to adapt", "linear layers without adapters"
            raise ArtifactError(Problem(what=what, got=", ".join(odd[:5]), expected=expected, fix=_BROKEN))
        for path in wanted.layers:
            self.adapt(modules[path], path, wanted)

    def config(self, net: Headed, plan: Mapping[str, JSON], more: Mapping[str, JSON], placed: Placed = str) -> dict[str, JSON]:
        """Return what PEFT's `save_pretrained` writes; a key that is left out has PEFT's default.

        Args:
            net: The network.
            plan: Of it.
            more: Keys that depend on the model: task_type, base_model_name_or_path, modules_to_save.
            placed: From the path of a layer in the hub's model to its path in the model that PEFT wraps.
        """
        wanted = self.read(plan)
        return adapter_config(self.settings(net, wanted, placed), [placed(path) for path in wanted.layers], more)

    def tensors(self, net: Headed, plan: Mapping[str, JSON], placed: Placed = str) -> dict[str, torch.Tensor]:
        """Return the tensors of PEFT's folder, by path in the model that PEFT wraps, on the CPU."""
        wanted = self.read(plan)
        return {
            f"{placed(path)}.{name}": tensor.detach().cpu()
            for path, layer in adapted_layers(net, wanted)
            for name, tensor in self.tensors_of(layer, path, wanted).items()
        }

    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write the adapters as PEFT does, for the body in the artifact's own folder of the hub."""
        more = {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": None, "modules_to_save": None}
        write_adapter(folder, self.config(net, plan, more), self.tensors(net, plan))

    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read the adapters."""
        wanted, expected, found = self.read(plan), self.tensors(net, plan), read_adapter(folder)
        check_tensors(expected, found, folder / ADAPTER_WEIGHTS)
        with torch.no_grad():
            for path, layer in adapted_layers(net, wanted):
                self.put(layer, path, wanted, {name: found[f"{path}.{name}"] for name in self.kept})

    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return plain layers that compute the same, their weights worked out in float64."""
        wanted = self.read(plan)
        with torch.no_grad():
            made = {
                id(layer): plain_layer(layer, self.folded(layer, path, wanted)) for path, layer in adapted_layers(net, wanted)
            }
        everywhere = net.named_modules(remove_duplicate=False)  # one layer may stand at several places
        return {path: made[id(module)] for path, module in everywhere if id(module) in made}


_STREAM = 0xA0761D6478BD642F  # the head and the pooling are drawn from the same seed and must not repeat these numbers


def adapted_layers(net: Headed, plan: Any) -> list[tuple[str, Any]]:
    """Return the layers of a plan with their paths in the hub's model."""
    modules = dict(net.backbone.body.named_modules(remove_duplicate=False))
    return [(path, modules[path]) for path in plan.layers]


def is_transposed(net: Headed, plan: Any) -> bool:
    """Return whether the adapted layers keep their weights as (I, O): GPT-2's do."""
    return all(isinstance(layer, Conv1D) for _, layer in adapted_layers(net, plan))


def sizes(layer: Any) -> tuple[int, int]:
    """Return inputs and outputs of a linear layer."""
    first, second = layer.weight.shape
    return (int(first), int(second)) if isinstance(layer, Conv1D) else (int(second), int(first))


def weight_of(layer: Any) -> torch.Tensor:
    """Return the weights of a linear layer as (O, I), whichever way round it keeps them; a view."""
    weight: torch.Tensor = layer.weight
    return weight.t() if isinstance(layer, Conv1D) else weight


def as_kept(layer: Any, weight_OI: torch.Tensor) -> torch.Tensor:
    """Return weights (O, I) the way round in which a layer keeps them, in its type."""
    turned = weight_OI.t() if isinstance(layer, Conv1D) else weight_OI
    return turned.to(layer.weight.dtype).contiguous()


def adapting(layer: Any, kind: str, forward: Callable[..., Any], added: tuple[str, ...]) -> None:
    """Make a layer one of a class that computes otherwise and says what was added; still a layer of its own class.

    Args:
        layer: Changed in place.
        kind: Put before the name of the class.
        forward: (class of the layer, layer, what it is given) -> what it gives; the same function for all layers of a kind.
        added: Names of its tensors that did not come with the base.
    """
    cls: Any = type(layer)
    layer.__class__ = _adapted_class(cls, kind, forward, added)


@functools.cache
def _adapted_class(cls: type[nn.Module], kind: str, compute: Callable[..., Any], added: tuple[str, ...]) -> Any:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = compute(cls, self, x)
        return out

    both = (*getattr(cls, ADDED, ()), *added)
    return type(f"{kind}{cls.__name__}", (cls,), {"forward": forward, ADDED: both, PLAIN: cls})


def plain_layer(layer: Any, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a layer of the class that it was of, without what was added, with some of its own weights replaced.

    Args:
        layer: An adapted layer; not changed, and shared but for what is replaced.
        weights: Name of a weight -> what stands in its place.
    """
    cls: Any = getattr(layer, PLAIN, type(layer))
    beneath: set[str] = set(getattr(cls, ADDED, ()))
    if beneath and "weight" in weights:  # the weight is whole again, and what stood for it goes
        cls, beneath = getattr(cls, WHOLE), set()
    ours = {name.partition(".")[0] for name in {*getattr(layer, ADDED)} - beneath} | set(vars(layer).get(BESIDE, ()))
    twin: nn.Module = with_children(layer, {name: child for name, child in layer._modules.items() if name not in ours})
    twin.__class__ = cls
    for table in ("_parameters", "_buffers"):
        twin.__dict__[table] = {name: value for name, value in twin.__dict__[table].items() if name not in ours}
    for name in (*ours, BESIDE):
        twin.__dict__.pop(name, None)
    for name, value in weights.items():
        own = layer._parameters.get(name)
        twin.__dict__["_parameters"][name] = nn.Parameter(value, own is None or own.requires_grad)
    return twin


BESIDE = "beside"
"""Attribute of an adapted layer: names of what it holds beside tensors (dropout, factors)."""


def linear_layers(net: Headed, batches: Iterable[Batch]) -> list[str]:
    """Return the paths, in the hub's model, of the linear layers of the blocks that are called when rows go through.

    A layer whose weights another module reads without calling it (torch's own multi-head attention does) cannot be adapted.

    Args:
        net: The network.
        batches: The first is run through it, in evaluation mode.
    """
    body, blocks = net.backbone.body, net.backbone.blocks
    inside = tuple(f"{path.removeprefix('body.')}." for path in blocks.layers)
    found = {path: module for path, module in body.named_modules() if path.startswith(inside) and is_linear(module)}
    called: set[int] = set()
    hooks = [module.register_forward_hook(lambda m, _i, _o: called.add(id(m))) for module in found.values()]
    try:
        if hooks:
            with without_gradients(net):
                net.features(*net.tensors(next(iter(batches))))
    finally:
        for hook in hooks:
            hook.remove()
    return [path for path, module in found.items() if id(module) in called]


def of_last_layers(net: Headed, there: Sequence[str], layers: int | None) -> list[str]:
    """Return those paths that lie in so many layers, counted from the last; all if no number is given.

    Raises:
        OptionsError: There are not so many layers.
    """
    blocks = net.backbone.blocks
    if layers is not None and layers > len(blocks.layers):
        what = "the base does not have so many layers"
        fix = f"set tuning.layers to {len(blocks.layers)} or less, or leave it out to adapt all"
        expected = f"at most {len(blocks.layers)}"
        raise OptionsError(Problem(what=what, where="tuning.layers", got=str(layers), expected=expected, fix=fix))
    lowest = 0 if layers is None else len(blocks.layers) - layers
    return [path for path in there if blocks.layer_of(f"body.{path}") >= lowest]


def named_layers(
    net: Headed, there: Sequence[str], targets: Sequence[str], layers: int | None, option: str = "tuning.targets"
) -> tuple[str, ...]:
    """Return those of the linear layers that were asked for, by the ends of their paths; all if none is named.

    Args:
        net: The network.
        there: Paths of the linear layers.
        targets: Ends of paths.
        layers: Layers of the base, counted from the last; all if not given.
        option: The option that holds the targets, for messages.

    Raises:
        OptionsError: A layer that was named is not there, or there are not so many layers.
    """
    wanted = of_last_layers(net, there, layers)
    ends = sorted({_end(path, net.backbone.blocks.layers) for path in there})
    unknown = [name for name in targets if not any(ends_with(path, name) for path in there)]
    if unknown:
        raise OptionsError(
            [
                Problem(
                    what=f"the layers of the base have no linear layer '{name}'",
                    where=option,
                    got=name,
                    expected=f"one of {', '.join(ends)}",
                    fix=did_you_mean(name, [*ends, *{end.rpartition(".")[2] for end in ends}]),
                )
                for name in unknown
            ]
        )
    chosen = tuple(path for path in wanted if not targets or any(ends_with(path, name) for name in targets))
    if not chosen:
        what = "none of the linear layers that were named is in the layers that shall have adapters"
        got = f"{', '.join(targets) or 'all'} in the last {layers}"
        fix = f"leave out tuning.layers, or name other {option}"
        raise OptionsError(Problem(what=what, where=option, got=got, expected=", ".join(ends), fix=fix))
    return chosen


def ends_with(path: str, name: str) -> bool:
    """Return whether a path ends with a name, or with several of them.

    Example:
        >>> ends_with("layer.0.output.dense", "output.dense"), ends_with("layer.0.mlp_dense", "dense")
        (True, False)
    """
    return path == name or path.endswith(f".{name}")


def _end(path: str, layers: Sequence[str]) -> str:
    """Return the path of a linear layer inside its layer, the number of the layer left out."""
    inside = next(layer.removeprefix("body.") for layer in layers if path.startswith(f"{layer.removeprefix('body.')}."))
    return path.removeprefix(f"{inside}.")
