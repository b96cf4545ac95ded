"""Kill fits at random moments, let them go on, and compare the weights with those of a fit that nobody interrupted.

    python tests/integration/kill_points.py --points 200 --seed 0        prints a line a point and a table; ends with 1 on a difference

A process that has imported everything forks one child for each fit, so that a point takes about as long as its training. A child
is killed with SIGKILL after a random time, the fit that goes on in every third point once more. After each kill what stands in the
run folder is looked at: whatever looks like a checkpoint must be one. The gate in a fresh process is left out here: it takes ten
times as long as these fits and comes after the last step.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

WORDS = {"spam": ("win", "prize", "cash", "offer"), "ham": ("meet", "note", "mail", "lunch")}
AVERAGED = [{"name": "ema", "decay": 0.9}]
TEXT = {"name": "transformer", "width": 32, "heads": 2, "layers": 2, "vocabulary_size": 300, "positions": 64}


def texts(rows: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    found = []
    for number in range(rows):
        label = rng.choice(list(WORDS))
        words = [rng.choice(WORDS[label]) + str(rng.randint(0, 30)) for _ in range(rng.randint(2, 16))]
        found.append({"text": f"{number} " + " ".join(words), "label": label})
    return found


def pictures(rows: int) -> list[dict[str, Any]]:
    from PIL import Image

    rng = np.random.default_rng(2)
    found = []
    for _ in range(rows):
        label = int(rng.integers(2))
        pixels = rng.integers(0, 120, size=(12, 12), dtype=np.uint8)
        pixels[2:6, 2 + 5 * label : 5 + 5 * label] += 120
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        found.append({"image": file.getvalue(), "label": f"{'left' if label == 0 else 'right'}"})
    return found


def settings() -> dict[str, dict[str, Any]]:
    """Return the fits: text or pictures x augmentation x accumulation x cache x packing x averaged weights."""
    found: dict[str, dict[str, Any]] = {}
    for accumulation, packing, cache, ema in itertools.product((1, 4), (True, False), (True, False), (False, True)):
        name = f"text, accumulation {accumulation}, {'packed' if packing else 'padded'}, cache {'on' if cache else 'off'}"
        name += f", EMA {'on' if ema else 'off'}"
        found[name] = {
            "base": TEXT,
            "tuning": {"name": "top-k", "layers": 1} if cache else "full",
            "train": {"micro_batch_size": 16 // accumulation, "regularize": AVERAGED if ema else []},
            "machine": {"shapes": "packed" if packing else "padded", **({} if cache else {"cache": {"enabled": False}})},
        }
    found["text, one phase after the other, accumulation 4, packed, cache on, EMA on"] = {
        "base": TEXT,
        "tuning": {"name": "gradual", "head_epochs": 2, "layers": [1]},
        "train": {"micro_batch_size": 4, "regularize": AVERAGED},
    }
    for accumulation, augmented, ema in itertools.product((1, 4), (True, False), (False, True)):
        name = (
            f"pictures, accumulation {accumulation}, augmentation {'on' if augmented else 'off'}, EMA {'on' if ema else 'off'}"
        )
        found[name] = {
            "base": {"name": "conv", "style": "resnet", "widths": [8, 16]},
            "modality": {"shift": 2, "flip": True} if augmented else {},
            "train": {"micro_batch_size": 16 // accumulation, "regularize": AVERAGED if ema else []},
        }
    return found


def fit(out: Path, options: dict[str, Any], cache: Path) -> None:
    """Fit in this process, with checkpoints at every fifth update and validations between them."""
    from regraft import fitting, lifecycle

    os.environ["REGRAFT_CACHE"] = str(cache)
    fitting.gate = lambda *_, **__: None  # type: ignore[assignment]
    rows = ROWS["pictures" if options["base"]["name"] == "conv" else "text"]
    train = {"epochs": 3, "batch_size": 16, "validation": {"every": 7}, **options["train"]}
    # What `auto` measures is kept for a machine; every point here begins with nothing kept.
    machine = {"threads": 1, "precision": "fp32", "checkpoint": {"every": 5}, **options.get("machine", {})}
    judge = {"rungs": ["majority"], "resamples": 100}
    lifecycle.fit(rows, target="label", out=str(out), **{**options, "train": train, "machine": machine, "judge": judge})


def in_child(out: Path, options: dict[str, Any], cache: Path, kill_after: float | None = None) -> tuple[int, float]:
    """Fit in a forked child; returns its exit code, negative for a signal, and its seconds."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            fit(out, options, cache)
            (out.parent / f"{out.name}.modules").write_text(json.dumps(list(sys.modules)))
            code = 0
        except BaseException as error:  # noqa: BLE001 - said by the child, counted by the parent
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def weights(out: Path) -> str:
    return str(json.loads((out / "manifest.json").read_text())["weights_digest"])


def partial(out: Path) -> list[str]:
    """Return what looks like a checkpoint beside an artifact's place and is none."""
    found = []
    for folder in (out.parent / f".{out.name}.run").glob("[0-9]*"):
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            for name, entry in manifest.items():
                content = (folder / name).read_bytes()
                if (len(content), hashlib.sha256(content).hexdigest()) != (entry["size_bytes"], entry["sha256"]):
                    found.append(f"{folder.name}/{name}")
        except (OSError, ValueError) as error:
            found.append(f"{folder.name}: {error}")
    return found


def point(name: str, whole: tuple[str, float], place: Path, rng: random.Random) -> tuple[bool, str]:
    """Kill one fit, let it go on, compare; returns whether all was as it must be, and what happened."""
    options, (digest, seconds), out, cache = SETTINGS[name], whole, place / "fitted", place / "cache"
    kills, said = 1 + (rng.random() < 1 / 3), []
    for _ in range(kills):
        moment = rng.uniform(0.05, 1.0) * seconds
        code, _ = in_child(out, options, cache, moment)
        steps = sorted(int(path.name) for path in (out.parent / f".{out.name}.run").glob("[0-9]*"))
        wrong = partial(out)
        said.append(f"{'killed' if code == -signal.SIGKILL else f'ended with {code}'} at {moment:.2f} s, kept {steps}")
        if wrong or (code != -signal.SIGKILL and code != 0):
            return False, f"{'; '.join(said)}; not whole: {wrong}"
    code, _ = in_child(out, options, cache)
    if code != 0:
        return False, f"{'; '.join(said)}; going on ended with {code}"
    if (out.parent / f".{out.name}.run").exists():
        return False, f"{'; '.join(said)}; the run folder is still there"
    return weights(out) == digest, "; ".join(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a word of the fits that are wanted")
    asked = parser.parse_args()
    rng, done, names = random.Random(asked.seed), Counter(), [name for name in SETTINGS if asked.only in name]
    good: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, tuple[str, float]] = {}
        for number in range(asked.points):
            name = names[number % len(names)]
            if name not in whole:
                out = Path(folder) / f"whole-{len(whole)}"
                code, seconds = in_child(out, SETTINGS[name], Path(folder) / f"cache-{len(whole)}")
                if code:
                    print(f"{name}: a fit that nobody interrupts ends with {code}")
                    return 1
                needed = [
                    each for each in json.loads((out.parent / f"{out.name}.modules").read_text()) if each not in sys.modules
                ]
                if any(each.startswith(("regraft", "transformers", "torch")) for each in needed):
                    prepared(needed)  # the seconds that were measured are those of importing
                    _, seconds = in_child(out, SETTINGS[name], Path(folder) / f"again-{len(whole)}")
                whole[name] = weights(out), seconds
            place = Path(folder) / f"point-{number}"
            place.mkdir()
            fine, said = point(name, whole[name], place, rng)
            done[name] += 1
            good[name] += fine
            print(f"{number + 1:4d} {'same' if fine else 'DIFFERS'}  {name}: {said}", flush=True)
            shutil.rmtree(place)
    print(f"\n{'fit':64} points  bitwise equal")
    for name in done:
        print(f"{name:64} {done[name]:6d}  {good[name]:6d}")
    print(f"{'all':64} {sum(done.values()):6d}  {sum(good.values()):6d}")
    return 0 if good == done else 1


def prepared(names: list[str]) -> None:
    """Import what a child needed, so that the next ones share it."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


SETTINGS = settings()
ROWS = {"text": texts(300), "pictures": pictures(200)}

if __name__ == "__main__":
    prepared(["regraft.fitting", "regraft.lifecycle"])
    sys.exit(main())
