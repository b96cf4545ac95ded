"""The baseline that no training row was needed for: labels are words, and a text belongs to the nearest one.

Shapes: N rows, D width of the frozen features, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.evaluation.metrics import LogLoss
from regraft.evaluation.rung import Rung, RungRows
from regraft.evaluation.rungs import chunks, softmax
from regraft.types import FloatArray, Label

_SHOWN = 3
_LETTERS = re.compile(r"[^\W\d_]+")
_SHORTEST_WORD = 3


class ZeroShot(Rung):
    """Give a text the label whose name is nearest to it: the base reads the names as it reads texts.

    Cosine of the pooled features, as in Veeranna et al. 2016 ("Using semantic similarity for multi-label zero-shot
    classification of text documents") with the features of a sentence encoder. Probabilities are a softmax over cosines /
    temperature; the temperature, which changes no decision, is the one of `TEMPERATURES` with the smallest log-loss on the
    validation rows, or on the training rows where there are none. Only where labels are words (`are_words`).
    """

    judges: ClassVar[frozenset[str]] = frozenset({"classes"})
    learns_from_sample: ClassVar[bool] = False
    reads_names: ClassVar[bool] = True
    TEMPERATURES: ClassVar[tuple[float, ...]] = tuple(float(t) for t in np.logspace(-3, 1, 33))

    @classmethod
    def lacking(cls, rows: RungRows) -> str:
        """Return that labels are no words, or rows no texts, or an empty string."""
        names = [] if rows.kind is None else [str(name) for name in rows.kind.columns]
        if rows.train.words is None or not names or any(name not in rows.train.words for name in names):
            return "names of labels that are words, and rows that are texts for a pretrained base"
        return ""

    def fit(self, rows: RungRows) -> None:
        """Take the names' features, choose the temperature."""
        words, names = rows.train.words or {}, [str(name) for name in (rows.kind.columns if rows.kind else ())]
        self._names_CD = _unit(np.stack([words[name] for name in names]))
        judged, which = (rows.valid, "validation") if len(rows.valid) else (rows.train, "training")
        cosines_NC, loss = self._cosines(judged.features_ND), LogLoss()
        losses = [loss.value(judged.targets_N, softmax(cosines_NC / t)) for t in self.TEMPERATURES]
        self._temperature = self.TEMPERATURES[int(np.argmin(losses))]
        shown = ", ".join(f"'{as_text(name)}'" for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        self.note = f"the nearest of the names {shown}, read as texts by the base; the {which} rows chose the temperature only"

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return a softmax over the cosines (N, C)."""
        return softmax(self._cosines(features_ND) / self._temperature)

    def _cosines(self, features_ND: FloatArray) -> FloatArray:
        parts = [_unit(chunk_ND) @ self._names_CD.T for chunk_ND in chunks(features_ND)]
        return np.concatenate(parts) if parts else np.empty((0, len(self._names_CD)))


def are_words(labels: Sequence[Label]) -> bool:
    """Return whether labels mean something when they are read: texts with a word each, no two of them the same words.

    Example:
        >>> are_words(["ham", "spam"]), are_words(["class1", "class2"]), are_words(["A", "B"]), are_words([0, 1])
        (True, False, False, False)
    """
    found = []
    for label in labels:
        words = [word.casefold() for word in _LETTERS.findall(label)] if isinstance(label, str) else []
        if not any(len(word) >= _SHORTEST_WORD or not word.isascii() for word in words):
            return False
        found.append(tuple(words))
    return len(set(found)) == len(found) > 1


def as_text(label: str) -> str:
    """Return the name of a label as a text: what joins its words becomes a blank.

    Example:
        >>> as_text("customer_service-calls")
        'customer service calls'
    """
    return " ".join(re.split(r"[\s_\-]+", label.strip()))


def _unit(features_ND: FloatArray) -> FloatArray:
    exact_ND = features_ND.astype(np.float64)
    length_N1 = np.linalg.norm(exact_ND, axis=1, keepdims=True)
    unit_ND: FloatArray = exact_ND / np.where(length_N1 > 0, length_N1, 1.0)
    return unit_ND
