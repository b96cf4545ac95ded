"""What enters the part of a network that learns, and what leaves it: heard, and moved by perturbations.

What enters are the vectors of tokens, or the numbers of pictures, sounds, series and tables; above a frozen part that is
computed once, what that gives. A perturbation is a list of tensors, one for each time that something entered: with packed rows
all real positions lie in one row there.

Shapes: B rows, N positions of all rows end to end, T positions of the longest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from regraft.errors import OptionsError, Problem
from regraft.models.layout import layout_of
from regraft.models.net import Headed
from regraft.models.packing import lengthened
from regraft.models.token_table import INPUT, token_table
from regraft.models.view import view, with_children
from regraft.regularizers.regularizer import Scene
from regraft.types import Batch, Features

Where = Literal["input", "pooled"]
TINY = torch.finfo(torch.float32).tiny


@dataclass
class Tap:
    """Hear what goes through a network, and move what enters.

    Args:
        where: "input", or "pooled": the one vector a row that enters the head.
        moves: What is added, in the order in which it enters; if not given, zeros of which gradients can be taken.
        change: What is made of what enters, in the place of adding something.
        entered: Filled with what entered, before it was moved.
        outputs: Filled with what the head gave.
    """

    where: Where | None = None
    moves: list[torch.Tensor] | None = None
    change: Callable[[torch.Tensor], torch.Tensor] | None = None
    entered: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    zeros: list[torch.Tensor] = field(default_factory=list)

    def moved(self, value: torch.Tensor) -> torch.Tensor:
        """Return what entered, moved; not what only runs to see how the network does."""
        if torch.is_inference_mode_enabled():
            return value
        place = len(self.entered)
        self.entered.append(value.detach())
        if self.change is not None:
            return self.change(value)
        if self.moves is not None:
            return value + self.moves[place].to(value)
        zero = torch.zeros_like(value.detach(), requires_grad=True)
        self.zeros.append(zero)
        return value + zero


def tapped(net: Headed, tap: Tap) -> Headed:
    """Return a view of a network that goes through a tap; it shares all weights and modules with the network.

    Args:
        net: The network; may be tapped itself.
        tap: What hears and moves.
    """
    found: Any = token_table(net) if tap.where == "input" else None
    if found is not None:
        table, paths = found
        twin: Any = with_children(table, table._modules)
        kind: Any = table.__class__
        twin.__class__ = _moving(kind)
        twin.__dict__["taps"] = (*getattr(table, "taps", ()), tap)
        made = view(net, dict.fromkeys(paths, twin))
    else:
        made = with_children(net, net._modules)
    cls: Any = type(net)
    made.__class__ = _tapped(getattr(net, "untapped", None) or cls)
    made.__dict__["taps"] = (*getattr(net, "taps", ()), tap)
    return made


@functools.cache
def _tapped(cls: Any) -> Any:
    """Return a class of network that goes through its taps."""

    def features(self: Any, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        for tap in self.taps:
            # Tokens are no numbers: they are moved where they have become vectors.
            if tap.where == "input" and INPUT not in inputs:
                inputs = {name: _entering(tap, value) for name, value in inputs.items()}
        found: Features = cls.features(self, inputs, mask_BT)
        for tap in self.taps:
            if tap.where == "pooled":
                found = Features(found.sequence_BTD, found.mask_BT, tap.moved(found.pooled_BD))
        return found

    def forward(self: Any, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = cls.forward(self, inputs, mask_BT)
        for tap in self.taps:
            tap.outputs.append(output)
        return output

    return type(f"Tapped{cls.__name__}", (cls,), {"features": features, "forward": forward, "untapped": cls})


def _entering(tap: Tap, value: torch.Tensor) -> torch.Tensor:
    return tap.moved(value) if value.is_floating_point() else value


@functools.cache
def _moving(cls: Any) -> Any:
    """Return a class of token table whose vectors go through its taps."""
    if getattr(cls, "moves_vectors", False):
        return cls

    def forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        vectors: torch.Tensor = cls.forward(self, *args, **kwargs)
        for tap in self.taps:
            vectors = tap.moved(vectors)
        return vectors

    return type(f"Moving{cls.__name__}", (cls,), {"forward": forward, "moves_vectors": True})


@dataclass(frozen=True)
class Rows:
    """Which numbers of what entered belong to which row. Padding belongs to none.

    Args:
        mask_BT: True where a position of a row is real.
        tokens: Whether vectors of tokens entered, which may lie end to end or in blocks of a fixed shape.
    """

    mask_BT: torch.Tensor
    tokens: bool

    def real(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return tensors with zeros where rows are padded, as far as they have their positions."""
        found = []
        for place, value in enumerate(values):
            mask = self._mask(value, place)
            found.append(value if mask is None else value * mask.view(*mask.shape, *[1] * (value.ndim - 2)).to(value.dtype))
        return found

    def lengths(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the Euclidean length of what each row has in each tensor, in a shape that multiplies with it."""
        return [self._summed(value.detach().float().square()).sqrt().to(value.dtype) for value in self.real(values)]

    def deviations(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the root mean square of the numbers of each row in each tensor, in a shape that multiplies with it."""
        counted = self.real([torch.ones_like(value, dtype=torch.float32) for value in values])
        pairs = zip(self.lengths(values), counted, strict=True)
        return [length / self._summed(ones).clamp(min=1.0).sqrt().to(length.dtype) for length, ones in pairs]

    def largest(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the largest number, without its sign, that each row has in each tensor, in a shape that multiplies with it."""
        found = []
        for value in self.real(values):
            size, row_N = value.detach().abs(), self._packed(value)
            if row_N is None:
                found.append(size.flatten(1).amax(dim=1).view(-1, *[1] * (size.ndim - 1)))
                continue
            tops_B = size.new_zeros(len(self.mask_BT)).scatter_reduce(0, row_N, size[0].flatten(1).amax(dim=1), "amax")
            found.append(tops_B[row_N].view(1, -1, *[1] * (size.ndim - 2)))
        return found

    def directions(self, gradients: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return gradients made as long, for each row, as what entered; zero where the gradient is."""
        tops = self.largest(gradients)  # so that squares of small numbers do not vanish
        even = [grad / top.clamp(min=TINY) for grad, top in zip(gradients, tops, strict=True)]
        sizes, norms = self.lengths(values), self.lengths(even)
        return [grad * (size / norm.clamp(min=1.0)) for grad, size, norm in zip(even, sizes, norms, strict=True)]

    def _packed(self, value: torch.Tensor) -> torch.Tensor | None:
        """Return the row of each position (N,) where all lie end to end."""
        layout = layout_of(self.mask_BT) if self.tokens and len(self.mask_BT) > 1 and value.shape[0] == 1 else None
        return None if layout is None else layout.index_N // layout.positions

    def _mask(self, value: torch.Tensor, place: int) -> torch.Tensor | None:
        """Return which positions of a tensor are real; None where all are."""
        rows, positions = self.mask_BT.shape
        if value.shape[:2] == self.mask_BT.shape:
            return self.mask_BT
        if not self.tokens or self._packed(value) is not None:
            return None
        # Blocks of as many rows, the last filled up with its own first row (`regraft.models.packing.in_fixed_blocks`).
        size = value.shape[0]
        first = place % -(-rows // size) * size
        taken = [first + row if first + row < rows else first for row in range(size)]
        return lengthened(self.mask_BT[taken], value.shape[1] - positions)

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of what each row has, at each place of the row."""
        row_N = self._packed(values)
        if row_N is None:
            return values.flatten(1).sum(dim=1).view(-1, *[1] * (values.ndim - 1))
        sums_B = values.new_zeros(len(self.mask_BT)).index_add(0, row_N, values[0].flatten(1).sum(dim=1))
        return sums_B[row_N].view(1, -1, *[1] * (values.ndim - 2))


def rows_of(net: Headed, batch: Batch, where: Where) -> Rows:
    """Return which numbers of what enters a network belong to which row of a batch."""
    mask_BT = torch.from_numpy(batch.mask_BT).to(net.device)
    return Rows(mask_BT, tokens=where == "input" and INPUT in batch.inputs)


def steepest(total: torch.Tensor, net: Headed, zeros: Sequence[torch.Tensor], *, keep: bool) -> list[torch.Tensor]:
    """Return the gradients of a loss by what enters, zeros where it does not depend on that.

    Args:
        total: The loss.
        net: Says in which number format it was computed: in fp16 small gradients vanish unless the loss is scaled.
        zeros: What was added to what entered.
        keep: Whether the loss is still to be followed back afterwards.
    """
    scale: float = getattr(getattr(net, "precision", None), "scale", 1.0)
    found = torch.autograd.grad(total * scale, list(zeros), retain_graph=keep, allow_unused=True)
    pairs = zip(found, zeros, strict=True)
    return [torch.zeros_like(zero) if grad is None else grad.detach() for grad, zero in pairs]


@contextmanager
def repeating(device: torch.device) -> Iterator[Callable[[], None]]:
    """Give a function that lets the network draw the same dropout again as when the block began.

    Args:
        device: Where the network runs.
    """
    on_gpu = device.type == "cuda"
    before = torch.get_rng_state()
    there = torch.cuda.get_rng_state(device) if on_gpu else None

    def again() -> None:
        torch.set_rng_state(before)
        if there is not None:
            torch.cuda.set_rng_state(there, device)

    yield again


def check_entrance(scene: Scene, where: Where, name: str) -> None:
    """Refuse a network whose inputs cannot be moved.

    Raises:
        OptionsError: It reads several parts, or tokens that do not pass through one table.
    """
    if where != "input":
        return
    backbone: Any = scene.net.backbone
    inputs = getattr(getattr(backbone, "architecture", None), "inputs", (INPUT,))
    fix = f"move what enters the head instead: --set train.regularize.{name}.at=pooled"
    if getattr(backbone, "part_widths", ()):
        got = "a base that reads several parts, each in its own way"
    elif INPUT in inputs and token_table(scene.net) is None:
        got = "a base whose tokens do not become vectors in one table"
    else:
        return
    what = f"{name} moves the vectors of tokens, or the numbers of pictures, sounds, series and tables"
    raise OptionsError(Problem(what=what, where=f"train.regularize.{name}", got=got, fix=fix))
