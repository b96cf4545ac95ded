"""What a contest came to: a line of the table and an entry of the JSON, with everything a reader needs to judge the figure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from figures import Bar, Gate, Interval, Round, interval, undisturbed
from harness import Form
from rows import Texts, padding_ratio

Figure = Callable[[Round, Round], float]


def times_faster(ours: Round, peer: Round) -> float:
    """Return the peer's time / ours."""
    return peer.wall_s / ours.wall_s


@dataclass(frozen=True, kw_only=True)
class Work:
    """The arithmetic that cannot be avoided, for the share of the machine's peak that was used.

    Args:
        gflop: 10^9 operations.
        peak_gflops: What the machine reaches in matrix products of the same type with one thread.
    """

    gflop: float
    peak_gflops: float

    def share_of_peak(self, seconds: float) -> float:
        """Return which share of the peak this work in that time is."""
        return self.gflop / (seconds * self.peak_gflops)


def needed_gflop(config_file: Path, lengths: Sequence[int], *, epochs: int, learnt_layers: int | None) -> float:
    """Return the operations that a fit or, with no epochs, a prediction needs: real tokens, and what is frozen only once.

    2 P + 4 L T D a token forward, twice that backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with attention
    scores); P without the embedding tables.

    Args:
        config_file: The base's config.json (BERT).
        lengths: Tokens of each row.
        epochs: How often the part that learns is run; 0 for one forward pass.
        learnt_layers: Layers at the top that learn; all if not given.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    layers, width, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    layer = 2 * (4 * width * width + 2 * width * inner) * tokens + 4 * width * squares
    if not epochs:
        return layers * layer / 1e9
    learnt = layers if learnt_layers is None else learnt_layers
    return ((layers - learnt) + 3 * epochs * learnt) * layer / 1e9


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One bar on one mix.

    Args:
        bar: The bar.
        mix: Name of the length mix, or what else was varied.
        gate: Whether both did the same work.
        figure: The figure with its interval; nothing if every round was disturbed.
        dropped: Rounds that were disturbed.
        ours_s: Our median seconds.
        peer_s: The peer's.
        about: Everything else worth keeping.
    """

    bar: Bar
    mix: str
    gate: Gate
    figure: Interval | None
    dropped: int
    ours_s: float
    peer_s: float
    about: dict[str, Any]

    @property
    def verdict(self) -> str:
        """What the claim amounts to."""
        return self.bar.verdict(self.figure, self.gate)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the JSON."""
        found = {"bar": self.bar.name, "mix": self.mix, "verdict": self.verdict, "goal": self.bar.goal, "floor": self.bar.floor}
        figure = None if self.figure is None else {k: round(v, 4) for k, v in asdict(self.figure).items()}
        found |= {"figure": figure, "unit": self.bar.unit, "gate": asdict(self.gate), "dropped_rounds": self.dropped}
        return found | {"ours_s": round(self.ours_s, 4), "peer_s": round(self.peer_s, 4), **self.about}

    def line(self) -> str:
        """Return the line of the table."""
        figure = "no undisturbed round"
        if self.figure is not None:
            unit, (median, low, high) = self.bar.unit, (self.figure.median, self.figure.low, self.figure.high)
            figure = f"{median:6.2f}{unit} [{low:.2f}, {high:.2f}] of {self.figure.n} (dropped {self.dropped})"
        shown = {
            "padding_ratio": "padding {:.2f}",
            "mfu": "MFU {:.2f}",
            "train_only": "training alone {:.2f}x",
            "by_cpu_time": "by processor time {:.2f}",
        }
        about = ", ".join(text.format(self.about[name]) for name, text in shown.items() if self.about.get(name) is not None)
        times = f"{self.ours_s:.2f} s against {self.peer_s:.2f} s"
        head = f"{self.bar.name:<4} {self.mix:<10} {figure:<44} {self.verdict:<16}"
        aims = f"goal {self.bar.goal}, floor {self.bar.floor}"
        return f"{head} {times}; {aims}{'; ' + about if about else ''}\n     {self.gate.state}: {self.gate.text}"


def standing(
    bar: Bar, mix: str, pair: tuple[Sequence[Round], Sequence[Round]], gate: Gate, figure: Figure = times_faster, **about: Any
) -> Standing:
    """Return where a bar stands.

    Args:
        bar: The bar.
        mix: Name of the length mix.
        pair: Our rounds and the peer's.
        gate: Whether both did the same work.
        figure: From our round and the peer's to the figure.
        about: Everything else worth keeping.
    """
    kept = undisturbed(*pair)
    about["train_only"] = _stage_ratio(kept, "train")
    ours, peer = pair
    # Says something, but not the truth, where the core was shared: the other process also empties the caches.
    about["by_cpu_time"] = round(statistics.median(figure(*map(_by_cpu, rounds)) for rounds in zip(ours, peer, strict=True)), 3)
    return Standing(
        bar=bar,
        mix=mix,
        gate=gate,
        figure=interval([figure(*rounds) for rounds in kept]),
        dropped=len(ours) - len(kept),
        ours_s=statistics.median(round_.wall_s for round_ in ours),
        peer_s=statistics.median(round_.wall_s for round_ in peer),
        about=about | {"ours_stages_s": median_stages(ours), "peer_stages_s": median_stages(peer)},
    )


def _by_cpu(round_: Round) -> Round:
    return replace(round_, wall_s=round_.cpu_s)


def _stage_ratio(kept: Sequence[tuple[Round, Round]], stage: str) -> float | None:
    both = [[round_.facts.get("stages", {}).get(stage) for round_ in rounds] for rounds in kept]
    ratios = [peer / ours for ours, peer in both if ours and peer]
    return round(statistics.median(ratios), 3) if ratios else None


def median_stages(rounds: Sequence[Round]) -> dict[str, float]:
    """Return stage -> median seconds."""
    names = rounds[0].facts.get("stages", {}) if rounds else {}
    return {name: round(statistics.median(round_.facts["stages"][name] for round_ in rounds), 4) for name in names}


def about_texts(texts: Texts, batch_size: int) -> dict[str, Any]:
    """Return what a reader must know about the rows."""
    ratio = round(padding_ratio(texts.lengths, batch_size), 3)
    return {"rows": len(texts.lengths), "real_tokens": texts.tokens, "padding_ratio": ratio}


def table(form: Form, standings: Sequence[Standing], *notes: str) -> str:
    """Return the table."""
    return "\n".join([form.describe(), *(found.line() for found in standings), *notes])


__all__ = ["Standing", "Work", "about_texts", "median_stages", "needed_gflop", "standing", "table", "times_faster"]
