"""Events as TensorBoard shows them: scalars by update."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regraft.reporting.event_reader import EventReader, numbers_of
from regraft.training.events import Event


class TensorboardReader(EventReader):
    """Write loss, rate, gradient norm and validation metrics into a folder for `tensorboard --logdir`."""

    needs: ClassVar[tuple[str, ...]] = ("tensorboard",)
    extra: ClassVar[str] = "tensorboard"
    _writer: Any

    @classmethod
    def usual(cls, out: Path) -> str:
        """Return NAME.tensorboard."""
        return str(out.with_name(f"{out.name}.tensorboard"))

    def open(self) -> None:
        """Begin a file of events in the folder."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        Path(self.place).mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(self.place)

    def __call__(self, event: Event) -> None:
        """Write the numbers of an event."""
        import time

        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers_of(event).items()]
        if values:
            self._writer.add_event(Record(wall_time=time.time(), step=event.step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write out what waits."""
        self._writer.close()
