"""torch's compiler, opened when something is compiled and not before.

transformers names it as it is opened, and torch's optimisers as they are made: only to say what is not to be compiled, or what
is to be taken as it is. Opening it takes half a second and tens of megabytes.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
# A class that masks need as they are traced, and where it lives.
_TRACED = ("torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex")
# What only marks a function and returns it.
_MARKS = ("allow_in_graph", "assume_constant_result")

_apart: list[_Apart] = []
_marked: list[tuple[str, Any]] = []


class _Apart:
    """A function that is not compiled, nor what it calls unless `recursive` is False.

    Before anything is compiled that is the function itself.
    """

    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        self._function = function
        self._options = options
        self._run: Callable[..., Any] = function

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            return self._run(*args, **kwargs)

        self.stands_in = run

    def shut(self, disable: Callable[..., Any]) -> None:
        """Let the compiler know: from now on it could come this way."""
        self._run = disable(self._function, **self._options)
        self.stands_in._torchdynamo_disable = True  # type: ignore[attr-defined]  # or it would look inside what stands in


class _StandIn(ModuleType):
    """The compiler to a module that is being opened: it takes marks down; asked for anything else, it opens the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_COMPILER), name)

    def come(self) -> None:
        """Stand where modules look for it."""
        traced = ModuleType(_TRACED[0])
        traced.__dict__[_TRACED[1]] = _traced
        sys.modules |= {_COMPILER: self, _TRACED[0]: traced}
        sys.modules["torch"].__dict__["_dynamo"] = self
        self.__dict__.update({mark: functools.partial(_take_down, mark) for mark in _MARKS})

    def leave(self) -> None:
        """Be found no more."""
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER], sys.modules[_TRACED[0]], sys.modules["torch"].__dict__["_dynamo"]


def _is_open() -> bool:
    return not isinstance(sys.modules.get(_COMPILER), _StandIn | None)


def _take_down(mark: str, function: Any) -> Any:
    if _is_open():
        return getattr(sys.modules[_COMPILER], mark)(function)
    _marked.append((mark, function))
    return function


def _traced(*args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(_TRACED[0]), _TRACED[1])(*args, **kwargs)


def _lazily(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.compiler.disable` (or torch's own form of it) that does not open the compiler.

    Args:
        real: That function. It is asked for whatever is no plain function, and for all once the compiler is there.
    """

    @functools.wraps(real)
    def disable(fn: Any = None, recursive: bool = True, **more: Any) -> Any:
        if fn is None:
            return functools.partial(disable, recursive=recursive, **more)
        if not isinstance(fn, FunctionType) or _is_open():
            return real(fn, recursive, **more)
        _apart.append(_Apart(fn, {"recursive": recursive, **more}))
        return _apart[-1].stands_in

    return disable


def _lazy_marks(opens: Callable[[], None]) -> None:
    opens()
    module = sys.modules["torch.compiler"]
    module.disable = _lazily(module.disable)  # type: ignore[attr-defined]
    for mark in _MARKS:
        setattr(module, mark, functools.wraps(getattr(module, mark))(functools.partial(_take_down, mark)))


def _lazy_private_disable(opens: Callable[[], None]) -> None:
    """Torch's form for its own functions waits until one of them is called, not until it matters."""
    opens()
    module = sys.modules["torch._compile"]
    module._disable_dynamo = _lazily(module._disable_dynamo)  # type: ignore[attr-defined]


def _told(opens: Callable[[], None]) -> None:
    """Open the compiler and tell it what is not to be compiled, and what is to be taken as it is."""
    opens()
    compiler = sys.modules[_COMPILER]
    while _apart:
        _apart.pop().shut(compiler.disable)
    while _marked:
        mark, function = _marked.pop()
        getattr(compiler, mark)(function)


def _unwraps(opens: Callable[[], None]) -> None:
    """Open what unwraps a network that is saved: whether it was compiled it finds out by opening the compiler."""
    opens()
    module = sys.modules["accelerate.utils.other"]
    for name in ("is_compiled_module", "has_compiled_regions"):
        if asks := getattr(module, name, None):
            setattr(module, name, _unless_closed(asks))
    module.is_torch_distributed_available = lambda: False  # type: ignore[attr-defined]  # or it opens that to look for wrappers


def _unless_closed(asks: Callable[[Any], bool]) -> Callable[[Any], bool]:
    @functools.wraps(asks)
    def compiled(network: Any) -> bool:
        return _is_open() and asks(network)

    return compiled


def _stood_in_for(opens: Callable[[], None]) -> None:
    """Open a module that names the compiler."""
    if _COMPILER in sys.modules:  # or what stands in for it already
        return opens()
    stand_in = _StandIn(_COMPILER)
    stand_in.come()
    try:
        opens()
        return None
    except ImportError:  # another release asks for more parts of it
        pass
    finally:
        stand_in.leave()
    return opens()


_NAME_IT = ("masking_utils", "integrations.deepgemm", "integrations.finegrained_fp8", "integrations.sonicmoe")
# How each module is opened.
WAYS: dict[str, Callable[[Callable[[], None]], None]] = {
    "torch.compiler": _lazy_marks,
    "torch._compile": _lazy_private_disable,
    _COMPILER: _told,
    "accelerate.utils.other": _unwraps,
    **{f"transformers.{name}": _stood_in_for for name in _NAME_IT},
}

__all__ = ["WAYS"]
