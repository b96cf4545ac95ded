"""Which runtime computes an artifact here: the one that is asked for, or the fastest of those that can, measured once.

What was measured is kept in the profile of the machine, so that the same artifact is answered by the same runtime every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from regraft.artifact.golden import Goldens, replay
from regraft.artifact.store import GOLDEN, Artifact
from regraft.errors import GateError, MissingExtraError, Problem, UsageError
from regraft.registry import installed, require
from regraft.serving import RUNTIMES
from regraft.training.machine import Profile
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads

if TYPE_CHECKING:
    from regraft.serving.predictor import Predictor

AUTO = "auto"
_KIND = "fastest runtime"
_ROWS, _REPEATS = 32, 7
_UNSURE = 0.05  # one library against another on the same machine, measured twice, differs by as much


def usable(artifact: Artifact, wanted: str) -> list[str]:
    """Return the runtimes that can compute an artifact here, the one it was judged with first.

    Args:
        artifact: Verified.
        wanted: Registered name, or "auto".

    Raises:
        UnknownNameError: There is no such runtime.
        UsageError: The runtime cannot compute this form of network.
        MissingExtraError: The package that computes it is not installed.
    """
    network = artifact.manifest.network
    if wanted != AUTO:
        name = RUNTIMES.canonical(wanted)
        RUNTIMES.target(name)
        if name not in network.runtimes:
            raise UsageError(
                Problem(
                    what=f"the runtime '{name}' cannot compute this artifact",
                    where=str(artifact.path),
                    got=f"a network of the form '{network.form}'",
                    expected=f"one of the runtimes {', '.join(network.runtimes)}, or auto",
                    fix="leave out the runtime, or make a form that it computes with `regraft export`",
                )
            )
        engine = RUNTIMES.get(name)
        require(engine.package, needed_by=f"the runtime '{name}'", extra=engine.extra)
        return [name]
    known = [name for name in network.runtimes if name in RUNTIMES]
    found = [name for name in known if installed(RUNTIMES.get(name).package)]
    if found:
        return found
    extras = list(dict.fromkeys(RUNTIMES.get(name).extra for name in known))
    raise MissingExtraError(
        Problem(
            what=f"the artifact needs one of the packages {', '.join(RUNTIMES.get(name).package for name in known)}"
            if known
            else f"the artifact needs a runtime that is not registered here: {', '.join(network.runtimes)}",
            where=str(artifact.path),
            got="none of them is installed",
            fix=" or ".join(f"pip install 'regraft[{extra}]'" for extra in extras) or "install the package that registers it",
        )
    )


def fastest(artifact: Artifact, names: Sequence[str], opened: Callable[[str], Predictor], options: MachineOptions) -> Predictor:
    """Return the artifact opened with the runtime that answers its golden rows fastest, and right; measured at the first time.

    Args:
        artifact: With golden rows; without any the first runtime is taken.
        names: Registered names of runtimes that can compute it, at least one.
        opened: Opens it with one of them.
        options: Threads.

    Raises:
        GateError: None of them answers its golden rows as when it was judged.
    """
    goldens = Goldens.from_json(artifact.json(GOLDEN)) if GOLDEN in artifact.manifest.files else None
    if goldens is None or not goldens.rows or len(names) == 1:
        return opened(names[0])
    rows = list(goldens.rows)
    profile, key = Profile.load(), _key(artifact, names, options)
    known = profile.recall(_KIND, key)
    if known in names:
        return opened(str(known))
    predictors: dict[str, Predictor] = {}
    refused: list[Problem] = []
    for name in names:
        try:
            predictor = opened(name)
            # A library may compute in half precision on one processor and not on another: fast, and not what was judged.
            replay(predictor, goldens, predictor.task.same_answer)
            predictors[name] = predictor
        except (GateError, MissingExtraError) as error:
            refused += error.problems
    if not predictors:
        raise GateError(refused)
    best = _quickest(predictors, rows)
    # Another process may have measured meanwhile: what it decided stands, so that both answer alike.
    best = str(profile.remember(_KIND, key, best, lambda stored, _: stored if stored in predictors else best))
    return predictors[best]


def _quickest(predictors: Mapping[str, Predictor], rows: list[object]) -> str:
    """Return the fastest by its best round; they take turns, so that other work on the machine meets all of them.

    The first keeps its place unless another is faster by more than what such a short look can tell apart.
    """
    batch = (rows * _ROWS)[:_ROWS]
    seconds = dict.fromkeys(predictors, float("inf"))
    for predictor in predictors.values():
        predictor.outputs(batch)
    for _ in range(_REPEATS if len(predictors) > 1 else 0):
        for name, predictor in predictors.items():
            begin = time.perf_counter()
            predictor.outputs(batch)
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    first, best = next(iter(seconds)), min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < (1.0 - _UNSURE) * seconds[first] else first


def _key(artifact: Artifact, names: Sequence[str], options: MachineOptions) -> str:
    versions = ", ".join(f"{name} {_version(RUNTIMES.get(name).package)}" for name in sorted(names))
    return f"{artifact.digest[:16]} {options.threads or default_threads()} threads; {versions}"


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"
