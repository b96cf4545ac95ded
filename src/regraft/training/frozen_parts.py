"""What is frozen in a network of several parts: each part is cut where its own lowest learning weight lies, and kept by itself.

So a text whose base is frozen is computed once a row, whatever the other parts learn; and what a run over the text alone has
kept is found again here. Networks of one part go to `regraft.training.frozen` as they are.

Shapes: N rows, P parts, D width of a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import EncodedRows, SplitRows
from regraft.modalities.fused_rows import FusedRows
from regraft.models.fused import Fused
from regraft.models.net import Headed
from regraft.models.view import view
from regraft.training import frozen
from regraft.training.frozen import POOLED, Learner, Setting
from regraft.types import Array, FloatArray

_SEQUENCE = "sequence"


@contextmanager
def learner(
    net: Headed,
    trainable: Set[str],
    needs: Set[str],
    rows: Mapping[str, SplitRows],
    setting: Setting,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Learner]:
    """Give the part of a network that is trained, with everything frozen below it computed for all rows.

    Args:
        net: The whole network.
        trainable: Names of the weights that learn.
        needs: What the task takes of the backbone.
        rows: Split -> its encoded rows.
        setting: Where features are kept.
        progress: Called with the number of rows done.
    """
    fused: Any = net.backbone
    if not isinstance(fused, Fused):
        with frozen.learner(net, trainable, needs, _whole(rows), setting, progress) as found:
            yield found
        return
    inside = frozenset({_SEQUENCE if fused.pooling.reads_positions else POOLED})
    with contextlib.ExitStack() as stack:
        replaced: dict[str, nn.Module] = {}
        parts: dict[str, list[Any]] = {split: list(_fused(found).parts) for split, found in rows.items()}
        for place, part in enumerate(fused.backbones):
            own = {split: held[place] for split, held in parts.items()}
            if not any(map(len, own.values())):
                continue
            path = f"backbone.parts.{place}."
            names = {f"backbone.{name.removeprefix(path)}" for name in trainable if name.startswith(path)}
            some = {split: held for split, held in own.items() if len(held)}
            made = stack.enter_context(frozen.learner(_alone(part), names, inside, some, _of(setting, rows, place)))
            if made.cut is not None:
                replaced[path.removesuffix(".")] = made.net.backbone
                for split, held in made.rows.items():
                    parts[split][place] = held
        progress(sum(map(len, rows.values())))
        if not replaced:
            yield Learner(net, rows, trainable)
            return
        upper = view(net, replaced)
        yield Learner(upper, {split: _fused(found).with_parts(parts[split]) for split, found in rows.items()}, trainable)


def kept_pooled(
    net: Headed, rows: SplitRows, positions: Array, setting: Setting, progress: Callable[[int], None]
) -> FloatArray:
    """Return one vector a row (N, D) of the backbone as it is; of several parts their vectors, one after the other.

    Where a part is missing its vector is zero. What joins the parts is not looked at: it has learnt nothing yet.

    Args:
        net: The whole network; runs in evaluation mode.
        rows: Encoded rows.
        positions: Which of them (N,).
        setting: Where features are kept.
        progress: Called with the number of rows done.
    """
    fused: Any = net.backbone
    if not isinstance(fused, Fused):
        (whole,) = _whole({"": rows}).values()
        return frozen.kept_pooled(net, whole, positions, setting, progress)
    held, made = _fused(rows), []
    for place, part in enumerate(fused.backbones):
        own, places_N = held.parts[place], held.places_PN[place][positions]
        vectors_ND = np.zeros((len(positions), part.width), dtype=np.float32)
        there_N = places_N >= 0
        if isinstance(own, EncodedRows) and there_N.any():
            setting_of = _of(setting, {"": rows}, place)
            vectors_ND[there_N] = frozen.kept_pooled(_alone(part), own, places_N[there_N], setting_of, lambda _: None)
        made.append(vectors_ND)
    progress(len(positions))
    return np.concatenate(made, axis=1)


def _alone(part: Any) -> Headed:
    """Return a network of one part, without a head."""
    made = Headed(part, nn.Identity())
    made.training = part.training
    return made


def _of(setting: Setting, rows: Mapping[str, SplitRows], place: int) -> Setting:
    """Return where the features of one part are kept: what they depend on is the preprocessing of that part alone."""
    modality: Any = next(iter(rows.values())).modality
    part = modality.parts[place]
    return dataclasses.replace(setting, preprocessing=modality_digest(part.modality), about=f"{setting.about}: {part.name}")


def _fused(rows: SplitRows) -> FusedRows:
    if not isinstance(rows, FusedRows):
        raise TypeError("a network of several parts takes rows of several parts")
    return rows


def _whole(rows: Mapping[str, SplitRows]) -> dict[str, EncodedRows]:
    found = {split: held for split, held in rows.items() if isinstance(held, EncodedRows)}
    if len(found) != len(rows):
        raise TypeError("a network of one part takes rows of one part")
    return found


__all__ = ["kept_pooled", "learner"]
