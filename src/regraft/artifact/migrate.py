"""Older formats: one step a format number, each a function from the JSON of format n to the JSON of format n + 1.

A step changes only what the manifest says; the files stay as they are and are verified against the manifest as it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from regraft.artifact.manifest import FORM_OF_FIT, FORMAT
from regraft.errors import ArtifactError, Problem
from regraft.options import JSON

Step = Callable[[dict[str, JSON]], dict[str, JSON]]


def _to_2(values: dict[str, JSON]) -> dict[str, JSON]:
    """Format 2 says what form the network has, what computes it, and where an artifact descends from."""
    network = {**values["network"], "form": FORM_OF_FIT, "runtimes": ["torch"], "facts": {}}
    return {**values, "network": network, "verb": "fit", "lineage": [], "export": None}


def _to_3(values: dict[str, JSON]) -> dict[str, JSON]:
    """Format 3 says how far answers can be trusted; of older ones nothing is known, and they answer as the network does."""
    return {**values, "task": {**values["task"], "calibration": {}}}


STEPS: Mapping[int, Step] = {1: _to_2, 2: _to_3}
"""Format n -> the step to n + 1. Format 1 is the first."""


def migrate(values: dict[str, JSON], where: str, steps: Mapping[int, Step] = STEPS, current: int = FORMAT) -> dict[str, JSON]:
    """Bring the JSON of a verified manifest to the current format.

    Args:
        values: As `manifest.parse` returned it.
        where: The file, for messages.
        steps: Format n -> the step to n + 1.
        current: Format to arrive at.

    Raises:
        ArtifactError: There is no step for a format, or a step does not understand what it was given.

    Example:
        >>> migrate({"format": 1, "old": 3}, "here", {1: lambda v: {"new": v["old"]}}, 2)
        {'new': 3, 'format': 2}
    """
    number = int(values["format"])
    written_by = (
        values.get("versions", {}).get("regraft", "an older version") if isinstance(values.get("versions"), dict) else "?"
    )
    while number < current:
        if number not in steps:
            raise ArtifactError(
                Problem(
                    what=f"format {number} of artifacts can no longer be read",
                    where=where,
                    got=f"format {number}, written by regraft {written_by}",
                    expected=f"format {min(steps, default=current)} to {current}",
                    fix=f"fit again, or use regraft {written_by}",
                )
            )
        try:
            values = {**steps[number](values), "format": number + 1}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                Problem(
                    what=f"the artifact could not be brought from format {number} to format {number + 1}",
                    where=where,
                    got=f"{type(error).__name__}: {error}",
                    fix=f"fit again, or use regraft {written_by}, which wrote it",
                )
            ) from error
        number += 1
    return values
