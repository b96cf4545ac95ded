"""Loss, validation metrics, learning rate and gradient norm as PNG and SVG beside the artifact, redrawn while a fit runs."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.artifact.run import folder_of
from regraft.data.atomic import atomic_file
from regraft.reporting.event_reader import EventReader, numbers_of
from regraft.training.event_log import EVENTS, read
from regraft.training.events import BeginEvent, Event, StepEvent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
_EVERY_S, _SHARE = 5.0, 0.02
_POINTS = 2_000
_TRAINED: Mapping[str, tuple[str, bool]] = {
    "train/loss": ("loss", False),
    "train/learning_rate": ("learning rate", False),
    "train/gradient_norm": ("gradient norm", True),
}
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "regraft", "axes.spines.top": False, "axes.spines.right": False}


class CurvesReader(EventReader):
    """Draw at most every five seconds, and so seldom that drawing takes no more than a fiftieth of the time."""

    needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    extra: ClassVar[str] = "plots"

    def __init__(self, place: str, out: Path) -> None:
        super().__init__(place, out)
        given = Path(place)
        self._stem = given.with_suffix("") if given.suffix.lower() in SUFFIXES else given
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._every = 1
        self._due, self._new = 0.0, False

    @classmethod
    def usual(cls, out: Path) -> str:
        """Return NAME.curves, which becomes NAME.curves.svg and NAME.curves.png."""
        return str(out.with_name(f"{out.name}.curves"))

    def open(self) -> None:
        """Make the folder."""
        self._stem.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: Event) -> None:
        """Take one event; draw if it is time."""
        if isinstance(event, BeginEvent) and event.step:
            self._take_up(event.step)
        self._take(event)
        if self._new and time.monotonic() >= self._due:
            self._draw()

    def close(self) -> None:
        """Draw the last state."""
        if self._new:
            self._draw()

    def _take_up(self, step: int) -> None:
        """Take the events of the interrupted fit that goes on, up to the checkpoint that it goes on from."""
        path = folder_of(self.out.expanduser().resolve()) / EVENTS
        for event in read(path) if path.is_file() else ():
            if event.step <= step and not isinstance(event, BeginEvent):
                self._take(event)

    def _take(self, event: Event) -> None:
        numbers = numbers_of(event)
        if not numbers or (isinstance(event, StepEvent) and event.step % self._every):
            return
        for name, value in numbers.items():
            self._curves.setdefault(name, []).append((event.step, value))
        self._new = True
        if isinstance(event, StepEvent) and len(self._curves["train/loss"]) > _POINTS:
            self._every *= 2
            self._curves = {
                name: [point for point in points if point[0] % self._every == 0 or name.startswith("valid/")]
                for name, points in self._curves.items()
            }

    def _draw(self) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        began, self._new = time.monotonic(), False
        valid = [name for name in self._curves if name.startswith("valid/")]
        panels = [*_TRAINED, *valid]
        settings: Any = _SETTINGS
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(9.0, 2.4 * -(-len(panels) // 2)), layout="constrained", dpi=110)
            for number, name in enumerate(panels, start=1):
                axes = figure.add_subplot(-(-len(panels) // 2), 2, number)
                told, logarithmic = _TRAINED.get(name, (name.removeprefix("valid/") + ", validation rows", False))
                _panel(axes, self._curves.get(name, []), told, logarithmic=logarithmic)
            for suffix in SUFFIXES:
                file = io.BytesIO()
                metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
                figure.savefig(file, format=suffix[1:], metadata=metadata)
                with atomic_file(self._stem.with_name(self._stem.name + suffix)) as written:
                    written.write(file.getvalue())
        took = time.monotonic() - began
        self._due = time.monotonic() + max(_EVERY_S, took / _SHARE)


def _panel(axes: Axes, points: list[tuple[int, float]], told: str, *, logarithmic: bool) -> None:
    steps, values = [point[0] for point in points], [point[1] for point in points]
    mark = "o" if len(points) < 30 else ""
    axes.plot(steps, values, color="#0b6e69", linewidth=1.2, marker=mark, markersize=3.5)
    if logarithmic and values and min(values) > 0:
        axes.set_yscale("log")
    axes.set_title(told.replace("$", r"\$"), fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
