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
import torch

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
from regraft.types import Features
from regraft.verbs import FitOptions

CHECKED = 16
WAYS = ("recall-at-10-there", "recall-at-10-back", "recall-at-1-there", "recall-at-1-back", "median-rank-there")


def unknown_share(modality: Any, names: list[str]) -> float:
    """Return the share of the tokens of names that stand for whatever the tokenizer does not know."""
    tokenizer = modality.tokenizer
    tokens = [token for name in names for token in tokenizer.encode(name, add_special_tokens=False).tokens]
    return sum(token == "[UNK]" for token in tokens) / len(tokens)


def towers(made: Path, features_ND: np.ndarray, rows: list[Any]) -> np.ndarray:
    """Return the vectors of both towers: the fitted heads on the features of the frozen bases, which are kept.

    The first rows are answered through the artifact's own door as well, and must agree.

    Args:
        made: The artifact.
        features_ND: Features of both bases, one after the other.
        rows: The rows themselves.
    """
    predictor = regraft.load(made)
    runtime: Any = predictor.runtime
    there_N2 = torch.ones(len(features_ND), 2)
    joined = torch.cat([torch.from_numpy(features_ND).float(), there_N2], dim=1)
    with torch.no_grad():
        found = runtime.net.head(Features(joined.unsqueeze(1), there_N2[:, :1] > 0, joined)).numpy().astype(np.float64)
    if not np.allclose(found[:CHECKED], predictor.outputs(rows[:CHECKED]), atol=1e-4):
        raise SystemExit("the artifact does not answer as its heads on the kept features")
    return found


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
    contenders["towers"] = towers(made, before["test"].features_ND, rows)
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
