"""Features of 50,000 rows of 64 tokens above layer 4 of 6, with 200 MB of memory for them: the rest goes to disk.

    python bench/spill.py [ROWS [WIDTH]]

The network is a small BERT of 6 layers with random weights, 64 wide if nothing else is said (0.8 GB of features; 384 wide, as
MiniLM is, 4.9 GB and as many times the minutes).

Says how far the resident memory of the process grew while features were computed, kept and read back in random batches as
training reads them (sampled every 20 ms; a plain pass over the network beforehand, so that its own buffers are not counted),
and the largest difference between features read back and features computed anew.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from measure import report
from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import EncodedRows
from regraft.models import BASES
from regraft.models.cuts import halves
from regraft.models.evaluation_mode import without_gradients
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.options import Pick
from regraft.training.cache.options import CacheOptions
from regraft.training.frozen import Setting, learner
from regraft.tuning.top_k import TopK, TopKOptions

BUDGET_MB, LENGTH, CHECKED = 200, 64, 512


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


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    """Fill, read back, compare, write the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    width = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(3000)])

    def chunks() -> Iterator[list[str]]:
        for done in range(0, rows, 1000):
            yield [" ".join(row) for row in words[rng.integers(0, len(words), (min(1000, rows - done), LENGTH))]]

    cls, options = Pick("transformer", {"width": width, "layers": 6, "positions": LENGTH}).resolve(BASES)
    base = cls("transformer", options)
    modality = base.modality({"max_length": LENGTH}, lambda: iter([list(words)]))
    encoded = EncodedRows(modality, chunks())
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, LinearHead(backbone.width, 2, 0.0, torch.Generator().manual_seed(0)))
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = CacheOptions(memory_mb=BUDGET_MB, disk_mb=20_000, folder=folder)
        setting = Setting(
            cache=cache,
            preprocessing=modality_digest(modality),
            about="transformer",
            threads=torch.get_num_threads(),
            note=notes.append,
        )
        with without_gradients(net):
            net(*net.tensors(encoded.batch(np.arange(32))))
        watch, began = Watch(), time.perf_counter()
        watch.start()
        trainable = TopK(TopKOptions(layers=2)).trainable(net)
        with learner(net, trainable, {"pooled"}, {"train": encoded}, setting) as part:
            filled_s, order = time.perf_counter() - began, rng.permutation(rows)
            began = time.perf_counter()
            for start in range(0, min(rows, 16_000), 16):
                part.rows["train"].batch(order[start : start + 16])
            read_s = time.perf_counter() - began
            watch.over.set()
            watch.join()
            prefix, furthest = halves(backbone, 4).prefix, 0.0
            with without_gradients(net):
                for start in range(0, min(rows, CHECKED), 32):
                    chosen = order[start : start + 32]
                    kept = torch.from_numpy(part.rows["train"].batch(chosen).inputs["hidden"])
                    anew = prefix(*net.tensors(encoded.batch(chosen)))
                    furthest = max(furthest, float((kept - anew).abs().max()))
        size_mb = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    grown_mb = watch.most_mb - watch.first_mb
    table = (
        f"{rows:,} rows, {encoded.positions:,} tokens: {size_mb:,.0f} MB on disk\n"
        f"budget {BUDGET_MB} MB, the process grew by {grown_mb:.0f} MB\n"
        f"computed and kept in {filled_s:.0f} s, 1,000 random batches of 16 read in {read_s:.1f} s\n"
        f"furthest from computing anew: {furthest:.1g}\n{notes[0].replace(folder, 'a temporary folder') if notes else ''}"
    )
    figures = {
        "rows": rows,
        "width": width,
        "disk_mb": size_mb,
        "budget_mb": BUDGET_MB,
        "grown_mb": grown_mb,
        "difference": furthest,
    }
    report("spill", {**figures, "filled_s": filled_s, "read_1000_batches_s": read_s}, table)


if __name__ == "__main__":
    main()
