"""What is cheap to make is not kept for the way back, but made again: activations, norms, weights of attention.

    learning = remaking(net, Slab())      computes as `net` does, the same bits, in about half the memory

Selective recomputation (Korthikanti et al. 2022, arXiv:2205.05198, section 5). A layer that learns keeps its input for the
way back, and so do the activation and the norm that made this input: here the second copy is not kept, but made again
when it is asked for, from the first. Attention with dropout makes its weights again (`regraft.models.attention_rows`).
Outputs of matrix products, which cost most, are kept; `regraft.models.recomputed` keeps not even those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from regraft.models.slab import Slab, room
from regraft.models.view import view, with_children

if TYPE_CHECKING:
    from regraft.models.net import Headed

_Make = Callable[[torch.Tensor], torch.Tensor]
_KEEPING_INPUTS = (nn.GELU, nn.SiLU, nn.Mish, nn.LayerNorm)
"""One operation each, and its input is what it keeps itself. (Others, ReLU among them, keep what they gave.)"""
_FUNCTIONS = (nn.functional.gelu, nn.functional.silu, nn.functional.mish)
_ACTIVATIONS = "transformers.activations"
_NORM = "RMSNorm"  # ends the names of the hub's classes of Zhang and Sennrich 2019, arXiv:1910.07467: six operations each
_LEDGER: ContextVar[_Ledger | None] = ContextVar("ledger", default=None)


def making_again() -> bool:
    """Return whether the network that computes now is to keep little."""
    return _LEDGER.get() is not None


def slab() -> Slab | None:
    """Return the memory for large tensors of the network that computes now, where it is to keep little."""
    ledger = _LEDGER.get()
    return None if ledger is None else ledger.slab


def remaking(net: Headed, slab: Slab) -> Headed:
    """Return a view of a network whose backbone keeps little while it learns.

    Args:
        net: The network; not changed. All weights and their names are shared.
        slab: Where large tensors of a step lie.
    """
    backbone = net.backbone
    own: dict[str, nn.Module] = {}
    for path, module in backbone.named_modules(remove_duplicate=False):
        if module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None:
            continue
        if _is_one(module) or _is_chain(module):
            own[path] = _noting(module)
        elif type(module) is nn.Linear:
            own[path] = _laying(module)
    made = view(backbone, own) if own else backbone
    twin: Any = with_children(made, made._modules)
    kind: Any = type(made)
    twin.__class__ = _remaking_class(kind)
    twin.__dict__["slab"] = slab
    return view(net, {"backbone": twin})


def _is_one(module: nn.Module) -> bool:
    """Return whether a module is a single operation that keeps its own input."""
    return type(module) in _KEEPING_INPUTS or _function(module) in _FUNCTIONS


def _is_chain(module: nn.Module) -> bool:
    """Return whether a module is a few operations on numbers one by one, each of which keeps something."""
    return type(module).__module__ == _ACTIVATIONS or type(module).__name__.endswith(_NORM)


def _function(module: nn.Module) -> Any:
    """Return the function that one of the hub's activations calls."""
    act = getattr(module, "act", None) if type(module).__module__ == _ACTIVATIONS else None
    return getattr(act, "func", act)


def _approximation(module: nn.Module) -> str | None:
    """Return how a module approximates GELU; nothing if it computes something else."""
    if type(module) is nn.GELU:
        return module.approximate
    if _function(module) is not nn.functional.gelu:
        return None
    keywords: dict[str, str] = getattr(module.act, "keywords", {})
    return keywords.get("approximate", "none")


@functools.cache
def _remaking_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a class of backbones that keep little."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return cls.forward(self, *args, **kwargs)
        with _keeping_little(self.slab):
            return cls.forward(self, *args, **kwargs)

    return type(f"Remaking{cls.__name__}", (cls,), {"forward": forward})


def _noting(module: nn.Module) -> nn.Module:
    twin, kind = with_children(module, module._modules), cast(Any, type(module))
    twin.__class__ = _noting_class(kind, _is_one(module))
    twin.__dict__["gelu_approximation"] = _approximation(module)
    return twin


@functools.cache
def _noting_class(cls: type[nn.Module], one: bool) -> type[nn.Module]:
    """Return a class of modules that say how what they gave can be made again."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        ledger = _LEDGER.get()
        if ledger is None or args or kwargs or not (torch.is_grad_enabled() and x.requires_grad):
            return cls.forward(self, x, *args, **kwargs)
        make: _Make = functools.partial(cls.forward, self)
        if self.gelu_approximation is not None and x.device.type == "cpu" and x.is_contiguous():
            make = functools.partial(_gelu, self.gelu_approximation, ledger.slab)
        made: torch.Tensor = make(x) if one else checkpoint(make, x, use_reentrant=False, preserve_rng_state=False)
        ledger.note(made, make, x)
        return made

    return type(f"Noting{cls.__name__}", (cls,), {"forward": forward})


def _laying(module: nn.Linear) -> nn.Module:
    twin = with_children(module, module._modules)
    twin.__class__ = _LayingLinear
    return twin


class _LayingLinear(nn.Linear):
    """A layer whose outputs and gradients, where it is frozen, lie in memory of ours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + b."""
        ledger, bias = _LEDGER.get(), self.bias
        frozen = not (self.weight.requires_grad or (bias is not None and bias.requires_grad))
        apart = torch.is_autocast_enabled(x.device.type) or x.dtype != self.weight.dtype or x.device.type != "cpu"
        flat = x.ndim == 2 or (x.ndim == 3 and x.is_contiguous())  # of others torch adds the bias to a rounded product
        if ledger is None or not frozen or apart or not flat or not (torch.is_grad_enabled() and x.requires_grad):
            return super().forward(x)
        flat_NI = x.view(-1, x.shape[-1])
        out_NO: torch.Tensor = _Frozen.apply(flat_NI, self.weight, bias, ledger.slab)  # type: ignore[no-untyped-call]
        return out_NO.view(*x.shape[:-1], -1)


class _Frozen(torch.autograd.Function):
    """Torch's own products of a linear layer, in memory of ours: differentiable as often as anyone asks."""

    @staticmethod
    def forward(ctx: Any, x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, slab: Slab) -> torch.Tensor:
        ctx.save_for_backward(weight_OI)
        ctx.slab = slab
        out = room(slab, torch.Size((len(x_NI), len(weight_OI))), x_NI)
        if bias_O is None:
            return torch.mm(x_NI, weight_OI.t(), out=out)
        return torch.addmm(bias_O, x_NI, weight_OI.t(), out=out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g_NO,), (weight_OI,) = gradients, ctx.saved_tensors
        again = torch.is_grad_enabled()
        out = None if again else room(ctx.slab, torch.Size((len(g_NO), weight_OI.shape[1])), g_NO)
        return torch.mm(g_NO, weight_OI, out=out), None, None, None


def masked(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the numbers at real places, and 0 elsewhere.

    Args:
        x: Any shape.
        real: True where a place is real; broadcast to that shape.
    """
    memory = slab()
    if memory is None or x.device.type != "cpu" or not (torch.is_grad_enabled() and x.requires_grad):
        return x.masked_fill(~real, 0.0)
    found: torch.Tensor = _Masked.apply(x, real, memory)  # type: ignore[no-untyped-call]
    return found


class _Masked(torch.autograd.Function):
    """Both ways in memory of ours: differentiable as often as anyone asks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, real: torch.Tensor, slab: Slab) -> torch.Tensor:
        ctx.save_for_backward(real)
        ctx.slab = slab
        return torch.where(real, x, x.new_zeros(()), out=room(slab, x.shape, x))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g,), (real,) = gradients, ctx.saved_tensors
        out = None if torch.is_grad_enabled() else room(ctx.slab, g.shape, g)
        return torch.where(real, g, g.new_zeros(()), out=out), None, None


def _gelu(approximation: str, slab: Slab, x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = _Gelu.apply(x, approximation, slab)  # type: ignore[no-untyped-call]
    return made


class _Gelu(torch.autograd.Function):
    """Torch's own operation (Hendrycks and Gimpel 2016, arXiv:1606.08415), in memory of ours: differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, approximation: str, slab: Slab) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.approximation, ctx.slab = approximation, slab
        made: torch.Tensor = torch.ops.aten.gelu.out(x, approximate=approximation, out=room(slab, x.shape, x))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g,), (x,) = gradients, ctx.saved_tensors
        how = {"approximate": ctx.approximation}
        if torch.is_grad_enabled():
            return torch.ops.aten.gelu_backward(g, x, **how), None, None
        return torch.ops.aten.gelu_backward.grad_input(g, x, **how, grad_input=room(ctx.slab, x.shape, x)), None, None


@contextmanager
def _keeping_little(slab: Slab) -> Iterator[None]:
    ledger = _Ledger(slab)
    token = _LEDGER.set(ledger)
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.pack, ledger.unpack):
            yield
    finally:
        _LEDGER.reset(token)
        ledger.close()


class _Made:
    """A tensor that can be made again.

    Args:
        make: Makes it.
        x: From this.
    """

    def __init__(self, make: _Make, x: torch.Tensor) -> None:
        self._make, self._x = make, _Kept(x.detach())
        self.asked = 0
        """How many on the way back have yet to ask for it: queries, keys and values ask for the same input."""

    def again(self) -> torch.Tensor:
        """Return it."""
        with torch.no_grad():
            return self._make(self._x.given())


class _Kept:
    """A tensor that is kept as it is.

    Torch does not look whether a tensor was changed in place where hooks hold it, so this does.

    Args:
        tensor: The tensor.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version

    def given(self) -> torch.Tensor:
        """Return it.

        Raises:
            RuntimeError: It was changed since.
        """
        if self._tensor._version != self._version:
            raise RuntimeError("a tensor that is needed for the gradients was changed in place after the forward pass")
        return self._tensor


class _Place:
    """Where in a tensor that is made again the wanted numbers lie.

    Args:
        made: The tensor.
        tensor: The wanted one, which shares its storage.
    """

    def __init__(self, made: _Made, tensor: torch.Tensor) -> None:
        self.made = made
        self._place = (tensor.shape, tensor.stride(), tensor.storage_offset())

    def of(self, made: torch.Tensor) -> torch.Tensor:
        """Return the wanted numbers of what was made."""
        return made.as_strided(*self._place)


class _Ledger:
    """Say for each tensor that autograd wants to keep whether it can be made again."""

    def __init__(self, slab: Slab) -> None:
        self.slab = slab
        self._made: dict[int, tuple[Any, int, torch.dtype, _Made]] = {}
        self._last: tuple[_Made, torch.Tensor] | None = None

    def note(self, made: torch.Tensor, make: _Make, x: torch.Tensor) -> None:
        """Take down how a tensor was made.

        Args:
            made: The tensor.
            make: Makes it.
            x: From this.
        """
        storage = made.untyped_storage()
        whole = made.is_contiguous() and storage.nbytes() == made.nbytes
        # Under autocast another number format comes out, which the way back would not give.
        if whole and made.dtype == x.dtype and storage._cdata != x.untyped_storage()._cdata:
            # A weak reference: where nobody keeps the storage, its address is not given to another one as long as this lives.
            self._made[storage._cdata] = (_weak(storage), made._version, made.dtype, _Made(make, x))

    def close(self) -> None:
        """Forget what was taken down; what autograd keeps goes on."""
        self._made.clear()

    def pack(self, tensor: torch.Tensor) -> _Kept | _Place:
        """Return what is kept of a tensor."""
        entry = self._made.get(tensor.untyped_storage()._cdata)
        if entry is not None:
            ref, version, dtype, made = entry
            if not ref.expired() and tensor._version == version and tensor.dtype == dtype:
                made.asked += 1
                return _Place(made, tensor)
        return _Kept(tensor)

    def unpack(self, kept: _Kept | _Place) -> torch.Tensor:
        """Return the tensor."""
        if isinstance(kept, _Kept):
            return kept.given()
        made = kept.made
        again = self._last[1] if self._last is not None and self._last[0] is made else made.again()
        made.asked -= 1  # below zero where there is a second way back through the same graph
        self._last = (made, again) if made.asked > 0 else None
        return kept.of(again)


def _weak(storage: torch.UntypedStorage) -> Any:
    reference: Any = StorageWeakRef
    return reference(storage)


__all__ = ["making_again", "masked", "remaking", "slab"]
