"""What `scale` and `coordinates` print."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = ["Coordinates", "Scaled"]


class Slopes(Struct, forbid_unknown_fields=True, kw_only=True):
    """How activations go with one of a model's sizes."""

    against: str
    """width or depth."""
    sizes: list[int]
    """At which models were trained."""
    least: float
    """Lowest slope of log mean size of activations against log size, of all blocks and steps."""
    most: float
    """Highest of them."""
    asked: tuple[float, float] | None
    """Between what they may lie; null: nothing is asked of this parametrisation."""
    holds: bool
    """Whether they do."""


class Coordinates(Struct, forbid_unknown_fields=True, kw_only=True):
    """A coordinate check."""

    param: str
    """The parametrisation."""
    optimizer: str
    """With which it was checked."""
    init: str
    """How weights began."""
    slopes: list[Slopes]
    """Against width, and against depth where it was asked."""


class Moved(Struct, forbid_unknown_fields=True, kw_only=True):
    """What becomes of a gene at another size."""

    gene: str
    """Its name."""
    kind: str
    """carried, scaled or not transferable."""
    found: Any
    """Its value in the run."""
    target: Any
    """Its value at the target."""
    rule: str
    """Why."""
    source: str
    """Where the rule stands; empty where there is none."""
    factor: float | None
    """Target by found; null for what is no number."""


class Sized(Struct, forbid_unknown_fields=True, kw_only=True):
    """How large a training is."""

    width: int
    """Of the model."""
    depth: int
    """Its blocks."""
    heads: int
    """Its attention heads."""
    context: int
    """Longest window. Unit: tokens."""
    parameters: int
    """Its weights."""
    without_embeddings: int
    """Its weights without embeddings."""
    tokens: float
    """Text that it is trained on. Unit: tokens."""
    flops: float
    """Arithmetic of the training. Unit: FLOPs."""
    batch: int
    """Of a step. Unit: tokens."""
    steps: int
    """Updates of the weights."""
    lr: float
    """Peak learning rate."""
    lr_hidden: float
    """That of the matrices in blocks."""
    epochs: float | None = None
    """How often the text is read; left out of what was found."""


class Fit(Struct, forbid_unknown_fields=True, kw_only=True):
    """How a step fits into GPUs."""

    memory: float
    """Of each GPU. Unit: GiB."""
    ranks: int
    """GPUs that train together."""
    micro_batch: int | None
    """Windows in a pass of each; null: not even one fits."""
    passes: int | None
    """Passes of each in a step."""
    recompute: bool | None
    """Whether blocks are computed again for the gradient."""
    predicted: float | None
    """Memory that each takes. Unit: GiB."""


class Rate(Struct, forbid_unknown_fields=True, kw_only=True):
    """A learning rate by a law."""

    law: str
    """Its name; this run: what was found."""
    source: str
    """Where it stands."""
    lr: float | None
    """Peak learning rate at the target; null: it says a factor only."""
    at_run: float | None
    """What it says of the run's own training."""
    moved: float | None
    """What was found, moved as the law moves."""
    batch: float | None
    """Batch at the target; null: it says nothing of it. Unit: tokens."""
    outside: str
    """What of the target lies outside of the law's fit; empty: nothing."""
    outside_run: str
    """What of the run does."""


class Loss(Struct, forbid_unknown_fields=True, kw_only=True):
    """The loss to expect of the target's training."""

    metric: str
    """Which."""
    trainings: int
    """From how many it is told."""
    identifiable: bool
    """Whether it can be told."""
    why: str
    """Why not, and what would make it so; empty if it can."""
    loss: float | None = None
    """The middle; this and what follows are left out if it cannot be told."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Its upper end."""
    share: float | None = None
    """Of cases that are to lie within."""
    law: dict[str, float] | None = None
    """L(N, D) = floor + size / N^alpha + text / D^beta, and the scatter around it."""
    further: float | None = None
    """How many times larger the target is than what was trained, in weights or text."""


class Basin(Struct, forbid_unknown_fields=True, kw_only=True):
    """What probes say at a size on the way."""

    width: int
    """Of the model."""
    depth: int
    """Its blocks."""
    trainings: int
    """Probes of this size."""
    carried: float
    """The learning rate that was carried."""
    loss: float | None
    """Its loss; null: it was not reached."""
    best: float
    """The best learning rate of the probes."""
    best_loss: float
    """Its loss."""
    optimum: float | None
    """Where a parabola in log lr is lowest; null: there is none."""
    holds: bool | None
    """Whether the carried one is within 2% of the best; null: it cannot be told."""


class Scaled(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run's recipe at another size."""

    run: str
    """Where it was found."""
    trial: int
    """By which trial."""
    genome: dict[str, Any]
    """It, at the target."""
    options: dict[str, Any]
    """Options that the target's training has instead of the run's."""
    rows: list[Moved]
    """What becomes of each gene."""
    remarks: list[str]
    """What else is to be said."""
    found: Sized
    """The run's training."""
    target: Sized
    """The target's."""
    fits: list[Fit]
    """Memory."""
    laws: list[Rate]
    """Learning rates side by side."""
    loss: Loss
    """What it will reach."""
    optimal_tokens: float
    """Compute-optimal text for the target. Unit: tokens."""
    tokens_per_parameter: float
    """Of the target."""
    hours: float | None
    """Of the target's training on one device; null if no speed is known. Unit: h."""
    speed: str
    """At which speed, and how it is known."""
    price: float | None
    """Of these hours; null if no price was given."""
    probe: list[Basin] | None
    """What probes say; null if none were asked for."""
    emitted: str | None
    """The file of flags that was written; null if none was."""
