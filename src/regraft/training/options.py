"""How a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from regraft.options import Among, Field, Pick, options
from regraft.several import Several
from regraft.training.cache.options import CacheOptions

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


@options
class ValidationOptions:
    """How the network is judged while it learns, and what follows from that."""

    every: Count | None = None
    """Steps between validations; every epoch if not given."""

    metric: str | None = None
    """Registered name of the metric that chooses the best weights; the task's own if not given."""

    patience: Count | None = None
    """Stop after so many validations without an improvement; never if not given."""

    min_change: Annotated[float, Field(ge=0.0)] = 0.0
    """Least change of the metric that counts as an improvement for patience; the best weights are the best in any case."""

    restore_best: bool = True
    """Whether the weights of the best validation are the result, rather than the last ones."""


@options
class BadStepOptions:
    """What happens at an update whose loss or gradient is not a finite number, or explodes."""

    policy: Annotated[Pick, Among("regraft.training:BAD_STEPS")] = Pick("stop")
    """Registered name of what to do: stop (with a diagnosis that names rows and layer), skip (the update is left out), or
    roll-back (weights and optimiser go back to the last good state, and the learning rate is lowered)."""

    limit: Annotated[int, Field(ge=0)] = 10
    """Bad updates that are borne in a fit; the next one stops it with a diagnosis."""

    exploding: Annotated[float, Field(gt=1.0)] | None = None
    """A gradient whose norm is more than so many times the median of the 64 updates before it is bad too; no such limit if not
    given, for `clip_norm` already bounds what one update can do."""


@options
class TrainOptions:
    """How a network is trained. Steps are optimiser updates."""

    epochs: Annotated[int | None, Field(ge=0, json_schema_extra={"flag": "--epochs"})] = None
    """How often every training row is seen; if not given, as often as suits the base and the number of rows
    (`regraft.defaults`)."""

    max_steps: Count | None = None
    """Stop after so many updates, even if epochs are left."""

    batch_size: Annotated[int, Field(ge=1, json_schema_extra={"flag": "--batch-size"})] = 16
    """Rows an update."""

    micro_batch_size: Count | None = None
    """Rows a forward pass; a batch is split into as many as it takes and gives the same update. The batch size if not given."""

    optimizer: Annotated[Pick, Among("regraft.training:OPTIMIZERS")] = Pick("adamw")
    """Registered name of the optimiser, or a mapping with its name and options."""

    learning_rate: Annotated[Positive | None, Field(json_schema_extra={"flag": "--learning-rate"})] = None
    """Peak rate of the backbone, or of its adapters; by default 1e-4 pretrained, 1e-3 from scratch and of adapters."""

    head_learning_rate: Positive | None = None
    """Peak rate of the head and of other new weights; by default 1e-3, or 1e-2 if nothing else learns."""

    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay; never applied to embeddings, norms and biases."""

    schedule: Annotated[Pick, Among("regraft.training:SCHEDULES")] = Pick("linear")
    """Registered name of the learning-rate schedule after warm-up, or a mapping with its name and options."""

    warmup_share: Fraction | None = None
    """Share of all steps over which the rate rises to its peak; if not given, what suits the base and the number of rows
    (`regraft.defaults`), for nearly all 0.1."""

    clip_norm: Positive | None = 1.0
    """Largest norm of the whole gradient."""

    dropout: Fraction = 0.1
    """Share of pooled features dropped before the head in training."""

    regularize: Annotated[tuple[Pick, ...], Several("regraft.regularizers:REGULARIZERS")] = ()
    """Registered names of what holds the weights back from the training rows, alone or with options ({ema: {decay: 0.99}})."""

    validation: ValidationOptions = Field(default_factory=ValidationOptions)
    """How the network is judged while it learns."""

    bad_steps: BadStepOptions = Field(default_factory=BadStepOptions)
    """What happens at an update that is not finite."""

    @property
    def warmup(self) -> float:
        """Share of all steps over which the rate rises; a tenth where nobody has decided it."""
        return 0.1 if self.warmup_share is None else self.warmup_share

    @property
    def rounds(self) -> int:
        """How often every training row is seen; three times where nobody has decided it."""
        return 3 if self.epochs is None else self.epochs


@options
class CheckpointOptions:
    """When the state of training is kept, so that an interrupted fit goes on to the same bytes (`regraft fit --resume OUT`).

    Ctrl-C and SIGTERM end a fit after the present update, once a checkpoint is on the disk; a second one ends it at once.
    """

    every: Count | None = None
    """Updates between checkpoints; if not given, as often as takes at most 2 % of the time, and not before 20 seconds have
    passed."""

    keep: Annotated[int, Field(ge=0)] = 2
    """How many stay while the fit runs, each with the best weights so far; with 0 none is written."""

    wait_s: Annotated[float, Field(ge=0.0)] = 600.0
    """Seconds to wait for room on a full disk when the artifact is written; after them `--resume` writes it later."""


@options
class MachineOptions:
    """What of the machine is used."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""

    threads: Count | None = None
    """Threads of the numeric libraries; the cores this process may use (cgroup and affinity counted) if not given."""


@options
class ComputeOptions(MachineOptions):
    """What of the machine a fit uses, and how its arithmetic is done."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the factors of matrix products in training. Auto measures on this machine and this network, keeps the answer, and
    takes bf16 only where it gains; fp16 needs a GPU. Weights, optimiser, loss and all answers stay in float32."""

    shapes: Literal["packed", "padded", "fixed"] = "packed"
    """How rows are computed: only real positions (packed), every position of a batch (padded), or every row at the longest
    length in blocks of the same size (fixed: slow, but a row has the same bits in every batch)."""

    compact: bool = True
    """Train only the rows of the token table that training rows use; the others cannot change either way."""

    compile: bool = False
    """Compile the layers with torch.compile before training; pays only in long runs, needs a C++ compiler on a processor."""

    recompute: Literal["auto", "always", "never"] = "auto"
    """Keep only what enters each layer, and compute the rest again on the way back: less memory, about a third more time, the
    same bits. Auto does it where one row a forward pass, or a batch that cannot be split, does not fit otherwise. Where less
    than a tenth of the backbone's weights learns, on a processor, activations, norms and the weights of attention, which are
    cheap, are made again in any case: less memory, about the same time; never leaves that out too."""

    offload: Literal["auto", "always", "never"] = "auto"
    """Let the state of the optimiser lie in files beside the artifact that are mapped into memory: the same bits, as fast as
    the disk where memory is short. Auto does it as the last resort; weights on a GPU cannot."""

    guard: bool = True
    """Look at what memory is free while training runs; where the system is about to end the process for want of it, take
    smaller pieces as above, and in the end keep a checkpoint and stop."""

    cache: CacheOptions = Field(default_factory=CacheOptions)
    """What is kept of work that would only be done again."""

    checkpoint: CheckpointOptions = Field(default_factory=CheckpointOptions)
    """When the state of training is kept, so that an interrupted fit goes on."""
