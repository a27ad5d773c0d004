"""What commands print of what is to come: of a run, and of the training that it is for."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["ForScale", "Forecast", "Further"]


class Further(Struct, forbid_unknown_fields=True, kw_only=True):
    """What going on promises."""

    chance: float
    """That the best of the next trainings improves on the best by more than the noise."""
    trainings: int
    """How many these are."""
    noise: float
    """Standard deviation of one genome's loss between seeds. Unit: the metric's."""


class Bounds(Struct, forbid_unknown_fields=True, kw_only=True):
    """An expectation between two bounds."""

    low: float
    """Hardly less."""
    expected: float
    """About so much."""
    high: float
    """Hardly more."""


class Race(Struct, forbid_unknown_fields=True, kw_only=True):
    """Trainings of the calibration."""

    fewest: int
    """Where it is decided soon."""
    most: int
    """Where it is not."""


class Forecast(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a run will take."""

    genomes: int
    """How many will be born."""
    full_trainings: float
    """What they cost. Unit: full trainings."""
    seconds_of_each: float
    """Of a full training. Unit: s."""
    calibration: Race
    """Trainings on fresh seeds at the end."""
    slots: int
    """Trainings at once."""
    seconds: Bounds
    """Of the whole. Unit: s."""
    memory_of_each: float | None
    """Of a training; null where the evaluator does not estimate it. Unit: B."""
    disk: float
    """What the run's folder will hold. Unit: B."""
    cost: Bounds | None
    """By the price of an hour that was given; null without one. Unit: the price's."""


class ForScale(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run's recipe at the size for which it was searched, beside what the search took."""

    trial: int
    """Whose recipe."""
    width: int
    """Of the target."""
    depth: int
    """Its blocks."""
    tokens: int
    """Of its training. Unit: tokens."""
    given_tokens: bool
    """Whether they were asked for; else they are 20 a weight."""
    lr: float
    """Its peak learning rate."""
    spent: float
    """What all trainings of the run took, the calibration's included. Unit: FLOPs."""
    takes: float
    """What the target's training takes. Unit: FLOPs."""
    share: float
    """The one by the other."""
    loss: float | None
    """The first objective to be expected there; null where it cannot be told."""
    low: float | None
    """Lower end of the interval that holds four fifths."""
    high: float | None
    """Its upper end."""
    why: str
    """Why no loss can be told, and what would make it so; empty if it can."""
