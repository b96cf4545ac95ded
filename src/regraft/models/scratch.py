"""Bases without pretrained weights, by options: for users who have none, for comparisons, for tests. Torch-free until built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from regraft.errors import OptionsError, Problem
from regraft.modalities.text import Text
from regraft.models.choices import limited, pooling_name
from regraft.models.untrained import Untrained
from regraft.models.vocabulary import PAD_ID, companions, learn_vocabulary
from regraft.options import JSON, options

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality

Width = Annotated[int, Field(ge=8, le=4096, multiple_of=2)]
Layers = Annotated[int, Field(ge=1, le=48)]
VocabularySize = Annotated[int, Field(ge=300, le=1_000_000)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
PoolingName = Annotated[str, AfterValidator(pooling_name)]


@options
class ScratchOptions:
    """Sizes of an untrained base."""

    width: Width = 128
    """Width of the vectors; an even number."""

    layers: Layers = 1
    """Number of layers."""

    vocabulary_size: VocabularySize = 8000
    """Largest number of tokens learnt from the training rows."""

    lowercase: bool = True
    """Whether capital letters are folded away."""

    dropout: Dropout = 0.1
    """Share of values dropped inside the network in training."""

    pooling: PoolingName = "mean"
    """Registered name of the pooling."""


@options
class CnnOptions(ScratchOptions):
    """Sizes of an untrained convolutional base."""

    layers: Layers = 2
    """Number of layers; each widens what a position sees by kernel - 1."""

    kernel: Annotated[int, Field(ge=1, le=101)] = 5
    """Positions that a convolution covers; an odd number."""


@options
class TransformerOptions(ScratchOptions):
    """Sizes of an untrained transformer."""

    layers: Layers = 2
    """Number of layers."""

    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Attention heads; must divide the width."""

    positions: Annotated[int, Field(ge=8, le=32_768)] = 512
    """Longest text in tokens that the network can place."""


class ScratchBase(Untrained):
    """A network by options and a vocabulary learnt from the training rows."""

    Options: ClassVar[type[Any]] = ScratchOptions
    reads_type = Text

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Check the options against each other; there is nothing to fetch."""
        self.sizes(PAD_ID + 1)

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return text preprocessing with a vocabulary learnt from the training rows; the same rows give the same bytes."""
        checked = limited(options, {}, self.positions, self.name)
        tokenizer = learn_vocabulary(raws, self.options.vocabulary_size, lowercase=self.options.lowercase)
        files = companions(self.positions or checked.max_length)
        return Text(tokenizer, checked, pad_id=PAD_ID, files=files)

    def config(self, modality: Any) -> dict[str, JSON]:
        """Return the hub's configuration for the vocabulary of a modality."""
        return self.sizes(modality.largest_id + 1)

    @property
    def positions(self) -> int | None:
        """Longest text in tokens that the network can place, or nothing where there is no limit."""
        return None

    def sizes(self, vocabulary_size: int) -> dict[str, JSON]:
        """Return the hub's configuration as JSON.

        Args:
            vocabulary_size: Tokens that the modality can give.
        """
        return {
            "model_type": self.model_type,
            "vocab_size": vocabulary_size,
            "hidden_size": self.options.width,
            "num_hidden_layers": self.options.layers,
            "hidden_dropout_prob": self.options.dropout,
            "pad_token_id": PAD_ID,
        }


class LstmBase(ScratchBase):
    """A bidirectional LSTM, untrained."""

    model_type = "regraft-lstm"
    what = "a bidirectional LSTM, untrained"


class GruBase(ScratchBase):
    """A bidirectional GRU, untrained."""

    model_type = "regraft-gru"
    what = "a bidirectional GRU, untrained"


class MlpBase(ScratchBase):
    """An MLP over the bag of tokens, untrained."""

    model_type = "regraft-mlp"
    what = "an MLP over the bag of tokens, untrained; the order of words plays no part"


class CnnBase(ScratchBase):
    """1-D convolutions, untrained."""

    Options: ClassVar[type[Any]] = CnnOptions
    model_type = "regraft-cnn"
    what = "residual 1-D convolutions, untrained"

    def sizes(self, vocabulary_size: int) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        if self.options.kernel % 2 == 0:
            raise _misfit("kernel", self.options.kernel, "an odd number")
        return {**super().sizes(vocabulary_size), "kernel_size": self.options.kernel}


class TransformerBase(ScratchBase):
    """A small BERT, untrained."""

    Options: ClassVar[type[Any]] = TransformerOptions
    model_type = "bert"
    what = "a small BERT, untrained"

    @property
    def positions(self) -> int | None:
        """Longest text in tokens that the network can place."""
        return int(self.options.positions)

    def sizes(self, vocabulary_size: int) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        sizes = self.options
        if sizes.width % sizes.heads:
            raise _misfit("heads", sizes.heads, f"a divisor of the width {sizes.width}")
        return {
            **super().sizes(vocabulary_size),
            "num_attention_heads": sizes.heads,
            "intermediate_size": 4 * sizes.width,
            "attention_probs_dropout_prob": sizes.dropout,
            "max_position_embeddings": sizes.positions,
            "initializer_range": 0.02,
        }


def _misfit(name: str, value: int, expected: str) -> OptionsError:
    return OptionsError(
        Problem(
            what=f"the option '{name}' has a value it cannot take", got=str(value), expected=expected, fix=f"change '{name}'"
        )
    )
