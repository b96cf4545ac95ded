"""Features of 50,000 rows of 64 tokens above layer 4 of 6, with 200 MB of memory for them: the rest goes to disk.

    python bench/spill.py [ROWS [WIDTH]]
    python bench/spill.py --minilm [ROWS]

The network is a small BERT of 6 layers with random weights, 64 wide if nothing else is said (0.8 GB of features). With
`--minilm` it is MiniLM with its own weights, 384 wide, on words of real e-mails: 50,000 rows of it are 4.9 GB and take as many
times the minutes, so it takes 10,000 if nothing else is said. Of another number of rows the budget is as many times less.

Says how far the resident memory of the process grew while features were computed, kept and read back in random batches as
training reads them (sampled every 20 ms); how far it grew with a few other rows and next to no memory for them, which is what
the network takes for its own passes; and the largest difference between features read back and features computed anew.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from measure import report
from regraft.data.samples import spam
from regraft.fitting import base_of
from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import EncodedRows
from regraft.models import BASES
from regraft.models.base import Base
from regraft.models.cuts import halves
from regraft.models.evaluation_mode import without_gradients
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.options import Pick
from regraft.training.cache.options import CacheOptions
from regraft.training.frozen import Learner, Setting, learner
from regraft.tuning.top_k import TopK, TopKOptions

ROWS, BUDGET_MB = 50_000, 200
MINILM_ROWS, FEW_ROWS, LENGTH, CHECKED, READ_ROWS, CUT = 10_000, 320, 64, 512, 16_000, 4


class Watch(threading.Thread):
    """Sample the resident memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first_mb = self.most_mb = _resident_mb()
        self.over = threading.Event()

    def run(self) -> None:
        """Sample until told to stop."""
        while not self.over.wait(0.02):
            self.most_mb = max(self.most_mb, _resident_mb())

    def grown_mb(self) -> float:
        """Stop, and return how far it has grown."""
        self.over.set()
        self.join()
        return self.most_mb - self.first_mb


def watched() -> Watch:
    """Begin to sample after freed memory was returned to the system: what lies idle would hide as much growth."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    watch = Watch()
    watch.start()
    return watch


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@dataclass(frozen=True)
class Made:
    """What is measured: a network and its rows.

    Args:
        base: What it was made from.
        encoded: Rows of 64 tokens.
        few: Other such rows, to begin with.
        net: The network under a head.
        preprocessing: Digest of what made the rows.
    """

    base: Base
    encoded: EncodedRows
    few: EncodedRows
    net: Headed
    preprocessing: str


def made(rows: int, width: int, *, minilm: bool) -> Made:
    """Return the network and its rows: 64 words drawn at random each, cut at 64 tokens."""
    rng = np.random.default_rng(0)
    words = np.array(mail_words() if minilm else [f"w{number}" for number in range(3000)])

    def chunks(count: int) -> Iterator[list[str]]:
        for done in range(0, count, 1000):
            yield [" ".join(row) for row in words[rng.integers(0, len(words), (min(1000, count - done), LENGTH))]]

    base = base_of("minilm") if minilm else small(width)
    base.fetch()
    modality = base.modality({"max_length": LENGTH}, lambda: iter([list(words)]))
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, LinearHead(backbone.width, 2, 0.0, torch.Generator().manual_seed(0)))
    encoded, few = EncodedRows(modality, chunks(rows)), EncodedRows(modality, chunks(FEW_ROWS))
    return Made(base, encoded, few, net, modality_digest(modality))


def small(width: int) -> Base:
    """Return a BERT of 6 layers that is as wide as asked for, with random weights."""
    cls, options = Pick("transformer", {"width": width, "layers": 6, "positions": LENGTH}).resolve(BASES)
    return cls("transformer", options)


def mail_words() -> list[str]:
    """Return the words of the sample of e-mails, each once."""
    texts = pq.read_table(spam.PATH, columns=["text"])["text"].to_pylist()
    return sorted({word for text in texts for word in text.split()})


def cached(
    given: Made, rows: EncodedRows, memory_mb: int, folder: str, note: Callable[[str], None]
) -> AbstractContextManager[Learner]:
    """Give what learns above the cut, with features of the rows below it in so much memory and the rest in a folder."""
    setting = Setting(
        cache=CacheOptions(memory_mb=memory_mb, disk_mb=20_000, folder=folder),
        preprocessing=given.preprocessing,
        about=given.base.name,
        threads=torch.get_num_threads(),
        note=note,
    )
    trainable = TopK(TopKOptions(layers=6 - CUT)).trainable(given.net)
    return learner(given.net, trainable, {"pooled"}, {"train": rows}, setting)


def few_grown_mb(given: Made) -> float:
    """Return how far the process grows with a few rows and a budget of 1 MB."""
    with tempfile.TemporaryDirectory() as folder:
        watch = watched()
        with cached(given, given.few, 1, folder, lambda _: None) as part:
            part.rows["train"].batch(np.arange(16))
            return watch.grown_mb()


def furthest(part: Learner, given: Made, order: np.ndarray) -> float:
    """Return the largest difference between features read back and features computed anew."""
    prefix, most = halves(given.net.backbone, CUT).prefix, 0.0
    with without_gradients(given.net):
        for start in range(0, min(len(order), CHECKED), 32):
            chosen = order[start : start + 32]
            kept = torch.from_numpy(part.rows["train"].batch(chosen).inputs["hidden"])
            anew = prefix(*given.net.tensors(given.encoded.batch(chosen)))
            most = max(most, float((kept - anew).abs().max()))
    return most


def main() -> None:
    """Fill, read back, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("rows", nargs="?", type=int, help=f"{ROWS:,}, of MiniLM {MINILM_ROWS:,}")
    parser.add_argument("width", nargs="?", type=int, default=64, help="of the small BERT")
    parser.add_argument("--minilm", action="store_true", help="MiniLM with its own weights, 384 wide")
    asked = parser.parse_args()
    rows = asked.rows or (MINILM_ROWS if asked.minilm else ROWS)
    budget_mb = max(1, round(BUDGET_MB * rows / ROWS))
    given, notes, order = made(rows, asked.width, minilm=asked.minilm), [], np.random.default_rng(1).permutation(rows)
    few_mb = [few_grown_mb(given) for _ in range(2)][1]  # what is taken only once, the first has taken
    with tempfile.TemporaryDirectory() as folder:
        watch, began = watched(), time.perf_counter()
        with cached(given, given.encoded, budget_mb, folder, notes.append) as part:
            filled_s, began = time.perf_counter() - began, time.perf_counter()
            for start in range(0, min(rows, READ_ROWS), 16):
                part.rows["train"].batch(order[start : start + 16])
            read_s = time.perf_counter() - began
            grown_mb = watch.grown_mb()
            difference = furthest(part, given, order)
        size_mb = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    batches = -(-min(rows, READ_ROWS) // 16)
    table = (
        f"{given.base.name}, {given.net.backbone.width} wide: {rows:,} rows, {given.encoded.positions:,} tokens, "
        f"{size_mb:,.0f} MB on disk\n"
        f"budget {budget_mb} MB, the process grew by {grown_mb:.0f} MB; "
        f"with {FEW_ROWS} rows and a budget of 1 MB by {few_mb:.0f} MB\n"
        f"computed and kept in {filled_s:.0f} s, {batches:,} random batches of 16 read in {read_s:.1f} s\n"
        f"furthest from computing anew: {difference:.1g}\n{notes[0].replace(folder, 'a temporary folder') if notes else ''}"
    )
    figures = {
        "base": given.base.name,
        "rows": rows,
        "width": given.net.backbone.width,
        "disk_mb": size_mb,
        "budget_mb": budget_mb,
        "grown_mb": grown_mb,
        "few_rows_grown_mb": few_mb,
        "difference": difference,
        "filled_s": filled_s,
        "batches": batches,
        "read_s": read_s,
    }
    report("spill_minilm" if asked.minilm else "spill", figures, table)


if __name__ == "__main__":
    main()
