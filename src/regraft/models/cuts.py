"""A backbone in two: what lies below a cut, and what lies above it. One after the other they give the whole, bit for bit.

What is frozen can so be computed once and kept. The lower half stops in front of a layer and returns what that layer would
have been given; the upper half is a backbone like any other that takes this in the place of tokens, and holds only the weights
above the cut (and what all layers share).

What enters a layer of a body that makes positions of its own (a map of a picture) stays one position of a row between the
halves: (B, 1, ...), of whatever shape it has there.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.errors import OptionsError, Problem
from regraft.models.backbones import Backbone
from regraft.models.evaluation_mode import without_gradients
from regraft.models.layout import layout_of
from regraft.models.packing import in_fixed_blocks, run_packed, run_padded
from regraft.models.view import view, with_children

HIDDEN = "hidden"
"""Name of the input that the upper half takes in the place of tokens (B, T, D)."""

STAND_IN = "stand_in"
"""Method of a body that is fed with something else than tokens or pictures: mask (B, T) -> inputs without meaning."""

_PROBE = 5
_SIDE = 64
_Kind = Callable[[Any], Any]  # from a module class to another
_GIVEN: ContextVar[torch.Tensor | None] = ContextVar("hidden", default=None)


@dataclass(frozen=True)
class Halves:
    """A backbone cut in two.

    Args:
        prefix: (inputs, mask) -> what enters the layer above the cut (B, T, D), or (B, 1, ...); zero where there is padding.
        suffix: A backbone that takes `{HIDDEN: (B, T, D)}`; shares the weights above the cut and holds no others.
        cut: Layers below the cut.
    """

    prefix: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
    suffix: Backbone
    cut: int


def halves(backbone: Backbone, cut: int) -> Halves:
    """Cut a backbone in front of a layer.

    Args:
        backbone: The network; not changed.
        cut: Layers below the cut, 0 (only the embeddings) to the number of layers (all of them).

    Raises:
        OptionsError: There are not so many layers, or the layers of this architecture share more than their hidden states.
    """
    layers = len(backbone.blocks.layers)
    if not 0 <= cut <= layers:
        got, expected = f"a cut above layer {cut}", f"0 to {layers}"
        raise OptionsError(Problem(what="the base does not have so many layers", got=got, expected=expected))
    if backbone.pooling.over_layers:
        what = f"the pooling '{backbone.pooling_name}' reads the outputs of all layers, also of those below a cut"
        raise OptionsError(Problem(what=what, got=f"a cut above layer {cut}", fix="leave the cut out"))
    if backbone.architecture.own_mask:
        what = f"{backbone.body.config.model_type} makes positions of its own and cannot be cut here"
        raise OptionsError(Problem(what=what, got=f"a cut above layer {cut}", fix="leave the cut out"))
    lower, upper = _lower(backbone, cut), _upper(backbone, cut)
    made = Halves(prefix=functools.partial(_prefix, lower), suffix=upper, cut=cut)
    if not _is_whole(backbone, made):
        what = f"the layers of {backbone.body.config.model_type} share more than their hidden states and cannot be cut here"
        raise OptionsError(Problem(what=what, got=f"a cut above layer {cut}", fix="leave the cut out"))
    return made


class _ReachedError(Exception):
    """The lower half has come to the cut."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class CutBackbone(Backbone):
    """The upper half of a backbone. Made by `halves`.

    Attributes:
        interleaved: Whether the lower half gives maps whose channels lie side by side. What is kept has lost that, and other
            kernels would round otherwise.
    """

    interleaved: bool = False

    def sequence(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a position (B, T, D).

        Args:
            inputs: `HIDDEN` (B, T, D), or (B, 1, ...): what the lower half gave.
            mask_BT: True where a position is real.
        """
        hidden_BTD = inputs[HIDDEN]
        if not self.architecture.masked:
            hidden = hidden_BTD.squeeze(1)
            with _entering(hidden.contiguous(memory_format=torch.channels_last) if self.interleaved else hidden):
                return run_padded(self.body, self.architecture, _nothing(self, mask_BT, hidden_BTD.dtype), mask_BT)
        ids = _nothing(self, mask_BT, hidden_BTD.dtype)
        if self.shapes.kind == "fixed":
            return in_fixed_blocks(self._padded, {**ids, HIDDEN: hidden_BTD}, mask_BT, self.shapes.length)
        layout = layout_of(mask_BT) if self.packing.adapt and self.shapes.kind == "packed" else None
        if layout is None or self.packing.adapt is None:
            return self._padded({**ids, HIDDEN: hidden_BTD}, mask_BT)
        with _entering(layout.pack(hidden_BTD)):
            return layout.unpack(run_packed(self.packing.adapt(self.body), self.architecture, ids, layout))

    def _padded(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        with _entering(inputs[HIDDEN]):
            return run_padded(self.body, self.architecture, inputs, mask_BT)


def _nothing(backbone: Backbone, mask_BT: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return what stands for tokens, pictures or whatever else nothing looks at any more."""
    stand_in: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = getattr(backbone.body, STAND_IN, None)
    if stand_in is not None:
        return stand_in(mask_BT)
    if backbone.architecture.masked:
        return {"input_ids": torch.zeros(mask_BT.shape, dtype=torch.long, device=mask_BT.device)}
    shape = (len(mask_BT), _channels(backbone), 1, 1)
    return {name: mask_BT.new_zeros(shape, dtype=dtype) for name in backbone.architecture.inputs}


def _given() -> torch.Tensor:
    given = _GIVEN.get()
    if given is None:
        raise RuntimeError("the upper half of a backbone was run without what enters it")
    return given


@contextmanager
def _entering(hidden: torch.Tensor) -> Iterator[None]:
    token = _GIVEN.set(hidden)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def _lower(backbone: Backbone, cut: int) -> Backbone:
    paths = backbone.blocks.layers
    if cut < len(paths):
        return view(backbone, {paths[cut]: _as(_stopping, backbone.get_submodule(paths[cut]))})
    return view(backbone, {paths[-1]: _as(_leaving, backbone.get_submodule(paths[-1]))})


def _upper(backbone: Backbone, cut: int) -> Backbone:
    paths = backbone.blocks.layers
    before, size = _looked_at(backbone)
    weights = {id(weight) for path in before for weight in backbone.get_submodule(path).parameters()}
    # One table may lie under two names (T5), of which only one is called.
    before += [path for path in backbone.blocks.embeddings if _has_only(backbone.get_submodule(path), weights)]
    hollow = _without_weights if backbone.architecture.masked else _hollow
    replaced = {path: hollow(backbone.get_submodule(path), 0) for path in before}
    replaced |= {path: _without_weights(backbone.get_submodule(path), size) for path in paths[:cut]}
    if cut < len(paths):
        replaced[paths[cut]] = _as(_entered, backbone.get_submodule(paths[cut]))
    made = view(backbone, replaced)
    made.__class__ = CutBackbone
    return made


def _has_only(module: nn.Module, weights: set[int]) -> bool:
    """Return whether a module has weights, and each is one of these (by id)."""
    own = {id(weight) for weight in module.parameters()}
    return bool(own) and own <= weights


def _as(kind: _Kind, layer: nn.Module) -> nn.Module:
    """Return a copy of a module as another class; names, weights and everything else that others may ask it for stay."""
    twin = with_children(layer, layer._modules)
    twin.__class__ = kind(type(layer))
    return twin


def _without_weights(layer: nn.Module, size: int) -> nn.Module:
    """Return a copy of a module that has no weights and gives what the cut was given."""
    twin = _as(_giving(size), layer)
    for table in ("_modules", "_parameters", "_buffers"):
        twin.__dict__[table] = {}
    return twin


def _hollow(module: nn.Module, size: int) -> nn.Module:
    """Return what `_without_weights` gives, whose inner modules can still be asked for the type of their weights."""
    twin = _without_weights(module, size)
    inner = {name: child and _emptied(child) for name, child in module._modules.items()}
    twin.__dict__["_modules"] = inner
    return twin


def _emptied(module: nn.Module) -> nn.Module:
    twin = with_children(module, {name: child and _emptied(child) for name, child in module._modules.items()})
    for table in ("_parameters", "_buffers"):
        for name, tensor in twin.__dict__[table].items():
            twin.__dict__[name] = None if tensor is None else tensor.detach().new_empty(0)
        twin.__dict__[table] = {}
    return twin


@functools.cache
def _giving(size: int) -> _Kind:
    """Return how a module class becomes one without weights that gives what the cut was given.

    Args:
        size: Values of the tuple in which the module gives it; 0 for none.
    """

    def forward(self: nn.Module, *_: Any, **__: Any) -> Any:
        return (_given(), *([None] * (size - 1))) if size else _given()

    return functools.cache(lambda cls: type(f"Given{cls.__name__}", (cls,), {"forward": forward}))


@functools.cache
def _entered(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class that takes what the cut was given, whatever comes from below; some families give it by name."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if args:
            return cls.forward(self, _given(), *args[1:], **kwargs)
        return cls.forward(self, **{**kwargs, next(iter(kwargs)): _given()})

    return type(f"Entered{cls.__name__}", (cls,), {"forward": forward})


@functools.cache
def _stopping(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class in front of which the lower half ends."""

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        raise _ReachedError(args[0] if args else next(iter(kwargs.values())))

    return type(f"Stopping{cls.__name__}", (cls,), {"forward": forward})


@functools.cache
def _leaving(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class after which the lower half ends."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = cls.forward(self, *args, **kwargs)
        raise _ReachedError(out[0] if isinstance(out, tuple) else out)

    return type(f"Leaving{cls.__name__}", (cls,), {"forward": forward})


def _prefix(lower: Backbone, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
    def padded(inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        return _until_cut(lambda: run_padded(lower.body, lower.architecture, inputs, mask_BT))

    if not lower.architecture.masked:
        return padded(inputs, mask_BT).unsqueeze(1)
    if lower.shapes.kind == "fixed":
        hidden_BTD = in_fixed_blocks(padded, inputs, mask_BT, lower.shapes.length)
        return hidden_BTD * mask_BT.unsqueeze(-1)
    adapt = lower.packing.adapt
    layout = layout_of(mask_BT) if adapt and lower.shapes.kind == "packed" else None
    if layout is None or adapt is None:
        return padded(inputs, mask_BT) * mask_BT.unsqueeze(-1)
    return layout.unpack(_until_cut(lambda: run_packed(adapt(lower.body), lower.architecture, inputs, layout)))


def _until_cut(run: Callable[[], torch.Tensor]) -> torch.Tensor:
    try:
        run()
    except _ReachedError as reached:
        return reached.hidden
    raise RuntimeError("the layer at which the backbone was cut was never reached")


def _looked_at(backbone: Backbone) -> tuple[list[str], int]:
    """Run one short row; return which modules before the layers give one vector a position, and how many values layers give."""
    before: list[str] = []
    sizes: list[int] = []

    def measure(_m: nn.Module, _i: Any, out: Any) -> None:
        sizes.append(len(out) if isinstance(out, tuple) else 0)

    hooks = [backbone.get_submodule(backbone.blocks.layers[0]).register_forward_hook(measure)]
    for path in backbone.blocks.embeddings:

        def note(_m: nn.Module, _i: Any, out: Any, path: str = path) -> None:
            if isinstance(out, torch.Tensor) and (out.shape[:2] == (1, _PROBE) or not backbone.architecture.masked):
                before.append(path)

        hooks.append(backbone.get_submodule(path).register_forward_hook(note))
    try:
        inputs, mask_BT = probe(backbone, (_PROBE,))
        with without_gradients(backbone):
            run_padded(backbone.body, backbone.architecture, inputs, mask_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(before)), max(sizes)


def _is_whole(backbone: Backbone, made: Halves) -> bool:
    """Return whether the halves give the same bits as the whole on a few short rows."""
    inputs, mask_BT = probe(backbone, (1, 3, _PROBE))
    try:
        with without_gradients(backbone):
            whole = backbone.sequence(inputs, mask_BT)
            below = made.prefix(inputs, mask_BT)
            made.suffix.__dict__["interleaved"] = below.ndim == 5 and below.squeeze(1).stride(1) == 1 < below.shape[2]
            both = made.suffix.sequence({HIDDEN: below.contiguous()}, mask_BT)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return False
    if not backbone.architecture.masked:
        return torch.equal(whole, both)
    return torch.equal(whole[mask_BT], both[mask_BT])


def probe(backbone: Backbone, lengths: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return inputs and mask of a few rows without meaning, to see how a backbone runs.

    Args:
        backbone: The network.
        lengths: Positions of each row, as far as rows have several.
    """
    device = next(backbone.parameters()).device
    if not backbone.architecture.masked:
        lengths = (1,) * len(lengths)
    mask_BT = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
    if hasattr(backbone.body, STAND_IN):
        return _nothing(backbone, mask_BT), mask_BT
    if not backbone.architecture.masked:
        return _pictures(backbone, len(lengths)), mask_BT
    last = int(backbone.body.config.vocab_size) - 1
    ids_BT = (torch.arange(mask_BT.numel(), device=device) % max(1, last - 3) + 3).clamp(max=last).view(mask_BT.shape)
    return {"input_ids": ids_BT, "token_type_ids": torch.zeros_like(ids_BT)}, mask_BT


def _pictures(backbone: Backbone, rows: int) -> dict[str, torch.Tensor]:
    """Return a few pictures without meaning, as large as the body says it takes them."""
    device = next(backbone.parameters()).device
    said = getattr(backbone.body.config, "image_size", None) or _SIDE
    height, width = said if isinstance(said, list | tuple) else (said, said)
    shape = (rows, int(height), int(width), _channels(backbone))
    values = torch.arange(math.prod(shape), device=device, dtype=torch.float32).mul(0.7).sin().view(shape)
    # Laid out as real ones are (`regraft.modalities.image`).
    return dict.fromkeys(backbone.architecture.inputs, values.permute(0, 3, 1, 2))


def _channels(backbone: Backbone) -> int:
    return int(getattr(backbone.body.config, "num_channels", 3))
