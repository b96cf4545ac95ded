"""Whether the memory of `regraft predict` grows with the number of rows: 1,000, 20,000 and 100,000 rows of 5 kB.

The short form stops at 12,000 rows; `--full` measures all.

A small from-scratch network answers, so that the figure is about rows and not about weights. The claim: the largest file takes
at most 20 % more than the middle one, which already fills every buffer (windows of 1,024 rows).
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from pathlib import Path

import measure

SHORT, FULL = (1_000, 4_000, 12_000), (1_000, 20_000, 100_000)
ROW_BYTES = 5_000
REGRAFT = str(Path(sys.executable).parent / "regraft")


def write_rows(path: Path, rows: int) -> None:
    """Write labelled rows of random words."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(5_000)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        for number in range(rows):
            text = " ".join(rng.choices(words, k=ROW_BYTES // 6))[:ROW_BYTES]
            writer.writerow([number, f"{'good' if number % 2 else 'bad'} {text}", "yes" if number % 2 else "no"])


def main() -> None:
    """Fit once, predict three files, compare the peaks."""
    full = "--full" in sys.argv[1:]
    sizes = FULL if full else SHORT
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_rows(root / "train.csv", 400)
        small = ["--base", "mlp", "--set", "base.width=32", "--epochs", "1", "--text", "text"]
        measure.run([REGRAFT, "fit", str(root / "train.csv"), "--target", "label", *small, "--out", str(root / "model")])
        figures, lines = {}, []
        for rows in sizes:
            write_rows(root / "rows.csv", rows)
            command = [REGRAFT, "predict", str(root / "model"), str(root / "rows.csv"), "--out", str(root / "answers.csv")]
            seconds, peak_mb, _ = measure.run(command)
            figures[str(rows)] = {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), "rows_per_s": round(rows / seconds)}
            lines.append(f"{rows:>9,} rows  {seconds:7.1f} s  peak {peak_mb:6.0f} MB")
    growth = figures[str(sizes[2])]["peak_mb"] / figures[str(sizes[1])]["peak_mb"]
    lines.append(f"{sizes[2]:,} rows against {sizes[1]:,}: {growth:.3f} (at most 1.2)")
    measure.report(
        "predict_memory", {"rows": figures, "growth": round(growth, 3)}, "\n".join(lines), ending="_full" if full else ""
    )


if __name__ == "__main__":
    main()
