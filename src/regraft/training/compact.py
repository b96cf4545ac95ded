"""Train only the rows of a token table that the training rows use; the others have no gradient, no moments and no copy.

A batch of 32 short texts uses some hundred of the 30,000 rows of a table, yet its gradient is as large as the table. A row that
no training text uses gets a gradient of zero at every step, so that AdamW without decay leaves it where it is: leaving it out
changes nothing else either.

    with compacted(net, trainable, lambda: used_ids(rows)) as compact:
        for event in train(compact.net, objective, tuning, options, validation=validation_of(compact.net)):
            ...
    # net has the learnt rows

Shapes: V rows of the whole table, U rows in use, D width, B rows of a batch, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regraft.errors import DataError, Problem
from regraft.models.token_table import INPUT, token_table
from regraft.models.view import view
from regraft.types import Array

if TYPE_CHECKING:
    from regraft.modalities.encoded import SplitRows
    from regraft.models.net import Headed

# With gradient and two moments a compact table takes V + 4U rows of memory against 4V: even at three quarters. A step over the
# table alone (30,522 x 384, one thread) takes 46 ms whole, 5 ms with a fifth of it, 15 ms with 0.6 and 47 ms with 0.75.
_PAYS_BELOW = 0.6
_SCANNED_ROWS = 256


class CompactEmbedding(nn.Embedding):
    """A token table of which only some rows learn; `weight` holds those rows alone.

    In evaluation mode every id has its row. In training mode an id without a learning row is an error: its row could not learn.

    Args:
        table: The whole table; not changed before `scatter_back`, and not copied.
        used: Ids whose rows learn, sorted, each once (U,).
    """

    def __init__(self, table: nn.Embedding, used: torch.Tensor) -> None:
        whole_VD = table.weight.detach()
        places_V = torch.full((len(whole_VD),), -1, dtype=torch.int64, device=whole_VD.device)
        places_V[used] = torch.arange(len(used), device=whole_VD.device)
        padding = table.padding_idx
        super().__init__(
            len(used),
            table.embedding_dim,
            # An id that only pads but is not in use has no row here that would have to be kept from learning.
            padding_idx=None if padding is None or places_V[padding] < 0 else int(places_V[padding]),
            _weight=whole_VD[used],
        )
        # Neither weights nor buffers of this module: no snapshot, digest or count may see the whole table.
        self._used, self._places_V, self._whole_VD = used, places_V, whole_VD
        self.train(table.training)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows (..., D) of ids (...).

        Raises:
            DataError: In training mode an id has no row that learns.
        """
        places = self._places_V.index_select(0, ids.reshape(-1)).view(ids.shape)
        if bool((places >= 0).all()):
            return super().forward(places)
        if self.training:
            raise DataError(self._not_in_use(ids[places < 0]))
        known = (places >= 0).unsqueeze(-1)
        return torch.where(known, super().forward(places.clamp(min=0)), F.embedding(ids, self._whole_VD))

    def scatter_back(self) -> None:
        """Write the rows that learnt into the whole table, in place."""
        self._whole_VD.index_copy_(0, self._used, self.weight.detach().to(self._whole_VD))

    @property
    def places(self) -> list[int]:
        """Ids whose rows learn, in the order in which `weight` holds them."""
        return [int(place) for place in self._used]

    def extra_repr(self) -> str:
        """Return what is shown between the brackets."""
        return f"{super().extra_repr()}, of {len(self._places_V)} rows"

    def _not_in_use(self, ids: torch.Tensor) -> Problem:
        strange = sorted(set(ids.tolist()))
        return Problem(
            what="a batch holds tokens whose rows of the embedding table do not learn",
            where="training rows",
            got=", ".join(map(str, strange[:8])) + (f" and {len(strange) - 8} more" if len(strange) > 8 else ""),
            expected=f"only the {len(self._used)} tokens that were named as in use",
            fix="name every token that training can meet, also those that an objective puts in place of others",
        )


@dataclass(frozen=True)
class Compacted:
    """A network of which only the used rows of its token table learn.

    Args:
        net: Shares all other weights with the network itself; the network itself where the table stays whole.
        notes: A sentence: how many rows of the table learn, or why it is trained whole; nothing where no table learns.
    """

    net: Headed
    notes: tuple[str, ...] = ()


@contextmanager
def compacted(net: Headed, trainable: Set[str], used: Array | Callable[[], Array]) -> Iterator[Compacted]:
    """Give a view of a network to train and to judge; write the learnt rows back however the block ends.

    Names of parameters are the same in the view, so that tunings, groups and snapshots know no difference.

    Args:
        net: The network; its token table changes when the block ends, its other weights as they learn.
        trainable: Names of the parameters that will learn; a table that will not is left alone.
        used: Ids that training can meet as "input_ids", padding included, in any order; or a function that finds them, called
            only if there is a table to make compact.

    Yields:
        The view and what was done.

    Raises:
        DataError: An id has no row in the table.
    """
    found = token_table(net)
    if found is None or f"{found[1][0]}.weight" not in trainable:
        yield Compacted(net)
        return
    table, paths = found
    compact, note = _compact(net, table, used)
    notes = (f"the token table '{paths[0]}' {note}",)
    if compact is None:
        yield Compacted(net, notes)
        return
    try:
        yield Compacted(view(net, dict.fromkeys(paths, compact)), notes)
    finally:
        compact.scatter_back()


def learnt_rows(net: nn.Module) -> dict[str, list[int]]:
    """Return the weights of a view of which only some rows learn: name -> ids of these rows, in order."""
    tables = [(path, module) for path, module in net.named_modules(remove_duplicate=False)]
    return {f"{path}.weight": module.places for path, module in tables if isinstance(module, CompactEmbedding)}


def used_ids(rows: SplitRows, name: str = INPUT) -> Array:
    """Return the ids (U,), sorted, that batches of some rows can hold: those of the rows, and the one that pads.

    Args:
        rows: Training rows.
        name: The input that holds ids.
    """
    seen = np.zeros(int(rows.modality.padding[name]) + 1, dtype=np.bool_)
    seen[-1] = True
    by_length = np.argsort(rows.lengths, kind="stable")  # so that one long row does not make a chunk of short ones large
    for start in range(0, len(rows), _SCANNED_ROWS):
        ids = rows.batch(by_length[start : start + _SCANNED_ROWS]).inputs[name].ravel()
        grown = int(ids.max(initial=0)) + 1 - len(seen)
        if grown > 0:
            seen = np.concatenate([seen, np.zeros(grown, dtype=np.bool_)])
        seen[ids] = True
    return np.flatnonzero(seen)


def _compact(net: Headed, table: nn.Module, used: Array | Callable[[], Array]) -> tuple[CompactEmbedding | None, str]:
    """Return what stands in for a table, or nothing where it has to be trained whole, and what was done."""
    if type(table) is not nn.Embedding:
        return None, f"is trained whole: it is a {type(table).__name__}, which may do more than look rows up"
    why = _why_whole(net, table)
    if why:
        return None, f"is trained whole: {why}"
    ids, rows = np.unique(np.asarray(used() if callable(used) else used)), table.num_embeddings
    if len(ids) and not 0 <= int(ids[0]) <= int(ids[-1]) < rows:
        problem = Problem(
            what="a token has no row in the table of token vectors",
            where="training rows",
            got=f"ids from {ids[0]} to {ids[-1]}",
            expected=f"ids from 0 to {rows - 1}",
            fix="check that the tokenizer and the weights belong together",
        )
        raise DataError(problem)
    if not len(ids) or len(ids) > _PAYS_BELOW * rows:
        return None, f"is trained whole: training uses {len(ids):,} of its {rows:,} rows"
    places = torch.from_numpy(ids.astype(np.int64)).to(table.weight.device)
    return CompactEmbedding(table, places), f"trains {len(ids):,} of {rows:,} rows: those that the training rows use"


def _why_whole(net: Headed, table: nn.Embedding) -> str:
    """Return why a table has to be trained whole, or nothing."""
    if table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return "it renormalises, weighs by frequency or has sparse gradients"
    if table._forward_hooks or table._forward_pre_hooks or table._backward_hooks or table._backward_pre_hooks:
        return "something listens to it"
    owners = {type(module) for module in net.modules() if any(p is table.weight for p in module._parameters.values())}
    # One table under two names (T5) is two look-ups of the same kind; any other owner multiplies with the whole of it.
    if owners != {nn.Embedding}:
        return "another part of the network shares its weight"
    return ""
