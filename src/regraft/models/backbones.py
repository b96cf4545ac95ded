"""The body of a base as a network: any encoder of the hub behind one interface.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from regraft.errors import BaseError, Problem
from regraft.models import POOLINGS
from regraft.models.architectures import ARCHITECTURES, Architecture, architecture_of, network_of, width_of
from regraft.models.blocks import Blocks, find_blocks, is_linear
from regraft.models.folder_check import CONFIG_FILE, check_folder
from regraft.models.joinings import HeadMaker
from regraft.models.layer_means import LayerMeans
from regraft.models.layout import layout_of
from regraft.models.memory_layout import channels_last, gains
from regraft.models.packing import Packing, in_fixed_blocks, lengthened, packing_of, run_packed, run_padded
from regraft.models.transform import added_names, kept_otherwise
from regraft.models.unasked import none_spread
from regraft.models.unfilled import Unfilled
from regraft.options import JSON
from regraft.types import Features

_ALIGNMENT_BYTES = 64
BATCH, LENGTH = "batch", "length"
"""What axes of the inputs are called that may have any length."""


@dataclass(frozen=True)
class PoolingChoice:
    """Which pooling, and why.

    Args:
        name: Registered name.
        reason: Where the choice comes from, as people read it.
        seed: Draws weights of the pooling that are new.
    """

    name: str
    reason: str
    seed: int = 0


@dataclass
class Body:
    """A hub model with what was found out when it was opened.

    Args:
        model: Gives one vector a position.
        architecture: Its line in the table.
        unused: Weights that came with it and play no part here; saved again so that the folder stays whole for other tools.
        notes: Sentences for the manifest.
    """

    model: Any
    architecture: Architecture
    unused: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shapes:
    """In what shapes rows are computed.

    Args:
        kind: "packed" computes real positions only, "padded" every position of the batch; in "fixed" every row is padded to
            the same length and computed in blocks of the same number of rows, so that its bits do not depend on its batch
            (recurrent layers excepted: their steps hold as many rows as are that long).
        length: Positions of a row in "fixed"; those of the batch if not given.
    """

    kind: Literal["packed", "padded", "fixed"] = "packed"
    length: int | None = None


class Backbone(nn.Module):
    """Give features of a batch: one vector a position and one a row.

    Args:
        body: The hub's model.
        pooling: How vectors of positions become one.
    """

    part_widths: ClassVar[tuple[int, ...]] = ()
    """Width of the features of each part of a row; none, because a row is read as one."""

    def __init__(self, body: Body, pooling: PoolingChoice) -> None:
        super().__init__()
        if gains(torch.device("cpu")):
            channels_last(body.model)
        self.body = body.model
        self.architecture = body.architecture
        self.notes = tuple(body.notes)
        self.width = width_of(body.model.config)
        self.pooling_name = pooling.name
        self.pooling_reason = pooling.reason
        self.pooling = POOLINGS.get(pooling.name).for_body(body.model, body.unused, pooling.seed)
        self.blocks: Blocks = find_blocks(body.model, body.architecture, "body")
        linear = any(is_linear(module) for path in self.blocks.layers for module in self.get_submodule(path).modules())
        tokens = body.architecture.masked and "input_ids" in body.architecture.inputs
        said = {"linear": linear, "tokens": tokens, "keys": tokens and bool(body.architecture.keys_values)}
        self.provides = frozenset({"sequence", "pooled", *(name for name, there in said.items() if there)})
        self.packing: Packing = packing_of(body.model, body.architecture)
        self.shapes = Shapes()
        self.unused = dict(body.unused)

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        """Return the features of a batch.

        Args:
            inputs: What the architecture takes ("input_ids" (B, T), "pixel_values" (B, C, H, W)).
            mask_BT: True where an input position is real.

        Returns:
            Features with the mask of their own positions, which need not be those of the inputs.
        """
        inputs, mask_BT = self._filled_up(inputs, mask_BT)
        if self.pooling.over_layers:
            sequence_BTD, means_BLD = self._layers(inputs, mask_BT)
        else:
            sequence_BTD, means_BLD = self.sequence(inputs, mask_BT), None
        if self.architecture.own_mask:
            mask_BT = self.body.own_mask(mask_BT)
        elif not self.architecture.masked:
            mask_BT = mask_BT[:, :1].expand(sequence_BTD.shape[:2])
        if means_BLD is None:
            pooled_BD = _pooled(self.pooling, sequence_BTD, mask_BT, self.shapes)
        else:
            pooled_BD = of_layers(self.pooling, means_BLD, self.shapes)
        return Features(sequence_BTD=sequence_BTD, mask_BT=mask_BT, pooled_BD=pooled_BD)

    def layer_means(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return what a pooling over layers takes (B, L, D): every output averaged over real positions, the embeddings first.

        Args:
            inputs: What the architecture takes.
            mask_BT: True where an input position is real.
        """
        return self._layers(*self._filled_up(inputs, mask_BT))[1]

    def sequence(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a position (B, T, D). Only real positions are computed where the body allows it.

        Args:
            inputs: What the architecture takes.
            mask_BT: True where an input position is real; vectors elsewhere mean nothing.
        """
        if self.shapes.kind == "fixed":
            return in_fixed_blocks(
                functools.partial(run_padded, self.body, self.architecture), inputs, mask_BT, self.shapes.length
            )
        layout = layout_of(mask_BT) if self.packing.adapt and self.shapes.kind == "packed" else None
        if layout is None or self.packing.adapt is None:
            return run_padded(self.body, self.architecture, inputs, mask_BT)
        return layout.unpack(run_packed(self.packing.adapt(self.body), self.architecture, inputs, layout))

    def _layers(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `sequence` gives, and the means of all outputs (B, L, D)."""
        told = LayerMeans(self.body, self.architecture, self.width)
        if self.shapes.kind == "fixed":
            sequence_BTD = in_fixed_blocks(told.padded, inputs, mask_BT, self.shapes.length)
            return sequence_BTD, torch.cat(told.batches())[: len(mask_BT)]  # the last block is filled up
        layout = layout_of(mask_BT) if self.packing.adapt and self.shapes.kind == "packed" else None
        if layout is None or self.packing.adapt is None:
            sequence_BTD = told.padded(inputs, mask_BT)
        else:
            sequence_BTD = layout.unpack(told.packed(self.packing.adapt(self.body), inputs, layout, mask_BT))
        (means_BLD,) = told.batches()
        return sequence_BTD, means_BLD

    def _filled_up(
        self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        """Return rows of the one length of "fixed" where what comes out depends on how many positions went in."""
        if not self.architecture.own_mask or self.shapes.kind != "fixed":
            return inputs, mask_BT
        more = max(0, (self.shapes.length or 0) - mask_BT.shape[1])
        return {name: lengthened(values, more) for name, values in inputs.items()}, lengthened(mask_BT, more)

    convex: ClassVar[bool] = True
    """Whether learning nothing but what is new on top of it is a convex problem, or nearly one."""

    @property
    def saved(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that lie in the hub's folder."""
        return ("body.",)

    @property
    def new(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that did not come with the base."""
        return ("pooling.",)

    def axes(self, name: str) -> dict[int, str]:
        """Return which axes of an input may have any length, and what they are called."""
        return {0: BATCH, 1: LENGTH} if self.architecture.masked else {0: BATCH}

    def head(self, task: HeadMaker, dropout: float, seed: int = 0) -> nn.Module:
        """Return the head that a task puts on the features."""
        return task.head(self.width, dropout, seed)

    def spec(self) -> dict[str, JSON]:
        """Return what is not in the hub's folder, as JSON."""
        return {
            "architecture": self.body.config.model_type,
            "pooling": self.pooling_name,
            "pooling_reason": self.pooling_reason,
            "provides": sorted(self.provides),
            "width": self.width,
        }

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, as any tool of the hub reads them, into a folder.

        Weights of the pooling are not among them (see `regraft.models.net.outside_backbone_folder`), nor what transforms added.
        """
        added = added_names(self.body)
        named = self.body.state_dict().items()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in named if name not in added}
        for name, (module, _) in kept_otherwise(self.body).items():
            state[name] = getattr(module, name.rpartition(".")[2]).detach().cpu().contiguous()
        self.body.config._name_or_path = ""
        with quietly(), none_spread():
            self.body.save_pretrained(folder, state_dict={**state, **self.unused})

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from a folder that `save` wrote and `spec`, as safely as any other folder is opened.

        Raises:
            BaseError: The folder is not whole, not safe, or not of the architecture that `spec` names.
        """
        body = open_body(folder)
        found = body.model.config.model_type
        if found != spec["architecture"]:
            problem = Problem(
                what="the folder holds another architecture than was saved",
                where=str(folder),
                got=str(found),
                expected=str(spec["architecture"]),
                fix="get the folder again from its source",
            )
            raise BaseError(problem)
        return cls(body, PoolingChoice(spec["pooling"], spec["pooling_reason"]))


def of_layers(pooling: nn.Module, means_BLD: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    """Return what a pooling over layers makes of their means (B, D).

    Args:
        pooling: The pooling.
        means_BLD: What `Backbone.layer_means` gave.
        shapes: In what shapes rows are computed.
    """
    every_BL = means_BLD.new_ones(means_BLD.shape[:2], dtype=torch.bool)
    return _pooled(pooling, means_BLD, every_BL, replace(shapes, length=None))


def _pooled(pooling: nn.Module, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    if shapes.kind != "fixed":
        pooled_BD: torch.Tensor = pooling(sequence_BTD, mask_BT)
        return pooled_BD

    def pooled(inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        vector_BD: torch.Tensor = pooling(inputs["sequence"], mask_BT)
        return vector_BD.unsqueeze(1)

    # The order of a sum over positions depends on how many there are, padding included.
    return in_fixed_blocks(pooled, {"sequence": sequence_BTD}, mask_BT, shapes.length).squeeze(1)


def open_body(folder: Path) -> Body:
    """Load the hub model of a folder, checked first, in float32, without its unused pooler.

    Raises:
        BaseError: The folder is refused, or weights of the body are missing or have another shape.
    """
    config_values, architecture = check_folder(folder)
    source = network_of(architecture)
    config = make_config(config_values, str(folder / CONFIG_FILE))
    with quietly(), torch.random.fork_rng(devices=[]), Unfilled():
        try:
            model, info = source.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except MemoryError:
            raise
        except Exception as error:  # impossible numbers in a configuration end in whatever the architecture stumbles over
            fix = "check that config.json and the weights belong together"
            problem = Problem(
                what="the base cannot be loaded", where=str(folder), got=str(error)[:500] or type(error).__name__, fix=fix
            )
            raise BaseError(problem) from error
    missing = sorted(str(key) for key in info["missing_keys"])
    lost = [key for key in missing if not key.startswith(tuple(f"{name}." for name in architecture.unused))]
    if lost:
        raise BaseError(
            Problem(
                what=f"{len(lost)} weights of the base are missing",
                where=str(folder),
                got=", ".join(lost[:5]) + (", ..." if len(lost) > 5 else ""),
                expected="every weight that the configuration asks for",
                fix="check that config.json and the weights belong together",
            )
        )
    align(model)
    body = Body(model.eval(), architecture, notes=_notes(sorted(str(key) for key in info["unexpected_keys"])))
    body.unused = detach_unused(model, keep=not missing)
    return body


def align(net: nn.Module) -> None:
    """Copy weights that were mapped from a file at an odd address: matrix kernels may sum in another order there."""
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.data_ptr() % _ALIGNMENT_BYTES:
            tensor.data = tensor.data.clone()


def make_config(values: Mapping[str, JSON], where: str) -> Any:
    """Return the hub's configuration object for a checked configuration, private keys left out.

    Raises:
        BaseError: A value is of the wrong kind.
    """
    from transformers import CONFIG_MAPPING

    network_of(architecture_of(values, where))  # registers architectures that are ours
    public = {key: value for key, value in values.items() if not key.startswith("_")}
    try:
        return CONFIG_MAPPING[public["model_type"]].from_dict(public)
    except Exception as error:  # each architecture checks its values in its own way
        problem = Problem(
            what="the configuration cannot be used", where=where, got=str(error)[:500], fix="fetch or save the folder again"
        )
        raise BaseError(problem) from error


def detach_unused(model: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """Take what plays no part in the vectors of positions off a model, so that it is neither computed nor trained.

    Args:
        model: The hub's model, changed in place.
        keep: Whether its weights are worth saving again.

    Returns:
        Its weights under the names they have in the model's file.
    """
    architecture = ARCHITECTURES[model.config.model_type]
    weights: dict[str, torch.Tensor] = {}
    for name in architecture.unused:
        module = getattr(model, name, None)
        if isinstance(module, nn.Module):
            weights |= {f"{name}.{key}": tensor.detach().clone() for key, tensor in module.state_dict().items()}
            # A body that asks for it whatever it holds is given what changes nothing.
            setattr(model, name, None if architecture.masked else nn.Identity())
    return weights if keep else {}


def _notes(unexpected: Sequence[str]) -> list[str]:
    if not unexpected:
        return []
    parts = sorted({key.split(".")[0] for key in unexpected})
    return [f"{len(unexpected)} weights of the folder play no part here: {', '.join(parts[:8])}"]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the hub's library from printing while a model is read or written; what it says is returned to us as data."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), getattr(logging, "_tqdm_active", False)
    logging.set_verbosity_error()
    logging._tqdm_active = False  # its public switch also flips the bars of the hub's client, with a warning
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging._tqdm_active = bars
