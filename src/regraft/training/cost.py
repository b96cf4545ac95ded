"""What a run cost: rows and tokens a second, how much of the machine that is, where the time went, memory.

meter = Meter(listen)                      stands where the listener stood and passes every event on
cost_of(Use(...), stages.seconds, training=Passes(meter.training, flops), profile=profile).to_json()

answered = Answered()                      a predictor adds to it what it answers
predictor.outputs(rows, answered=answered)
cost_of(predictor.runtime.use(), stages.seconds, answering=predictor.runtime.passes(answered)).to_json()

Nothing here imports torch, but for a peak that is wanted and not known.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.options import JSON
from regraft.training.arithmetic import Flops
from regraft.training.events import BeginEvent, Event, StepEvent, ValidEvent
from regraft.training.machine import Dtype, Profile, peak_flops
from regraft.training.stages import Listener, ignore
from regraft.types import Array

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")


@dataclass(kw_only=True)
class Work:
    """What went through a network in how long.

    Args:
        rows: Rows.
        tokens: Real positions.
        padded_tokens: Positions as they would be with every batch padded to its longest row; 0 where nobody counted.
        seconds: Time the passes took, without reading, validation and the like.
    """

    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0

    def add(self, rows: int, tokens: int, padded_tokens: int, seconds: float) -> None:
        """Count some more."""
        self.rows += rows
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        self.seconds += seconds


@dataclass(kw_only=True)
class Answered(Work):
    """What a predictor has answered: `seconds` are those of the whole way from raw values to outputs.

    Args:
        encode_seconds: Those of them in which raw values became arrays.
        dropped: Positions that were cut off.
        truncated_rows: Rows of which something was cut off.
        lengths: Real positions of the rows (N,), window by window, in the order of the rows.
    """

    encode_seconds: float = 0.0
    dropped: int = 0
    truncated_rows: int = 0
    lengths: list[Array] = field(default_factory=list)


class Meter:
    """Listen to a verb, add up what its training steps did, and pass every event on.

    Args:
        listen: Who else listens.
    """

    def __init__(self, listen: Listener = ignore) -> None:
        self.listen = listen
        self.training = Work()
        self._since = 0.0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, StepEvent):
            # From the event before: validation between two steps is not training.
            self.training.add(event.rows, event.positions, event.padded_positions, event.seconds - self._since)
        if isinstance(event, BeginEvent | StepEvent | ValidEvent):
            self._since = event.seconds
        self.listen(event)


@dataclass(frozen=True, kw_only=True)
class Use:
    """What of the machine was used.

    Args:
        threads: Threads of the numeric libraries.
        cores: Cores that the process may use.
        device: Where the network ran; the processor if not given.
    """

    threads: int
    cores: int
    device: torch.device | None = None


@dataclass(frozen=True)
class Passes:
    """Work with the arithmetic it takes.

    Args:
        work: What was done.
        flops: Operations for one token.
        precision: Number format of the products; None where it is not known.
        notes: Sentences for the report.
    """

    work: Work
    flops: Flops
    precision: Dtype | None = "fp32"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run cost.

    Args:
        use: What of the machine was used.
        seconds_by_stage: Stage -> seconds.
        peak_memory_mb: Most memory (10^6 bytes) that the process has ever held; None where the system does not say.
        peak_gpu_memory_mb: Most memory that tensors held on the GPU; None without one.
        training: Figures of training passes, named as in `rates`; empty if nothing was trained.
        answering: The same for passes that only answer.
        against: The same for the answers of the artifact that this one is held against.
    """

    use: Use
    seconds_by_stage: Mapping[str, float]
    peak_memory_mb: float | None
    peak_gpu_memory_mb: float | None
    training: Mapping[str, JSON] = field(default_factory=dict)
    answering: Mapping[str, JSON] = field(default_factory=dict)
    against: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """Return one flat object; figures of answering begin with `predict_`, those of the other artifact with `against_`."""
        return {
            **self.training,
            **{f"predict_{name}": value for name, value in self.answering.items()},
            **{f"against_{name}": value for name, value in self.against.items()},
            "threads": self.use.threads,
            "cores": self.use.cores,
            "peak_memory_mb": self.peak_memory_mb,
            **({} if self.peak_gpu_memory_mb is None else {"peak_gpu_memory_mb": self.peak_gpu_memory_mb}),
            "seconds_by_stage": dict(self.seconds_by_stage),
        }


def cost_of(
    use: Use,
    seconds_by_stage: Mapping[str, float],
    *,
    training: Passes | None = None,
    answering: Passes | None = None,
    against: Passes | None = None,
    profile: Profile | None = None,
) -> Cost:
    """Return what a run cost, held against the machine's own peak; that is measured now where it is not known yet.

    Args:
        use: What of the machine was used.
        seconds_by_stage: Stage -> seconds.
        training: Passes that learnt.
        answering: Passes that answered only.
        against: The same of the artifact that this one is held against, on the same threads.
        profile: Of the machine; opened if it is needed and not given.
    """
    memory_mb, gpu_memory_mb = peak_memory_mb(), _peak_gpu_memory_mb(use)  # before the peak of products takes some
    known = profile or Profile.load()
    figures = [{} if passes is None else _held_against(passes, use, known) for passes in (training, answering, against)]
    return Cost(
        use=use,
        seconds_by_stage=seconds_by_stage,
        peak_memory_mb=memory_mb,
        peak_gpu_memory_mb=gpu_memory_mb,
        training=figures[0],
        answering=figures[1],
        against=figures[2],
    )


def rates(passes: Passes, peak: float | None) -> dict[str, JSON]:
    """Return rows and tokens a second, the padding ratio, and the share of the machine's peak that the real tokens took.

    MFU = operations for one real token x tokens / (seconds x peak), with the operations of `regraft.training.arithmetic`
    (Chowdhery et al. 2022, arXiv:2204.02311, appendix B; there the peak is the maker's, here it is measured). What is not known
    is None, and `mfu_note` says why.

    Args:
        passes: What was done.
        peak: Operations a second of matrix products in this format on this machine.
    """
    work, per_token = passes.work, passes.flops.per_token
    if not work.rows or work.seconds <= 0.0:
        return {}
    mfu = per_token * work.tokens / (work.seconds * peak) if per_token and peak and work.tokens else None
    note = "" if mfu is not None else passes.flops.reason or "the peak of matrix products is not known"
    return {
        "rows_per_s": work.rows / work.seconds,
        "tokens_per_s": work.tokens / work.seconds,
        "padding_ratio": work.padded_tokens / work.tokens if work.tokens and work.padded_tokens else None,
        "precision": passes.precision,
        "flops_per_token": per_token,
        "peak_flops": peak,
        "mfu": mfu,
        **({"mfu_note": note} if note else {}),
    }


def _held_against(passes: Passes, use: Use, profile: Profile) -> dict[str, JSON]:
    if passes.flops.per_token is None or passes.precision is None or not passes.work.tokens:
        return rates(passes, None)
    return rates(passes, peak_flops(passes.precision, use.threads, device=use.device, profile=profile))


def peak_memory_mb(status: Path = _STATUS) -> float | None:
    """Return the most memory in 10^6 bytes that this process has held since it began, or None where that is not known.

    Args:
        status: The kernel's description of this process.
    """
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _peak_gpu_memory_mb(use: Use) -> float | None:
    if use.device is None or use.device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(use.device) / 1e6


def sentences(cost: Mapping[str, JSON]) -> list[str]:
    """Return the cost of a report as people read it; what is not in it is left out.

    Args:
        cost: What `Cost.to_json` gave.
    """
    prefixes = {"training": "", "answering": "predict_", "answering of the first": "against_"}
    lines = [_rate_sentence(what, prefix, cost) for what, prefix in prefixes.items()]
    seconds = {str(stage): float(s) for stage, s in (cost.get("seconds_by_stage") or {}).items() if s}
    if seconds:
        longest = sorted(seconds.items(), key=lambda item: -item[1])
        lines.append("time: " + ", ".join(f"{stage} {_seconds(took)}" for stage, took in longest))
    machine = []
    if cost.get("threads"):
        machine.append(f"{_counted(cost['threads'], 'thread')} on {_counted(cost.get('cores', 0), 'core')}")
    for name, where in (("peak_memory_mb", ""), ("peak_gpu_memory_mb", " on the GPU")):
        if cost.get(name):
            machine.append(f"at most {cost[name]:,.0f} MB of memory{where}")
    return [line for line in [*lines, "machine: " + ", ".join(machine) if machine else ""] if line]


def _rate_sentence(what: str, prefix: str, cost: Mapping[str, JSON]) -> str:
    rows, tokens = cost.get(f"{prefix}rows_per_s"), cost.get(f"{prefix}tokens_per_s")
    if not rows:
        return ""
    parts = [f"{_number(rows)} rows/s"]
    if tokens:
        parts.append(f"{_number(tokens)} real tokens/s")
    if cost.get(f"{prefix}padding_ratio"):
        parts.append(f"padding ratio {cost[f'{prefix}padding_ratio']:.2f}")
    if cost.get(f"{prefix}mfu") is not None:
        peak = cost[f"{prefix}peak_flops"] / 1e9
        parts.append(f"MFU {cost[f'{prefix}mfu']:.2f} of {_number(peak)} GFLOP/s in {cost[f'{prefix}precision']}")
    elif cost.get(f"{prefix}mfu_note"):
        parts.append(f"no MFU: {cost[f'{prefix}mfu_note']}")
    return f"{what}: " + ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
