"""A base in 4 bits: each linear layer of its blocks keeps, for each weight, the nearest of 16 levels of a normal distribution.

Dettmers et al. 2023, arXiv:2305.14314, section 3: blocks of 64 weights are divided by their largest absolute value c2, each
quotient becomes the index of the nearest of the levels of NF4 (their appendix E), two indices a byte. With double quantisation
the c2, less their mean, are kept in 8 bits each, in blocks of 256 with one float c1. A layer makes its weight W' again whenever
it is asked for it, forwards and backwards, and holds none: y = x W' + b, their equations 5 and 6. Levels and roundings are
those of bitsandbytes. Its own layers are not used: outside training they compute in bfloat16 on some processors, whatever they
are told, and a single row with another kernel than several. Deviation: products are computed in the type of the rows (float32,
or that of autocast), not always in bfloat16.

What the layers keep lies in a folder of its own and is read again bit for bit: nothing is rounded a second time. The folder of
the backbone holds W' in float32, so that any tool of the hub opens what our network computes with.

Shapes: I inputs, O outputs of a layer, S blocks.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from regraft.errors import ArtifactError, Problem
from regraft.models.adapters import WHOLE, adapted_layers, linear_layers, plain_layer, weight_of
from regraft.models.bitsandbytes_library import bitsandbytes, loaded
from regraft.models.blocks import is_linear
from regraft.models.net import Headed, check_tensors
from regraft.models.safety import check_safetensors_header
from regraft.models.transform import ADDED, KEPT_OTHERWISE, Kept, Transform
from regraft.options import JSON, Field, to_json
from regraft.typed import UNFIT, made_exactly, record
from regraft.types import Batch

BLOCK = 64
NEEDED_BY = "a base in 4 bits"
_BLOCK_OF_SCALES = 256
_KIND = "nf4"
_FILE = "weights.safetensors"
_CODES, _SCALES = "weight_codes", "weight_absmax"
# As bitsandbytes calls what it keeps of scales.
_NESTED, _OFFSET, _LEVELS = "weight_nested_absmax", "weight_nested_offset", "weight_nested_quant_map"
_BROKEN = "restore the artifact from its source, or fit it again"


@record
class Nf4Plan:
    """Which layers are kept in 4 bits, and how.

    Args:
        block: Weights that share a scale.
        double: Whether the scales are kept in 8 bits.
        layers: Paths in the hub's model, in the order in which they stand there.
    """

    block: Annotated[int, Field(ge=1)]
    double: bool
    layers: tuple[str, ...]


class Nf4(Transform):
    """Linear layers that keep their weights in 4 bits."""

    folder = "nf4"
    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Round the weights of the linear layers of the blocks.

        Args:
            net: The network.
            options: Says `double_quantization`.
            batches: One goes through the network, to see which layers are called.
            seed: Nothing is drawn.
        """
        plan = Nf4Plan(block=BLOCK, double=options.double_quantization, layers=tuple(linear_layers(net, batches)))
        for _, layer in self._bare(net, plan):
            keep(layer, rounded(layer.weight.detach(), plan))
        _give_back()
        return dict(to_json(plan))

    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Give the layers of a plan places for 4 bits, without meaning yet."""
        wanted = _read(plan)
        for _, layer in self._bare(net, wanted):
            keep(layer, _places(layer.weight, wanted))

    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write indices and scales."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in _tensors(net, plan).items()}, folder / _FILE)

    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read indices and scales."""
        from safetensors.torch import load_file

        path = folder / _FILE
        if not path.is_file():
            raise ArtifactError(Problem(what=f"there is no {_FILE}", where=str(folder), fix=_BROKEN))
        check_safetensors_header(path, ArtifactError)
        expected, found = _tensors(net, plan), load_file(path)
        check_tensors(expected, found, path)
        for name, tensor in expected.items():
            tensor.copy_(found[name])
        _give_back()

    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return layers that hold W' in float32; a layer that holds its weight already is left as it is."""
        made = {
            id(layer): plain_layer(layer, {"weight": layer.weight})
            for _, layer in adapted_layers(net, _read(plan))
            if hasattr(layer, KEPT_OTHERWISE)
        }
        everywhere = net.named_modules(remove_duplicate=False)  # one layer may stand at several places
        return {path: made[id(module)] for path, module in everywhere if id(module) in made}

    def _bare(self, net: Headed, plan: Nf4Plan) -> list[tuple[str, Any]]:
        """Return the layers of a plan, if all are linear layers as the base has them."""
        bitsandbytes(NEEDED_BY)
        modules = dict(net.backbone.body.named_modules(remove_duplicate=False))
        odd = [path for path in plan.layers if not is_linear(modules.get(path)) or hasattr(modules[path], ADDED)]
        if odd:
            what, expected = "the network has no such layers to keep in 4 bits", "linear layers as the base has them"
            raise ArtifactError(Problem(what=what, got=", ".join(odd[:5]), expected=expected, fix=_BROKEN))
        return [(path, modules[path]) for path in plan.layers]


def rounded(weight: torch.Tensor, plan: Nf4Plan) -> dict[str, torch.Tensor]:
    """Return what is kept of a weight, by name.

    Args:
        weight: As its layer keeps it, float32.
        plan: Says the blocks and how scales are kept.
    """
    blocks = -(-weight.numel() // plan.block)
    # A row a block: of rows that are no whole number of blocks the library's kernel for processors mixes up the scales.
    rows = weight.new_zeros((blocks, plan.block))
    rows.view(-1)[: weight.numel()] = weight.reshape(-1)
    codes, state = _library().quantize_4bit(rows, blocksize=plan.block, compress_statistics=plan.double, quant_type=_KIND)
    found = {_CODES: codes, _SCALES: state.absmax}
    if plan.double:
        found |= {_NESTED: state.state2.absmax, _OFFSET: state.offset, _LEVELS: state.state2.code}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def keep(layer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make a layer one that keeps these in place of its weight.

    Args:
        layer: A linear layer; changed in place, so that whatever holds it holds the same.
        tensors: As `rounded` gives them, on the device of the layer.
    """
    shape: Any = tuple(layer.weight.shape)
    cls: Any = type(layer)
    del layer.weight
    layer.__class__ = _class(cls, tuple(tensors), shape)
    for name, tensor in tensors.items():
        layer.register_buffer(name, tensor)


@functools.cache
def _class(cls: Any, names: tuple[str, ...], shape: tuple[int, ...]) -> Any:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Product.apply(x, self.bias, cls, self)  # type: ignore[no-untyped-call]
        return out

    said = {ADDED: names, KEPT_OTHERWISE: {"weight": Kept(shape, names)}, WHOLE: cls}
    return type(f"Nf4{cls.__name__}", (cls,), {"forward": forward, "weight": property(_whole), **said})


class _Product(torch.autograd.Function):
    """What a layer of a class computes with a weight that is made for it, and made again for the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias_O: torch.Tensor | None, cls: Any, layer: Any) -> torch.Tensor:
        """Return x W' + b (..., O)."""
        ctx.layer = layer
        out: torch.Tensor = cls.forward(layer, x)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x and b."""
        (g,) = gradients
        of_x = torch.matmul(g, weight_of(ctx.layer).to(g.dtype)) if ctx.needs_input_grad[0] else None
        of_b_O = g.reshape(-1, g.shape[-1]).sum(dim=0) if ctx.needs_input_grad[1] else None
        return of_x, of_b_O, None, None


def _whole(layer: Any) -> torch.Tensor:
    """Return W' as the class of the layer keeps a weight, in the type of the scales."""
    library, scales_S = _library(), layer.weight_absmax
    wanted = getattr(layer, _NESTED, scales_S).dtype
    # The library takes float32, which is what scales were before a network was turned to be computed in float64.
    if _NESTED in getattr(layer, ADDED):
        nested, levels = layer.weight_nested_absmax.float(), layer.weight_nested_quant_map.float()
        scales_S = library.dequantize_blockwise(scales_S, absmax=nested, code=levels, blocksize=_BLOCK_OF_SCALES)
        scales_S = scales_S + layer.weight_nested_offset
    scales_S, rows = scales_S.float(), torch.Size((len(scales_S), BLOCK))
    how = library.QuantState(absmax=scales_S, shape=rows, blocksize=BLOCK, quant_type=_KIND, dtype=torch.float32)
    made: torch.Tensor = library.dequantize_4bit(layer.weight_codes, how)
    kept: Kept = getattr(layer, KEPT_OTHERWISE)["weight"]
    return made.view(-1)[: kept.weights].view(kept.shape).to(wanted)


def _places(weight: torch.Tensor, plan: Nf4Plan) -> dict[str, torch.Tensor]:
    """Return room for what is kept of a weight."""
    count, device = weight.numel(), weight.device
    blocks = -(-count // plan.block)
    sizes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        _CODES: ((blocks * plan.block // 2, 1), torch.uint8),
        _SCALES: ((blocks,), torch.uint8 if plan.double else torch.float32),
    }
    if plan.double:
        sizes |= {
            _NESTED: ((-(-blocks // _BLOCK_OF_SCALES),), torch.float32),
            _OFFSET: ((), torch.float32),
            _LEVELS: ((256,), torch.float32),
        }
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in sizes.items()}


def _tensors(net: Headed, plan: Mapping[str, JSON]) -> dict[str, torch.Tensor]:
    """Return what the layers of a plan keep, by path."""
    return {
        f"{path}.{name}": layer.get_buffer(name)
        for path, layer in adapted_layers(net, _read(plan))
        for name in getattr(layer, KEPT_OTHERWISE)["weight"].by
    }


def _read(plan: Mapping[str, JSON]) -> Nf4Plan:
    made = made_exactly(Nf4Plan, dict(plan))
    if not isinstance(made, Nf4Plan) or made is UNFIT or made.block != BLOCK:
        raise ArtifactError(Problem(what="the plan of a base in 4 bits cannot be read", got=str(dict(plan))[:200], fix=_BROKEN))
    return made


def _give_back() -> None:
    """Return memory that has become free to the system; the C library of Linux keeps small pieces for itself until told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _library() -> Any:
    return loaded().functional
