"""Optimisers, and which weights get which rate and decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.models.transform import added_names
from regraft.options import Field, options
from regraft.training import OPTIMIZERS
from regraft.tuning.tuning import Learnt

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.models.net import Headed
    from regraft.training.options import TrainOptions

_SCRATCH = 1e-3
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerFactory(ABC):
    """Make an optimiser.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    rate_factor: ClassVar[float] = 1.0
    """What default learning rates are multiplied by for it: they are those that suit AdamW."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def check(self, net: Headed, trainable: Set[str]) -> None:  # noqa: B027 - most take any network
        """Refuse, before anything is computed, weights or a machine that it is not for.

        Args:
            net: The whole network, on its device.
            trainable: Names of its weights that learn.

        Raises:
            OptionsError: It has nothing to do here.
            MissingExtraError: What it needs is not installed.
        """

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser of these groups.

        Args:
            groups: Each with "params", its peak rate "lr", and "weight_decay", as torch optimisers take them; "hidden" says of
                each weight whether it lies inside a layer of the backbone.
        """

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int | None:
        """Return the bytes that it keeps for a weight; None where a step over a small copy may tell, in proportion.

        Args:
            shape: Of the weight.
            item_bytes: Of one of its numbers.
        """
        return None


@options
class AdamWOptions:
    """Moments of AdamW."""

    beta1: Beta = 0.9
    """Decay of the mean of the gradients."""

    beta2: Beta = 0.999
    """Decay of the mean of the squared gradients."""

    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """Added to the root of the second moment."""


class AdamW(OptimizerFactory):
    """Adam with bias correction and decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).

    Args:
        options: An instance of `Options`.
    """

    Options = AdamWOptions

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's AdamW in its fused form, one pass over each weight instead of a dozen."""
        from regraft.training.fused import FusedAdamW

        return FusedAdamW(groups, betas=(self.options.beta1, self.options.beta2), eps=self.options.epsilon)


def gradient_norm(gradients: list[torch.Tensor]) -> float:
    """Return the norm of all gradients together, which lie on one device; each is read once."""
    import torch

    norms = torch._foreach_norm(gradients)
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def scale_gradients(optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor], factor: float) -> None:
    """Have the next step of an optimiser see its gradients multiplied by a factor.

    Torch's fused optimisers divide by a scale inside their kernel, for their gradient scaler: that spares a pass over all
    gradients, and writes the quotients back. Any other optimiser gets them multiplied here. So after the step every gradient is
    the one that the optimiser saw. To be called before every step.

    Args:
        optimizer: Of any kind.
        gradients: All gradients that it will see.
        factor: A finite number above 0.
    """
    import torch

    # The scale is a float32 number: gradients of double precision keep theirs by the ordinary way.
    inside = getattr(optimizer, "_step_supports_amp_scaling", False) and all(g.dtype != torch.float64 for g in gradients)
    scaled: Any = optimizer
    if inside and factor == 1.0:
        scaled.grad_scale = scaled.found_inf = None  # else the kernel would write every gradient back for nothing
    elif inside:
        if getattr(scaled, "grad_scale", None) is None:
            scaled.grad_scale, scaled.found_inf = torch.ones((), device=gradients[0].device), None
        scaled.grad_scale.fill_(1.0 / factor)
    elif factor != 1.0:
        torch._foreach_mul_(gradients, factor)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rates.

    Args:
        backbone: Of weights that come with the backbone.
        new: Of the head and of other weights that the fit adds.
        adapters: Of weights that a transform adds beside those of the backbone.
    """

    backbone: float
    new: float
    adapters: float


def peak_rates(options: TrainOptions, *, pretrained: bool, only_new: bool) -> Rates:
    """Return the peak rates: those of the options, or by default what suits the weights that learn.

    Args:
        options: May give either rate.
        pretrained: Whether the backbone has been trained before.
        only_new: Whether the backbone is frozen; a head alone is a convex problem and bears a larger rate.
    """
    factor = _rate_factor(options)
    backbone = options.learning_rate or factor * (1e-4 if pretrained else _SCRATCH)
    new = options.head_learning_rate or factor * (1e-2 if only_new else 1e-3)
    # Adapters bear about ten times the rate of the weights they stand beside (Biderman et al. 2024, arXiv:2405.09673).
    return Rates(backbone=backbone, new=new, adapters=options.learning_rate or factor * 1e-3)


def _rate_factor(options: TrainOptions) -> float:
    return OPTIMIZERS.get(options.optimizer.name).rate_factor


def from_scratch(options: TrainOptions) -> TrainOptions:
    """Return options with the default rate of a backbone that nobody trained before."""
    return options if options.learning_rate else replace(options, learning_rate=_SCRATCH * _rate_factor(options))


def hidden_weights(net: nn.Module) -> set[str]:
    """Return the names of the weights inside the layers of the backbone, what transforms added left out."""
    blocks = getattr(getattr(net, "backbone", None), "blocks", None)
    inside = tuple(f"backbone.{path}." for path in blocks.layers) if blocks else ()
    return {name for name, _ in net.named_parameters() if inside and name.startswith(inside)} - added_names(net)


def parameter_groups(
    net: nn.Module, trainable: Set[str], new: Set[str], rates: Rates, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort the weights that learn into groups of one rate: of the backbone, adapters or new, with decay or without.

    Norms and biases do not decay: pulling a scale to zero or a bias anywhere is no prior anyone holds. Nor do embeddings: a row
    that no batch touches must stay as it was pretrained instead of fading, and then only the rows in use need to be trained
    (`regraft.training.compact`).

    Args:
        net: The network.
        trainable: Names of the parameters that learn; `Learnt` also says by what rates are multiplied.
        new: Names of the parameters that the fit added.
        rates: Peak rates of the backbone and of new weights.
        weight_decay: Decoupled decay of the weights that decay.

    Returns:
        Non-empty groups, the backbone's first and those of high rates before others, as torch optimisers take them; each also
        says its "peak" rate.
    """
    plain, adapters = _undecayed(net), added_names(net)
    sorted_names: dict[tuple[int, float, bool], list[nn.Parameter]] = {}
    inside = hidden_weights(net)
    hidden = {parameter for name, parameter in net.named_parameters() if name in inside}
    for name, parameter in net.named_parameters():
        if name in trainable:
            part = 1 if name in adapters else 2 if name in new else 0
            sorted_names.setdefault((part, -Learnt.share(trainable, name), name in plain), []).append(parameter)
    groups = []
    for (part, lower, is_plain), parameters in sorted(sorted_names.items(), key=lambda item: item[0]):
        rate = (rates.backbone, rates.adapters, rates.new)[part] * -lower
        decay = 0.0 if is_plain else weight_decay
        marks = [parameter in hidden for parameter in parameters]
        groups.append({"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay, "hidden": marks})
    return groups


def _undecayed(net: nn.Module) -> set[str]:
    from torch import nn

    names: set[str] = set()
    for path, module in net.named_modules():
        # The class name, because every architecture of the hub brings its own RMSNorm.
        is_norm = "norm" in type(module).__name__.lower() and not any(module.children())
        whole = is_norm or isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if whole or parameter.ndim < 2 or name.endswith("bias"):
                names.add(name)
    return names
