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

# The threads are shared by all programs of a process, and one call fills them.
_LOCK = threading.Lock()
_THREADS: list[int] = []
"""How many there are, once a program has been opened: a program that is open does not outlive a change."""


class ExecutorchSession:
    """A program; any thread may ask it.

    Args:
        path: The .pte file.
        names: Names of its arguments, in order.
        rows: Most rows that it takes at once; more are computed one part after the other.
        threads: Threads of one matrix product, if this is the process's first program; later ones share the first one's.

    Raises:
        ArtifactError: The installed version cannot open it.
    """

    def __init__(self, path: Path, names: Sequence[str], rows: int, threads: int) -> None:
        self.path = path
        self.names = tuple(names)
        self.rows = rows
        library = _library()
        self.threads = _shared_threads(threads)
        try:
            self._program = library.Runtime.get().load_program(path)
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
            return np.concatenate([self._run(part) for part in parts])

    def _run(self, feeds: Mapping[str, Array]) -> FloatArray:
        import torch

        outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.names])
        return np.array(outputs[0].numpy(), dtype=np.float32)  # its memory is used again for the next batch


def _shared_threads(wanted: int) -> int:
    """Return how many threads this process's programs share: so many as the first one was opened with."""
    from executorch.extension.pybindings import portable_lib

    with _LOCK:
        if not _THREADS:
            portable_lib._unsafe_reset_threadpool(wanted)
            _THREADS.append(int(portable_lib._threadpool_get_thread_count()))
        return _THREADS[0]


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
