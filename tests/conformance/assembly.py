"""Put registered things together into tiny networks with data, so that every suite can run them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from regraft.errors import OptionsError, RegraftError
from regraft.modalities import MODALITIES
from regraft.models import BASES
from regraft.models.net import Headed
from regraft.models.transform import added_names
from regraft.objectives import OBJECTIVES
from regraft.options import build, json_schema, to_json
from regraft.regularizers.regularized import regularized
from regraft.tasks import TASKS
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS
from regraft.types import Ledger

TINY_PARTS = {
    "words": {"name": "mlp", "width": 16, "layers": 2, "vocabulary_size": 300, "dropout": 0.0},
    "facts": {"name": "table", "width": 16, "layers": 2, "heads": 2, "dropout": 0.0},
}
TINY = {
    "parts": TINY_PARTS,
    "widths": [8, 8],
    "width": 16,
    "heads": 2,
    "kernel": 3,
    "vocabulary_size": 300,
    "positions": 128,
    "dropout": 0.0,
}


def tiny_base(name: str, layers: int = 1) -> Any:
    """Return a base with the smallest sizes that its options allow, or nothing if it needs options that are not known here.

    Args:
        name: Registered name; "name/style" for a style of a base that has several.
        layers: Number of layers.
    """
    name, _, style = name.partition("/")
    cls, sizes = BASES.get(name), {**TINY, "layers": layers, **({"style": style} if style else {})}
    names = {field.name for field in dataclasses.fields(cls.Options)}
    try:
        return cls(name, build(cls.Options, {key: value for key, value in sizes.items() if key in names}))
    except OptionsError:
        return None


def scratch_bases() -> list[str]:
    """Return the names of the bases that are made from options alone."""
    bases = {name: tiny_base(name) for name in BASES}
    return [name for name, base in bases.items() if base is not None and base.card().fetched and not base.card().size_bytes]


def styled_bases() -> list[str]:
    """Return "name/style" for every style of a base that has several, but the one it has by itself."""
    found = []
    for name in scratch_bases():
        options = BASES.get(name).Options
        if "style" in {field.name for field in dataclasses.fields(options)}:
            styles = get_args(get_type_hints(options)["style"])
            found += [f"{name}/{style}" for style in styles if style != options().style]
    return found


def pretrained_bases() -> list[str]:
    """Return the names of the bases that come with weights and need no options."""
    bases = {name: tiny_base(name) for name in BASES}
    return [name for name, base in bases.items() if base is not None and base.card().size_bytes]


def rows_of(modality: Any, raws: list[Any]) -> Any:
    """Return raw values as the rows of a split."""
    return modality.rows(lambda: [raws], lambda _: None)


@dataclass
class Assembly:
    """A learnt task, a modality, a network, and encoded rows with their targets."""

    task: Any
    modality: Any
    net: Headed
    raws: list[Any]
    values: list[Any]

    @property
    def rows(self) -> Any:
        return rows_of(self.modality, self.raws)

    def objective(self, name: str = "supervised") -> Any:
        cls = OBJECTIVES.get(name)
        return cls(cls.Options()).attach(self.rows, self.task.targets(self.values), self.task)

    def outputs(self, raws: list[Any], batch_size: int = 64) -> np.ndarray:
        rows = rows_of(self.modality, raws)
        self.net.eval()
        with torch.no_grad():
            parts = [
                self.net(*self.net.tensors(rows.batch(np.arange(start, min(start + batch_size, len(rows))))))
                for start in range(0, len(rows), batch_size)
            ]
        return torch.cat(parts).numpy()


def task_example(name: str, n: int = 96, seed: int = 0) -> tuple[Any, np.ndarray, list[Any]]:
    """Return a task that has learnt its own example, with signal and values."""
    cls = TASKS.get(name)
    signal, values = cls.example(n, seed)
    task = cls(build(cls.Options, cls.example_options))
    task.learn(values, Ledger())
    return task, signal, values


def assemble(task_name: str, base_name: str = "mlp", seed: int = 0, n: int = 96) -> Assembly:
    """Return a tiny network for the task's own example, as the base's modality renders it."""
    task, signal, values = task_example(task_name, n, seed=0)
    base = tiny_base(base_name, layers=2)  # as many as any tuning asks for by itself
    raws = MODALITIES.get(base.modality_name).example(signal, 0)
    modality = base.modality({}, lambda: iter([raws]))
    backbone = base.backbone(modality, seed)
    assert task.needs <= backbone.provides, "the tasks here need nothing that a tiny backbone lacks"
    return Assembly(task, modality, Headed(backbone, backbone.head(task, 0.0, seed)), raws, values)


def fit(
    made: Assembly, *, tuning: str = "full", objective: str = "supervised", steps: int = 40, seed: int = 0, **options: Any
) -> list[Any]:
    """Train for some steps and return the events."""
    tuned = prepared(made, tuning, seed)
    rates = {"learning_rate": 2e-2, "head_learning_rate": 2e-2}
    built = build(TrainOptions, {"epochs": 1000, "max_steps": steps, "batch_size": 32, **rates, **options})
    followed = regularized(made.objective(objective), (), tuned.follows())
    followed.attach(made.rows, made.task.targets(made.values), made.task)
    return list(train(made.net, followed, tuned, built, seed=seed))


def prepared(made: Assembly, name: str, seed: int = 0) -> Any:
    """Return a tuning with its own options that has given the network the structure it needs."""
    cls = TUNINGS.get(name)
    tuned = cls(cls.Options())
    if not added_names(made.net):
        tuned.prepare(made.net, iter([made.rows.batch(np.arange(4))]), seed)
    return tuned


def check_options_class(cls: type) -> None:
    """Options can be made without arguments, survive JSON, describe themselves, and refuse what they do not know."""
    default = build(cls, {})
    assert build(cls, json.loads(json.dumps(to_json(default), allow_nan=False))) == default
    schema = json_schema(cls)
    for field in dataclasses.fields(cls):
        assert schema["properties"][field.name].get("description"), f"'{field.name}' has no docstring below it"
    try:
        build(cls, {"no_such_option": 1})
    except OptionsError as error:
        check_error(error, "no_such_option")
    else:
        raise AssertionError("an unknown option was accepted")


def check_error(error: RegraftError, mentions: str = "") -> None:
    """An error says what is wrong and what to do."""
    assert error.problems
    for problem in error.problems:
        assert problem.what, "an error must say what is wrong"
        assert problem.fix, f"'{problem.what}' must say what to do"
    assert mentions in str(error)


def flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in net.state_dict().values()])
