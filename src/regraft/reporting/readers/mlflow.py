"""Events as a run of MLflow: metrics by update, the facts of the training as parameters."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, ClassVar

from regraft.reporting.event_reader import EventReader, numbers_of
from regraft.training.events import BeginEvent, EndEvent, Event

_EXPERIMENT = "regraft"
_AT_ONCE, _WAIT_S = 500, 10.0


class MlflowReader(EventReader):
    """Write metrics into a tracking server or database (the place is its URI), in the experiment `regraft`.

    They are sent together, at most every ten seconds, so that a distant server does not slow the training down.
    """

    needs: ClassVar[tuple[str, ...]] = ("mlflow",)
    extra: ClassVar[str] = "mlflow"
    _client: Any
    _run: str

    def __init__(self, place: str, out: Path) -> None:
        super().__init__(place, out)
        self._waiting: list[Any] = []
        self._sent, self._state = time.monotonic(), "FAILED"

    @classmethod
    def usual(cls, out: Path) -> str:
        """Return a database NAME.mlflow.db."""
        return f"sqlite:///{out.with_name(f'{out.name}.mlflow.db')}"

    def open(self) -> None:
        """Begin a run, named like the artifact."""
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.place)
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        number = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
        self._run = self._client.create_run(number, run_name=self.out.name).info.run_id

    def __call__(self, event: Event) -> None:
        """Keep the numbers of an event for the next time that some are sent."""
        from mlflow.entities import Metric

        if isinstance(event, BeginEvent):
            for name in ("total_steps", "rows", "parameters", "trainable"):
                self._client.log_param(self._run, name, getattr(event, name))
        if isinstance(event, EndEvent):
            self._state = "FINISHED"
            self._client.set_tag(self._run, "reason", event.reason)
        now = round(1000 * time.time())
        numbers = {name: value for name, value in numbers_of(event).items() if math.isfinite(value)}
        self._waiting += [Metric(name, value, now, event.step) for name, value in numbers.items()]
        if len(self._waiting) >= _AT_ONCE or time.monotonic() - self._sent > _WAIT_S:
            self._send()

    def close(self) -> None:
        """Send what waits and end the run."""
        self._send()
        self._client.set_terminated(self._run, self._state)

    def _send(self) -> None:
        for first in range(0, len(self._waiting), _AT_ONCE):
            self._client.log_batch(self._run, metrics=self._waiting[first : first + _AT_ONCE])
        self._waiting, self._sent = [], time.monotonic()
