"""An exclusive or of a word and a number: neither part alone can tell the classes, and styles that only add cannot either."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.models import BASES
from regraft.models.net import Headed
from regraft.objectives import OBJECTIVES
from regraft.options import build
from regraft.tasks import TASKS
from regraft.training.loop import train
from regraft.training.optimizers import from_scratch
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS
from regraft.types import Ledger

PARTS = {
    "word": {"name": "mlp", "width": 16, "layers": 1, "vocabulary_size": 300, "dropout": 0.0},
    "table": {"name": "table", "width": 16, "layers": 1, "dropout": 0.0},
}
LEARNT, GUESSED = 0.93, 0.68


def rows(count, seed):
    rng = np.random.default_rng(seed)
    shiny, weight = rng.integers(0, 2, count), rng.uniform(0.1, 1.0, count) * rng.choice([-1, 1], count)
    raws = [
        {"word": f"a {('matt', 'shiny')[one]} thing {rng.integers(9)}", "weight": float(number)}
        for one, number in zip(shiny, weight, strict=True)
    ]
    return raws, [("no", "yes")[int(bool(one) != (number > 0))] for one, number in zip(shiny, weight, strict=True)]


def learnt(base, raws, tests, steps=150):
    """Train a base on rows with targets and return how many of the test rows are right."""
    cls = TASKS.get("classification")
    task = cls(cls.Options())
    task.learn(raws[1], Ledger())
    modality = base.modality({}, lambda: iter([raws[0]]))
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, backbone.head(task, 0.0, 0))
    held = modality.rows(lambda: [raws[0]], lambda _: None)
    supervised, full = OBJECTIVES.get("supervised"), TUNINGS.get("full")
    objective = supervised(supervised.Options()).attach(held, task.targets(raws[1]), task)
    options = build(
        TrainOptions, {"epochs": 1000, "max_steps": steps, "batch_size": 64, "learning_rate": 1e-2, "head_learning_rate": 1e-2}
    )
    for _ in train(net, objective, full(full.Options()), from_scratch(options), seed=0):
        pass
    net.eval()
    with torch.no_grad():
        batch = modality.rows(lambda: [tests[0]], lambda _: None).batch(np.arange(len(tests[0])))
        answers = task.decode(net(*net.tensors(batch)).numpy())
    return np.mean([answer.value == truth for answer, truth in zip(answers, tests[1], strict=True)])


@pytest.mark.parametrize(
    ("style", "can"),
    [
        ("concat", True),
        pytest.param("gated", True, marks=pytest.mark.slow),
        pytest.param("early", True, marks=pytest.mark.slow),
        pytest.param("weighted", False, marks=pytest.mark.slow),
        ("late", False),
    ],
)
def test_styles_that_let_parts_meet_learn_what_neither_says(style, can):
    cls = BASES.get("fusion")
    sizes = {"parts": PARTS, "style": style, "width": 16, "heads": 2, "layers": 1, "dropout": 0.0, "part_dropout": 0.0}
    right = learnt(cls("fusion", build(cls.Options, sizes)), rows(400, 0), rows(300, 1))
    assert (right > LEARNT) if can else (right < GUESSED), right


@pytest.mark.parametrize("part", ["word", "table"])
def test_a_part_alone_can_only_guess(part):
    chosen = {key: value for key, value in PARTS[part].items() if key != "name"}
    cls = BASES.get(PARTS[part]["name"])
    seen = []
    for raws, targets in (rows(400, 0), rows(300, 1)):
        seen.append(([raw["word"] if part == "word" else {"weight": raw["weight"]} for raw in raws], targets))
    assert learnt(cls("alone", build(cls.Options, chosen)), *seen) < GUESSED
