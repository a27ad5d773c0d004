"""What `run` and `resume` print with `--format jsonl`, one a line."""

from __future__ import annotations

from msgspec import Struct

from evo_tune.cli.formats.runs import Closing, Genome, Metrics


class _Event(Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    time: float
    """When it was printed. Unit: seconds since 1970."""


class Begin(_Event, tag="begin", kw_only=True):
    """The first line: the run is there, and its slots are being opened."""

    run: str
    """Its name."""
    folder: str
    """Where it is saved."""
    evaluator: str
    """As the run names it."""
    strategy: str
    """By name or file."""
    objectives: list[str]
    """METRIC:min or METRIC:max."""
    seed: int
    """Seed of the run."""
    births: int
    """Trials of earlier sessions, which are not told again."""
    results: int
    """Those of them with a result."""


class Born(_Event, tag="born", kw_only=True):
    """A trial was proposed."""

    id: int
    """Its number in the run, from 0."""
    generation: int
    """Its generation, from 0."""
    operator: str
    """What it came from."""
    parents: list[int]
    """Trials that it came from."""
    genome: Genome
    """Values of its genes, by name."""
    budget: float
    """Share of a full training up to which it is trained. Unit: full trainings."""
    resumes: int | None
    """The trial whose training it goes on with."""
    inherits: int | None
    """The trial with whose weights it begins."""
    replicate: int
    """Number of its seed: 0 for the first one of a genome."""


class Result(_Event, tag="result", kw_only=True):
    """A trial's result is on disk."""

    id: int
    """The trial's."""
    status: str
    """ok, pruned, or what went wrong."""
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


class NewBest(_Event, tag="best", kw_only=True):
    """Another trial leads; it follows its result."""

    id: int
    """The trial's."""
    metric: str
    """The first objective."""
    value: float
    """Its value, the mean where the genome was trained with several seeds. Unit: the metric's."""


class Fresh(_Event, tag="fresh", kw_only=True):
    """A training of the closing race has ended."""

    id: int
    """The trial whose genome it is."""
    seed: int
    """The training's seed."""
    status: str
    """ok, or what went wrong."""
    metrics: Metrics
    """By name; null where not finite. Unit: the metric's."""
    seconds: float
    """How long it took. Unit: s."""
    error: str | None
    """What went wrong, in one line."""


class Stopping(_Event, tag="stopping", kw_only=True):
    """Nothing new is begun: Ctrl-C, SIGTERM, or an error that is told at the end."""


class End(Closing, tag_field="event", tag="end", kw_only=True):
    """The last line: how the run stands, as `--format json` prints it. Where it is missing, stderr says why."""

    time: float
    """When it was printed. Unit: seconds since 1970."""
    exit_code: int
    """With which code the command ends."""
