"""What commands print of a training that is done by hand."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evo_tune.cli.formats.runs import Genome, Metrics


class Evaluated(Struct, forbid_unknown_fields=True, kw_only=True):
    """One training by hand; exit code 1 unless its status is ok."""

    genome: Genome
    """Values of its genes, by name."""
    status: str
    """ok, or what went wrong."""
    metrics: Metrics
    """By name; null where not finite. Unit: the metric's."""
    curve: list[tuple[float, Metrics]]
    """What was reported on the way: share of the training, and metrics there. Unit: the metric's."""
    seconds: float
    """How long it took. Unit: s."""
    device: str
    """Where it was trained."""
    error: str | None
    """What went wrong, in one line."""


class Exported(Struct, forbid_unknown_fields=True, kw_only=True):
    """A model that was trained once more and saved."""

    run: str
    """Name of the run."""
    trial: int
    """The trial whose genome it has."""
    genome: Genome
    """Values of its genes, by name."""
    folder: str
    """What was written."""
    files: list[str]
    """Names of the files in it."""
    metrics: dict[str, Any]
    """Of this training, by name. Unit: the metric's."""
