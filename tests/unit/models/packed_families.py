"""The families that compute real positions only: their rows, and an independent copy of the hub's model to hold them against."""

from __future__ import annotations

import copy

import numpy as np
import torch
from tiny_families import FAMILIES, VOCABULARY, tiny_model

from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.vocabulary import PAD_ID

PACKED = [name for name in FAMILIES if ARCHITECTURES[name].packing]
_ATTENTION = ("attention.self.dropout", "attn.dropout", "attention.dropout", "attention_dropout", "attn_dropout")
_FIELDS = ("attention_dropout", "dropout_prob")  # where a family keeps the share of its attention as a number


def rows(lengths, seed=0):
    """Return random inputs and the mask of rows of these lengths."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    ids = np.where(mask, rng.integers(5, VOCABULARY, mask.shape), PAD_ID)
    types = np.where(mask, rng.integers(0, 2, mask.shape), 0)
    return {"input_ids": torch.from_numpy(ids), "token_type_ids": torch.from_numpy(types)}, torch.from_numpy(mask)


def set_dropout(model, everywhere, attention):
    """Set every dropout of a model: that of attention weights to one share, all others to another."""
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = attention if path.endswith(_ATTENTION) else everywhere
        for field in _FIELDS:
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, attention)


def both(name, dropout=0.0, attention=None):
    """Return a backbone that packs, and an independent copy of the hub's model as the hub runs it."""
    model = tiny_model(name)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    set_dropout(model, dropout, dropout if attention is None else attention)
    plain = copy.deepcopy(model)
    return Backbone(Body(model, ARCHITECTURES[name]), PoolingChoice("mean", "")), plain


def reference(plain, name, inputs, mask):
    """Return the vectors of the hub's model for padded rows."""
    taken = {key: inputs[key] for key in ARCHITECTURES[name].inputs}
    return plain(**taken, attention_mask=mask.long()).last_hidden_state
