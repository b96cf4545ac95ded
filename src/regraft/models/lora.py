"""Low-rank adapters: a linear layer y = W x + b becomes y = W x + b + s B A x, and only A and B learn.

Hu et al. 2021, arXiv:2106.09685, equation 3; s = alpha / r, or alpha / sqrt(r) as in Kalajdzievski 2023, arXiv:2312.03732,
theorem 3.2 (rslora). B starts at zero, so that the network answers as it did; A is uniform within 1 / sqrt(inputs), as PEFT
draws it (the paper says Gaussian).

A layer stays the module that it was: its own weights keep their names, and whoever calls it (padded, packed, above a cut) calls
the adapters with it. The product with B is added in place of a sum of its own: one pass over the outputs instead of three.

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from regraft.errors import ArtifactError, OptionsError, Problem, did_you_mean
from regraft.models.blocks import is_linear
from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed, check_tensors
from regraft.models.peft_folder import ADAPTER_WEIGHTS, adapter_config, read_adapter, write_adapter
from regraft.models.transform import ADDED, Transform
from regraft.models.view import with_children
from regraft.options import JSON, to_json
from regraft.typed import UNFIT, made_exactly, record
from regraft.types import Batch

_STREAM = 0xA0761D6478BD642F  # the head and the pooling are drawn from the same seed and must not repeat these numbers
_A, _B, _DROPOUT = "lora_A", "lora_B", "lora_dropout"
_BODY = "backbone.body."


@record
class LoraPlan:
    """Which layers are adapted, and how.

    Args:
        rank: R.
        alpha: Numerator of the scale.
        rslora: Whether the scale is alpha / sqrt(R) instead of alpha / R.
        dropout: Share of what enters A that is dropped in training.
        layers: Paths in the hub's model, in the order in which they stand there.
    """

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    layers: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @classmethod
    def of(cls, plan: Mapping[str, JSON]) -> Self:
        """Read a plan.

        Raises:
            ArtifactError: It is something else.
        """
        made = made_exactly(cls, dict(plan))
        if made is UNFIT or cast(Self, made).rank < 1:
            fix = "restore the artifact from its source, or fit it again"
            raise ArtifactError(Problem(what="the plan of the adapters cannot be read", got=str(dict(plan))[:200], fix=fix))
        return cast(Self, made)


class Lora(Transform):
    """Low-rank adapters beside linear layers, kept as a PEFT folder."""

    folder = "adapter"

    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Put adapters beside the linear layers that were asked for; the network answers as before.

        Args:
            net: The network.
            options: `regraft.tuning.lora.LoraOptions`.
            batches: One goes through the network, to see which layers are called.
            seed: Draws A.

        Raises:
            OptionsError: A layer that was named is not there, or there are not so many layers.
        """
        chosen = _chosen(net, linear_layers(net, batches), options.targets, options.layers)
        plan = LoraPlan(rank=options.rank, alpha=options.alpha, rslora=options.rslora, dropout=options.dropout, layers=chosen)
        self.install(net, to_json(plan))
        generator = torch.Generator().manual_seed((seed + _STREAM) % 2**63)
        with torch.no_grad():
            for _, layer in _layers(net, plan):
                bound = 1.0 / math.sqrt(_sizes(layer)[0])
                drawn = torch.empty(layer.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
                layer.lora_A.weight.copy_(drawn)
        return dict(to_json(plan))

    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Make the layers of a plan adapted ones; A and B are zero."""
        wanted = LoraPlan.of(plan)
        modules = dict(net.backbone.body.named_modules(remove_duplicate=False))
        odd = [path for path in wanted.layers if not is_linear(modules.get(path)) or hasattr(modules[path], ADDED)]
        if odd:
            what, fix = "the network has no such layers to adapt", "restore the artifact from its source, or fit it again"
            raise ArtifactError(Problem(what=what, got=", ".join(odd[:5]), expected="linear layers without adapters", fix=fix))
        for path in wanted.layers:
            _adapt(modules[path], wanted)

    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write the adapters as PEFT does, for the body in the artifact's own folder of the hub."""
        wanted = LoraPlan.of(plan)
        more = {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": None, "modules_to_save": None}
        write_adapter(
            folder, adapter_config(plan, wanted.layers, transposed=transposed(net, plan), more=more), _tensors(net, wanted)
        )

    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read the adapters."""
        expected, found = _tensors(net, LoraPlan.of(plan)), read_adapter(folder)
        check_tensors(expected, found, folder / ADAPTER_WEIGHTS)
        net.load_state_dict({f"{_BODY}{name}": tensor for name, tensor in found.items()}, strict=False)

    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return plain layers with W + s B A for their weights, added up in float64."""
        wanted = LoraPlan.of(plan)
        made = {id(layer): _plain(layer, wanted.scale) for _, layer in _layers(net, wanted)}
        everywhere = net.named_modules(remove_duplicate=False)  # one layer may stand at several places
        return {path: made[id(module)] for path, module in everywhere if id(module) in made}


def transposed(net: Headed, plan: Mapping[str, JSON]) -> bool:
    """Return whether the adapted layers keep their weights as (I, O): GPT-2's do."""
    return all(isinstance(layer, Conv1D) for _, layer in _layers(net, LoraPlan.of(plan)))


def adapter_layers(plan: Mapping[str, JSON]) -> tuple[str, ...]:
    """Return the paths of the adapted layers in the hub's model."""
    return LoraPlan.of(plan).layers


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


def _chosen(net: Headed, there: Sequence[str], targets: Sequence[str], layers: int | None) -> tuple[str, ...]:
    """Return those of the linear layers that were asked for."""
    blocks = net.backbone.blocks
    if layers is not None and layers > len(blocks.layers):
        what = "the base does not have so many layers"
        fix = f"set tuning.layers to {len(blocks.layers)} or less, or leave it out to adapt all"
        expected = f"at most {len(blocks.layers)}"
        raise OptionsError(Problem(what=what, where="tuning.layers", got=str(layers), expected=expected, fix=fix))
    lowest = 0 if layers is None else len(blocks.layers) - layers
    ends = sorted({_end(path, blocks.layers) for path in there})
    unknown = [name for name in targets if not any(_ends_with(path, name) for path in there)]
    if unknown:
        raise OptionsError(
            [
                Problem(
                    what=f"the layers of the base have no linear layer '{name}'",
                    where="tuning.targets",
                    got=name,
                    expected=f"one of {', '.join(ends)}",
                    fix=did_you_mean(name, [*ends, *{end.rpartition(".")[2] for end in ends}]),
                )
                for name in unknown
            ]
        )
    wanted = [path for path in there if blocks.layer_of(f"body.{path}") >= lowest]
    chosen = tuple(path for path in wanted if not targets or any(_ends_with(path, name) for name in targets))
    if not chosen:
        what = "none of the linear layers that were named is in the layers that shall have adapters"
        got, fix = (
            f"{', '.join(targets) or 'all'} in the last {layers}",
            "leave out tuning.layers, or name other tuning.targets",
        )
        raise OptionsError(Problem(what=what, where="tuning.targets", got=got, expected=", ".join(ends), fix=fix))
    return chosen


def _end(path: str, layers: Sequence[str]) -> str:
    """Return the path of a linear layer inside its layer, the number of the layer left out."""
    inside = next(layer.removeprefix("body.") for layer in layers if path.startswith(f"{layer.removeprefix('body.')}."))
    return path.removeprefix(f"{inside}.")


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _sizes(layer: Any) -> tuple[int, int]:
    """Return inputs and outputs of a layer."""
    first, second = layer.weight.shape
    return (int(first), int(second)) if isinstance(layer, Conv1D) else (int(second), int(first))


def _adapt(layer: Any, plan: LoraPlan) -> None:
    """Make a layer an adapted one, in place: whatever holds it holds the adapted one."""
    inputs, outputs = _sizes(layer)
    cls: Any = type(layer)
    layer.__class__ = _adapting(cls)
    shapes = {_A: (plan.rank, inputs), _B: (outputs, plan.rank)}
    for name, (rows, columns) in shapes.items():
        part = nn.Linear(columns, rows, bias=False, device="meta", dtype=layer.weight.dtype).to_empty(
            device=layer.weight.device
        )
        nn.init.zeros_(part.weight)
        setattr(layer, name, part.train(layer.training))
    setattr(layer, _DROPOUT, nn.Dropout(plan.dropout).train(layer.training))
    layer.lora_scale = plan.scale


@functools.cache
def _adapting(cls: type[nn.Module]) -> Any:
    """Return the class of a layer with adapters: still a layer of its own class."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = cls.forward(self, x)
        inner = F.linear(self.lora_dropout(x), self.lora_A.weight)
        shape, rank = out.shape, inner.shape[-1]
        added = torch.addmm(out.reshape(-1, shape[-1]), inner.reshape(-1, rank), self.lora_B.weight.t(), alpha=self.lora_scale)
        return added.view(shape)

    names = (f"{_A}.weight", f"{_B}.weight")
    return type(f"Lora{cls.__name__}", (cls,), {"forward": forward, ADDED: names, "without_adapters": cls})


def _plain(layer: Any, scale: float) -> nn.Module:
    """Return a layer without adapters that computes the same."""
    kept = {name: child for name, child in layer._modules.items() if name not in {_A, _B, _DROPOUT}}
    twin: nn.Module = with_children(layer, kept)
    twin.__class__ = layer.without_adapters
    twin.__dict__.pop("lora_scale")
    with torch.no_grad():
        inner, outer = layer.lora_A.weight, layer.lora_B.weight
        if outer.any():  # else the very same tensor, bit for bit
            change = scale * (outer.double() @ inner.double())
            whole = layer.weight.double() + (change.t() if isinstance(layer, Conv1D) else change)
            twin.__dict__["_parameters"]["weight"] = nn.Parameter(whole.to(layer.weight.dtype), layer.weight.requires_grad)
    return twin


def _layers(net: Headed, plan: LoraPlan) -> list[tuple[str, Any]]:
    modules = dict(net.backbone.body.named_modules(remove_duplicate=False))
    return [(path, modules[path]) for path in plan.layers]


def _tensors(net: Headed, plan: LoraPlan) -> dict[str, torch.Tensor]:
    return {
        f"{path}.{name}.weight": getattr(layer, name).weight.detach().cpu()
        for path, layer in _layers(net, plan)
        for name in (_A, _B)
    }
