"""What a report says of how far answers can be trusted, in a few sentences for people."""

from __future__ import annotations

from collections.abc import Mapping

from regraft.options import JSON


def trust_lines(said: Mapping[str, JSON]) -> list[str]:
    """Return one sentence for calibration, one for sets or intervals, one for abstaining; of what is not there none.

    Args:
        said: A report, or its part for one target, as JSON.

    Example:
        >>> seen = {"value": 0.91, "low": 0.88, "high": 0.93, "n": 500}
        >>> told = {"score": "aps", "coverage_wanted": 0.9, "coverage_seen": seen, "mean_size": 1.3}
        >>> trust_lines({"conformal": {**told, "sizes": {"1": 350, "2": 150}}})
        ['sets (aps) hold the truth in 91.0 % [88.0, 93.0] of the rows, 90 % wanted; size 1.3 on average']
    """
    lines = []
    if calibration := said.get("calibration"):
        first, then = calibration["before"], calibration["after"]
        name = "ece" if "ece" in first else "calibration_error"
        figures = ("log_loss", "log-loss") if "log_loss" in first else ("pinball", "pinball loss")
        lines.append(
            f"calibration: {calibration['method']}; calibration error {first[name]:.3f} -> {then[name]:.3f}, "
            f"{figures[1]} {first[figures[0]]:.4g} -> {then[figures[0]]:.4g}"
        )
    conformal = said.get("conformal")
    if conformal and conformal.get("coverage_seen"):
        seen = conformal["coverage_seen"]
        value, low, high = (f"{100 * seen[end]:.1f}" for end in ("value", "low", "high"))
        what, size = ("sets", "size") if "by_class" in conformal or "1" in conformal["sizes"] else ("intervals", "width")
        lines.append(
            f"{what} ({conformal['score']}) hold the truth in {value} % [{low}, {high}] of the rows, "
            f"{100 * conformal['coverage_wanted']:g} % wanted; {size} {conformal['mean_size']:.4g} on average"
        )
    promised = [one for one in (said.get("abstain") or {}).get("promises", []) if one["threshold"] is not None]
    if promised and (last := promised[-1])["precision_seen"]:
        right, answered = last["precision_seen"]["value"], last["coverage_seen"]["value"]
        lines.append(
            f"abstaining below a probability of {last['threshold']:.3f} promises {100 * last['precision']:g} % right answers: "
            f"{100 * right:.1f} % are, and {100 * answered:.1f} % of the rows are answered"
        )
    return lines
