"""Opening a program of ExecuTorch from Python: how it computes, and how much at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.errors import ArtifactError, Problem
from regraft.types import Array, FloatArray

# Threads are a setting of the process: two programs at once would change it under each other.
_LOCK = threading.Lock()


class ExecutorchSession:
    """A program; any thread may ask it.

    Args:
        path: The .pte file.
        names: Names of its arguments, in order.
        rows: Most rows that it takes at once; more are computed one part after the other.
        threads: Threads of one matrix product.

    Raises:
        ArtifactError: The installed version cannot open it.
    """

    def __init__(self, path: Path, names: Sequence[str], rows: int, threads: int) -> None:
        self.path = path
        self.names = tuple(names)
        self.rows = rows
        self.threads = threads
        self._library = _library()
        try:
            self._program = self._library.Runtime.get().load_program(path)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            got = " ".join(str(error).split())[:300]
            what, fix = f"executorch {version()} cannot open the network", "use the version that wrote it, or export it again"
            raise ArtifactError(Problem(what=what, where=str(path), got=got, fix=fix)) from error

    def run(self, feeds: Mapping[str, Array]) -> FloatArray:
        """Return the output (B, ...) for inputs by name."""
        count = len(feeds[self.names[0]])
        parts = [{name: feeds[name][start : start + self.rows] for name in self.names} for start in range(0, count, self.rows)]
        with _LOCK:
            self._take_threads()
            return np.concatenate([self._run(part) for part in parts])

    def _run(self, feeds: Mapping[str, Array]) -> FloatArray:
        import torch

        outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.names])
        return np.array(outputs[0].numpy(), dtype=np.float32)  # its memory is used again for the next batch

    def _take_threads(self) -> None:
        from executorch.extension.pybindings import portable_lib

        if portable_lib._threadpool_get_thread_count() != self.threads:
            portable_lib._unsafe_reset_threadpool(self.threads)


def _library() -> Any:
    """Return ExecuTorch's runtime, without its warning that its interface may change: the version is in the manifest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import executorch.runtime as library
    return library


def version() -> str:
    """Return the version of ExecuTorch."""
    from importlib import metadata

    return metadata.version("executorch")
