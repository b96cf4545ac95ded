"""What this machine can do: a small profile of measurements, kept beside the bases and shared by all runs on the machine.

    profile = Profile.load()
    peak_flops("fp32", 2, profile=profile)         matrix products, measured at first, recalled later

A profile belongs to one processor, number of cores, instruction set and version of torch; another of these is another file.
It is only a memory: a damaged, missing or read-only one costs a measurement, never an error.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from regraft.errors import RegraftError
from regraft.options import JSON
from regraft.training.threads import available_cores, with_threads

if TYPE_CHECKING:
    import torch

Dtype = Literal["fp32", "bf16", "fp16"]
TORCH_NAMES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 with tiles, ARM
_VECTORS = frozenset(
    {"avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "sve", *_BF16_FLAGS}
)
_FORMAT = 1
_LOCK_S = 10.0
_MOST_ENTRIES = 1000
_PEAK = "matrix product"
_SIZES = (256, 512, 1024, 1536, 2048)
_CUDA_SIZES = (*_SIZES, 4096, 8192)
_REPEATS = 20
_FIRST_S, _AGAIN_S = 1.0, 0.2
_MEASUREMENTS = 5


class Profile:
    """Remember measurements of this machine by kind and key; safe with several processes at once.

    Args:
        path: The file; it need not exist.
        facts: What the measurements hold for, written into the file for people.
    """

    def __init__(self, path: Path, facts: Mapping[str, JSON]) -> None:
        self.path, self.facts = path, dict(facts)
        self.measured: set[str] = set()
        self._entries = _read(path)

    @classmethod
    def load(cls, folder: Path | None = None) -> Self:
        """Return the profile of this machine as it is now.

        Args:
            folder: Where profiles lie; `machine` in the cache folder if not given.
        """
        from regraft.data.kept import cache_folder

        facts = _facts()
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return cls((folder or cache_folder() / "machine") / f"{digest}.json", facts)

    def recall(self, kind: str, key: str) -> JSON:
        """Return what was remembered, or None."""
        return self._entries.get(kind, {}).get(key)

    def remember(self, kind: str, key: str, value: JSON, merge: Callable[[JSON, JSON], JSON] | None = None) -> JSON:
        """Keep a value and return the one that stands.

        Args:
            kind: What was measured.
            key: What for.
            value: A JSON value.
            merge: Called with the value that another run has kept meanwhile and the new one, gives the one to keep; without
                it the new one stands.

        Returns:
            The value that stands for this and all later runs. On a disk that cannot be written it stands for this run only.
        """
        from filelock import FileLock, Timeout

        from regraft.data.atomic import atomic_file

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_S):
                for each, found in _read(self.path).items():
                    self._entries[each] = {**self._entries.get(each, {}), **found}
                value = self._keep(kind, key, value, merge)
                content = {"format": _FORMAT, "machine": self.facts, "entries": self._entries}
                with atomic_file(self.path) as file:
                    file.write(json.dumps(content, indent=1, allow_nan=False).encode())
        except (OSError, Timeout, RegraftError):
            value = self._keep(kind, key, value, merge)
        return value

    def _keep(self, kind: str, key: str, value: JSON, merge: Callable[[JSON, JSON], JSON] | None) -> JSON:
        entries = self._entries.setdefault(kind, {})
        if merge is not None and key in entries:
            value = merge(entries[key], value)
        entries.pop(key, None)
        entries[key] = value
        while len(entries) > _MOST_ENTRIES:
            del entries[next(iter(entries))]
        return value


def peak_flops(
    dtype: Dtype,
    threads: int,
    *,
    device: torch.device | None = None,
    profile: Profile | None = None,
    clock: Clock | None = None,
) -> float:
    """Return the most floating-point operations a second that matrix products reach here, as far as is known.

    A measurement beside other busy processes is too low, so it is taken once for about a second, again for a fifth of a second
    in each of the next few runs, and the highest is what counts.

    Args:
        dtype: Of the factors.
        threads: Threads of the numeric libraries; a GPU does not depend on them.
        device: Where; the processor if not given.
        profile: Where the answer is kept; this machine's if not given.
        clock: Seconds a product of this size (N, N) x (N, N) takes; measured if not given.
    """
    on = _device_name(device)
    profile = profile or Profile.load()
    key = f"{on} {dtype}" + ("" if device is not None and device.type == "cuda" else f" {threads} threads")
    known = _peak_entry(profile.recall(_PEAK, key))
    if key in profile.measured or known["measurements"] >= _MEASUREMENTS:
        return float(known["flops"])
    sizes = _CUDA_SIZES if device is not None and device.type == "cuda" else _SIZES
    budget_s = _AGAIN_S if known["measurements"] else _FIRST_S
    with with_threads(threads):
        found = best_rate(clock or _product_clock(dtype, device), sizes, budget_s)
    profile.measured.add(key)
    entry = profile.remember(_PEAK, key, {"flops": found, "measurements": known["measurements"] + 1}, _higher)
    return float(entry["flops"])


Clock = Callable[[int], float]


def best_rate(seconds_of: Clock, sizes: tuple[int, ...], budget_s: float) -> float:
    """Return the highest rate of N x N products, 2 N^3 operations each, over several sizes and repeats.

    A size that would not fit into what is left of the budget is left out; the smallest is always tried.

    Args:
        seconds_of: Multiplies once and says how long it took.
        sizes: Ascending.
        budget_s: Seconds for all of it.
    """
    best = spent = 0.0
    for _ in range(_REPEATS):
        for size in sizes:
            operations = 2.0 * size**3
            if best and spent + operations / best > budget_s:
                break
            seconds = seconds_of(size)
            spent += seconds
            best = max(best, operations / max(seconds, 1e-9))
    return best


def bf16_in_hardware(device: torch.device | None = None, cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the processor (or GPU) multiplies bf16 numbers itself; where it does not, bf16 is many times slower.

    Args:
        device: Where; the processor if not given.
        cpuinfo: The kernel's description of the processor.
    """
    import torch

    if device is not None and device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = _flags(cpuinfo)
    if not flags:
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        flags = {name for name, there in capabilities.items() if there is True}
    return bool(flags & _BF16_FLAGS)


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """Return the model of the processor, as the system calls it."""
    if named := _cpu_field("model name", cpuinfo):
        return named
    import platform

    return platform.processor() or platform.machine()


def _flags(cpuinfo: Path) -> set[str]:
    return set((_cpu_field("flags", cpuinfo) or _cpu_field("Features", cpuinfo)).split())


def _cpu_field(name: str, cpuinfo: Path) -> str:
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def _facts() -> dict[str, JSON]:
    return {"processor": processor(), "cores": available_cores(), "instructions": instructions(), "torch": _torch_version()}


def instructions(cpuinfo: Path = _CPUINFO) -> str:
    """Return the names of the vector instructions that decide how fast a processor multiplies, and in which order it adds."""
    if found := sorted(_flags(cpuinfo) & _VECTORS):
        return " ".join(found)
    import platform

    return platform.machine()


def _torch_version() -> str:
    """Return the version of torch without importing it; an inference core has none."""
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _device_name(device: torch.device | None) -> str:
    if device is None or device.type == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def _product_clock(dtype: Dtype, device: torch.device | None) -> Clock:
    import torch

    on = device or torch.device("cpu")
    generator = torch.Generator(device=on).manual_seed(0)  # the run's own random state is not touched
    kept: dict[int, list[torch.Tensor]] = {}

    def seconds_of(size: int) -> float:
        if size not in kept:
            kept.clear()
            kept[size] = [
                torch.rand(size, size, generator=generator, device=on).to(getattr(torch, TORCH_NAMES[dtype])) for _ in range(3)
            ]
        left, right, out = kept[size]
        wait(on)
        begin = time.perf_counter()
        with torch.inference_mode():
            torch.mm(left, right, out=out)
        wait(on)
        return time.perf_counter() - begin

    return seconds_of


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a processor is never behind."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _higher(stored: JSON, new: JSON) -> JSON:
    known = _peak_entry(stored)
    return {"flops": max(known["flops"], new["flops"]), "measurements": max(known["measurements"], new["measurements"])}


def _peak_entry(value: JSON) -> dict[str, Any]:
    """Return a remembered peak, or one that nobody has measured where the file holds something else."""
    if isinstance(value, Mapping):
        flops, measurements = value.get("flops"), value.get("measurements")
        if isinstance(flops, float) and 0.0 < flops < 1e18 and isinstance(measurements, int) and measurements > 0:
            return {"flops": flops, "measurements": measurements}
    return {"flops": 0.0, "measurements": 0}


def _read(path: Path) -> dict[str, dict[str, JSON]]:
    """Return what a file holds; nothing where it is not there, damaged, or of another format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("entries"), dict):
        return {}
    return {str(kind): dict(found) for kind, found in content["entries"].items() if isinstance(found, dict)}
