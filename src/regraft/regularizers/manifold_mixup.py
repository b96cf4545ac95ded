"""Manifold mixup: what the network makes of two rows is averaged inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.regularizers.mixing import Mixing
from regraft.regularizers.regularizer import Scene
from regraft.types import Array

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from regraft.models.net import Headed
    from regraft.types import Batch


@options
class ManifoldMixupOptions:
    """Where and how evenly rows are mixed."""

    alpha: Annotated[float, Field(gt=0.0)] = 2.0
    """Of the Beta(alpha, alpha) from which the share of a row is drawn: small for nearly one row, large for nearly halves."""

    at: Literal["pooled", "layers"] = "pooled"
    """What is mixed: the pooled features, for every kind of row; or what comes out of a layer that is drawn at each pass, for
    rows that all have as many positions (pictures, windows of series)."""


class ManifoldMixup(Mixing):
    """Learn lam h + (1 - lam) h' with the targets of both rows, h what the pooling or a layer makes of a row; also for text.

    Verma et al. 2019, arXiv:1806.05236, section 2, equation 1; at the pooled features as Guo, Mao and Zhang 2019
    (arXiv:1905.08941) do with sentences. Below a frozen part that is computed once nothing is mixed. Partners are drawn within
    a micro-batch.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]] = ManifoldMixupOptions
    name: ClassVar[str] = "manifold-mixup"

    def check(self, scene: Scene) -> None:
        """Refuse to mix positions of rows of different lengths.

        Raises:
            OptionsError: Layers are to be mixed and rows have such, or no layer learns, or the task has no output for each row.
        """
        super().check(scene)
        if self.options.at == ManifoldMixupOptions().at:
            return
        backbone = scene.net.backbone
        where, fix = "train.regularize.manifold-mixup.at", "leave 'at' out: what enters the head is mixed then"
        problems = []
        if backbone.part_widths or backbone.architecture.masked:
            what, got = "layers are mixed position by position", "a base whose rows have different lengths, or several parts"
            problems.append(Problem(what=what, where=where, got=got, expected="pictures, or windows of series", fix=fix))
        inside = tuple(f"backbone.{path}." for path in backbone.blocks.layers)
        if not any(name.startswith(inside) for name in scene.trainable):
            what = "nothing would be mixed: no layer learns"
            problems.append(Problem(what=what, where=where, got="a tuning under which only the head learns", fix=fix))
        if problems:
            raise OptionsError(problems)

    def output(self, net: Headed, batch: Batch, share: float, order_B: Array) -> tuple[torch.Tensor, float]:
        """Return what the head makes of features, or what the rest makes of the output of a layer, that were mixed."""
        import torch

        from regraft.regularizers.entrance import Tap, tapped
        from regraft.regularizers.layers import alive, with_layers

        order = torch.from_numpy(order_B).to(net.device)

        def mixed(values: torch.Tensor) -> torch.Tensor:
            return share * values + (1.0 - share) * values[order]

        if self.options.at == ManifoldMixupOptions().at:
            return self.objective.output(tapped(net, Tap("pooled", change=mixed)), batch), share

        def run(layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            out = layer(*args, **kwargs)
            return (mixed(out[0]), *out[1:]) if isinstance(out, tuple) else mixed(out)

        paths = alive(net)
        chosen = paths[int(torch.randint(len(paths), ()))]
        return self.objective.output(with_layers(net, {chosen: run}), batch), share
