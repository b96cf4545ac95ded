"""In which number format a network is trained: float32, or half-size factors where a measurement shows that they gain.

    precision = choose(net, "auto", workload, profile, note)
    with learning(net, trainable):
        objective.loss(precision.network(net), batch)

Mixed precision as in Micikevicius et al. 2018, arXiv:1710.03740: weights, their gradients, the optimiser and the loss stay in
float32; the factors of matrix products are rounded to the half-size format as they are needed (`torch.autocast`).
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from regraft.errors import OptionsError, Problem
from regraft.models.net import Headed
from regraft.models.transform import running_buffers
from regraft.models.view import with_children
from regraft.training.freeze import learning
from regraft.training.machine import TORCH_NAMES, Dtype, Profile, bf16_in_hardware, wait
from regraft.types import Features

Wanted = Literal["auto", "fp32", "bf16", "fp16"]

GAIN = 1.15
"""Speed-up below which a coarser format is not worth its rounding."""
SHORT_S = 3.0
"""Training that is expected to take less is not worth a measurement."""
TRIED_POSITIONS = 512
"""Positions that a format is tried on where a micro-batch has more: from there on its gain does not depend on them."""

_KIND = "bf16 step"
_CLEAR = (1.0, 1.3)  # a speed-up outside of this decides at once; between, more rounds are taken
_ROUNDS = (3, 7)
_SHARE = 0.02  # of the whole training that a measurement may take, once it has its fewest rounds
_LEAST_PASSES = 4  # two in each format, the first of them a warm-up
_AFFORDED_S, _AFFORDED_SHARE = 4.0, 0.05  # what these may take: seconds, or a share of the whole training
_FIRST_SCALE, _GROWTH_EVERY, _MOST_SCALE = 2.0**16, 2000, 2.0**24


@dataclass
class Precision:
    """A number format, with what training in it takes.

    Args:
        name: "fp32", "bf16" or "fp16".
        reason: Why this one, one sentence.
        scale: What the loss is multiplied with so that small gradients do not vanish in fp16; 1 in the other formats.
    """

    name: Dtype = "fp32"
    reason: str = "the default"
    scale: float = field(default=0.0)
    _good_steps: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        self.scale = self.scale or (_FIRST_SCALE if self.name == "fp16" else 1.0)

    @property
    def is_full(self) -> bool:
        """Whether everything is computed in float32."""
        return self.name == "fp32"

    def state(self) -> dict[str, float]:
        """Return what updates change in it."""
        return {"scale": self.scale, "good_steps": self._good_steps}

    def put_back(self, state: Mapping[str, float]) -> None:
        """Take what `state` gave."""
        self.scale, self._good_steps = state["scale"], int(state["good_steps"])

    @contextmanager
    def autocast(self, device_type: str = "cpu") -> Iterator[None]:
        """Compute matrix products inside the block in this format; in fp32 the block runs as it would without."""
        if self.is_full:
            yield
            return
        with torch.autocast(device_type, dtype=getattr(torch, TORCH_NAMES[self.name])):
            yield

    def network(self, net: Headed) -> Headed:
        """Return a network that computes in this format and answers in float32, so that every loss is made in float32.

        It shares all weights and modules with `net`, which is not changed; in fp32 it is `net` itself.
        """
        if self.is_full:
            return net
        twin = with_children(net, net._modules)
        twin.__class__ = _mixed_class(type(net))
        twin.__dict__["precision"] = self
        return twin

    def settled(self, weights: Sequence[torch.nn.Parameter]) -> bool:
        """Return whether the gradients can be used; False asks for the same step again, with the smaller `scale` it now has.

        Only fp16 can overflow by itself: then the scale is halved; after 2,000 good steps it is doubled (the constants of
        `torch.amp.GradScaler`). Where even a scale of 1 overflows, the gradients are used as they are, for whoever checks them
        to find. GradScaler skips a step that overflowed; here it is repeated, so that no batch is lost.

        Args:
            weights: Weights that learn, with gradients of the scaled loss.
        """
        if self.name != "fp16":
            return True
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if gradients and not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            self._good_steps = 0
            if self.scale > 1.0:
                self.scale /= 2.0
                return False
            return True
        self._good_steps += 1
        if self._good_steps % _GROWTH_EVERY == 0:
            self.scale = min(self.scale * 2.0, _MOST_SCALE)
        return True


class _Mixed(Headed):
    """A headed network inside `torch.autocast`, its answers in float32."""

    precision: Precision

    def features(self, inputs: Any, mask_BT: torch.Tensor) -> Features:
        features: Features = self._mixed(super().features, inputs, mask_BT)
        return features

    def forward(self, inputs: Any, mask_BT: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._mixed(super().forward, inputs, mask_BT)
        return output

    def _mixed(self, function: Callable[..., Any], *given: Any) -> Any:
        kind = self.device.type
        if torch.is_autocast_enabled(kind):  # forward asks for features: the outermost call alone rounds back
            return function(*given)
        with self.precision.autocast(kind):
            return _in_float32(function(*given))


def _mixed_class(cls: type[Headed]) -> type[Headed]:
    return _Mixed if cls is Headed else type(f"Mixed{cls.__name__}", (_Mixed, cls), {})


def _in_float32(answer: Any) -> Any:
    if isinstance(answer, torch.Tensor):
        return answer.float() if answer.is_floating_point() else answer
    if isinstance(answer, Features):
        sequence_BTD, pooled_BD = answer.sequence_BTD.float(), answer.pooled_BD.float()
        return Features(sequence_BTD=sequence_BTD, mask_BT=answer.mask_BT, pooled_BD=pooled_BD)
    return answer


def check_precision(wanted: Wanted, device: torch.device) -> None:
    """Refuse a format that the device cannot train in.

    Raises:
        OptionsError: fp16 without a GPU.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise OptionsError(
            Problem(
                what="fp16 cannot be trained without a GPU",
                where="precision",
                got=f"'fp16' on '{device.type}', where it is about 100 times slower than fp32 and gradients vanish",
                expected="'auto', 'fp32' or 'bf16'",
                fix="leave 'precision' out: it takes bf16 where this machine gains by it",
            )
        )


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a choice of format is tried on.

    Args:
        loss: Makes the loss of a few real rows with the network it is given; called a few times.
        trainable: Names of the weights that learn.
        passes: Forward and backward passes over so many rows that the whole training comes to.
        positions: Positions of these rows.
        threads: Threads of the numeric libraries.
    """

    loss: Callable[[Headed], torch.Tensor]
    trainable: Set[str]
    passes: int
    positions: int
    threads: int


def choose(
    net: Headed,
    wanted: Wanted,
    workload: Workload,
    profile: Profile,
    note: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Precision:
    """Return the format to train in; "auto" takes bf16 only where it was measured to gain at least 15 % here.

    What was measured is kept in the profile and decides every later run of the same network, on about as many positions, on
    as many threads: the same command gives the same bytes. Weights, gradients, buffers and random states are as before.

    Args:
        net: The network, on its device.
        wanted: "auto" or a format.
        workload: What to try it on.
        profile: Where measurements are kept.
        note: Told in one sentence what was chosen and why.
        clock: Seconds since some moment.

    Raises:
        OptionsError: The device cannot train in the format that was asked for.
    """
    check_precision(wanted, net.device)
    if wanted == "auto":
        chosen = _measured(net, workload, profile, clock)
    else:
        chosen = Precision(wanted, "as asked for")
        if wanted == "bf16" and not bf16_in_hardware(net.device):
            chosen.reason += "; this processor has no bf16 arithmetic, so it will be many times slower than fp32"
    note(f"training in {chosen.name}: {chosen.reason}")
    return chosen


def _measured(net: Headed, workload: Workload, profile: Profile, clock: Callable[[], float]) -> Precision:
    if not bf16_in_hardware(net.device):
        on = "GPU" if net.device.type == "cuda" else "processor"
        return Precision("fp32", f"this {on} has no bf16 arithmetic")
    key = f"{_structure(net, workload.trainable)} {workload.threads} threads {_bucket(workload.positions)} positions"
    trial = _Trial(net, workload, clock)
    known = _entry(profile.recall(_KIND, key))
    if known is None:
        known = _entry(profile.remember(_KIND, key, {"look_s": trial.first_look()}, _first)) or {}
        again = ""
    else:
        again = ", as measured earlier"
    expected_s = known["look_s"] * workload.passes  # always this one, so that a run and its repetition decide alike
    if not _worth_it(known["look_s"], expected_s):
        return Precision("fp32", f"training takes about {expected_s:.0f} s, too little to find out whether bf16 gains")
    if "bf16_s" not in known:
        measured = {**known, **trial.interleaved(expected_s)}
        known = _entry(profile.remember(_KIND, key, measured, _fuller)) or measured
        again = ""
    gain = known["fp32_s"] / known["bf16_s"]
    name: Dtype = "bf16" if gain >= GAIN else "fp32"
    times = f"{1000 * known['bf16_s']:.3g} ms a pass against {1000 * known['fp32_s']:.3g} ms in fp32"
    return Precision(name, f"bf16 is {gain:.2f} times as fast here ({times}{again}); it is taken from {GAIN} on")


def _worth_it(look_s: float, expected_s: float) -> bool:
    return expected_s >= SHORT_S and _LEAST_PASSES * look_s <= max(_AFFORDED_S, _AFFORDED_SHARE * expected_s)


def _clear(warm: Mapping[Dtype, float], first: Mapping[Dtype, float]) -> bool:
    """Return whether one round decides, even if somebody else had the core during one of its passes."""
    gains = min(warm["fp32"], first["fp32"]) >= _CLEAR[1] * first["bf16"]
    loses = first["fp32"] <= _CLEAR[0] * min(warm["bf16"], first["bf16"])
    return gains or loses


class _Trial:
    """Time forward and backward passes and leave no trace of them."""

    def __init__(self, net: Headed, workload: Workload, clock: Callable[[], float]) -> None:
        self.net, self.workload, self.clock = net, workload, clock

    def first_look(self) -> float:
        """Return the seconds of a pass in fp32; the first one warms up and is enough where all is short."""
        with untouched(self.net, self.workload.trainable):
            seconds = self.seconds(Precision())
            if not _worth_it(seconds, seconds * self.workload.passes):
                return seconds
            return min(seconds, self.seconds(Precision()))

    def interleaved(self, expected_s: float) -> dict[str, float]:
        """Return the median seconds of a pass in each format, measured in turns because other work comes and goes.

        One round where the first is clear, more where it is not.
        """
        formats = (Precision(), Precision("bf16"))
        found: dict[Dtype, list[float]] = {each.name: [] for each in formats}
        with untouched(self.net, self.workload.trainable):
            warm = {each.name: self.seconds(each) for each in formats}
            spent = sum(warm.values())
            for done in range(_ROUNDS[1]):
                if done >= _ROUNDS[0] and spent > _SHARE * expected_s:
                    break
                if done == 1 and _clear(warm, {name: each[0] for name, each in found.items()}):
                    break
                for each in formats:
                    seconds = self.seconds(each)
                    spent += seconds
                    found[each.name].append(seconds)
        return {f"{name}_s": statistics.median(each) for name, each in found.items()}

    def seconds(self, precision: Precision) -> float:
        network = precision.network(self.net)
        wait(self.net.device)
        begin = self.clock()
        self.workload.loss(network).backward()  # type: ignore[no-untyped-call]
        wait(self.net.device)
        seconds = self.clock() - begin
        self.net.zero_grad(set_to_none=True)
        return max(seconds, 1e-9)


@contextmanager
def untouched(net: Headed, trainable: Set[str]) -> Iterator[None]:
    """Train inside the block as the loop would, and put gradients, buffers and random states back."""
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for _, buffer in running_buffers(net)]
    on_gpu = [net.device] if net.device.type == "cuda" else []
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        with torch.random.fork_rng(devices=on_gpu), torch.enable_grad(), learning(net, trainable):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _structure(net: Headed, trainable: Set[str]) -> str:
    """Return a digest of all that the speed of a network depends on: its modules, shapes and what learns; not its weights."""
    digest = hashlib.sha256(str(net.device.type).encode())
    if net.device.type == "cuda":
        digest.update(torch.cuda.get_device_name(net.device).encode())
    for path, module in net.named_modules():
        digest.update(f"{path}\0{type(module).__qualname__}\0".encode())
    for name, parameter in net.named_parameters():
        digest.update(f"{name}\0{list(parameter.shape)}\0{name in trainable}\0".encode())
    return digest.hexdigest()[:16]


def _bucket(positions: int) -> int:
    """Return the nearest power of two: batches of about one size share a measurement."""
    return 1 << round(math.log2(max(1, positions)))


def _entry(value: Any) -> dict[str, float] | None:
    """Return a remembered measurement, or None where the file holds something else."""
    if not isinstance(value, dict) or value.keys() not in ({"look_s"}, {"look_s", "fp32_s", "bf16_s"}):
        return None
    good = all(isinstance(each, float) and 0.0 < each < math.inf for each in value.values())
    return dict(value) if good else None


def _first(stored: Any, new: Any) -> Any:
    return new if _entry(stored) is None else stored


def _fuller(stored: Any, new: Any) -> Any:
    return stored if "bf16_s" in (_entry(stored) or {}) else new
