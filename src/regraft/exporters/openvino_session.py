"""Opening a network with OpenVINO: how it computes, and what is said when it cannot be opened. No torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ArtifactError, Problem
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    import openvino

_KEPT_SHAPES = 64
"""So many prepared steps are kept for shapes that come again; each new shape would otherwise stay in memory for good."""


class OpenvinoSession:
    """A network on the CPU, in float32; any thread may ask it.

    Args:
        model: As OpenVINO read it.
        threads: Threads of one matrix product.
    """

    def __init__(self, model: openvino.Model, threads: int) -> None:
        import openvino

        compiled = openvino.Core().compile_model(model, "CPU", settings(threads))
        self.inputs = tuple(port.get_any_name() for port in compiled.inputs)
        self.outputs = tuple(port.get_any_name() for port in compiled.outputs)
        # One request holds the memory of one batch; more of them at once would only share the same cores.
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> FloatArray:
        """Return the only output (B, ...) for inputs by name."""
        with self._lock:
            self._request.infer({name: feeds[name] for name in self.inputs}, share_inputs=True)
            # The memory of the output is used again for the next batch.
            return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


def open_openvino(files: tuple[Path, ...], threads: int) -> OpenvinoSession:
    """Return a session for a network.

    Args:
        files: The .xml and the .bin file, or one .onnx file; checked before (see `regraft.artifact.openvino_file`).
        threads: Threads of one matrix product.

    Raises:
        ArtifactError: The installed version cannot open it.
    """
    import openvino

    try:
        return OpenvinoSession(openvino.Core().read_model(*map(str, files)), threads)
    except RuntimeError as error:
        got = " ".join(str(error).split())[:500]
        what, fix = f"openvino {version()} cannot open the network", "pip install --upgrade openvino, or export it again"
        raise ArtifactError(Problem(what=what, where=str(files[0]), got=got, fix=fix)) from error


def version() -> str:
    """Return the version of OpenVINO without the number of its build."""
    import openvino

    return str(openvino.__version__).partition("-")[0]


def settings(threads: int) -> dict[str, Any]:
    """Return the settings under which a network answers alike everywhere, within this process's threads."""
    return {
        # By itself it computes in bfloat16 where the processor can, which moves answers by 2e-3.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads of several processes would all sit on the same first cores.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SHAPES,
    }
