"""What the towers of recipes/emoji.yaml find in each language, beside chance and one part alone; called by recipes.py.

Each language is judged by itself: its names ask for the pictures of the held-out emoji, these pictures for its names. The
baselines are those of the report: what "name alone" finds are the pictures nearest (in frozen features of their base) to
the mean picture of the five training rows whose names are nearest (in frozen features of the base of names).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import regraft
from regraft import fitting
from regraft.data import SAMPLES
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rung import RungRows
from regraft.modalities.fusion import Fusion
from regraft.options import build
from regraft.planning import raws
from regraft.recipe import with_recipe
from regraft.training.stages import Stages, ignore
from regraft.verbs import FitOptions

WAYS = ("recall-at-10-there", "recall-at-10-back", "recall-at-1-there", "recall-at-1-back", "median-rank-there")


def unknown_share(modality: Any, names: list[str]) -> float:
    """Return the share of the tokens of names that stand for whatever the tokenizer does not know."""
    tokenizer = modality.tokenizer
    tokens = [token for name in names for token in tokenizer.encode(name, add_special_tokens=False).tokens]
    return sum(token == "[UNK]" for token in tokens) / len(tokens)


def by_language(recipe: Path, made: Path) -> list[dict[str, Any]]:
    """Return a line of figures for each language and contender.

    Args:
        recipe: The recipe.
        made: The artifact that it made.
    """
    data, options, _ = with_recipe(recipe, None, {"out": "none"})
    stages = Stages(ignore)
    wanted = build(FitOptions, options)
    base, wanted = fitting.open_base(fitting.settled(data, wanted, stages), stages)
    with fitting.read(data, wanted, stages) as dataset:
        plan = fitting.plan(data, dataset, base, wanted, stages)
        net = fitting.network(plan, stages)
        with fitting.learner(net, plan, stages) as learner:
            before = fitting.features_before(net, learner, plan, stages)
        rows = [raw for chunk in raws(dataset, "test") for raw in chunk]
    kind = kind_of(plan.task.answers, plan.task.names)
    known = RungRows(
        train=before["train"], valid=before["valid"], class_counts_C=np.empty(0), kind=kind, widths=net.backbone.part_widths
    )
    contenders = {}
    for name, rung_class in kind.rungs(None).items():
        rung = rung_class(wanted.seed)
        rung.fit(known)
        contenders[f"{name} ({rung.note})" if rung.note else name] = rung.probabilities(before["test"].features_ND)
    contenders["towers"] = np.asarray(regraft.load(made).outputs(rows), dtype=np.float64)
    languages = np.array(pq.read_table(SAMPLES.get("emoji").folder() / "test.parquet").column("language").to_pylist())
    if len(languages) != len(rows):
        raise SystemExit("rows of the test were lost: languages cannot be told")
    (text,) = (
        [part for part in plan.modality.parts if hasattr(part.modality, "tokenizer")]
        if isinstance(plan.modality, Fusion)
        else []
    )
    lines = []
    for language in sorted(set(languages.tolist())):
        own = languages == language
        share = unknown_share(text.modality, [row[text.columns[0]] for row, mine in zip(rows, own, strict=True) if mine])
        lines.append(
            {"language": language, "names": int(own.sum()), "unknown tokens": round(share, 3), "there": plan.task.names}
        )
        for name, outputs in contenders.items():
            targets, vectors = kind.checked(plan.targets["test"][own], outputs[own])
            found = kind.judge(WAYS, targets, vectors, options=JudgeOptions()).metrics
            told = {way: [round(number, 3) for number in (one.value, one.low, one.high)] for way, one in found.items()}
            against = kind.compare(targets, (vectors, contenders["towers"][own]), (name, "towers"), options=JudgeOptions())
            verdict = {} if name == "towers" else {"towers are": against.verdict, "p": float(f"{against.p_value:.2g}")}
            lines.append({"language": language, "contender": name, **told, **verdict})
    return lines
