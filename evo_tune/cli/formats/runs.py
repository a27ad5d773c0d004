"""What commands print of runs."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from evo_tune.cli.formats.ahead import Forecast, ForScale, Further

Value: TypeAlias = bool | int | float | str
Genome: TypeAlias = dict[str, Value]
Metrics: TypeAlias = dict[str, float | None]


class Trial(Struct, forbid_unknown_fields=True, kw_only=True):
    """A genome and what came of its training."""

    id: int
    """Number of the trial in its run, from 0, the default genome."""
    generation: int
    """Its generation, from 0."""
    operator: str
    """What it came from: default, random, crossover, mutation, …"""
    genome: Genome
    """Values of its genes, by name."""
    metrics: Metrics
    """Values by name, means where it was trained with several seeds; null where not finite. Unit: the metric's."""
    seconds: float
    """How long its training took. Unit: s."""


class FreshSeeds(Struct, forbid_unknown_fields=True, kw_only=True):
    """A genome trained with seeds that had no part in its being chosen."""

    metric: str
    """What was measured: the first objective, on the test set where the evaluator has one."""
    mean: float | None
    """Mean over the seeds; null without any. Unit: the metric's."""
    error: float | None
    """Standard error of the mean; null for fewer than two seeds. Unit: the metric's."""
    values: list[float]
    """One value a seed that trained well. Unit: the metric's."""
    failures: int
    """Seeds that did not."""


class Calibration(Struct, forbid_unknown_fields=True, kw_only=True):
    """The closing race, as far as it was run."""

    best: FreshSeeds | UnsetType = UNSET
    """The finalist that was chosen."""
    default: FreshSeeds | UnsetType = UNSET
    """The default genome."""


class Planned(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that is not begun (`--dry-run`)."""

    evaluator: str
    """Its name."""
    slots: int
    """Trainings at once."""
    device: str
    """Of its slots."""
    options: dict[str, Value | None]
    """The evaluator's options, by name. Unit: the option's."""
    seconds_timed: list[float] | None
    """Of full trainings, as timed steps show; null if that cannot be done. Unit: s."""
    forecast: Forecast | None
    """What it would take; null where that is not known before trainings have ended."""


class Closing(Struct, forbid_unknown_fields=True, kw_only=True):
    """How a run stands."""

    run: str
    """Its name."""
    folder: str
    """Where it is saved."""
    ended: str | None
    """Why its last session ended; null if it did not end by itself."""
    metric: str
    """The first objective."""
    direction: str
    """min or max."""
    reported: str
    """The metric of the closing race: the first objective, or its name on the test set."""
    best: Trial | None
    """What is recommended; null if no full training gave a value."""
    default: Trial | None
    """The default genome; null if it failed."""
    gain: float | None
    """By how much the best is better than the default over the same fresh seeds. Unit: the metric's."""
    gain_error: float | None
    """Standard error of the gain. Unit: the metric's."""
    beaten: bool | None
    """Whether the best beats the default, said by mistake in at most 5 % of runs; null: they were not compared."""
    calibration: Calibration
    """Values over fresh seeds."""
    at_ends: dict[str, str]
    """Genes whose best values lie at an end of their range, each as `--gene` would widen it."""
    further: Further | None
    """What going on promises; null where too little is known."""
    scale: ForScale | None
    """The recipe at the size of `--for-scale`; null where the run is for none, or has no recipe yet."""
    finalist: int | None
    """Trial that was chosen among the finalists; null without a race."""
    pairs: int | None
    """Seeds with which best and default were compared; null without a race."""
    evaluations: int
    """Results so far."""
    failures: int
    """Those of them that failed."""
    pruned: int
    """Those that were stopped early."""
    trainings: float
    """The cost of all of them. Unit: full trainings."""
    seconds: float
    """Time spent in all sessions. Unit: s."""
    status: str
    """Where the strategy says that the search stands; '' if it says nothing."""
    report: str | None
    """The file of its report; null if none was written."""


class Listed(Struct, forbid_unknown_fields=True, kw_only=True):
    """A saved run."""

    run: str
    """Its name."""
    evaluator: str
    """As the run names it: bundled:NAME, entry:NAME or a file."""
    strategy: str
    """By name or file."""
    evaluations: int
    """Results so far."""
    failed: int
    """Those of them that failed."""
    objective: str
    """The metric of the first objective."""
    best: float | None
    """The best's value of it. Unit: the metric's."""
    of: str | None
    """What that value is of: one seed, several, or fresh ones."""
    seconds: float
    """Time spent in all sessions. Unit: s."""
    ended: str | None
    """Why its last session ended; null: it goes on, or was killed."""
    created: str
    """When it was begun, as ISO 8601 has it."""


class Slot(Struct, forbid_unknown_fields=True, kw_only=True):
    """A slot of a run that goes on."""

    slot: str
    """Its name."""
    device: str
    """Its device."""
    what: str
    """'trial 17', or '' while it waits."""
    seconds: float
    """For how long, when the run gave its last sign of life. Unit: s."""
    memory: int | None
    """Resident memory of its worker; null if unknown. Unit: bytes."""


class Status(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a run is doing."""

    run: str
    """Its name."""
    state: str
    """In words: it runs, has ended, or was killed."""
    running: bool
    """Whether it gave a sign of life just now."""
    births: int
    """Trials born."""
    results: int
    """Those with a result."""
    failed: int
    """Results that failed."""
    pruned: int
    """Results that were stopped early."""
    best: Trial | None
    """What leads so far."""
    seconds_since_last_event: float
    """Since the journal was written last. Unit: s."""
    slots: list[Slot]
    """What its slots are at; empty if it does not run."""
    forecast: Forecast | None
    """What the whole will take; null if it does not run, or too little is known."""


class Best(Trial, kw_only=True):
    """A trial that is recommended."""

    run: str
    """Name of its run."""
    fresh_seeds: FreshSeeds | UnsetType | None = UNSET
    """Its values over fresh seeds; null if there are none. Not there in a Pareto front."""


class Ranked(Trial, kw_only=True):
    """One of a run's best trials."""

    fresh_seeds: FreshSeeds | None
    """Its values over fresh seeds; null if there are none."""


class Shown(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run with its rules, results and course."""

    run: str
    """Its name."""
    evaluator: str
    """As the run names it."""
    options: dict[str, Value | None]
    """The evaluator's options, by name. Unit: the option's."""
    objectives: list[str]
    """METRIC:min or METRIC:max."""
    strategy: str
    """By name or file."""
    seed: int
    """Seed of the run."""
    fidelity: list[float]
    """Budgets of a genome's trials, increasing to 1. Unit: full trainings."""
    prune: bool
    """Whether hopeless trainings are stopped."""
    replicates: int
    """Seeds with which the leader is trained."""
    by_worth: bool
    """Whether `replicates` is the most, and a leader has as many as are worth more than a new genome."""
    own_seeds: bool
    """Whether each genome is trained with seeds of its own, or all with the same."""
    inherit: float
    """Share of a training for a genome that begins with another's weights; 0: none does. Unit: full trainings."""
    subject_to: list[str]
    """Constraints, as they were typed."""
    trainings: float
    """The cost of all results. Unit: full trainings."""
    ended: str | None
    """Why its last session ended; null: it goes on, or was killed."""
    seconds: float
    """Time spent in all sessions. Unit: s."""
    evaluations: int
    """Results so far."""
    statuses: dict[str, int]
    """How many results had each status: ok, failed, diverged, out_of_memory, crashed, timeout, pruned"""
    best: list[Ranked]
    """The best, `--top` of them, the recommended first."""
    front: list[Trial]
    """The Pareto front; with one objective, the best."""
    best_so_far: list[tuple[int, float, int]]
    """Wherever the best improved: evaluations until then, its value of the first objective, its trial."""
    importances: dict[str, float]
    """Share of the first objective's spread that each gene explains by itself."""
    at_ends: dict[str, str]
    """Genes whose best values lie at an end of their range, each as `--gene` would widen it."""


class Watched(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where a run can be watched; printed when the page is there, which it is until Ctrl-C."""

    run: str
    """Name of the run."""
    address: str
    """Of the page, on this machine; it holds a token."""


class Converted(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was written for another tool."""

    run: str
    """Its name."""
    tool: str
    """optuna, tensorboard or mlflow."""
    file: str
    """The file or folder."""
    results: int
    """How many were written."""
    open: str
    """The command that opens it."""


class Reported(Struct, forbid_unknown_fields=True, kw_only=True):
    """A report that was written."""

    runs: list[str]
    """Names of the runs that it shows."""
    report: str
    """Its file."""


class Disagreement(Struct, forbid_unknown_fields=True, kw_only=True):
    """A proposal that would be another today."""

    id: int
    """The trial's."""
    recorded: dict[str, Any]
    """The proposal as it is recorded."""
    replayed: dict[str, Any] | None
    """What would be proposed; null: nothing."""


class Verified(Struct, forbid_unknown_fields=True, kw_only=True):
    """Whether a run's proposals are replayed."""

    run: str
    """Name of the run."""
    proposals: int
    """How many were replayed."""
    disagreements: list[Disagreement]
    """Those that do not agree; exit code 1 if there are any."""
    notes: list[str]
    """What has changed since the run began."""
