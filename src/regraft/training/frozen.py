"""What learns in a fit as a network of its own, and the rows as that network takes them.

Below the lowest weight that learns, a row gives the same numbers in every epoch: the frozen part runs in evaluation mode, so
nothing in it is random. It is computed once a row, kept (`regraft.training.cache`), and only what lies above it is trained. If
all of the backbone is frozen, what is kept is one vector a row, and training is that of a linear model; under a pooling over
layers it is one vector a layer of a row, so that the pooling can learn too.

Shapes: N rows, B rows of a batch, T positions, P positions of several rows end to end, L outputs of layers, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from regraft.errors import OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.models.backbones import of_layers
from regraft.models.cuts import HIDDEN, halves
from regraft.models.evaluation_mode import without_gradients
from regraft.models.forward import length_batches, pooled
from regraft.models.net import Headed
from regraft.training.cache.bf16 import from_bf16
from regraft.training.cache.options import CacheKey, CacheOptions
from regraft.training.cache.ragged import Ragged, open_ragged
from regraft.types import Array, Batch, BatchRows, Features, FloatArray

POOLED = "pooled"
LAYERS = "layers"
_FORWARD_ROWS = 32
_POOLED_ROWS = 1024
_BODY = "body"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the features of a frozen part depend on beside its weights, and where they are kept.

    Args:
        cache: What may be kept, and where.
        preprocessing: Digest of how raw values become arrays.
        about: Name of the base, for people.
        threads: Threads of the numeric libraries: they decide the last bits of a sum.
        note: Told in one line where features are kept and why.
    """

    cache: CacheOptions
    preprocessing: str
    about: str
    threads: int
    note: Callable[[str], None]


@dataclass(frozen=True)
class Learner:
    """The part of a network that is trained.

    Args:
        net: Shares its weights with the whole network and, where the cut allows it, holds nothing below the cut.
        rows: Split -> its rows as `net` takes them.
        trainable: Names of the weights that learn.
        cut: Layers below the cut; None where nothing is kept. One more than there are layers if the backbone is kept whole.
    """

    net: Headed
    rows: Mapping[str, BatchRows]
    trainable: Set[str]
    cut: int | None = None

    @property
    def pooled(self) -> bool:
        """Whether only the head is left: each row is one vector."""
        return isinstance(self.net.backbone, _Pooled)


def deepest_cut(net: Headed, trainable: Set[str], needs: Set[str]) -> int | None:
    """Return how many layers lie below the lowest weight that learns; None where the embeddings learn.

    Args:
        net: The network.
        trainable: Names of the weights that learn.
        needs: What the task takes of the backbone.

    Returns:
        0 (only the embeddings are frozen) to the number of layers; one more where the whole backbone is frozen, or all but a
        pooling over layers, and the task takes one vector a row.
    """
    backbone: Any = net.backbone
    learning = {name.removeprefix("backbone.") for name in trainable if name.startswith("backbone.")}
    layers = len(backbone.blocks.layers)
    below = {name for name in learning if not (backbone.pooling.over_layers and name.startswith("pooling."))}
    if not below and needs <= {POOLED}:
        return layers + 1
    body = [name for name in learning if not name.startswith("pooling.")]
    lowest = min((backbone.blocks.layer_of(name) for name in body), default=layers)
    return lowest if lowest >= 0 else None


@contextmanager
def learner(
    net: Headed,
    trainable: Set[str],
    needs: Set[str],
    rows: Mapping[str, EncodedRows],
    setting: Setting,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Learner]:
    """Give the part of a network that is trained, with everything below it computed for all rows.

    Args:
        net: The whole network.
        trainable: Names of the weights that learn.
        needs: What the task takes of the backbone.
        rows: Split -> its encoded rows.
        setting: Where features are kept.
        progress: Called with the number of rows done.
    """
    whole = Learner(net, rows, trainable)
    cut = deepest_cut(net, trainable, needs)
    if not cut or not setting.cache.enabled:
        yield whole
        return
    if any(encoded.modality.draws for encoded in rows.values()):
        setting.note("what is frozen is computed in every epoch: training rows are varied each time that they are seen")
        yield whole
        return
    try:
        parts = _parts(net, cut)
    except OptionsError as error:
        setting.note(f"what is frozen is computed in every epoch: {error.problems[0].what}")
        yield whole
        return
    features = _kept(net, parts, [(encoded, np.arange(len(encoded))) for encoded in rows.values()], setting, progress)
    if features is None:
        yield whole
        return
    try:
        ends = np.cumsum([len(encoded) for encoded in rows.values()])
        found = {
            split: _Cached(features, encoded, parts.kind, end - len(encoded))
            for (split, encoded), end in zip(rows.items(), ends, strict=True)
        }
        yield Learner(parts.upper, found, trainable, cut)
    finally:
        features.close()


def kept_pooled(
    net: Headed, rows: EncodedRows, positions: Array, setting: Setting, progress: Callable[[int], None]
) -> FloatArray:
    """Return one vector a row (N, D) of the backbone as it is, from what is kept where it is there.

    Args:
        net: The whole network; runs in evaluation mode.
        rows: Encoded rows.
        positions: Which of them (N,).
        setting: Where features are kept.
        progress: Called with the number of rows done.
    """
    parts = _parts(net, len(_blocks(net).layers) + 1)
    there = setting.cache.enabled and len(positions)
    features = _kept(net, parts, [(rows, positions)], setting, progress) if there else None
    if features is None:
        return pooled(net, rows, positions, _FORWARD_ROWS, progress)
    try:
        if parts.kind == POOLED:
            return _as_float(features.gather(np.arange(len(positions))))
        return _pooled_of(parts.upper, features, len(positions))
    finally:
        features.close()
        progress(len(positions))


@dataclass(frozen=True)
class _Parts:
    """A network below and above a cut.

    Args:
        kind: "hidden", "pooled" or "layers".
        lower: (inputs, mask) -> (B, T, D), (B, D) or (B, L, D).
        upper: Takes what `lower` gives.
        below: Names of the parameters and buffers below the cut.
        cut: As people read it.
    """

    kind: str
    lower: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
    upper: Headed
    below: Callable[[str], bool]
    cut: str


class _Pooled(nn.Module):
    """Stand for a backbone whose one vector a row is known."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.provides, self.width, self.blocks = frozenset({POOLED}), backbone.width, backbone.blocks
        self.convex = backbone.convex

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        pooled_BD = inputs[POOLED]
        return Features(sequence_BTD=pooled_BD.unsqueeze(1), mask_BT=mask_BT, pooled_BD=pooled_BD)


class _Layered(_Pooled):
    """Stand for a backbone whose layers' means are known: its pooling over them goes on to learn."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.pooling, self.shapes = backbone.pooling, backbone.shapes

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        pooled_BD = of_layers(self.pooling, inputs[LAYERS], self.shapes)
        return Features(sequence_BTD=pooled_BD.unsqueeze(1), mask_BT=mask_BT, pooled_BD=pooled_BD)


class _Cached:
    """Rows whose features below the cut are known, in the place of `EncodedRows`."""

    def __init__(self, features: Ragged, encoded: EncodedRows, kind: str, first: int) -> None:
        self._features, self._kind, self._first = features, kind, first
        self.lengths = encoded.lengths if kind == HIDDEN else np.ones(len(encoded), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Array, targets: Array | None = None) -> Batch:
        """Return some rows as one batch: vectors (B, T, D) padded with zeros, or one vector a row (B, D)."""
        rows = np.asarray(rows, dtype=np.int64)
        values = _as_float(self._features.gather(self._first + rows))
        lengths_B = self.lengths[rows]
        mask_BT = np.arange(lengths_B.max(initial=1)) < lengths_B[:, None]
        if self._kind == HIDDEN:
            padded_BTD = np.zeros((*mask_BT.shape, *values.shape[1:]), dtype=np.float32)
            padded_BTD[mask_BT] = values
            values = padded_BTD
        chosen = None if targets is None else targets[rows]
        return Batch(inputs={self._kind: values}, mask_BT=mask_BT, targets=chosen, rows_B=rows)

    def drawn(self, rng: np.random.Generator) -> _Cached:
        """Return itself: the features are those of rows as they are."""
        return self


def _pooled_of(upper: Headed, features: Ragged, count: int) -> FloatArray:
    """Return what the pooling makes of kept means of layers, for the first rows of what is kept (N, D)."""
    found: FloatArray = np.empty((count, upper.backbone.width), dtype=np.float32)
    with without_gradients(upper):
        for start in range(0, count, _POOLED_ROWS):
            rows = np.arange(start, min(start + _POOLED_ROWS, count))
            means_BLD = torch.from_numpy(_as_float(features.gather(rows))).to(upper.device)
            mask_B1 = torch.ones((len(rows), 1), dtype=torch.bool, device=upper.device)
            found[rows] = upper.features({LAYERS: means_BLD}, mask_B1).pooled_BD.float().cpu().numpy()
    return found


def _blocks(net: Headed) -> Any:
    backbone: Any = net.backbone
    return backbone.blocks


def _parts(net: Headed, cut: int) -> _Parts:
    """Return a network in two.

    Raises:
        OptionsError: Its layers cannot be cut there.
    """
    backbone, layers = net.backbone, len(_blocks(net).layers)
    if cut > layers:
        over = backbone.pooling.over_layers
        upper = Headed(_Layered(backbone) if over else _Pooled(backbone), net.head)  # type: ignore[arg-type]
        upper.training = upper.backbone.training = net.training
        if over:
            body = f"{_BODY}."
            return _Parts(LAYERS, backbone.layer_means, upper, lambda name: name.startswith(body), "in front of the pooling")
        return _Parts(POOLED, lambda *given: net.features(*given).pooled_BD, upper, lambda _: True, "after the pooling")
    made = halves(backbone, cut)
    above = _blocks(net).layers[cut:]

    def below(name: str) -> bool:
        return name.startswith(f"{_BODY}.") and not name.startswith(tuple(f"{path}." for path in (*above, *_blocks(net).final)))

    upper = Headed(made.suffix, net.head)
    upper.training = net.training  # of this module alone: the others are those of the network, and have their modes
    return _Parts(HIDDEN, made.prefix, upper, below, f"above layer {cut} of {layers}")


def _kept(
    net: Headed,
    parts: _Parts,
    sources: Sequence[tuple[EncodedRows, Array]],
    setting: Setting,
    progress: Callable[[int], None] = lambda _: None,
) -> Ragged | None:
    """Return the features of rows of several splits, one after the other; None where they cannot be held.

    Args:
        net: The whole network.
        parts: What is computed, for what is missing.
        sources: Encoded rows, and which of them.
        setting: Where features are kept.
        progress: Called with the number of rows done.
    """
    one_each = parts.kind != HIDDEN
    lengths_N = np.concatenate([rows.lengths[positions] for rows, positions in sources])
    digests_N16 = np.concatenate([rows.digests[positions] for rows, positions in sources])
    features = open_ragged(
        _key(net, parts, setting),
        digests_N16,
        np.ones_like(lengths_N) if one_each else lengths_N,
        _shape(net, parts, sources),
        setting.cache,
        setting.note,
    )
    if features is None:
        return None
    missing = features.missing
    done, first = len(lengths_N) - len(missing), 0
    with without_gradients(net):
        for rows, positions in sources:
            here = missing[(missing >= first) & (missing < first + len(positions))] - first
            for index in length_batches(rows.lengths[positions[here]], _FORWARD_ROWS):
                inputs, mask_BT = net.tensors(rows.batch(positions[here[index]]))
                values = parts.lower(inputs, mask_BT)
                values = values if one_each else values[mask_BT]
                if not features.put(first + here[index], values.float().cpu().numpy()):
                    features.close()
                    return None
                done += len(index)
                progress(done)
            first += len(positions)
    if not features.finish():
        features.close()
        return None
    return features


def _shape(net: Headed, parts: _Parts, sources: Sequence[tuple[EncodedRows, Array]]) -> tuple[int, ...]:
    """Return the shape of what is kept for one position: a vector, one a layer, or a map where bodies make positions."""
    if parts.kind == LAYERS:
        return (len(_blocks(net).layers) + 1, net.backbone.width)
    if parts.kind == POOLED or net.backbone.architecture.masked:
        return (net.backbone.width,)
    rows, positions = next((rows, positions) for rows, positions in sources if len(positions))
    with without_gradients(net):
        values = parts.lower(*net.tensors(rows.batch(positions[:1])))
    return tuple(values.shape[2:])


def _key(net: Headed, parts: _Parts, setting: Setting) -> CacheKey:
    return CacheKey(
        kind=parts.kind,
        weights=_digest_below(net, parts, setting),
        preprocessing=setting.preprocessing,
        cut=parts.cut,
        dtype=setting.cache.dtype,
        about=setting.about,
    )


def _digest_below(net: Headed, parts: _Parts, setting: Setting) -> str:
    """Return the digest of everything in the network that decides what comes out below the cut, to the last bit."""
    backbone: Any = net.backbone
    digest = hashlib.sha256()
    facts = (
        backbone.body.config.to_json_string(use_diff=False),  # with the version of the hub's library
        backbone.pooling_name if parts.kind == POOLED else "",
        str(backbone.shapes),
        str(setting.threads),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        net.device.type,
    )
    digest.update("\0".join(facts).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        if parts.below(name):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name}\0{plain.dtype}\0{list(plain.shape)}\0".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _as_float(values: Array) -> FloatArray:
    return from_bf16(values) if values.dtype == np.uint16 else values
