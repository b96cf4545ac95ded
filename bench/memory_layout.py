"""Convolutions over pictures, channels last against first: milliseconds of a training pass and of an answer, one thread.

    python bench/memory_layout.py

First: weights and pictures channels first. Then: both channels last, as a backbone is laid out where the processor gains by it.
Answers of both are compared before anything is timed. The least of several passes that take turns; nothing is claimed of peers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, ConvNextConfig, ResNetConfig

import regraft.models.scratch_picture_networks  # noqa: F401 - registers the configuration of `conv`
from measure import report
from regraft.fitting import base_of
from regraft.models.backbones import open_body
from regraft.models.folder import FolderBase
from regraft.models.memory_layout import channels_last

ROUNDS, SMALL, LARGE = 7, ([16, 32, 64], 28, 1), ([32, 64, 128], 64, 3)
TOLERANCE = 1e-3  # of the largest output


def bodies() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Yield a name, a network and the shape of a batch of pictures."""
    base = base_of("efficientnet-lite0")
    base.fetch()
    if isinstance(base, FolderBase):
        yield "efficientnet-lite0", open_body(base.folder()).model, (32, 3, 96, 96)
    sizes = {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2]}
    yield "resnet", AutoModel.from_config(ResNetConfig(embedding_size=32, **sizes)), (32, 3, 64, 64)
    yield "convnext", AutoModel.from_config(ConvNextConfig(**sizes)), (32, 3, 64, 64)
    for style in ("plain", "vgg", "resnet", "inception"):
        for widths, side, channels in (SMALL, LARGE):
            config = AutoConfig.for_model(
                "regraft-conv", style=style, hidden_sizes=widths, image_size=side, num_channels=channels
            )
            yield f"conv, {style}", AutoModel.from_config(config), (128, channels, side, side)


def seconds(passes: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least of what each takes; they take turns, and the first turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name, run in passes.items():
            began = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - began)
    return {name: min(times[1:]) for name, times in taken.items()}


def trained(net: nn.Module, pixels: torch.Tensor) -> None:
    """Do one pass forwards and backwards."""
    net.zero_grad(set_to_none=True)
    net(pixel_values=pixels).last_hidden_state.square().mean().backward()


@torch.no_grad()
def answered(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the last layer gives."""
    last: torch.Tensor = net(pixel_values=pixels).last_hidden_state
    return last


def measured(first: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds of both kinds of passes in both layouts."""
    last, pixels = copy.deepcopy(first), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    channels_last(last)
    given = {"first": (first, pixels), "last": (last, pixels.contiguous(memory_format=torch.channels_last))}
    for net in (first, last):
        net.eval()
    expected, got = answered(*given["first"]), answered(*given["last"])
    if not (got - expected).abs().max() <= TOLERANCE * expected.abs().max():
        raise SystemExit("the two layouts do not give the same answers: nothing was timed")
    found = seconds({name: lambda pair=pair: answered(*pair) for name, pair in given.items()})
    for net in (first, last):
        net.train()
    learnt = seconds({name: lambda pair=pair: trained(*pair) for name, pair in given.items()})
    return {f"{kind} {name}": 1000 * s for kind, side in (("train", learnt), ("answer", found)) for name, s in side.items()}


def main() -> None:
    """Measure each network and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [(name, shape, measured(net, shape)) for name, net, shape in bodies()]
    lines = [f"{'ms, least of ' + str(ROUNDS - 1):42}{'training: first':>16}{'last':>8}{'':9}{'answers: first':>16}{'last':>8}"]
    for name, shape, ms in rows:
        sides = "".join(
            f"{ms[f'{kind} first']:16.1f}{ms[f'{kind} last']:8.1f} {ms[f'{kind} first'] / ms[f'{kind} last']:6.2f}x"
            for kind in ("train", "answer")
        )
        lines.append(f"{name + ', ' + ' x '.join(map(str, shape)):42}{sides}")
    capability = torch.backends.cpu.get_cpu_capability()
    lines.append(f"kernels of torch for {capability}")
    result = [{"network": name, "shape": list(shape), **ms} for name, shape, ms in rows]
    report("memory_layout", {"capability": capability, "networks": result}, "\n".join(lines))


if __name__ == "__main__":
    main()
