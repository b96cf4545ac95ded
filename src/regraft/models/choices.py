"""Choices that a base makes for its user, and says why: pooling, length of texts. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.modalities.text import TextOptions
from regraft.models import POOLINGS
from regraft.models.architectures import Architecture
from regraft.models.safety import read_json
from regraft.options import JSON, build

_SENTENCE_MODES = {
    "cls": "cls",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "pooling_mode_mean_tokens": "mean",
    "lasttoken": "last",
    "pooling_mode_lasttoken": "last",
}


def pooling_name(name: str) -> str:
    """Return a pooling's registered name, or raise what an options class reports."""
    if name not in POOLINGS:
        raise ValueError(f"the name of a pooling ({did_you_mean(name, POOLINGS.names())})")
    return POOLINGS.canonical(name)


def trained_pooling(folder: Path, config: Mapping[str, JSON], architecture: Architecture) -> tuple[str, str]:
    """Return the pooling that a base was trained with, and where that is said.

    Args:
        folder: The base's folder.
        config: Content of its config.json.
        architecture: Its line in the table.

    Returns:
        Registered name, reason.
    """
    path = folder / "1_Pooling" / "config.json"
    if path.is_file():
        said = read_json(path)
        mode = said.get("pooling_mode")
        on = [mode] if isinstance(mode, str) else [key for key, value in said.items() if value is True]
        named = [_SENTENCE_MODES[key] for key in on if key in _SENTENCE_MODES]
        if named:
            return named[0], "1_Pooling/config.json of the base"
        return "mean", "1_Pooling/config.json of the base asks for a pooling that is not there; the nearest is taken"
    said_by_config = config.get("classifier_pooling")
    if isinstance(said_by_config, str) and said_by_config in POOLINGS:
        return said_by_config, "classifier_pooling in config.json of the base"
    return architecture.pooling, f"what suits the architecture '{config.get('model_type')}'"


def limited(given: Mapping[str, JSON], prescribed: Mapping[str, JSON], limit: int | None, name: str) -> TextOptions:
    """Return text options: what is given, over what the base prescribes, within what the base can place.

    Args:
        given: The user's values.
        prescribed: The base's own.
        limit: Longest text in tokens that the base can place, or nothing.
        name: The base, for messages.

    Raises:
        OptionsError: A value is wrong, or a longer text is asked for than the base can place.
    """
    made = build(TextOptions, {**prescribed, **given}, owner="text")
    if limit is None or made.max_length <= limit:
        return made
    if "max_length" in given:
        problem = Problem(
            what="the base cannot place so long a text",
            where="max_length",
            got=str(made.max_length),
            expected=f"at most {limit} tokens ('{name}')",
            fix="give max_length a smaller value, or take a base for longer texts",
        )
        raise OptionsError(problem)
    return replace(made, max_length=limit)
