"""B9a, B9b: peak memory of full fine-tuning against the hub's Trainer, and of LoRA against our own full fine-tuning.

A fresh process each time, everything in it counted: the figure is VmHWM after the fit, which holds Python and its libraries
too. B9a is ours / the Trainer's; B9b is LoRA of rank 8 on all linear layers / full, both ours, of MiniLM (22.7 million weights)
and of a BERT of 110 million (12 layers, 768 wide; weights from a generator, on which memory does not depend).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
from environments import environment
from figures import Bar, Gate, Round
from fits import BASE, BATCH, open_base, our_turn, trainer_turn
from harness import Contestant, Form, Rounds, Turn, compete, form_from_arguments
from rows import Texts, write_texts
from standings import Standing, about_texts, standing, table

MIXES = ("lognormal", "real")
SHORT_ROWS, FULL_ROWS, RATE = 64, 192, 1e-4
MEMORY = Bar(
    name="B9a", what="peak memory of full fine-tuning; Trainer fp32", goal=0.8, floor=1.0, higher_is_better=False, unit=""
)
ADAPTED = Bar(
    name="B9b", what="peak memory of LoRA r=8; our own full fine-tuning", goal=0.6, floor=0.8, higher_is_better=False, unit=""
)
FULL, LORA, TRAINER = "full", "LoRA", "Trainer"
ADAPTERS = {"name": "lora", "rank": 8}
LARGE_ROWS = 64


def memory(ours: Round, peer: Round) -> float:
    """Return our peak / the peer's."""
    return float(ours.facts["peak_mb"] / peer.facts["peak_mb"])


def calm(turn: Turn) -> Turn:
    """Return a turn whose rounds all count: how much memory is taken does not depend on who else has the core."""

    def taken(number: int) -> Round:
        found = turn(number)
        return Round(wall_s=found.wall_s, cpu_s=found.wall_s, facts=found.facts)

    return taken


def large_base(small: Path, folder: Path) -> Path:
    """Return the folder of a BERT of 110 million weights that reads as the small base does.

    Args:
        small: Folder of MiniLM.
        folder: Where to write.
    """
    import transformers

    config = transformers.BertConfig.from_pretrained(small, num_hidden_layers=12, hidden_size=768, intermediate_size=3072)
    place = folder / "bert-110m"
    transformers.BertModel(config).save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (small / name).exists():
            shutil.copy(small / name, place / name)
    return place


def turn(form: Form, texts: Texts, versions: dict[str, Any], tuning: Any, base: str = BASE) -> Turn:
    """Return a round of ours in a process of its own.

    Args:
        form: Of the bench.
        texts: The rows.
        versions: Where what is installed is noted.
        tuning: Which weights learn.
        base: Name or folder of the base.
    """

    def ours(number: int) -> Round:
        with Contestant("ours_fit.py", core=form.core) as contestant:
            contestant.ask("prepare")
            versions["ours"] = contestant.ask("facts")["versions"]
            return our_turn(contestant, texts, RATE, epochs=1, tuning=tuning, precision="fp32", base=base)(number)

    return calm(ours)


def peaks_of(rounds: Rounds) -> dict[str, list[int]]:
    """Return the peaks of each side in megabytes."""
    return {name: sorted(round(one.facts["peak_mb"]) for one in rounds[name]) for name in rounds}


def stand(bar: Bar, mix: str, texts: Texts, rounds: Rounds, pair: tuple[str, str]) -> Standing:
    """Return where a bar stands.

    Args:
        bar: The bar.
        mix: What the rows are.
        texts: The rows.
        rounds: Of all sides.
        pair: Whose peak is divided by whose.
    """
    peaks = peaks_of(rounds)
    told = "; ".join(f"{name} {peaks[name]} MB" for name in pair)
    gate = Gate(state="passed", text=f"peaks: {told}; how accurate full becomes is the gate of B1a")
    about = about_texts(texts, BATCH) | {"peaks_mb": peaks}
    return standing(bar, mix, (rounds[pair[0]], rounds[pair[1]]), gate, memory, **about)


def main() -> None:
    """Measure."""
    form = form_from_arguments(MIXES, __doc__)
    form = replace(form, rounds=3 if form.full else 1, warm_ups=0)  # hardly moves, and nothing has to warm up
    base, python = open_base(), environment("transformers")
    found, versions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for mix in form.mixes:
            texts = write_texts(mix, form.rows(mix, SHORT_ROWS, FULL_ROWS), 16, base / "tokenizer.json", Path(folder))

            def trainer(number: int, texts=texts) -> Round:
                with Contestant("trainer.py", python=python, core=form.core) as contestant:
                    contestant.ask("prepare")
                    versions["Trainer"] = contestant.ask("facts")["versions"]
                    return trainer_turn(contestant, texts, RATE, epochs=1, base=base, learnt_layers=None)(number)

            sides = {
                FULL: turn(form, texts, versions, "full"),
                TRAINER: calm(trainer),
                LORA: turn(form, texts, versions, ADAPTERS),
            }
            rounds = compete(sides, form)
            found += [
                stand(bar, mix, texts, rounds, pair) for bar, pair in ((MEMORY, (FULL, TRAINER)), (ADAPTED, (LORA, FULL)))
            ]
        large = str(large_base(base, Path(folder)))
        for mix in form.mixes:
            texts = write_texts(mix, LARGE_ROWS, 16, base / "tokenizer.json", Path(folder))
            sides = {name: turn(form, texts, versions, tuning, large) for name, tuning in ((FULL, "full"), (LORA, ADAPTERS))}
            found.append(stand(ADAPTED, f"{mix}, 110 M", texts, compete(sides, form), (LORA, FULL)))
    figures = {"form": form.to_json(), "standings": [one.to_json() for one in found], "versions": versions}
    measure.report("fit_memory", figures, table(form, found), ending=form.ending)


if __name__ == "__main__":
    main()
