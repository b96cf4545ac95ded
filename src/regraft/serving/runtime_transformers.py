"""The hub's own class for classifying sequences, as `pipeline("text-classification")` runs it.

Shapes: B rows, T positions, C classes.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, BaseError, Problem
from regraft.options import JSON
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.device import choose_device
from regraft.training.machine import processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads, with_threads
from regraft.types import Batch, FloatArray

if TYPE_CHECKING:
    import torch


class TransformersRuntime(Runtime):
    """Run the hub's class on padded rows.

    Args:
        model: The hub's class, in evaluation mode, on the device where it shall run.
        options: Threads; the device is where the weights are.
    """

    package = "transformers"
    extra = "train"

    def __init__(self, model: Any, options: MachineOptions) -> None:
        from regraft.models.architectures import ARCHITECTURES
        from regraft.models.hub_heads import HUB_HEADS

        self.model = model
        self.threads = options.threads or default_threads()
        kind = model.config.model_type
        self._architecture = ARCHITECTURES[kind]
        self._by_filler = HUB_HEADS[kind].by_filler
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the class from the top of the artifact's folder, checked first."""
        from regraft.models.hub_classifier import open_classifier

        try:
            model = open_classifier(folder)
        except BaseError as error:
            raise ArtifactError(error.problems) from error
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            fix = "restore the artifact from its source, or export it again with the versions in its manifest"
            got = f"{type(error).__name__}: {error}"[:500]
            what = "the hub's class cannot be opened from the artifact"
            raise ArtifactError(Problem(what=what, where=str(folder), got=got, fix=fix)) from error
        return cls(model.to(choose_device(options)), options)

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the logits of a batch, float32 (B, C)."""
        import torch

        device = self.model.device
        taken = {name: torch.from_numpy(batch.inputs[name]) for name in self._architecture.inputs if name in batch.inputs}
        mask_BT = torch.from_numpy(batch.mask_BT).to(device)
        inputs = {name: tensor.to(device) for name, tensor in taken.items()}
        with self._lock, with_threads(self.threads), torch.inference_mode():
            logits_BC = self._last(inputs, mask_BT) if self._by_filler else self._logits(inputs, mask_BT)
            values: FloatArray = logits_BC.float().cpu().numpy()
        return np.ascontiguousarray(values)

    def _logits(self, inputs: dict[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        more = {"use_cache": False} if self._architecture.causal else {}
        logits_BC: torch.Tensor = self.model(**inputs, attention_mask=mask_BT.long(), **more, return_dict=True).logits
        return logits_BC

    def _last(self, inputs: dict[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the logits of a class that finds a row's last token by looking for the token that fills a batch."""
        pad = self.model.config.pad_token_id
        ids_BT = inputs["input_ids"].masked_fill(~mask_BT, pad)
        logits_BC = self._logits({**inputs, "input_ids": ids_BT}, mask_BT)
        lengths_B = mask_BT.sum(dim=1)
        ends_B = ids_BT.gather(1, (lengths_B - 1).clamp(min=0)[:, None]).squeeze(1)
        for row in (ends_B == pad).nonzero().flatten().tolist():
            # A text that spells the filler at its end: alone and unfilled, the class takes the last token whatever it is.
            alone = {name: values[row : row + 1, : lengths_B[row]] for name, values in inputs.items()}
            self.model.config.pad_token_id = None
            try:
                logits_BC[row] = self._logits(alone, mask_BT[row : row + 1, : lengths_B[row]])[0]
            finally:
                self.model.config.pad_token_id = pad
        return logits_BC

    def environment(self) -> dict[str, JSON]:
        """Return libraries, threads, instruction set, processor and device."""
        import torch
        import transformers

        device = self.model.device
        on = torch.cuda.get_device_name(device) if device.type != "cpu" else processor()
        library = f"transformers {transformers.__version__}, torch {torch.__version__}"
        capability = torch.backends.cpu.get_cpu_capability()
        return {"library": library, "threads": self.threads, "instructions": capability, "processor": on}
