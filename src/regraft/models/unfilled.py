"""Networks that are opened take their weights from a file: nothing is worked out for tensors that hold no numbers yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

Layer = TypeVar("Layer", bound=nn.Module)

_DRAWS = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_})


class Unfilled(TorchFunctionMode):
    """Do not work out what fills tensors on the meta device: drawn numbers, ranges, the shape of another one.

    Nothing comes of it there, and torch does it in Python, for which it opens a library of symbolic mathematics.

        with Unfilled():
            model = BertModel.from_pretrained(folder)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or return what it would return: the tensor that it was given, or one that is as empty."""
        named = dict(kwargs or {})
        if func in _DRAWS or getattr(func, "__module__", None) == init.__name__:
            tensor = args[0] if args else named.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        if func is torch.arange and str(named.get("device")) == "meta":
            return func(*args, **named | {"device": "cpu"}).to("meta")
        if func is torch.empty_like and args[0].is_meta and args[0].is_contiguous() and "memory_format" not in named:
            return torch.empty(args[0].shape, **{"dtype": args[0].dtype, "device": "meta"} | named)
        return func(*args, **named)


def undrawn(kind: Callable[..., Layer], *args: Any, device: Any = "cpu", **kwargs: Any) -> Layer:
    """Return a layer whose weights have a place but no numbers yet: they come from elsewhere, and none are drawn for it.

    Args:
        kind: Of the layer, such as `nn.Linear`.
        *args: What `kind` takes.
        device: Where its weights lie.
        **kwargs: What else `kind` takes.
    """
    with Unfilled():
        return kind(*args, device="meta", **kwargs).to_empty(device=device)


__all__ = ["Unfilled", "undrawn"]
