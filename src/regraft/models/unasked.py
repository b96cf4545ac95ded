"""What libraries open that nothing here asks them for, wherever it is installed.

- torchao, by transformers, with warnings on the console. ExecuTorch brings it, and needs it when it writes a program.
- pandas, by pyarrow as it makes its first array. `datasets` brings it.
- scipy, by transformers for losses of detected objects. Here it fits calibrators, once there are any.
- Tensors that are spread over machines, by transformers. No command trains on several.
- torch's compiler, by transformers and by torch's optimisers, to say what is not to be compiled.

    keep_out()  # at the start of a process
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from regraft.models import compiler

_PACKAGE = "torchao"


def keep_out() -> None:
    """Open none of them unasked, from now on.

    torchao looks as if it were not installed. Anybody can import pandas and scipy at any time; pyarrow knows the frames of
    pandas as soon as somebody has, and those losses open scipy as they are computed. The compiler is opened where something is
    compiled. What has been opened already stays so.

    For processes that are Regraft's own: whoever uses Regraft as a library may want other libraries to open them.
    """
    sys.modules.setdefault(_PACKAGE, None)  # type: ignore[arg-type]
    if any(isinstance(finder, _Once) for finder in sys.meta_path):
        return
    if "pyarrow" not in sys.modules:
        sys.meta_path[:0] = [_Once("pyarrow", _without_pandas), _Once("pandas", _known_to_pyarrow)]
    sys.meta_path.insert(0, _Once("transformers.loss.loss_utils", _without_scipy))
    sys.meta_path.insert(0, _Once("transformers.utils.import_utils", _alone))
    if "torch.compiler" not in sys.modules:
        sys.meta_path[:0] = [_Once(name, way) for name, way in compiler.WAYS.items()]


def let_in() -> None:
    """Undo what `keep_out` did to torchao."""
    if sys.modules.get(_PACKAGE, sys) is None:
        del sys.modules[_PACKAGE]


class _Once(MetaPathFinder):
    """Open a module in another way than its loader alone would. Whoever only looks whether it is there changes nothing.

    Args:
        name: Of the module.
        way: Calls what opens it.
    """

    def __init__(self, name: str, way: Callable[[Callable[[], None]], None]) -> None:
        self._name = name
        self._way = way
        self._asking: set[int] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the others find the module; None for any other."""
        thread = threading.get_ident()
        if fullname != self._name or thread in self._asking or self not in sys.meta_path:
            return None
        self._asking.add(thread)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.remove(thread)
        if spec is not None and spec.loader is not None:
            opens = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._open(lambda: opens(module))  # type: ignore[method-assign]
        return spec

    def _open(self, opens: Callable[[], None]) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._way(opens)


class _Hidden(MetaPathFinder):
    """Let a module look as if it were not installed, to one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for other modules and other threads.

        Raises:
            ModuleNotFoundError: For the hidden one.
        """
        if fullname == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


@contextlib.contextmanager
def none_spread() -> Iterator[None]:
    """Let those who ask of each tensor whether it is spread over machines find that there is no such thing.

    Unless somebody has opened it: before that there are none.
    """
    spread = "torch.distributed.tensor"
    with contextlib.nullcontext() if spread in sys.modules else _hidden(spread):
        yield


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    finder = _Hidden(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _without_pandas(opens: Callable[[], None]) -> None:
    """Let pyarrow look for pandas, which it does once, at its first array, and not find it."""
    opens()
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    with _hidden("pandas"):
        pa.array([0])


def _known_to_pyarrow(opens: Callable[[], None]) -> None:
    """Let pyarrow look again: where it needs pandas, as here, it does so until it finds it."""
    opens()
    if "pyarrow" in sys.modules:
        from pyarrow.lib import _pandas_api

        _pandas_api.pd  # noqa: B018 - it is opened as it is read


def _without_scipy(opens: Callable[[], None]) -> None:
    """Let what is opened find one function of scipy, which opens the real one as it is called."""
    if "scipy" in sys.modules:
        return opens()
    package, module = ModuleType("scipy"), ModuleType("scipy.optimize")
    package.__dict__["optimize"], module.__dict__["linear_sum_assignment"] = module, _linear_sum_assignment
    sys.modules |= {"scipy": package, "scipy.optimize": module}
    try:
        opens()
        return None
    except ImportError:  # another release asks for more of it
        pass
    finally:
        del sys.modules["scipy"], sys.modules["scipy.optimize"]
    return opens()


def _alone(opens: Callable[[], None]) -> None:
    """Let transformers find torch without its distributed part, of which it would open tensors and sharding."""
    opens()
    sys.modules["transformers.utils.import_utils"].is_torch_distributed_available = functools.cache(lambda: False)  # type: ignore[attr-defined]


def _linear_sum_assignment(*args: Any, **kwargs: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(*args, **kwargs)


__all__ = ["keep_out", "let_in", "none_spread"]
