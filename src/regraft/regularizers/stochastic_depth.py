"""Stochastic depth: layers are left out at random, the upper ones more often."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.regularizers.regularizer import Inner, Regularizer, Scene

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Loss
    from regraft.types import Batch


_WHERE = "train.regularize.stochastic-depth"
_FIX = "leave it out; dropout and r-drop may work with this network"


@options
class StochasticDepthOptions:
    """How often layers are left out."""

    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Chance that the uppermost layer is left out; that of the others falls to 0 in a straight line."""


class StochasticDepth(Regularizer):
    """Leave layers out at random while weights learn, upper ones more often; all of them answer.

    Layer l of L is left out with chance rate l / L, for a whole forward pass: Huang et al. 2016, arXiv:1603.09382, equations
    2 and 4, over blocks that give as many numbers as they take: layers of transformers, and the blocks of a stage, where
    those of a stage that makes maps smaller always run. What a layer adds is divided by its chance to run, in the place of
    the multiplication when the network answers (equation 5), so that the network that answers stays as it is. Of layers with
    a norm behind the addition (BERT) that is the LayerDrop of Fan, Grave and Joulin 2020, arXiv:1909.11556. Frozen layers
    always run, and above a frozen part that is computed once also the lowest. Draws are for each micro-batch.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]] = StochasticDepthOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._known: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()

    def check(self, scene: Scene) -> None:
        """Refuse a network of which no layer can be left out.

        Raises:
            OptionsError: No layer that learns gives what it takes, or the base reads several parts.
        """
        if scene.net.backbone.part_widths:
            got = "a base that reads several parts, each in its own way"
            what = "stochastic-depth leaves layers of one backbone out"
            raise OptionsError(Problem(what=what, where=_WHERE, got=got, fix=_FIX))
        inside = tuple(f"backbone.{path}." for path in _looked_for(scene.net))
        if not any(name.startswith(inside) for name in scene.trainable if inside):
            got = f"{len(inside)} such layers in the base, none of which learns" if inside else "no such layer in the base"
            raise OptionsError(_nothing(got))

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the network without the layers that are drawn."""
        import torch

        from regraft.regularizers.layers import with_layers

        blocks = self._blocks(net, batch)
        layers = len(net.backbone.blocks.layers)
        runs = {}
        for path, place in blocks.items():
            kept = 1.0 - self.options.rate * (place + 1) / layers
            runs[path] = _added(kept) if float(torch.rand(())) < kept else _left_out
        return inner(with_layers(net, runs) if runs else net, batch)

    def _blocks(self, net: Headed, batch: Batch) -> dict[str, int]:
        """Return the blocks that may be left out, each with the number of its layer; looked for once in a network."""
        from regraft.models.cuts import CutBackbone
        from regraft.regularizers.blocks import same_shaped
        from regraft.regularizers.layers import alive

        body = net.backbone
        # What enters the lowest layer above a cut comes another way than through its arguments.
        learning = [path for path in alive(net)[isinstance(body, CutBackbone) :] if body.get_submodule(path).training]
        if not learning:
            return {}
        known = body.get_submodule(learning[-1])  # views of the network share it
        if known not in self._known:
            self._known[known] = same_shaped(net, *net.tensors(batch))
            if not self._known[known]:
                raise OptionsError(_nothing("no such layer in the base"))
        inside = tuple(f"{path}." for path in learning)
        return {path: place for path, place in self._known[known].items() if f"{path}.".startswith(inside)}


def _looked_for(net: Headed) -> list[str]:
    """Return the blocks that give what they take, seen on rows without meaning; all layers of a base that takes none such."""
    from regraft.models.cuts import probe
    from regraft.regularizers.blocks import same_shaped

    if not net.backbone.blocks.layers:
        return []
    try:
        return list(same_shaped(net, *probe(net.backbone, (1, 3, 5))))
    except (AttributeError, RuntimeError, ValueError, TypeError, KeyError, IndexError):
        return list(net.backbone.blocks.layers)  # the first real rows will tell


def _nothing(got: str) -> Problem:
    what = "no layer that learns can be left out: none gives as many numbers as it takes"
    return Problem(what=what, where=_WHERE, got=got, fix=_FIX)


def _left_out(layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what would have entered."""
    return args[0] if args else next(iter(kwargs.values()))


def _added(kept: float) -> Callable[..., Any]:
    def run(layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entered: torch.Tensor = _left_out(layer, args, kwargs)
        out: torch.Tensor = layer(*args, **kwargs)
        if out.shape != entered.shape:  # the first that runs may lay rows end to end
            return out
        return entered + (out - entered) / kept

    return run
